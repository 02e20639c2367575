"""Runs that one pool computes, one behind the other: each is ready when its own chunks are done."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import pyarrow as pa

from tlearn import storage
from tlearn.distributed.chunks import Chunk, ChunkResult
from tlearn.scoring import parts, plan
from tlearn.scoring.plan import Run

_NOTHING = pa.table({})  # an actor reads its rows from the plan


@dataclass(frozen=True, slots=True)
class Computed:
    """A run whose parts are all there."""

    run: Run
    num_computed: int
    images_per_second: float
    """Of the pool so far, after its start; 0.0 while there are too few to tell."""


@dataclass(slots=True)
class _Open:
    run: Run
    missing: set[str]
    num_images: int


class Stream:
    """The chunks of runs that are still on their way, and what is done of each run.

    The chunks are taken in one thread, and the runs in another.
    """

    def __init__(self, runs: Iterator[Run | None]):
        self._runs = runs
        self._open: deque[_Open] = deque()
        self._by_id: dict[str, _Open] = {}
        self.num_images = 0
        """To be computed, of the runs so far."""
        self.is_whole = False
        """Whether no other run will come."""

    def chunks(self) -> Iterator[Chunk | None]:
        """What is missing of every run; None where there is nothing at the moment."""
        for run in self._runs:
            if run is None:
                yield None
                continue
            opened = _opened(run)
            self.num_images += opened.num_images
            self._by_id[run.id] = opened
            self._open.append(opened)
            self.is_whole |= run.is_last
            yield from [Chunk(chunk, _NOTHING) for chunk in sorted(opened.missing)]

    @property
    def num_missing(self) -> int | None:
        """Chunks of all runs; None while other runs may come."""
        return sum(len(run.missing) for run in self._by_id.values()) if self.is_whole else None

    def first_file(self) -> str:
        """The path of a file that is to be computed."""
        opened = next(opened for opened in self._open if opened.missing)
        with plan.opened(opened.run.folder) as planned:
            number = int(min(opened.missing).rpartition("/")[2])
            return storage.join(opened.run.input, planned.entries(number)[0].path)

    def runs(
        self, compute: Callable[["Stream"], Iterator[tuple[ChunkResult, float]]]
    ) -> Generator[Computed, None, None]:
        """Every run as it becomes ready, in order. `compute` takes the chunks and gives what became of each, and how
        many images a second there were."""
        rate = 0.0
        for result, rate in compute(self):
            self._by_id[result.chunk.rpartition("/")[0]].missing.remove(result.chunk)
            yield from self._ready(rate)
        yield from self._ready(rate)
        assert not self._open, "whoever computes takes all chunks"

    def _ready(self, rate: float) -> Iterator[Computed]:
        while self._open and not self._open[0].missing:
            ready = self._open.popleft()
            del self._by_id[ready.run.id]
            yield Computed(ready.run, ready.num_images, rate)


def _opened(run: Run) -> _Open:
    with plan.opened(run.folder) as planned:
        missing = parts.missing(run, planned)
        num_images = sum(planned.num_images(chunk) for chunk in missing)
    return _Open(run, {f"{run.id}/{number:06}" for number in missing}, num_images)
