"""Where rows go: into a single file that is replaced, or into a table that grows.

Both have the same methods, so that the job asks no questions.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.config import ScoreConfig
from tlearn.errors import UsageError
from tlearn.scoring import flat, plan, table
from tlearn.scoring.index import INGESTED, Counts, Index
from tlearn.scoring.ledger import FOLDER, Ledger, Record
from tlearn.scoring.parts import Merged
from tlearn.scoring.plan import Facts, Run

_SUFFIX = re.compile(r"[^/]\.[A-Za-z][A-Za-z0-9]{0,7}$")
"""Of a name that a person means as a file."""

_OTHERS = ("config.json", "model.json")
"""Of a run, and of a model."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """NAME.parquet or NAME.csv: every run plans all files anew and replaces the file."""

    location: str
    top_k: int | None = None
    """Of NAME.csv: so many classes in the place of all."""

    @property
    def work(self) -> str:
        """The folder of leases, plans and parts."""
        folder, _, name = self.location.rpartition("/")
        return storage.join(folder, f".{name}.work")

    def require_writable(self) -> None:
        storage.require_writable(self.location.rpartition("/")[0])

    def index(self, cache: str) -> Path:
        """Where the index is: only its work table is used, and it goes with the work folder."""
        if storage.is_remote(self.work):
            return _cached_index(cache, self.location)
        return storage.local(self.work) / "plan.sqlite"

    def catch_up(self, index: Index) -> int:
        """Nothing is known already; the file has no commits."""
        return 0

    def problems(self) -> list[str]:
        """None: what was there is replaced."""
        return []

    def stopped(self, facts: Facts) -> Iterator[str]:
        """None goes on before the folder is listed; its parts are used if the listing makes the same plan again."""
        return iter(())

    def needs_run(self, counts: Counts) -> bool:
        return True

    def shown(self, merged: pa.Table) -> pa.Table:
        """What a report shows after runs with these rows: all of them."""
        return merged

    def publish(self, merged: Merged, file: Path, run: Run) -> None:
        if self.location.endswith(".csv"):
            file = self._as_csv(file, run)
        storage.publish(file, self.location, replace=True)

    def _as_csv(self, file: Path, run: Run) -> Path:
        """The same rows in another file beside it."""
        target = file.with_suffix(".csv")
        with file.open("rb") as source:
            rows = table.batches(source, str(file), table.SCHEMA.names)
            names = run.model.classes.names
            storage.write(str(target), lambda sink: flat.write_csv(sink, rows, names, self.top_k))
        return target

    def clean_up(self) -> None:
        if storage.is_remote(self.work) or not (storage.local(self.work) / "lease.json").exists():
            storage.remove_folder(self.work)


@dataclass(frozen=True, slots=True)
class GrowingTable:
    """DIR/: the plan leaves out what has a row, and a run adds one file with the others."""

    location: str

    @property
    def work(self) -> str:
        """The folder of leases, ledger, plans and parts."""
        return storage.join(self.location, FOLDER)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.location)

    def require_writable(self) -> None:
        storage.require_writable(self.location)

    def index(self, cache: str) -> Path:
        """Where the index is: in the cache, one for each table."""
        return _cached_index(cache, self.location)

    def catch_up(self, index: Index) -> int:
        """Take into the index what was committed since; returns the number of the next commit."""
        self.ledger.recover()
        self.ledger.require_records()
        records = [self._renewed(record) for record in self.ledger.records()]
        known = index.commits()
        if known.items() - {(record.name, record.sha256) for record in records}:
            index.clear()  # files were taken out of the table, or written again
            known = {}
        for record in records:
            if record.name not in known:
                with self.ledger.open(record) as file:
                    index.ingest(record.name, record.sha256, table.batches(file, record.name, INGESTED))
        return len(records) + 1

    def _renewed(self, record: Record) -> Record:
        """The record of a file in today's columns: one of an earlier version is written again, unless it is damaged."""
        if record.num_bytes is not None or self.ledger.problem(record):
            return record
        with self.ledger.open(record) as file:
            rows = table.read(file, record.name)
        data = io.BytesIO()
        pq.write_table(rows, data, write_page_checksum=True)
        return self.ledger.replace(record, data.getvalue())

    def problems(self) -> list[str]:
        """One line for each file that is gone, damaged or not of this table; what is known of its rows still counts."""
        return self.ledger.look()

    def stopped(self, facts: Facts) -> Iterator[str]:
        """The run that was stopped between its plan and its commit, if it was under the same facts."""
        for run in plan.ids(self.work):
            if plan.is_whole(plan.run_folder(self.work, run)):
                with plan.opened(plan.run_folder(self.work, run)) as stopped:
                    is_same = facts.agree(stopped.facts)
                if is_same:
                    yield run

    def needs_run(self, counts: Counts) -> bool:
        return counts.compute + counts.copied > 0

    def shown(self, merged: pa.Table) -> pa.Table:
        """What a report shows after runs with these rows: these, or with nothing new the newest of every path."""
        return merged if merged.num_rows else table.latest(self.location)

    def publish(self, merged: Merged, file: Path, run: Run) -> None:
        if not merged.num_rows:
            return
        number = len(self.ledger.records()) + 1
        record = Record(
            name=f"scores-{number:06}-{run.id}.parquet",
            sha256=merged.sha256,
            num_rows=merged.num_rows,
            statuses=dict(merged.statuses),
            run=run.id,
            model=run.model.digest,
            committed_at=datetime.now(UTC).isoformat(),
            num_bytes=file.stat().st_size,
        )
        self.ledger.commit(file, record)

    def clean_up(self) -> None:
        """The work folder stays: it holds the ledger."""


def chosen(config: ScoreConfig, folder: str) -> Snapshot | GrowingTable:
    """What `--output` means, for an input in `folder`. Raises UsageError for a place that holds something else."""
    output = config.output
    location = storage.absolute(output.rstrip("/") or "/")
    if output.endswith(table.FILES):
        if config.rescore:
            raise UsageError("expected --rescore with --output DIR/, got a single file: it is always scored anew")
        table.require_own_file(location)
        return Snapshot(location, config.top_k)
    if not output or (_SUFFIX.search(output) and storage.kind(location) != "folder"):
        raise UsageError(
            f"expected --output NAME.parquet, NAME.csv or DIR/, got {output or 'nothing'}: "
            "with a slash at the end any name is a folder"
        )
    _require_own_folder(location, folder)
    return GrowingTable(location)


def _require_own_folder(location: str, folder: str) -> None:
    if _is_in(folder, location):
        raise UsageError(f"expected an input outside of the table {location}, got {folder}: choose another output")
    if FOLDER in storage.folders(location):
        return
    ledger = Ledger(location)
    others = [name for name in storage.names(location) if name in _OTHERS] + ledger.strangers()
    if others and not ledger.lost():
        raise UsageError(f"expected a folder of its own for the table, found {others[0]} in {location}: choose another")


def _is_in(folder: str, other: str) -> bool:
    """Whether a folder is the other or inside it, through links."""
    inner, outer = (path if storage.is_remote(path) else os.path.realpath(path) for path in (folder, other))
    return f"{inner.rstrip('/')}/".startswith(f"{outer.rstrip('/')}/")


def _cached_index(cache: str, location: str) -> Path:
    name = hashlib.sha256(location.encode()).hexdigest()[:16]
    return storage.disk(cache) / "tables" / f"{name}.sqlite"
