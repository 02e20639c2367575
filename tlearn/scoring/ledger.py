"""What was added to a table of scores: a record of every file, and one atomic step to add one."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.errors import IntegrityError

FOLDER = "_tlearn"
"""Of a table, for everything that is no row; readers leave out names that start with an underscore."""


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

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Record":
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


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
        """Every record in the order of the commits."""
        folder = storage.join(self.folder, "commits")
        return [Record.from_json(storage.read_json(storage.join(folder, name))) for name in storage.names(folder)]

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
            record = _announced(location)
            if record is not None and storage.exists(self._file(record)):
                self._check(record)
                self._write("commits", record)
            storage.remove(location)

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

    def _write(self, kind: Literal["pending", "commits"], record: Record) -> None:
        storage.write_bytes(self._note(kind, record), (json.dumps(record.to_json(), indent=2) + "\n").encode())

    def _note(self, kind: Literal["pending", "commits"], record: Record) -> str:
        return storage.join(self.folder, kind, f"{record.name}.json")

    def verify(self) -> list[str]:
        """One line for everything that is not as the ledger says; repairs nothing."""
        records = self.records()
        problems = [problem for record in records if (problem := self._problem(record))]
        recorded = {record.name for record in records}
        strangers = [name for name in storage.names(self.output) if name.endswith(".parquet") and name not in recorded]
        return problems + [
            f"{name}: not in the ledger; a reader of *.parquet sees it all the same" for name in strangers
        ]

    def _problem(self, record: Record) -> str | None:
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


def _announced(location: str) -> Record | None:
    """None where the announcement was cut short: then nothing was added."""
    try:
        return Record.from_json(storage.read_json(location))
    except ValueError:
        return None
