"""What is to be done of an input, as runs: listed, compared with what is known, cut into waves."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from tlearn import storage
from tlearn.config import ScoreConfig
from tlearn.console import event, say, warn
from tlearn.data.names import Ignored
from tlearn.distributed.chunks import FEW_IMAGES, chunk_size
from tlearn.distributed.places import cluster
from tlearn.errors import some
from tlearn.network.description import Description
from tlearn.scoring import plan, waves
from tlearn.scoring.index import Index
from tlearn.scoring.inputs import Input
from tlearn.scoring.output import GrowingTable, Snapshot, State
from tlearn.scoring.partitions import Partitions, by_tasks
from tlearn.scoring.plan import Facts, Run
from tlearn.scoring.waves import Counts, Scope, Wave


@dataclass(frozen=True, slots=True)
class Places:
    """What a command is asked, and where its runs are."""

    config: ScoreConfig
    model: Description
    input: Input
    work: str

    @property
    def runs(self) -> str:
        """The folder of the runs."""
        return storage.join(self.work, "runs")

    def run(self, run: str, number: int, *, is_last: bool) -> Run:
        return Run(run, storage.join(self.runs, run), self.model, self.input.folder, number, is_last)

    def facts(self, state: State, *, is_last: bool = True) -> Facts:
        """Of a run that makes the next commit."""
        return Facts(
            model=self.model.digest,
            input=self.input.folder,
            rescore=self.config.rescore,
            abstain_below=self.config.abstain_below,
            number=state.number,
            cascade=self.config.cascade,
            unknown_rate=self.config.unknown_rate,
            after=state.after,
            is_last=is_last,
        )

    def stopped(self, state: State) -> Iterator[Run]:
        """Runs that were stopped between their plan and their commit, in the order of their commits, if they were
        under the same facts."""
        folders = {run: storage.join(self.runs, run) for run in storage.folders(self.runs)}
        stopped = {run: facts for run, folder in folders.items() if (facts := plan.facts(folder)) is not None}
        while True:
            asked = self.facts(state)
            run = next((run for run, facts in stopped.items() if asked.agree(facts)), None)
            if run is None:
                return
            yield self.run(run, state.number, is_last=bool(stopped.pop(run).get("is_last", True)))
            state = state.then(run)

    def remove(self) -> None:
        """Runs that will not be finished: of another model, or of a state of the table that has passed."""
        for run in storage.folders(self.runs):
            storage.remove_folder(storage.join(self.runs, run))


class Planning:
    """The input is listed, and what needs a row becomes runs, while those before are computed.

    At the end `counts` and `ignored` say what was listed.
    """

    def __init__(self, places: Places, output: Snapshot | GrowingTable, known: Index, state: State, *, rescore: bool):
        self.places, self.output, self.index, self.state, self.rescore = places, output, known, state, rescore
        self.counts, self.ignored = Counts(), Ignored()

    def runs(self, check: Callable[[], None]) -> Iterator[Run]:
        """Each as soon as so much was listed; `check` ends it by an error, where nobody asks any more."""
        places, state = self.places, self.state
        for wave in self._waves(check):
            check()
            self.counts += wave.counts
            if wave.is_last:
                self._remark()
                if not wave.table.num_rows and self.output.goes_on:
                    return
            facts = places.facts(state, is_last=wave.is_last)
            run = places.run(plan.digest(wave, facts), state.number, is_last=wave.is_last)
            if not plan.is_whole(run.folder):
                plan.write(wave, run.folder, facts, chunk_size(wave.counts.compute))
            counts = wave.counts
            event("planned", run=run.id, listed=counts.listed, compute=counts.compute, copied=counts.copied)
            yield run
            state = state.then(run.id)

    def _waves(self, check: Callable[[], None]) -> Iterator[Wave]:
        """Of what is listed: by tasks where there is a cluster, and the input can be divided between them."""
        places, parts = self.places, self.places.input.parts
        scope = Scope(places.input.folder, places.model.digest, places.model.preprocess.max_bytes, self.rescore)
        if len(parts) > 1 and isinstance(self.output, GrowingTable) and cluster() is not None:
            yield from by_tasks(Partitions(parts, self.output, places.config.cache, scope), self.ignored)
            return
        start = _once_above(FEW_IMAGES, start_ray)
        yield from waves.waves(self.index, self._listed(check), scope, waves.sizes(), start)

    def _listed(self, check: Callable[[], None]) -> Iterator[pa.Table]:
        for batch in self.places.input.batches(self.ignored):
            check()
            yield batch

    def _remark(self) -> None:
        if not self.counts.listed:
            lists = [each.location for each in self.places.input.listed]
            where = f" by the list {some(lists)}" if lists else ""
            warn(f"WARNING: found no picture in {self.places.input.folder}{where}")
        if self.ignored.closed:
            warn(f"WARNING: found folders that cannot be read: {some(self.ignored.closed)}; their files wait")
        for remark in self.ignored.remarks():
            say(f"note: {remark}")


def _once_above(limit: int, function: Callable[[], None]) -> Callable[[int], None]:
    start = functools.cache(lambda: threading.Thread(target=function, daemon=True).start())
    return lambda number: start() if number > limit else None


def start_ray() -> None:
    """While the folder is still being listed; whoever computes then finds it started, or learns why it cannot be."""
    from tlearn.distributed import launch

    with contextlib.suppress(Exception):
        launch.start_ray()
