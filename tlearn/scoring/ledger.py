"""What was added to a table of scores: a record of every file, and one atomic step to add one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.errors import IntegrityError

FOLDER = "_tlearn"
"""Of a table, for everything that is no row; readers leave out names that start with an underscore."""


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

    def records(self) -> list[dict[str, Any]]:
        """Every record in the order of the commits."""
        folder = storage.join(self.folder, "commits")
        return [storage.read_json(storage.join(folder, name)) for name in storage.names(folder)]

    def open(self, record: dict[str, Any]) -> Any:
        """A file of the table, for reading. Raises IntegrityError where it is gone."""
        try:
            return storage.open_input(storage.join(self.output, record["name"]))
        except FileNotFoundError:
            raise IntegrityError(
                f"expected {record['name']} in {self.output}, it is gone: restore it, or remove {FOLDER}/commits/"
                f"{record['name']}.json to have its images scored again"
            ) from None

    def recover(self) -> None:
        """Finish or drop what a run left between announcing a file and recording it. Holds the lease."""
        folder = storage.join(self.folder, "pending")
        for name in storage.names(folder):
            try:
                record = storage.read_json(storage.join(folder, name))
            except ValueError:
                record = {"name": ""}
            if record["name"] and storage.exists(storage.join(self.output, record["name"])):
                self._check(record)
                self._write("commits", record)
            storage.remove(storage.join(folder, name))

    def _check(self, record: dict[str, Any]) -> None:
        actual = sha256_of(self.output, record["name"])
        if actual != record["sha256"]:
            raise IntegrityError(
                f"expected sha256 {record['sha256'][:16]} of {self.output}/{record['name']}, got {actual[:16]}: "
                "it was changed after it was written; move it away"
            )

    def commit(self, merged: Path, record: dict[str, Any]) -> None:
        """Make a whole file part of the table."""
        self._write("pending", record)
        storage.publish(merged, storage.join(self.output, record["name"]), replace=False)
        self._write("commits", record)
        storage.remove(storage.join(self.folder, "pending", f"{record['name']}.json"))

    def _write(self, kind: str, record: dict[str, Any]) -> None:
        location = storage.join(self.folder, kind, f"{record['name']}.json")
        storage.write_bytes(location, (json.dumps(record, indent=2) + "\n").encode())

    def verify(self) -> list[str]:
        """One line for everything that is not as the ledger says; repairs nothing."""
        problems = []
        recorded = set()
        for record in self.records():
            recorded.add(record["name"])
            try:
                self._check(record)
                num_rows = pq.ParquetFile(
                    storage.open_input(storage.join(self.output, record["name"]))
                ).metadata.num_rows
            except FileNotFoundError:
                problems.append(f"{record['name']}: recorded with {record['num_rows']} rows, but missing")
            except (IntegrityError, pa.ArrowInvalid, OSError) as error:
                problems.append(f"{record['name']}: {error}")
            else:
                if num_rows != record["num_rows"]:
                    problems.append(f"{record['name']}: expected {record['num_rows']} rows, found {num_rows}")
        for name in storage.names(self.output):
            if name.endswith(".parquet") and name not in recorded:
                problems.append(f"{name}: not in the ledger; a reader of *.parquet sees it all the same")
        return problems


def sha256_of(folder: str, name: str) -> str:
    """Of a file, wherever it is. Raises FileNotFoundError."""
    with storage.open_input(storage.join(folder, name)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
