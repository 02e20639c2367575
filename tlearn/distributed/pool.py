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
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

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
_DEPTH = 2
"""Chunks that an actor has at once, so that it need not wait for the next one."""
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
    """Between Ray and a Work."""

    def __init__(self, work: str, task: Any, threads: Threads):
        if ray.get_gpu_ids():
            from tlearn.network import device

            device.require_gpu()
        self.work = _built(work, task, threads)

    def start(self) -> None:
        """Answered when the Work is built."""

    def do(self, chunk: str, rows: bytes) -> ChunkResult:
        with pa.ipc.open_stream(rows) as reader:
            return self.work(Chunk(chunk, reader.read_all()))


def _built(work: str, task: Any, threads: Threads) -> Work:
    module, _, name = work.partition(":")
    built: Work = getattr(importlib.import_module(module), name)(task, threads)
    return built


def run(chunks: Iterable[Chunk | None], work: str, task: Any, pool: Pool) -> Iterator[ChunkResult]:
    """Give every chunk to one of the pool's actors; yield what each returned, as it comes, each once.

    `chunks` may still be on their way: a None says that there is none at the moment. (For a child all are there.)
    `work` is the module:class of a Work: what that imports, torch above all, only the actors load. `task` and the
    threads that the pool has for it are what every actor is built from. The class names the actors.
    An actor that dies, or does not do its chunk in time, ends a round; the next one goes on with new actors. Raises
    TrainingError when that has happened too often in a row without a chunk done in between. With an actor a node may
    be gone: the next round has as many actors as the cluster then has room for.
    """
    if not pool.is_child:
        launch.start_ray()
    feed, patience = _Feed(chunks), _Patience()
    num_deaths, threads = 0, pool.threads
    while not feed.is_over:
        try:
            with _round(feed, work, task, threads, pool) as results:
                for result in _timely(results, patience):
                    feed.done(result.chunk)
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
                pool = launch.nodes().refitted(pool, feed.num_known or pool.num_actors)


class _Feed:
    """The chunks that are still to be done. What one round has taken and not done, the next one takes again."""

    def __init__(self, chunks: Iterable[Chunk | None]):
        self._lock = threading.Lock()
        self._source = iter(chunks)
        self._is_read = False
        self._again: deque[Chunk] = deque()
        self._taken: dict[str, Chunk] = {}
        self._round = 0

    @property
    def is_over(self) -> bool:
        return self._is_read and not self._again and not self._taken

    @property
    def num_known(self) -> int:
        return len(self._again) + len(self._taken)

    def begin(self) -> int:
        """A new round; returns its number."""
        with self._lock:
            self._again.extendleft(reversed(self._taken.values()))
            self._taken.clear()
            self._round += 1
            return self._round

    def take(self, round_number: int) -> Chunk | None:
        """The next chunk; None where there is none at the moment, none any more, or none for a round that has ended."""
        with self._lock:
            if round_number != self._round:
                return None
            chunk = self._again.popleft() if self._again else self._read()
            if chunk is not None:
                self._taken[chunk.id] = chunk
            return chunk

    def _read(self) -> Chunk | None:
        if self._is_read:
            return None
        try:
            return next(self._source)
        except StopIteration:
            self._is_read = True
            return None

    def take_all(self, round_number: int) -> list[Chunk]:
        """Waits until all are there."""
        while not self.is_given(round_number):
            self.take(round_number)
        return [*self._taken.values()]

    def is_given(self, round_number: int) -> bool:
        """Whether `take` has nothing more for this round, now and later."""
        return round_number != self._round or (self._is_read and not self._again)

    def done(self, chunk: str) -> None:
        with self._lock:
            del self._taken[chunk]


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


def _timely(results: Iterator[ChunkResult | None], patience: _Patience) -> Iterator[ChunkResult]:
    """Pass on what a thread waits for, as neither Ray nor a child has a limit. None: there is nothing to wait for.

    Raises _Stalled where nothing came in time, and whatever the results raise.
    """
    fetched: queue.Queue[tuple[str, Any]] = queue.Queue()

    def fetch() -> None:
        try:
            for result in results:
                fetched.put(("idle" if result is None else "result", result))
            fetched.put(("end", None))
        except BaseException as error:
            fetched.put(("error", error))

    threading.Thread(target=fetch, daemon=True, name="chunks").start()
    is_first, started = True, time.monotonic()
    while True:
        limit = patience.seconds(is_first=is_first)
        try:
            kind, value = fetched.get(timeout=limit)
        except queue.Empty:
            raise _Stalled(f"no chunk was done for {limit:.0f} s") from None
        if kind == "end":
            return
        if kind == "error":
            raise value
        if kind == "result":
            patience.learn(time.monotonic() - started, is_first=is_first)
            is_first = False
            yield value
        started = time.monotonic()


def _name(work: str) -> str:
    """Of its class, and of its actors."""
    return work.partition(":")[2]


@contextlib.contextmanager
def _round(feed: _Feed, work: str, task: Any, threads: Threads, pool: Pool) -> Iterator[Iterator[ChunkResult | None]]:
    """The results of the chunks, as they come; whoever works on them ends, whether they are all there or not."""
    number = feed.begin()
    if pool.is_child:
        with Child(_of_child, (feed.take_all(number), work, task, threads)) as child:
            yield child.results()
        return
    kind: Any = ray.remote(type(_name(work), (_Actor,), {})).options(
        num_cpus=pool.cpus_per_actor, num_gpus=pool.gpus_per_actor, scheduling_strategy="SPREAD"
    )
    actors: list[Any] = [kind.remote(work, task, threads) for _ in range(pool.num_actors)]
    try:
        yield _of_actors(actors, feed, number)
    finally:
        for actor in actors:  # also one that stands still, and hears nothing: its node ends the process
            with contextlib.suppress(Exception):  # whatever Ray says, the run ends or goes on without it
                ray.kill(actor)


def _of_child(given: tuple[list[Chunk], str, Any, Threads]) -> Iterator[ChunkResult]:
    chunks, *made_of = given
    yield from map(_built(*made_of), chunks)


def _of_actors(actors: list[Any], feed: _Feed, round_number: int) -> Iterator[ChunkResult | None]:
    """What they make of the chunks; None while there is no chunk. One that has no room yet is given nothing."""
    starting = {actor.start.remote(): number for number, actor in enumerate(actors)}
    running: dict[Any, int] = {}
    num_running: dict[int, int] = {}  # of those that have started
    while True:
        is_hungry = False
        while not is_hungry and (number := _freest(num_running)) is not None:
            chunk = feed.take(round_number)
            if chunk is None:
                is_hungry = True
            else:
                running[actors[number].do.remote(chunk.id, _to_bytes(chunk.rows))] = number
                num_running[number] += 1
        has_more = not feed.is_given(round_number)
        if is_hungry and not running:
            if not has_more:
                return
            yield None
        # Whoever is hungry has just waited for a chunk, if there may be one.
        done, _ = ray.wait([*running, *starting], timeout=0 if is_hungry and has_more else None)
        for reference in done:
            result = ray.get(reference)
            if reference in starting:
                num_running[starting.pop(reference)] = 0
            else:
                num_running[running.pop(reference)] -= 1
                yield result


def _freest(num_running: dict[int, int]) -> int | None:
    """The actor with the fewest chunks; None where all have as many as they may."""
    number = min(num_running, key=num_running.__getitem__, default=None)
    return None if number is None or num_running[number] >= _DEPTH else number


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
