"""The primitive of both jobs: a list cut into chunks, an actor pool that turns each chunk into one file.

Where few chunks are left to one machine, the pool is one child of this process, and Ray is not started.

Only paths go into an actor and only small rows come out; what is large the actor writes itself.
"""

import contextlib
import dataclasses
import importlib
import io
import queue
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

import pyarrow as pa
import ray
from ray.exceptions import RayActorError

from tlearn import errors
from tlearn.distributed import launch
from tlearn.distributed.child import Child, Died
from tlearn.distributed.chunks import Chunk, ChunkResult
from tlearn.distributed.nodes import Pool, Threads
from tlearn.errors import TrainingError

_MAX_DEATHS = 3
_START_SECONDS = 900.0
"""How long a round waits for its first chunk: actors load the model, perhaps on nodes that have just come."""
_CAREFUL_SECONDS = 600.0
"""How long a round waits for a chunk after one has failed: pictures may be decoded one by one, each with a limit."""
_LEAST_SECONDS, _TIMES_FIRST, _TIMES_SLOWEST = 120.0, 3, 20
"""How long it waits otherwise: by the longest wait for a first chunk and for another, but not less than this."""


class Work(Protocol):
    """What an actor does: built once, as Work(task, threads), called once a chunk.

    `task` is one picklable value, the same for all actors.
    """

    def __init__(self, task: Any, threads: Threads): ...

    def __call__(self, chunk: Chunk) -> ChunkResult: ...


class _Actor:
    """Between Ray Data's batches and a Work."""

    def __init__(self, work: str, task: Any, threads: Threads):
        if ray.get_gpu_ids():
            from tlearn.network import device

            device.require_gpu()
        self.work = _built(work, task, threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        results = []
        for row in batch.to_pylist():
            with pa.ipc.open_stream(row["rows"]) as reader:
                results.append(self.work(Chunk(row["id"], reader.read_all())))
        return pa.Table.from_pylist([dataclasses.asdict(result) for result in results])


def _built(work: str, task: Any, threads: Threads) -> Work:
    module, _, name = work.partition(":")
    built: Work = getattr(importlib.import_module(module), name)(task, threads)
    return built


def run(chunks: Iterable[Chunk], work: str, task: Any, pool: Pool, name: str | None = None) -> Iterator[ChunkResult]:
    """Give every chunk to one of the pool's actors; yield what each returned, as it comes, each once.

    `work` is the module:class of a Work: what that imports, torch above all, only the actors load. `task` and the
    threads that the pool has for it are what every actor is built from.
    `name` is what Ray's dashboard calls this; the class names the actors.
    An actor that dies, or does not do its chunk in time, ends a round; the next one goes on with new actors. Raises
    TrainingError when that has happened too often in a row without a chunk done in between. With an actor a node may
    be gone: the next round has as many actors as the cluster then has room for.
    """
    if not pool.is_child:
        launch.start_ray()
    pending = {chunk.id: chunk for chunk in chunks}
    num_deaths, threads = 0, pool.threads
    patience = _Patience()
    while pending:
        try:
            with _round(list(pending.values()), work, task, threads, pool, name) as results:
                for result in _timely(results, patience):
                    del pending[result.chunk]
                    num_deaths = 0
                    yield result
        except (RayActorError, Died, _Stalled) as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                raise _initial_error(error) from None
            num_deaths += 1
            if num_deaths > _MAX_DEATHS:
                raise TrainingError(
                    f"expected actors that live, {num_deaths} died one after the other ({_first_line(error)}): "
                    "look for a lack of memory, or try fewer --workers"
                ) from error
            patience = dataclasses.replace(patience, is_careful=True)
            if not pool.is_child:
                pool = launch.nodes().refitted(pool, len(pending))


class _Stalled(Exception):
    """No actor has done its chunk in time."""


@dataclass(slots=True)
class _Patience:
    """How long the next chunk is waited for."""

    first: float = 0.0
    """The longest that the first chunk of a round was waited for, start of the actors included."""
    slowest: float = 0.0
    """The longest that another one was."""
    is_careful: bool = False

    def seconds(self, *, is_first: bool) -> float:
        least = _START_SECONDS if is_first else _CAREFUL_SECONDS if self.is_careful else _LEAST_SECONDS
        return max(least, _TIMES_FIRST * self.first, _TIMES_SLOWEST * self.slowest)

    def learn(self, seconds: float, *, is_first: bool) -> None:
        if is_first:
            self.first = max(self.first, seconds)
        else:
            self.slowest = max(self.slowest, seconds)


def _timely(results: Iterator[ChunkResult], patience: _Patience) -> Iterator[ChunkResult]:
    """Pass on what a thread waits for, as neither Ray Data nor a child has a limit.

    Raises _Stalled where nothing came in time, and whatever the results raise.
    """
    fetched: queue.Queue[ChunkResult | BaseException | None] = queue.Queue()

    def fetch() -> None:
        try:
            for result in results:
                fetched.put(result)
            fetched.put(None)
        except BaseException as error:
            fetched.put(error)

    threading.Thread(target=fetch, daemon=True, name="chunks").start()
    is_first = True
    while (found := _next(fetched, patience, is_first=is_first)) is not None:
        is_first = False
        yield found


def _next(fetched: "queue.Queue[Any]", patience: _Patience, *, is_first: bool) -> ChunkResult | None:
    started, limit = time.monotonic(), patience.seconds(is_first=is_first)
    try:
        found = fetched.get(timeout=limit)
    except queue.Empty:
        raise _Stalled(f"no chunk was done for {limit:.0f} s") from None
    if isinstance(found, BaseException):
        raise found
    patience.learn(time.monotonic() - started, is_first=is_first)
    return cast(ChunkResult | None, found)


def _end_actors(work: str) -> None:
    """Also those that stand still, and hear nothing: their node ends the process."""
    worker: Any = ray._private.worker.global_worker
    with contextlib.suppress(Exception):  # whatever Ray says, the run ends or goes on without them
        job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
        for actor, facts in ray._private.state.actors(job_id=job, actor_state_name="ALIVE").items():
            if _name(work) in facts["ActorClassName"]:
                worker.core_worker.kill_actor(ray.ActorID.from_hex(actor), True)


def _name(work: str) -> str:
    """Of its class, and of its actors."""
    return work.partition(":")[2]


@contextlib.contextmanager
def _round(
    chunks: list[Chunk], work: str, task: Any, threads: Threads, pool: Pool, name: str | None
) -> Iterator[Iterator[ChunkResult]]:
    """The results of these chunks, as they come; whoever works on them ends, whether they are all there or not."""
    if pool.is_child:
        with Child(_of_child, (chunks, work, task, threads)) as child:
            yield child.results()
        return
    is_done = False

    def results() -> Iterator[ChunkResult]:
        nonlocal is_done
        yield from _of_actors(chunks, work, task, threads, pool, name)
        is_done = True

    try:
        yield results()
    finally:
        if not is_done:
            _end_actors(work)


def _of_child(given: tuple[list[Chunk], str, Any, Threads]) -> Iterator[ChunkResult]:
    chunks, *made_of = given
    yield from map(_built(*made_of), chunks)


def _of_actors(
    chunks: list[Chunk], work: str, task: Any, threads: Threads, pool: Pool, name: str | None
) -> Iterator[ChunkResult]:
    items = [{"id": chunk.id, "rows": _to_bytes(chunk.rows)} for chunk in chunks]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the limit on restarts has no other name yet (ray#65227)
        results = dataset.map_batches(
            type(_name(work), (_Actor,), {}),
            fn_constructor_args=(work, task, threads),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=pool.num_actors),
            num_cpus=pool.cpus_per_actor,
            num_gpus=pool.gpus_per_actor or None,
            max_restarts=0,  # Ray Data's own default is to restart a dead actor for ever
        )
    results.set_name(name)
    for row in results.iter_rows():
        yield ChunkResult(**row)


def _initial_error(error: RayActorError) -> Exception:
    """What a Work's __init__ raised, of which Ray keeps the text only; it would raise it again in a new actor."""
    name, _, text = str(error).strip().splitlines()[-1].partition(": ")
    kind = getattr(errors, name.rpartition(".")[2], TrainingError)
    return kind(text) if kind is not TrainingError else TrainingError(f"an actor could not start: {name}: {text}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _to_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
