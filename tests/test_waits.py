"""Nothing waits for ever: every call that may wait has a limit, or a reason why it cannot."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import PROJECT

_LIMITED_BY_KEYWORD = {
    "ray.get", "ray.wait", "subprocess.run", "subprocess.check_output", "subprocess.check_call", "urlopen",
    "socket.create_connection", "requests.get", "requests.post", "requests.put",
}  # fmt: skip
_LIMITED_BY_ARGUMENT = {"get", "join", "wait", "acquire", "communicate", "result"}
"""Methods whose only argument is a limit; `", ".join(words)` has another, and is none of these."""

# Where it waits, and why it ends.
REASONS = {
    "distributed/ahead.py _items while True": "says after a moment that nothing has come",
    "distributed/child.py Child.__exit__ self._process.wait()": "it was killed",
    "distributed/child.py Child._death self._process.wait()": "it has ended, or says nothing more as it does",
    "distributed/decoders.py _result_of_retry ray.get(task)": "the pool ends an actor whose chunk takes too long",
    "distributed/decoders.py _results ray.get(task)": "the pool ends an actor whose chunk takes too long",
    "distributed/guard.py _Guard.wait while status is None": "each look takes two seconds; a deadline follows a signal",
    "distributed/guard.py run _Guard(child, sweeper, reading, heard).wait()": "it limits the command",
    "distributed/guard.py _Guard._clear while waited < END_SECONDS": "has a limit",
    "distributed/guard.py _sweeper while (left := _marked(mark)) and time.monotonic() < deadline": "has a limit",
    "distributed/launch.py _beat while ray.is_initialized()": "a daemon thread; the guard hears where it waits",
    "distributed/launch.py start_ray with _starting": "the start that it waits for has a limit",
    "distributed/launch.py _in_time.run threading.Event().wait()": "a daemon thread that is to stay",
    "distributed/places.py Address.require_answer while True": "raises after a deadline",
    "distributed/pool.py _Feed.begin with self._lock": "held while a chunk is looked for, for a moment",
    "distributed/pool.py _Feed.done with self._lock": "held while a chunk is looked for, for a moment",
    "distributed/pool.py _Feed.take with self._lock": "held while a chunk is looked for, for a moment",
    "distributed/pool.py _of_actors ray.get(reference)": "it is done",
    "distributed/pool.py _of_actors while True": "ends with the chunks; whoever reads its results waits with a limit",
    "distributed/pool.py _timely while True": "raises where nothing comes in time",
    "distributed/submit.py _Log.follow while True": "as long as the job runs; raises where the server is silent",
    "scoring/index.py Index.close with self._lock": "held while the database answers",
    "scoring/index.py Index.ingest with self._lock": "held while the database answers",
    "scoring/index.py Index.sql with self._lock": "held while the database answers",
    "scoring/inputs.py side_by_side future.result()": "it is done",
    "scoring/planning.py Places.stopped while True": "each look takes a plan out",
    "scoring/predict.py _decoded ahead.popleft().result()": "computes in this process, as a call would",
    "distributed/tasks.py run ray.get(done)": "it is done",
    "distributed/tasks.py run ray.wait([*running])": "as long as training takes; the guard ends what stands still",
    "storage/clock.py every thread.join()": "its requests have limits, and it has been told to stop",
    "training/fit.py learn beside.result()": "computes in this process, as a call would",
    "storage/keys.py _side_by_side future.result()": "it is done",
    "storage/lease.py Lease._is_alive while holder.is_running and clock.monotonic() < deadline": "has a limit",
    "training/worker.py Attempt.stop while time.monotonic() < deadline": "has a deadline",
    "training/live.py followed thread.join()": "its requests have limits, and it has been told to stop",
    "training/track.py _watch process.wait()": "a daemon thread; the end of a run ends what it watches",
    "training/loop.py _ahead waiting.result()": "computes in this process, as a call would",
}


def waits(source: str) -> Iterator[str]:
    """Function and text of what may wait without a limit."""

    def visit(node: ast.AST, scope: tuple[str, ...]) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope = (*scope, node.name)
        text = _text(node)
        if text is not None:
            yield f"{'.'.join(scope)} {text}"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, scope)

    return visit(ast.parse(source), ())


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Call) and _is_unlimited(node):
        return ast.unparse(node)
    if isinstance(node, ast.While) and (_is_true(node.test) or _sleeps(node)):
        return f"while {ast.unparse(node.test)}"
    if isinstance(node, ast.With):
        locks = [ast.unparse(item.context_expr) for item in node.items]
        return next((f"with {lock}" for lock in locks if lock in ("_starting", "_lock", "self._lock")), None)
    return None


def _is_unlimited(call: ast.Call) -> bool:
    name, has_timeout = ast.unparse(call.func), any(word.arg == "timeout" for word in call.keywords)
    if name in _LIMITED_BY_KEYWORD or name.endswith(".urlopen"):
        return not has_timeout
    is_method = isinstance(call.func, ast.Attribute) and call.func.attr in _LIMITED_BY_ARGUMENT
    return is_method and not call.args and not call.keywords


def _is_true(test: ast.expr) -> bool:
    return isinstance(test, ast.Constant) and bool(test.value)


def _sleeps(loop: ast.While) -> bool:
    """Tries again, and again."""
    calls = [ast.unparse(node.func) for node in ast.walk(loop) if isinstance(node, ast.Call)]
    return bool({"time.sleep", "clock.sleep"}.intersection(calls)) or any(
        call.endswith(("sigtimedwait", "os.wait")) for call in calls
    )


def test_every_wait_has_a_limit_or_a_reason() -> None:
    found = set()
    for path in sorted(Path(PROJECT, "tlearn").rglob("*.py")):
        name = path.relative_to(PROJECT / "tlearn")
        found |= {f"{name} {wait}" for wait in waits(path.read_text(encoding="utf-8"))}
    assert sorted(found - REASONS.keys()) == [], "waits without a limit: give them one, or a reason here"
    assert sorted(REASONS.keys() - found) == [], "reasons for what is not there any more"


@pytest.mark.parametrize(
    "line",
    [
        "ray.get(task)", "ray.wait(tasks, num_returns=1)", "future.result()", "thread.join()", "lock.acquire()",
        "process.communicate()", "process.wait()", "event.wait()", "queue.get()", "subprocess.run(['ls'])",
        "urllib.request.urlopen(url)", "socket.create_connection(address)", "while True: pass",
        "while not done():\n    time.sleep(1)", "with _lock: pass",
    ],
)  # fmt: skip
def test_a_wait_without_a_limit_is_found(line: str) -> None:
    assert [*waits(line)]


@pytest.mark.parametrize(
    "line",
    [
        "ray.get(task, timeout=9)", "future.result(9)", "thread.join(9)", "', '.join(words)", "os.path.join(a, b)",
        "event.wait(timeout=9)", "mapping.get(key)", "subprocess.run(['ls'], timeout=9)", "while left: left.pop()",
    ],
)  # fmt: skip
def test_a_limit_is_seen(line: str) -> None:
    assert not [*waits(line)]
