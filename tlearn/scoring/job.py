"""The scoring job: from a config to a table.

    list -> plan (what has no row yet) -> one file a chunk -> merge -> one atomic step

NAME.parquet is a snapshot: everything is planned, the old file replaced. DIR/ grows: the plan leaves out what has a
row, and the merged file is added. Ray and torch are loaded only if there is something to compute.
"""

import contextlib
import functools
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.config import ScoreConfig
from tlearn.console import Progress, event
from tlearn.data import manifest
from tlearn.data.status import SCORED
from tlearn.distributed.chunks import chunk_size
from tlearn.errors import DONE, TOO_MANY_BAD_FILES, StorageError, UsageError
from tlearn.evaluation import drift
from tlearn.network import arithmetic, description
from tlearn.network.description import Description
from tlearn.scoring import plan, table
from tlearn.scoring.ledger import FOLDER, Ledger
from tlearn.scoring.plan import Index
from tlearn.scoring.task import Task
from tlearn.storage.lease import Lease

_SCORER = "tlearn.scoring.actor:Score"


@dataclass(slots=True)
class _Outcome:
    """What the runs of one command did."""

    statuses: Counter[str] = field(default_factory=Counter)
    num_added: int = 0
    num_computed: int = 0
    runs: list[str] = field(default_factory=list)
    images_per_second: float = 0.0
    histograms: drift.Histograms | None = None


def score(config: ScoreConfig) -> tuple[dict[str, Any], int]:
    """Give every listed file its row; returns the summary and the exit code."""
    started = time.monotonic()
    output = storage.absolute(config.output.rstrip("/"))
    model = description.verify(config.model)
    _require_input(config.input)
    if config.output.endswith(".parquet"):
        if config.rescore:
            raise UsageError("expected --rescore with --output DIR/, got a single file: it is always scored anew")
        folder, _, name = output.rpartition("/")
        storage.require_writable(folder)
        work, ledger = storage.join(folder, f".{name}.work"), None
    else:
        storage.require_writable(output)
        work, ledger = storage.join(output, FOLDER), Ledger(output)
    outcome = _Outcome()
    with Lease(work) as lease, _index(config, output, work) as index:
        facts = {
            "model": model.digest,
            "input": storage.absolute(config.input),
            "rescore": config.rescore,
            "abstain_below": config.abstain_below,
        }
        number = 0
        if ledger is not None:
            ledger.recover()
            number = _catch_up(index, ledger)
            for run in _unfinished(work, {**facts, "number": number}):
                _finish(config, run, work, output, model, index, ledger, lease, outcome)
                number = _catch_up(index, ledger)
        # What went on above was this very rescore; there is nothing more to do again.
        rescore = config.rescore and not outcome.runs
        ignored: Counter[str] = Counter()
        entries = manifest.pictures(config.input, ignored)
        max_bytes = model.preprocess.max_bytes
        counts = plan.fill(
            index, entries, config.input, model.digest, max_bytes, rescore=rescore, on_new_path=_once(_start_ray)
        )
        if ledger is None or counts.compute + counts.copied:
            facts = {**facts, "number": number}
            run = plan.digest(index, facts)
            location = storage.join(work, "runs", run, "plan.parquet")
            if not storage.exists(location):
                _remove_runs(work)
                plan.write(index, location, facts, chunk_size(counts.compute))
            event("planned", run=run, listed=counts.listed, compute=counts.compute, copied=counts.copied)
            _finish(config, run, work, output, model, index, ledger, lease, outcome)
            if ledger is not None:
                _catch_up(index, ledger)
        _remove_runs(work)
    if ledger is None:
        _remove_work(work)
    summary = _summary(config, output, model, counts, outcome, sum(ignored.values()), time.monotonic() - started)
    num_rows = sum(outcome.statuses.values())
    return summary, TOO_MANY_BAD_FILES if summary["failed"] > config.max_error_rate * num_rows else DONE


def _once(function: Callable[[], None]) -> Callable[[], None]:
    return functools.cache(lambda: threading.Thread(target=function, daemon=True).start())


def _start_ray() -> None:
    """While the folder is still being listed; `_compute` then finds it started, or learns why it cannot be."""
    from tlearn.distributed import launch

    with contextlib.suppress(Exception):
        launch.start_ray()
    threading.Event().wait()  # Linux ends Ray's processes with the thread that started them


def _require_input(folder: str) -> None:
    """Raise ValueError before anything is written."""
    next(iter(storage.stream(folder)), None)


@contextlib.contextmanager
def _index(config: ScoreConfig, output: str, work: str) -> Iterator[Index]:
    """Of a table: kept in the cache, one for each output. Of a file: the work table only, thrown away with it."""
    if config.output.endswith(".parquet") and not storage.is_remote(work):
        path = storage.local(work) / "plan.sqlite"
    else:
        name = hashlib.sha256(output.encode()).hexdigest()[:16]
        path = storage.disk(config.cache) / "tables" / f"{name}.sqlite"
    with plan.storage_errors(path), contextlib.closing(Index(path)) as index:
        yield index


def _catch_up(index: Index, ledger: Ledger) -> int:
    """Take into the index what was committed since; returns the number of the next commit."""
    records = ledger.records()
    known = index.commits()
    if known.keys() - {record["name"] for record in records}:
        index.clear()  # files were taken out of the table
        known = {}
    for record in records:
        if known.get(record["name"]) != record["sha256"]:
            with ledger.open(record) as file:
                columns = ["path", "model", "bytes", "modified", *plan.COPIED]
                index.ingest(record["name"], record["sha256"], pq.ParquetFile(file).iter_batches(columns=columns))
    return len(records) + 1


def _unfinished(work: str, facts: dict[str, Any]) -> Iterator[str]:
    """The run that was stopped between its plan and its commit, if it was of the same model, input and state."""
    for run in storage.folders(storage.join(work, "runs")):
        location = storage.join(work, "runs", run, "plan.parquet")
        if not storage.exists(location):
            continue
        with storage.open_input(location) as file:
            found = plan.facts_of(pq.ParquetFile(file))
        if all(found.get(name) == value for name, value in facts.items()):
            yield run


def _finish(
    config: ScoreConfig,
    run: str,
    work: str,
    output: str,
    model: Description,
    index: Index,
    ledger: Ledger | None,
    lease: Lease,
    outcome: _Outcome,
) -> None:
    """Compute what the plan of this run still lacks, merge, and make it visible."""
    folder = storage.join(work, "runs", run)
    with storage.open_input(storage.join(folder, "plan.parquet")) as file:
        parquet = pq.ParquetFile(file)
        num_chunks = plan.facts_of(parquet)["num_chunks"]
        present = set(storage.names(folder))
        missing = [number for number in range(num_chunks) if table.part_name(number) not in present]
        if missing:
            num_images = sum(parquet.metadata.row_group(number).num_rows for number in missing)
            outcome.images_per_second = _compute(config, run, folder, model, missing, num_images)
            outcome.num_computed += num_images
        with _room_for_merged(folder) as target:
            merged = table.merge(
                parquet,
                num_chunks,
                folder,
                target,
                model.classes,
                {"model": model.digest, "run": run},
                lambda row: index.outcome(row["path"], model.digest) == (row["status"], row["error"]),
            )
            num_planned = parquet.metadata.num_rows
            if merged.num_rows + merged.num_repeated != num_planned:
                raise StorageError(
                    f"expected {num_planned} rows in run {run}, merged {merged.num_rows + merged.num_repeated}: "
                    f"remove {folder} and score again"
                )
            lease.check()
            if ledger is None:
                storage.publish(target, output, replace=True)
            elif merged.num_rows:
                ledger.commit(target, _record(run, model, merged, len(ledger.records()) + 1))
    event("committed", run=run, rows=merged.num_rows, **merged.statuses)
    storage.remove_folder(folder)
    outcome.statuses.update(merged.statuses)
    outcome.num_added += merged.num_rows
    outcome.runs.append(run)
    if merged.histograms is not None:
        outcome.histograms = drift.add(outcome.histograms, merged.histograms)


def _record(run: str, model: Description, merged: table.Merged, number: int) -> dict[str, Any]:
    return {
        "name": f"scores-{number:06}-{run}.parquet",
        "sha256": merged.sha256,
        "num_rows": merged.num_rows,
        "statuses": dict(merged.statuses),
        "run": run,
        "model": model.digest,
        "committed_at": datetime.now(UTC).isoformat(),
    }


@contextlib.contextmanager
def _room_for_merged(folder: str) -> Iterator[Path]:
    """A local path for the merged file: in the run's folder, so that a link can make it visible, or a temporary one."""
    if not storage.is_remote(folder):
        yield storage.local(folder) / "merged.parquet"
        return
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary) / "merged.parquet"


def _compute(
    config: ScoreConfig, run: str, folder: str, model: Description, missing: list[int], num_images: int
) -> float:
    """Let actors write the missing chunks; returns images per second after the start, 0.0 if there are too few."""
    from tlearn.distributed import launch, meters, pool
    from tlearn.distributed.chunks import Chunk

    launch.start_ray()
    with storage.open_input(storage.join(folder, "plan.parquet")) as file:
        first = pq.ParquetFile(file).read_row_group(missing[0], ["path"])["path"][0].as_py()
    launch.require_shared([storage.join(config.model, "model.json"), storage.join(config.input, first)], [folder])
    nodes = launch.nodes()
    actors = nodes.pool(config.num_workers, len(missing), config.decode)
    task = Task(
        model_folder=storage.absolute(config.model),
        model_digest=model.digest,
        arithmetic=arithmetic.of_model(model.arithmetic, config.engine, config.precision, on_gpu=nodes.has_gpus),
        folder=storage.absolute(config.input),
        run_folder=folder,
        run=run,
        batch_size=config.batch_size,
        num_images=num_images // actors.num_actors,
        abstain_below=config.abstain_below,
    )
    nothing = pa.table({})  # an actor reads its rows from the plan
    work = [Chunk(f"{number:06}", nothing) for number in missing]
    started = time.monotonic()
    with launch.causes(), Progress("scored", num_images, quiet=config.quiet) as progress:
        progress.num_parallel = actors.num_actors
        for result in pool.run(work, _SCORER, task, actors, f"score-{run}"):
            progress.advance(result.num_images)
            meters.count("images_scored", result.num_images - result.num_failed, model=model.digest)
            meters.count("images_failed", result.num_failed, model=model.digest)
        meters.count("stage_seconds", time.monotonic() - started, stage="score")
        return progress.rate()


def _remove_runs(work: str) -> None:
    """Runs that will not be finished: of another model, or of a state of the table that has passed."""
    for run in storage.folders(storage.join(work, "runs")):
        storage.remove_folder(storage.join(work, "runs", run))


def _remove_work(work: str) -> None:
    if storage.is_remote(work) or not (storage.local(work) / "lease.json").exists():
        storage.remove_folder(work)


def _summary(
    config: ScoreConfig,
    output: str,
    model: Description,
    counts: plan.Counts,
    outcome: _Outcome,
    num_ignored: int,
    seconds: float,
) -> dict[str, Any]:
    num_scored = sum(outcome.statuses[status] for status in SCORED)
    value, sentence = drift.judge(drift.Reference.from_json(model.reference), outcome.histograms)
    return {
        "listed": counts.listed,
        "unchanged": counts.unchanged,
        "scored": num_scored,
        "uncertain": outcome.statuses["uncertain"],
        "failed": sum(outcome.statuses.values()) - num_scored,
        "added": outcome.num_added,
        "copied": counts.copied,
        "computed": outcome.num_computed,
        "statuses": dict(outcome.statuses),
        "ignored": num_ignored,
        "model": model.digest,
        "run": outcome.runs[-1] if outcome.runs else None,
        "output": output,
        "drift": None if value is None else round(value, 4),
        "drift_sentence": sentence,
        "images_per_second": round(outcome.images_per_second, 2),
        "seconds_total": round(seconds, 2),
    }
