"""A function in a process of its own: what it yields, what it raises, how it dies, and with whom it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import PROJECT, PYTHONPATH, wait_for

from tlearn.distributed import child as children
from tlearn.distributed.child import Child, Died
from tlearn.errors import IntegrityError


def numbers(count: int) -> Iterator[tuple[int, int]]:
    print("whatever a library says on stdout")
    yield from ((number, os.getpid()) for number in range(count))


def fail(error: Exception) -> Iterator[int]:
    yield 1
    raise error


def be_killed(number: signal.Signals) -> Iterator[int]:
    """By a signal that may be of no effect."""
    os.kill(os.getpid(), number)
    yield 1


def stay(path: str) -> Iterator[int]:
    Path(path).write_text(str(os.getpid()))
    while True:
        signal.pause()
    yield 1


def fork_and_die(path: str) -> Iterator[int]:
    """What it forks lives on, with all that it had open."""
    if not (process := os.fork()):
        signal.pause()
    Path(path).write_text(str(process))
    os.kill(os.getpid(), signal.SIGKILL)
    yield 1


def test_the_end_of_a_child_is_seen_though_it_has_forked(tmp_path: Path) -> None:
    noted = tmp_path / "process"
    with Child(fork_and_die, str(noted)) as child, pytest.raises(Died, match="SIGKILL"):
        next(child.results())
    os.kill(int(noted.read_text()), signal.SIGKILL)


def test_results_come_in_their_order_from_another_process() -> None:
    with Child(numbers, 3) as child:
        found = [*child.results()]
    assert [number for number, _ in found] == [0, 1, 2] and {process for _, process in found}.isdisjoint({os.getpid()})


def test_a_child_that_waits_is_the_next_one_and_only_that() -> None:
    children.warm("test_child")
    assert children._warm is not None
    process = children._warm.pid
    for is_warm in (True, False):
        with Child(numbers, 1) as child:
            assert ([found for _, found in child.results()] == [process]) is is_warm


def test_a_child_that_nobody_needs_ends_in_silence() -> None:
    code = "from tlearn.distributed import child; child.warm('json')"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (IntegrityError("of ours"), IntegrityError, "^of ours$"),
        (OSError(28, "full"), OSError, "full"),
        (ZeroDivisionError("odd"), RuntimeError, "ZeroDivisionError: odd"),
    ],
)
def test_what_it_raises_comes_after_its_results(error: Exception, kind: type[Exception], says: str) -> None:
    with Child(fail, error) as child:
        results = child.results()
        assert next(results) == 1
        with pytest.raises(kind, match=says):
            next(results)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_dies_is_told_by_its_signal(number: signal.Signals) -> None:
    with Child(be_killed, number) as child, pytest.raises(Died, match=number.name):
        next(child.results())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_is_left_to_the_parent(number: signal.Signals) -> None:
    with Child(be_killed, number) as child:
        assert [*child.results()] == [1]


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("how", ["leaves", "is killed"])
def test_no_child_outlives_its_parent(how: str, tmp_path: Path) -> None:
    noted = tmp_path / "process"
    is_noted = f"os.path.exists({str(noted)!r}) and os.path.getsize({str(noted)!r})"
    waiting = "next(c.results())" if how == "is killed" else f"while not ({is_noted}): pass"
    code = "import os; from tlearn.distributed.child import Child; from test_child import stay\n"
    code += f"with Child(stay, {str(noted)!r}) as c:\n    {waiting}"
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PYTHONPATH}"}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    wait_for(lambda: noted.exists() and noted.read_text())
    if how == "is killed":
        parent.kill()
    parent.wait(60)
    wait_for(lambda: not is_running(int(noted.read_text())))
