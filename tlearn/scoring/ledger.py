"""What was added to a table of scores: a record of every file, and one atomic step to add one."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.errors import IntegrityError

FOLDER = "_tlearn"
"""Of a table, for everything that is no row; readers leave out names that start with an underscore."""

_STRANGE = "{}: not in the ledger; a reader of *.parquet sees it all the same"


@dataclass(frozen=True, slots=True)
class Record:
    """One file of the table."""

    name: str
    sha256: str
    num_rows: int
    statuses: dict[str, int]
    """Files of its run; those that failed again as before have no row."""
    run: str
    model: str
    """Digest."""
    committed_at: str
    """ISO 8601, UTC."""
    num_bytes: int | None = None
    """Size of the file; None where an earlier version wrote it, in columns of that version."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Record":
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: values[name] for name in names & values.keys()})


class Ledger:
    """What was added to a table, one record a file, beside it:

        DIR/scores-000001-<run>.parquet         rows; what a reader sees
        DIR/_tlearn/pending/<same name>.json    about to be added
        DIR/_tlearn/commits/<same name>.json    added: sha256, rows, run, model
        DIR/_tlearn/runs/<run>/                 a run that is not finished: plan, chunks

    A file is added by one step: a hard link where the output is local or NFS (it fails if the name is taken), one
    PUT on an object store (the object is there whole or not at all). Everything before that step is invisible to
    a reader of DIR/*.parquet, everything after it is made up for by `recover`.
    """

    def __init__(self, output: str):
        self.output = output
        self.folder = storage.join(output, FOLDER)

    def records(self) -> list[Record]:
        """Every record in the order of the commits. Raises IntegrityError for one that is empty or cut."""
        return [self._record(name) for name in storage.names(storage.join(self.folder, "commits"))]

    def _record(self, name: str) -> Record:
        location = storage.join(self.folder, "commits", name)
        record = _read(location)
        if record is None:
            raise IntegrityError(
                f"expected the record of a file of the table in {location}, it is empty or cut: "
                f"tlearn verify {self.output} --repair makes it anew from the file"
            )
        return record

    def open(self, record: Record) -> Any:
        """A file of the table, for reading. Raises IntegrityError where it is gone."""
        try:
            return storage.open_input(self._file(record))
        except FileNotFoundError:
            raise IntegrityError(
                f"expected {record.name} in {self.output}, it is gone: restore it, or remove {FOLDER}/commits/"
                f"{record.name}.json to have its images scored again"
            ) from None

    def _file(self, record: Record) -> str:
        return storage.join(self.output, record.name)

    def recover(self) -> None:
        """Finish or drop what a run left between announcing a file and recording it. Holds the lease."""
        folder = storage.join(self.folder, "pending")
        for name in storage.names(folder):
            location = storage.join(folder, name)
            record = _read(location)
            if record is not None and storage.exists(self._file(record)):
                self._finish(record)
            storage.remove(location)

    def _finish(self, record: Record) -> None:
        try:
            self._check(record)
        except IntegrityError:
            if not storage.exists(self._note("commits", record)):
                raise  # else it was about to be replaced, and still is what it was
        else:
            self._write("commits", record)

    def _check(self, record: Record) -> None:
        actual = storage.sha256_file(self._file(record))
        if actual != record.sha256:
            raise IntegrityError(
                f"expected sha256 {record.sha256[:16]} of {self._file(record)}, got {actual[:16]}: "
                "it was changed after it was written; move it away"
            )

    def commit(self, merged: Path, record: Record) -> None:
        """Make a whole file part of the table."""
        self._write("pending", record)
        storage.publish(merged, self._file(record), replace=False)
        self._write("commits", record)
        storage.remove(self._note("pending", record))

    def replace(self, record: Record, data: bytes) -> Record:
        """Put other bytes in the place of a file of the table; returns the record that it has then."""
        replaced = dataclasses.replace(record, sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))
        self._write("pending", replaced)
        storage.write_bytes(self._file(record), data)
        self._write("commits", replaced)
        storage.remove(self._note("pending", replaced))
        return replaced

    def _write(self, kind: Literal["pending", "commits"], record: Record) -> None:
        storage.write_bytes(self._note(kind, record), (json.dumps(record.to_json(), indent=2) + "\n").encode())

    def _note(self, kind: Literal["pending", "commits"], record: Record) -> str:
        return storage.join(self.folder, kind, f"{record.name}.json")

    def verify(self) -> list[str]:
        """One line for everything that is not as the ledger says; repairs nothing."""
        records = self.records()
        problems = [problem for record in records if (problem := self.problem(record))]
        return problems + [_STRANGE.format(name) for name in self.strangers(records)]

    def strangers(self, records: Iterable[Record]) -> list[str]:
        """Names of the Parquet files in the folder that the ledger does not know."""
        recorded = {record.name for record in records}
        return [name for name in storage.names(self.output) if name.endswith(".parquet") and name not in recorded]

    def look(self) -> list[str]:
        """One line for everything that is not as the ledger says, by name and size alone."""
        records = self.records()
        sizes = {entry.path: entry.size for entry in storage.stream(self.output)}
        damaged = [
            f"{record.name}: recorded with {record.num_bytes} bytes, found {sizes.get(record.name, 'none')}"
            for record in records
            if record.num_bytes is not None and sizes.get(record.name) != record.num_bytes
        ]
        return damaged + [_STRANGE.format(name) for name in self.strangers(records)]

    def problem(self, record: Record) -> str | None:
        """What is not as the record says, in one line, after a look at every byte."""
        try:
            self._check(record)
            with storage.open_input(self._file(record)) as file:
                num_rows = pq.ParquetFile(file).metadata.num_rows
        except FileNotFoundError:
            return f"{record.name}: recorded with {record.num_rows} rows, but missing"
        except (IntegrityError, pa.ArrowInvalid, OSError) as error:
            return f"{record.name}: {error}"
        if num_rows != record.num_rows:
            return f"{record.name}: expected {record.num_rows} rows, found {num_rows}"
        return None


def _read(location: str) -> Record | None:
    """None where it is empty or cut: of an announcement, then nothing was added."""
    try:
        return Record.from_json(storage.read_json(location))
    except (ValueError, TypeError, AttributeError):
        return None
