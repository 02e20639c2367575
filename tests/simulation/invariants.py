"""What must hold of a table at every moment, and what when all is over. A broken promise is one sentence."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from doubles import Parquet, outcome_of
from schedule import Schedule
from storages import File, Store

from tlearn.data.status import SETTLED

Row = dict[str, Any]
_COLUMNS = ["path", "status", "prediction", "probability", "error", "bytes", "modified", "sha256", "model"]


@dataclass
class Input:
    """The folder that is scored, and every version of a file that ever was in it."""

    store: Store
    folder: str
    versions: set[tuple[str, int, int, str]] = field(default_factory=set)
    """Path, size, time in microseconds, sha256."""

    def put(self, name: str, data: bytes) -> None:
        path = f"{self.folder}/{name}"
        self.store.edit(path, data)
        file = self.store.files[path]
        self.versions.add((name, len(data), file.modified, hashlib.sha256(data).hexdigest()))

    def remove(self, name: str) -> None:
        self.store.edit(f"{self.folder}/{name}", None)

    @property
    def present(self) -> dict[str, File]:
        prefix = f"{self.folder}/"
        return {path[len(prefix) :]: file for path, file in self.store.files.items() if path.startswith(prefix)}


@dataclass
class Checker:
    """Looks at every file of a table that becomes visible, with the eyes of a reader of TABLE/*.parquet."""

    schedule: Schedule
    parquet: Parquet
    input: Input
    output: str
    """TABLE, or NAME.parquet."""
    models: list[str]
    seen: dict[str, bytes] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    has_lost_power: bool = False

    @property
    def is_growing(self) -> bool:
        return not self.output.endswith(".parquet")

    def look(self, path: str) -> None:
        """Called when something has changed at a path."""
        folder, _, name = path.rpartition("/")
        if path == self.output or (self.is_growing and folder == self.output and name.endswith(".parquet")):
            sentence = self._problem(path, name)
            if sentence is not None:
                self.schedule.violate(sentence)

    def _problem(self, path: str, name: str) -> str | None:
        file = self.input.store.files.get(path)
        if file is None:
            self.rows.pop(name, None)
            was_seen = self.seen.pop(name, None) is not None
            return f"{name} was visible and is gone" if was_seen and not self.has_lost_power else None
        if self.is_growing and self.seen.setdefault(name, file.data) != file.data:
            return f"{name} was visible and has other bytes: its rows are lost"
        try:
            table = self.parquet.read_table(file.data)
        except pa.ArrowException:
            return f"{name} is visible and not whole"
        columns = [table[column].cast(pa.int64()) if column == "modified" else table[column] for column in _COLUMNS]
        rows = self.rows[name] = pa.table(columns, _COLUMNS).to_pylist()
        return next((f"{name}: {sentence}" for row in rows if (sentence := self._stranger(row))), None) or self._twice()

    def _stranger(self, row: Row) -> str | None:
        """A row that no image has."""
        if row["model"] not in self.models:
            return f"{row['path']} has a row of an unknown model"
        if row["sha256"] is None:
            return None
        version = (row["path"], row["bytes"], row["modified"], row["sha256"])
        if version not in self.input.versions:
            return f"a row of {row['path']} is of a version that never was: {version}"
        return None

    def _twice(self) -> str | None:
        """A row that repeats the one before it of its path and model; of a single file, any second row of a path."""
        latest: dict[tuple[str, str], tuple[str, Row]] = {}
        for name in sorted(self.rows):
            for row in self.rows[name]:
                key = row["path"], row["model"]
                before, last = latest.get(key, ("", None))
                if last is not None and (not self.is_growing or name == before or _says_the_same(row, last)):
                    return f"{row['path']} has the same row twice: in {before} and in {name}"
                latest[key] = name, row
        return None

    def newest(self, model: str) -> dict[str, Row]:
        """By path."""
        return {row["path"]: row for name in sorted(self.rows) for row in self.rows[name] if row["model"] == model}

    def final(self, model: str) -> str | None:
        """What is not as one undisturbed command would have left it."""
        newest = self.newest(model)
        for name, file in sorted(self.input.present.items()):
            row = newest.get(name)
            if row is None:
                return f"{name} has no row at the end"
            wanted = {"bytes": len(file.data), "sha256": hashlib.sha256(file.data).hexdigest()} | outcome_of(file.data)
            for column, value in wanted.items():
                if row[column] != value:
                    return f"the newest row of {name} has {column} {row[column]!r} at the end, expected {value!r}"
        return None

    def left_over(self, work: str) -> str | None:
        wanted = ("lease.json", "runs/", "pending/")
        for path in sorted(self.input.store.files):
            inner = path.removeprefix(f"{work}/")
            if inner != path and inner.startswith(wanted) and "/." not in inner:  # what a killed process was writing
                return f"{path} is left over at the end"
        return None


def _says_the_same(row: Row, last: Row) -> bool:
    if row["status"] in SETTLED and last["status"] in SETTLED:
        return bool(row["sha256"] == last["sha256"])
    return (row["status"], row["error"]) == (last["status"], last["error"])
