"""The scoring job: from a config to a table.

    list -> plan (what has no row yet) -> one file a chunk -> merge -> one atomic step

NAME.parquet or NAME.csv is a snapshot: everything is planned, the old file replaced. DIR/ grows: the plan leaves out
what has a row, and the merged file is added. Ray and torch are loaded only if there is something to compute.
"""

import contextlib
import dataclasses
import functools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from tlearn import storage
from tlearn.config import ScoreConfig
from tlearn.console import Progress, event, say, warn
from tlearn.data.names import Ignored
from tlearn.distributed.chunks import FEW_IMAGES, Chunk, chunk_size
from tlearn.errors import some
from tlearn.evaluation.drift import Reference
from tlearn.network import arithmetic, description
from tlearn.network.description import Description
from tlearn.scoring import index, parts, plan, table
from tlearn.scoring import output as outputs
from tlearn.scoring.index import Counts, Index, Scope
from tlearn.scoring.inputs import Input
from tlearn.scoring.output import GrowingTable, Snapshot
from tlearn.scoring.plan import Facts, Run
from tlearn.scoring.summary import Finished, Scored, histograms, summarize
from tlearn.scoring.table import Row
from tlearn.scoring.task import Limits, Task
from tlearn.storage import Entry
from tlearn.storage.lease import Lease

if TYPE_CHECKING:
    from tlearn.scoring.actor import Score

_SCORER = "tlearn.scoring.actor:Score"


def score(config: ScoreConfig, labels: Mapping[str, str] | None = None) -> Scored:
    """Give every listed file its row. Raises TlearnError; what was done until then is gone on with the next time.

    `labels` are those of the report by path, where they are others than the folders'.
    """
    with storage.reached():
        return _score(config, labels, has_rows=config.report is not None)[0]


def scored_rows(config: ScoreConfig, labels: Mapping[str, str] | None) -> tuple[Scored, pa.Table]:
    """As `score`, and the rows that were made; in a growing table with nothing new the newest of every path."""
    with storage.reached():
        return _score(config, labels, has_rows=True)


def _score(config: ScoreConfig, labels: Mapping[str, str] | None, *, has_rows: bool) -> tuple[Scored, pa.Table]:
    started = time.monotonic()
    model = description.verify(config.model)
    Reference.from_json(model.reference)  # refused now if it cannot be compared with
    given = Input.of(config.input)
    given.require_readable()
    output = outputs.chosen(config, given.folder)
    output.require_writable()
    if config.report is not None:
        storage.require_writable(storage.absolute(config.report).rpartition("/")[0])
    with Lease(output.work) as lease, index.opened(output.index(config.cache)) as known:
        job = _Job(config, model, given, output, known, lease, has_rows)
        runs = []
        number = output.catch_up(known)
        for problem in output.problems():
            warn(f"{output.location}: {problem}")
        for run in output.stopped(job.facts(number)):
            runs.append(job.finish(run))
            number = output.catch_up(known)
        # What went on above was this very rescore; there is nothing more to do again.
        counts, ignored = job.fill_index(rescore=config.rescore and not runs)
        if output.needs_run(counts):
            runs.append(job.finish(job.write_plan(number, counts)))
            output.catch_up(known)
        job.remove_runs()
    output.clean_up()
    scored = summarize(output.location, model, counts, ignored, runs, time.monotonic() - started)
    rows = None
    if has_rows:
        rows = output.shown(pa.concat_tables([table.of_rows([]), *(run.rows for run in runs if run.rows is not None)]))
    if config.report is not None:
        from tlearn.scoring import report

        if report.write(config, given.folder, rows, scored, histograms(runs), labels):
            scored = dataclasses.replace(scored, report=config.report)
    return scored, rows


@dataclass(frozen=True, slots=True)
class _Job:
    """The steps of `score`, with what all of them need. Holds the lease."""

    config: ScoreConfig
    model: Description
    input: Input
    output: Snapshot | GrowingTable
    index: Index
    lease: Lease
    has_rows: bool
    """Whether what was made is kept in memory, for a report."""

    def facts(self, number: int) -> Facts:
        """Of a run that makes the commit of this number."""
        return Facts(
            model=self.model.digest,
            input=self.input.folder,
            rescore=self.config.rescore,
            abstain_below=self.config.abstain_below,
            number=number,
            cascade=self.config.cascade,
            unknown_rate=self.config.unknown_rate,
        )

    def fill_index(self, *, rescore: bool) -> tuple[Counts, Ignored]:
        """Put what needs a row into the index; returns also what was listed beside pictures."""
        ignored = Ignored()
        entries = self.input.entries(ignored)
        scope = Scope(self.input.folder, self.model.digest, self.model.preprocess.max_bytes, rescore)
        counts = index.fill(self.index, entries, scope, on_new_paths=_once_above(FEW_IMAGES, _start_ray))
        if not counts.listed:
            warn(f"WARNING: found no picture in {self.input.folder}")
        if ignored.closed:
            warn(f"WARNING: found folders that cannot be read: {some(ignored.closed)}; their files wait")
        for remark in ignored.remarks():
            say(f"note: {remark}")
        return counts, ignored

    def write_plan(self, number: int, counts: Counts) -> str:
        """Write the plan of what was listed, unless it is there: then its run goes on. Returns its id."""
        facts = self.facts(number)
        run = plan.digest(self.index, facts)
        folder = plan.run_folder(self.output.work, run)
        if not plan.is_whole(folder):
            self.remove_runs()
            plan.write(self.index, folder, facts, chunk_size(counts.compute))
        event("planned", run=run, listed=counts.listed, compute=counts.compute, copied=counts.copied)
        return run

    def finish(self, run_id: str) -> Finished:
        """Compute what the plan of a run still lacks, merge, and make it visible."""
        run = Run(run_id, plan.run_folder(self.output.work, run_id), self.model, self.input.folder)
        with plan.opened(run.folder) as planned, _room_for_merged(run.folder) as target:
            missing = parts.missing(run, planned)
            num_images = sum(planned.num_images(chunk) for chunk in missing)
            images_per_second = _compute(self.config, run, missing, num_images) if missing else 0.0
            merged = parts.merge(run, planned, self.index, target, functools.partial(_compute_here, self.config, run))
            rows = _rows(target) if self.has_rows else None
            self.lease.check()
            self.output.publish(merged, target, run)
        event("committed", run=run.id, rows=merged.num_rows, **merged.statuses)
        storage.remove_folder(run.folder)
        return Finished(run.id, merged, num_images, images_per_second, rows)

    def remove_runs(self) -> None:
        """Runs that will not be finished: of another model, or of a state of the table that has passed."""
        for run in plan.ids(self.output.work):
            storage.remove_folder(plan.run_folder(self.output.work, run))


def _once_above(limit: int, function: Callable[[], None]) -> Callable[[int], None]:
    start = functools.cache(lambda: threading.Thread(target=function, daemon=True).start())
    return lambda number: start() if number > limit else None


def _start_ray() -> None:
    """While the folder is still being listed; `_compute` then finds it started, or learns why it cannot be."""
    from tlearn.distributed import launch

    with contextlib.suppress(Exception):
        launch.start_ray()


@contextlib.contextmanager
def _room_for_merged(folder: str) -> Iterator[Path]:
    """A local path for the merged file: in the run's folder, so that a link can make it visible, or a temporary one."""
    if not storage.is_remote(folder):
        yield storage.local(folder) / "merged.parquet"
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary) / "merged.parquet"


def _rows(merged: Path) -> pa.Table:
    with merged.open("rb") as file:
        return table.read(file, str(merged))


def _compute(config: ScoreConfig, run: Run, missing: list[int], num_images: int) -> float:
    """Let actors write the missing chunks, or a child that is one; returns images per second after the start, 0.0 if
    there are too few."""
    from tlearn.distributed import launch, meters, pool

    if not launch.is_alone():
        launch.start_ray()
        launch.wait_for_room([{"CPU": 1}], config.wait_seconds)
        with plan.opened(run.folder) as planned:
            first = storage.join(run.input, planned.entries(missing[0])[0].path)
        launch.require_shared([storage.join(config.model, "model.json"), first], [run.folder])
    actors = launch.pool(config.num_workers, len(missing), config.decode)
    task = _task(config, run, num_images // actors.num_actors, on_gpu=actors.gpus_per_actor > 0)
    nothing = pa.table({})  # an actor reads its rows from the plan
    work = [Chunk(f"{number:06}", nothing) for number in missing]
    started = time.monotonic()
    with launch.causes(), Progress("scored", num_images, num_parallel=actors.num_actors) as progress:
        for result in pool.run(work, _SCORER, task, actors, f"score-{run.id}"):
            progress.advance(result.num_images)
            meters.count("images_scored", result.num_images - result.num_failed, model=run.model.digest)
            meters.count("images_failed", result.num_failed, model=run.model.digest)
        meters.count("stage_seconds", time.monotonic() - started, stage="score")
        return progress.rate()


def _compute_here(config: ScoreConfig, run: Run, entry: Entry) -> Row:
    """The row of a file that was to share the row of another, which has failed: too few for a pool."""
    return _scorer(_task(config, run, 1, on_gpu=False)).rows([entry]).rows[0]


@functools.cache
def _scorer(task: Task) -> "Score":
    from tlearn.distributed.nodes import Here, Threads
    from tlearn.scoring.actor import Score

    num_cpus = os.cpu_count() or 1
    return Score(task, Threads(num_cpus, Here(num_cpus)))


def _task(config: ScoreConfig, run: Run, num_images: int, *, on_gpu: bool) -> Task:
    return Task(
        model=storage.absolute(config.model),
        model_digest=run.model.digest,
        arithmetic=arithmetic.of_model(run.model.arithmetic, config.engine, config.precision, on_gpu=on_gpu),
        input=run.input,
        run=run.id,
        run_folder=run.folder,
        batch_size=config.batch_size,
        limits=Limits(config.abstain_below or 0.0, config.unknown_rate),
        cascade=config.cascade == "auto" and not on_gpu,
        num_images=num_images,
    )
