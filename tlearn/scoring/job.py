"""The scoring job: from a config to a table.

    list -> plan (what has no row yet) -> one file a chunk -> merge -> one atomic step

NAME.parquet or NAME.csv is a snapshot: everything is planned, the old file replaced. DIR/ grows: the plan leaves out
what has a row, and the merged file is added. A large input is planned in waves, each a run with a file of its own:
while one is computed, the next is listed, and the one before is merged. Ray and torch are loaded only if there is
something to compute.
"""

import contextlib
import dataclasses
import functools
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tlearn import storage
from tlearn.config import ScoreConfig
from tlearn.console import event, warn
from tlearn.data.names import Ignored
from tlearn.distributed.ahead import ahead
from tlearn.errors import LockedError, TlearnError
from tlearn.evaluation.drift import Reference
from tlearn.network import description
from tlearn.scoring import compute, index, parts, table
from tlearn.scoring import output as outputs
from tlearn.scoring import publish as publishing
from tlearn.scoring.index import Index
from tlearn.scoring.inputs import Input
from tlearn.scoring.output import GrowingTable, Snapshot
from tlearn.scoring.plan import Run
from tlearn.scoring.planning import Places, Planning
from tlearn.scoring.stream import Computed, Stream
from tlearn.scoring.summary import Finished, Scored, histograms, summarize
from tlearn.scoring.waves import Counts
from tlearn.storage.lease import Lease

_MOST_TRIES = 10


def score(config: ScoreConfig, labels: Mapping[str, str] | None = None) -> Scored:
    """Give every listed file its row. Raises TlearnError; what was done until then is gone on with the next time.

    `labels` are those of the report by path, where they are others than the folders'.
    """
    if config.publish is not None:
        publishing.require_extra()
    with storage.reached():
        scored = _score(config, labels, has_rows=config.report is not None)[0]
        return scored if config.publish is None else _published(scored)


def scored_rows(config: ScoreConfig, labels: Mapping[str, str] | None) -> tuple[Scored, pa.Table]:
    """As `score`, and the rows that were made; in a growing table with nothing new the newest of every path."""
    with storage.reached():
        return _score(config, labels, has_rows=True)


def _score(config: ScoreConfig, labels: Mapping[str, str] | None, *, has_rows: bool) -> tuple[Scored, pa.Table]:
    started = time.monotonic()
    model = description.verify(config.model)
    Reference.from_json(model.reference)  # refused now if it cannot be compared with
    given = Input.of(config.input, config.input_list or ())
    given.require_readable()
    output = outputs.chosen(config, given.folder)
    output.require_writable()
    if config.report is not None:
        storage.require_writable(storage.absolute(config.report).rpartition("/")[0])
    with Lease(output.work) as lease, index.opened(output.index(config.cache)) as known:
        places = Places(config, model, given, output.work)
        counts, ignored, runs = _Job(places, output, known, lease, has_rows).done()
    output.clean_up()
    scored = summarize(output.location, model, counts, ignored, runs, time.monotonic() - started)
    if config.input_list:
        _doubt(scored)
    rows = None
    if has_rows:
        rows = output.shown(pa.concat_tables([table.of_rows([]), *(run.rows for run in runs if run.rows is not None)]))
    if config.report is not None:
        from tlearn.scoring import report

        if report.write(config, given.folder, rows, scored, histograms(runs), labels):
            scored = dataclasses.replace(scored, report=config.report)
    return scored, rows


def _doubt(scored: Scored) -> None:
    """Warn of a list that is of other files, or of another time: each file that is not as it says loses its score."""
    num_files, num_changed = scored.scored + scored.failed, scored.statuses.get("changed", 0)
    if 2 * num_changed > num_files:
        warn(
            f"WARNING: {num_changed:,} of {num_files:,} files are not as the list says: "
            "is it of this folder, and new enough?"
        )


@dataclass(frozen=True, slots=True)
class _Job:
    """The steps of `score`, with what all of them need. Holds the lease."""

    places: Places
    output: Snapshot | GrowingTable
    index: Index
    lease: Lease
    has_rows: bool
    """Whether what was made is kept in memory, for a report."""

    def done(self) -> tuple[Counts, Ignored, list[Finished]]:
        """Give every listed file its row; again from the start where another run has added to the table meanwhile."""
        runs: list[Finished] = []
        for _ in range(_MOST_TRIES):
            with contextlib.suppress(storage.Taken):
                return *self._try(runs), runs
        raise LockedError(f"expected {self.output.location} to be left to one run at a time, others add to it: wait")

    def _try(self, runs: list[Finished]) -> tuple[Counts, Ignored]:
        """`runs` takes up what is finished. Raises storage.Taken."""
        state, num_before = self.output.catch_up(self.index), len(runs)
        for problem in self.output.problems(state):
            warn(f"WARNING: {self.output.location}: {problem}")
        if self.output.goes_on:
            self._finish(self.places.stopped(state), runs)
        if gone_on := runs[num_before:]:
            state = self.output.catch_up(self.index)
        # What went on above was this very rescore; if to its end, there is nothing more to do again.
        rescore = self.places.config.rescore and not (gone_on and gone_on[-1].is_last)
        planning = Planning(self.places, self.output, self.index, state, rescore=rescore)
        with ahead(planning.runs) as planned:
            self._finish(planned, runs)
        self.places.remove()
        return planning.counts, planning.ignored

    def _finish(self, runs: Iterator[Run | None], finished: list[Finished]) -> None:
        """Compute what the runs still lack; merge each as soon as it is there, and make it visible."""
        work = functools.partial(compute.chunks, self.places)
        with contextlib.closing(Stream(runs).runs(work)) as computed:
            for group in self.output.groups(computed, self.index):
                finished.append(self._merged(group))

    def _merged(self, group: Iterator[Computed]) -> Finished:
        """One file of these runs."""
        done: list[Computed] = []

        def runs() -> Iterator[Run]:
            for one in group:
                done.append(one)
                yield one.run

        with _room_for_merged(self.places.runs, self.lease.owner) as target:
            merged = parts.merge(runs(), self.index, target, functools.partial(compute.one, self.places))
            last, rows = done[-1], _rows(target) if self.has_rows else None
            self.lease.check()
            record = self.output.publish(merged, target, last.run)
            if record is not None:
                with storage.open_input(str(target)) as file:
                    self.index.ingest(record.name, record.sha256, table.batches(file, record.name, index.INGESTED))
        event("committed", run=last.run.id, rows=merged.num_rows, **merged.statuses)
        for one in done:
            storage.remove_folder(one.run.folder)
        num_computed = sum(one.num_computed for one in done)
        return Finished(last.run.id, last.run.is_last, merged, num_computed, last.images_per_second, rows)


def _published(scored: Scored) -> Scored:
    """After the log of the table was brought up to date; or with the reason why that could not be."""
    try:
        publishing.publish(scored.output)
    except TlearnError as error:
        reason = f"the rows are in {scored.output}, its log is behind: {error}"
        return dataclasses.replace(scored, not_published=reason)
    return scored


@contextlib.contextmanager
def _room_for_merged(runs: str, owner: str) -> Iterator[Path]:
    """A local path for a merged file: beside the runs, so that a link can make it visible, or a temporary one."""
    if storage.is_remote(runs):
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary) / "merged.parquet"
        return
    folder = storage.join(runs, f"merged-{owner[:16]}")  # without a plan: what is left of it goes with other runs
    try:
        yield storage.local(folder) / "merged.parquet"
    finally:
        storage.remove_folder(folder)


def _rows(merged: Path) -> pa.Table:
    with storage.open_input(str(merged)) as file:
        return table.read(file, str(merged))
