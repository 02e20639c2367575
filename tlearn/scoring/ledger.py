"""What was added to a table of scores: a record of every file, and one atomic step to add one."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.data.findings import many
from tlearn.errors import IntegrityError

FOLDER = "_tlearn"
"""Of a table, for everything that is no row; readers leave out names that start with an underscore."""

_NAME = re.compile(r"scores-(\d{6,})(-[0-9a-f]{16})?\.parquet")
"""Of a commit by its number; earlier versions had the run in it too."""
_CHANGED = "expected sha256 {}, got {}: it was changed after it was written; move it away"
_RESTORE = f"restore it, or remove {FOLDER}/commits/{{}}.json to have its images scored again"
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

    @property
    def number(self) -> int:
        """Of the commit."""
        return number_of(self.name)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Record":
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: values[name] for name in names & values.keys()})


def name_of(number: int) -> str:
    """The file of a commit."""
    return f"scores-{number:06}.parquet"


def number_of(name: str) -> int:
    """Of a file's commit; 0 for what no run has added."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else 0


def _in_order(name: str) -> tuple[int, str]:
    return number_of(name), name


class Ledger:
    """What was added to a table, one file a commit, and a record of each beside it:

        DIR/scores-000007.parquet                rows; what a reader sees
        DIR/_tlearn/commits/<same name>.json     its record: sha256, rows, run, model
        DIR/_tlearn/runs/<run>/                  a run that is not finished: plan, chunks

    The file is the commit. It is added in one step that fails where the name is taken: a hard link of a whole, synced
    file where the output is local or NFS, one conditional PUT on an object store. Its number says which state of the
    table its run was planned against: of two runs that were planned against the same state, one is refused. What comes
    before that step is invisible to a reader of DIR/*.parquet; the record after it follows from the file.
    """

    def __init__(self, output: str):
        self.output = output
        self.folder = storage.join(output, FOLDER)

    def records(self) -> list[Record]:
        """Every record in the order of the commits. Raises IntegrityError for one that is empty or cut."""
        return [self.require(name) for name in self.recorded()]

    def recorded(self) -> list[str]:
        """Names of the files that have a record, in the order of the commits."""
        names = storage.names(storage.join(self.folder, "commits"))
        return sorted((name.removesuffix(".json") for name in names if name.endswith(".json")), key=_in_order)

    def names(self) -> list[str]:
        """Names of all files of the table in the order of the commits, with a record or without.

        A listing may lag, a look by name does not: so numbers that no listing shows are looked up. They may be free,
        of files that were taken out by hand.
        """
        listed = {*self.recorded(), *filter(_NAME.fullmatch, storage.names(self.output))}
        numbers = {number_of(name) for name in listed}
        last = max(numbers, default=0)
        free = (name_of(number) for number in range(1, last) if number not in numbers)
        listed.update(name for name in free if storage.exists(self.file(name)))
        while storage.exists(self.file(name_of(last + 1))):
            listed.add(name_of(last := last + 1))
        return sorted(listed, key=_in_order)

    def unrecorded(self) -> list[str]:
        """Names of files that runs have added and whose record is not there."""
        return [name for name in self.strangers() if _NAME.fullmatch(name)]

    def require(self, name: str) -> Record:
        """A record. Raises IntegrityError where it is empty or cut."""
        record = self.read(name)
        if record is None:
            raise IntegrityError(
                f"expected the record of a file of the table in {self.note(name)}, it is empty or cut: "
                f"tlearn verify {self.output} --repair makes it anew from the file"
            )
        return record

    def read(self, name: str) -> Record | None:
        """None where there is none, and where it is empty or cut."""
        try:
            return Record.from_json(storage.read_json(self.note(name)))
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return None

    def open(self, name: str) -> Any:
        """A file of the table, for reading. Raises IntegrityError where it is gone."""
        try:
            return storage.open_input(self.file(name))
        except FileNotFoundError:
            raise IntegrityError(f"expected {name} in {self.output}, it is gone: {_RESTORE.format(name)}") from None

    def file(self, name: str) -> str:
        return storage.join(self.output, name)

    def commit(self, merged: Path, record: Record) -> None:
        """Make a whole file part of the table. Raises storage.Taken where another run has used the number."""
        storage.publish(merged, self.file(record.name), replace=False)
        self.write(record)

    def replace(self, record: Record, data: bytes) -> Record:
        """Put the same rows in other bytes in the place of a file of the table; returns the record that it has then."""
        storage.remove(self.note(record.name))
        storage.write_bytes(self.file(record.name), data)
        replaced = dataclasses.replace(record, sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))
        self.write(replaced)
        return replaced

    def write(self, record: Record) -> None:
        storage.write_bytes(self.note(record.name), (json.dumps(record.to_json(), indent=2) + "\n").encode())

    def note(self, name: str) -> str:
        return storage.join(self.folder, "commits", f"{name}.json")

    def verify(self) -> list[str]:
        """One line for everything that is not as the ledger says; repairs nothing."""
        records = self.records()
        return self._problems(records) + [_STRANGE.format(name) for name in self.strangers()]

    def strangers(self) -> list[str]:
        """Names of the Parquet files in the folder that have no record."""
        recorded = set(self.recorded())
        return [name for name in storage.names(self.output) if name.endswith(".parquet") and name not in recorded]

    def look(self, records: Sequence[Record], *, for_strangers: bool = True) -> list[str]:
        """As `verify`, but a file of the right name and size is not opened."""
        if not records:
            return []
        sizes = {entry.path: entry.size for entry in storage.stream(self.output, lambda folder: False)}
        suspects = [record for record in records if sizes.get(record.name) != record.num_bytes]
        known = {record.name for record in records}
        strangers = sorted(name for name in sizes if name.endswith(".parquet") and name not in known and for_strangers)
        return self._problems(suspects) + [_STRANGE.format(name) for name in strangers]

    def _problems(self, records: Iterable[Record]) -> list[str]:
        return [problem for record in records if (problem := self.problem(record))]

    def problem(self, record: Record, *, of_rows: bool = False) -> str | None:
        """What is not as the record says, in one line, after a look at every byte, or at the number of rows alone."""
        try:
            actual = record.sha256 if of_rows else storage.sha256_file(self.file(record.name))
            if actual != record.sha256:
                return f"{record.name}: {_CHANGED.format(record.sha256[:16], actual[:16])}"
            size = storage.look(self.file(record.name)).size
            with storage.open_input(self.file(record.name)) as file:
                num_rows = pq.ParquetFile(file).metadata.num_rows
        except FileNotFoundError:
            rows = many(record.num_rows, "row", "rows")
            return f"{record.name}: recorded with {rows}, but missing: {_RESTORE.format(record.name)}"
        except (pa.ArrowInvalid, OSError) as error:
            return f"{record.name}: {error}"
        if num_rows != record.num_rows:
            found = f"{record.name}: expected {many(record.num_rows, 'row', 'rows')}, found {num_rows:,}"
            return f"{found}: remove {FOLDER}/commits/{record.name}.json, the next run makes it anew"
        if record.num_bytes not in (None, size):
            return f"{record.name}: expected {record.num_bytes} bytes, found {size}"
        return None
