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
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.config import ScoreConfig
from tlearn.errors import UsageError
from tlearn.scoring import flat, ledger, parts, repair, table
from tlearn.scoring.index import INGESTED, Index
from tlearn.scoring.ledger import FOLDER, Ledger, Record
from tlearn.scoring.parts import Merged
from tlearn.scoring.plan import Run
from tlearn.scoring.stream import Computed

_SUFFIX = re.compile(r"[^/]\.[A-Za-z][A-Za-z0-9]{0,7}$")
"""Of a name that a person means as a file."""

_OTHERS = ("config.json", "model.json")
"""Of a run, and of a model."""


@dataclass(frozen=True, slots=True)
class State:
    """Of a table: what a run is planned against."""

    number: int
    """Of the next commit."""
    after: str | None
    """The run of the last one; None where commits do not stand on each other."""
    records: tuple[Record, ...] = ()

    def then(self, run: str) -> "State":
        """After the commit of a run."""
        return State(self.number + 1, None if self.after is None else run)


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
        return storage.local(self.work) / "plan.duckdb"

    def catch_up(self, index: Index) -> State:
        """Nothing is known: a command that was ended may have left rows in the index."""
        index.clear()
        return State(0, None)

    def problems(self, state: State) -> list[str]:
        """None: what was there is replaced."""
        return []

    goes_on: ClassVar[bool] = False
    """The folder is listed first, and parts are used where the listing makes the same plans again."""

    def groups(self, runs: Iterator[Computed], index: Index) -> Iterator[Iterator[Computed]]:
        """The runs that make a file: all of them."""
        yield self._noted(runs, index)

    def _noted(self, runs: Iterator[Computed], index: Index) -> Iterator[Computed]:
        """With what later ones may take over of earlier ones in the index."""
        for one in runs:
            yield one
            if not one.run.is_last:
                index.ingest(one.run.id, one.run.id, parts.computed(one.run))

    def shown(self, merged: pa.Table) -> pa.Table:
        """What a report shows after runs with these rows: all of them."""
        return merged

    def publish(self, merged: Merged, file: Path, last: Run) -> Record | None:
        if self.location.endswith(".csv"):
            file = self._as_csv(file, last)
        storage.publish(file, self.location, replace=True)
        return None

    def _as_csv(self, file: Path, run: Run) -> Path:
        """The same rows in another file beside it."""
        target = file.with_suffix(".csv")
        with file.open("rb") as source:
            rows = table.batches(source, str(file), table.SCHEMA.names)
            names = run.model.classes.names
            storage.write(str(target), lambda sink: flat.write_csv(sink, rows, names, self.top_k))
        return target

    def clean_up(self) -> None:
        if not storage.exists(storage.join(self.work, "lease.json")):
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

    def catch_up(self, index: Index) -> State:
        """Take into the index what was committed since."""
        records = [self._renewed(record) for record in repair.records(self.ledger)]
        known = index.commits()
        if known.items() - {(record.name, record.sha256) for record in records}:
            index.clear()  # files were taken out of the table, or written again
            known = {}
        for record in records:
            if record.name not in known:
                with self.ledger.open(record.name) as file:
                    index.ingest(record.name, record.sha256, table.batches(file, record.name, INGESTED))
        if not records:
            return State(1, "")
        return State(records[-1].number + 1, records[-1].run, tuple(records))

    def _renewed(self, record: Record) -> Record:
        """The record of a file in today's columns: one of an earlier version is written again, unless it is damaged."""
        if record.num_bytes is not None or self.ledger.problem(record):
            return record
        with self.ledger.open(record.name) as file:
            rows = table.read(file, record.name)
        data = io.BytesIO()
        pq.write_table(rows, data, write_page_checksum=True)
        return self.ledger.replace(record, data.getvalue())

    def problems(self, state: State) -> list[str]:
        """One line for each file that is gone, damaged or not of this table; what is known of its rows still counts."""
        return self.ledger.look(state.records)

    goes_on: ClassVar[bool] = True
    """Runs that were stopped between their plan and their commit come first."""

    def groups(self, runs: Iterator[Computed], index: Index) -> Iterator[Iterator[Computed]]:
        """The runs that make a file: one each."""
        yield from (iter([one]) for one in runs)

    def shown(self, merged: pa.Table) -> pa.Table:
        """What a report shows after runs with these rows: these, or with nothing new the newest of every path."""
        return merged if merged.num_rows else table.latest(self.location)

    def publish(self, merged: Merged, file: Path, last: Run) -> Record | None:
        """Add a file; without rows only where other runs are planned behind it, by its number.

        Raises storage.Taken where another run has used the number.
        """
        if not merged.num_rows and last.is_last:
            return None
        record = Record(
            name=ledger.name_of(last.number),
            sha256=merged.sha256,
            num_rows=merged.num_rows,
            statuses=dict(merged.statuses),
            run=last.id,
            model=last.model.digest,
            committed_at=datetime.now(UTC).isoformat(),
            num_bytes=storage.look(str(file)).size,
        )
        self.ledger.commit(file, record)
        return record

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
    found = Ledger(location)
    others = [name for name in storage.names(location) if name in _OTHERS] + found.strangers()
    if others and not found.unrecorded():
        raise UsageError(f"expected a folder of its own for the table, found {others[0]} in {location}: choose another")


def _is_in(folder: str, other: str) -> bool:
    """Whether a folder is the other or inside it, through links."""
    inner, outer = (path if storage.is_remote(path) else os.path.realpath(path) for path in (folder, other))
    return f"{inner.rstrip('/')}/".startswith(f"{outer.rstrip('/')}/")


def _cached_index(cache: str, location: str) -> Path:
    name = hashlib.sha256(location.encode()).hexdigest()[:16]
    return storage.disk(cache) / "tables" / f"{name}.duckdb"
