"""What was added to a table of scores: a record of every file, and one atomic step to add one."""

import dataclasses
import hashlib
import json
import re
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

Kind = Literal["pending", "commits"]
_NAME = re.compile(r"scores-\d{6,}-[0-9a-f]{16}\.parquet")
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
        return [self._record(name) for name in self.noted("commits")]

    def noted(self, kind: Kind) -> list[str]:
        """Names of the files of the table that have a note of this kind, in the order of the commits."""
        names = storage.names(storage.join(self.folder, kind))
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def _record(self, name: str) -> Record:
        record = self.read("commits", name)
        if record is None:
            raise IntegrityError(
                f"expected the record of a file of the table in {self.note('commits', name)}, it is empty or cut: "
                f"tlearn verify {self.output} --repair makes it anew from the file"
            )
        return record

    def read(self, kind: Kind, name: str) -> Record | None:
        """None where it is empty or cut: of an announcement, then nothing was added."""
        try:
            return Record.from_json(storage.read_json(self.note(kind, name)))
        except (ValueError, TypeError, AttributeError):
            return None

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
        for name in self.noted("pending"):
            record = self.read("pending", name)
            if record is not None and storage.exists(self._file(record)):
                self._finish(record)
            storage.remove(self.note("pending", name))

    def _finish(self, record: Record) -> None:
        try:
            self._check(record)
        except IntegrityError:
            if not storage.exists(self.note("commits", record.name)):
                raise  # else it was about to be replaced, and still is what it was
        else:
            self.write("commits", record)

    def _check(self, record: Record) -> None:
        actual = storage.sha256_file(self._file(record))
        if actual != record.sha256:
            raise IntegrityError(
                f"expected sha256 {record.sha256[:16]} of {self._file(record)}, got {actual[:16]}: "
                "it was changed after it was written; move it away"
            )

    def commit(self, merged: Path, record: Record) -> None:
        """Make a whole file part of the table."""
        self.write("pending", record)
        storage.publish(merged, self._file(record), replace=False)
        self.write("commits", record)
        storage.remove(self.note("pending", record.name))

    def replace(self, record: Record, data: bytes) -> Record:
        """Put other bytes in the place of a file of the table; returns the record that it has then."""
        replaced = dataclasses.replace(record, sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))
        self.write("pending", replaced)
        storage.write_bytes(self._file(record), data)
        self.write("commits", replaced)
        storage.remove(self.note("pending", record.name))
        return replaced

    def write(self, kind: Kind, record: Record) -> None:
        storage.write_bytes(self.note(kind, record.name), (json.dumps(record.to_json(), indent=2) + "\n").encode())

    def note(self, kind: Kind, name: str) -> str:
        return storage.join(self.folder, kind, f"{name}.json")

    def verify(self) -> list[str]:
        """One line for everything that is not as the ledger says; repairs nothing."""
        records = self.records()
        return self._problems(records) + [_STRANGE.format(name) for name in self.strangers()]

    def strangers(self) -> list[str]:
        """Names of the Parquet files in the folder that the ledger does not know."""
        recorded = set(self.noted("commits"))
        return [name for name in storage.names(self.output) if name.endswith(".parquet") and name not in recorded]

    def lost(self) -> list[str]:
        """Of these, the names that a run gives."""
        return [name for name in self.strangers() if _NAME.fullmatch(name)]

    def require_records(self) -> None:
        """Raise IntegrityError for a file that a run has added and the ledger does not know. Holds the lease."""
        if lost := self.lost():
            raise IntegrityError(
                f"expected a record of {lost[0]} in {self.folder}, there is none: "
                f"tlearn verify {self.output} --repair makes it anew from the file"
            )

    def look(self) -> list[str]:
        """As `verify`, but a file of the right name and size is not opened."""
        records = self.records()
        sizes = {entry.path: entry.size for entry in storage.stream(self.output)}
        suspects = [record for record in records if sizes.get(record.name) != record.num_bytes]
        return self._problems(suspects) + [_STRANGE.format(name) for name in self.strangers()]

    def _problems(self, records: Iterable[Record]) -> list[str]:
        return [problem for record in records if (problem := self.problem(record))]

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
