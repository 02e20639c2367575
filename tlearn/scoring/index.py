"""What a table holds, and what is to be done, in SQLite: on disk, so that memory does not grow with the folder.

The table is the truth. The index is a copy of its latest rows that is looked up and not loaded; it is brought up to
date from the table, and can be deleted at any time. Beside the rows it has the work table of one plan, `todo`.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from tlearn import storage
from tlearn.data import reading
from tlearn.data.status import SETTLED
from tlearn.errors import StorageError
from tlearn.scoring.table import COPIED
from tlearn.storage import Entry

INGESTED = ("path", "model", "bytes", "modified", "scored_at", *COPIED)
"""Columns of the table that the index is made from."""

BATCH_SIZE = 1000
"""Rows that are in memory at once."""

_SETTLED = ", ".join(f"'{status}'" for status in SETTLED)

_COMPUTED = "same_as is null and result is null"
"""Of the work table: what needs a network."""

Todo = tuple[str, int, int, str | None, str | None]
"""Of the work table: path, size, modified, same_as, result."""

_TABLES = """
create table if not exists commits (name text primary key, sha256 text) without rowid;
create table if not exists rows (
    path text, model text, sha256 text, size integer, modified integer, status text, result text,
    primary key (path, model)
) without rowid;
create index if not exists rows_content on rows (sha256, model);
create index if not exists rows_size on rows (size);
create table if not exists todo (
    path text primary key, size integer, modified integer, sha256 text, same_as text, result text
) without rowid;
create index if not exists todo_size on todo (size);
create index if not exists todo_content on todo (sha256);
"""


class Index:
    """The latest row of every path and model in a table, and the work table of one plan."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._seal = path, path.with_suffix(".sha256")
        if not self._is_sealed():
            for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
                file.unlink(missing_ok=True)
        self._seal.unlink(missing_ok=True)
        self.database = sqlite3.connect(path)
        # A lost index costs a minute.
        self.database.execute("pragma journal_mode = wal")
        self.database.execute("pragma synchronous = off")
        self.database.executescript(_TABLES)

    def _is_sealed(self) -> bool:
        """Whether it is, byte for byte, what was closed: neither damaged nor left by a process that was killed."""
        try:
            return self._seal.read_text() == storage.sha256_file(self._path)
        except (OSError, UnicodeDecodeError):
            return False

    def close(self) -> None:
        self.database.close()
        self._seal.write_text(storage.sha256_file(self._path))

    def outcome(self, path: str, model: str) -> tuple[str, str | None] | None:
        """Status and error of the latest row of a path, None if it has none."""
        row = self.database.execute(
            "select status, result ->> 'error' from rows where path = ? and model = ?", [path, model]
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def commits(self) -> dict[str, str]:
        return dict(self.database.execute("select name, sha256 from commits"))

    def clear(self) -> None:
        with self.database:
            for table in ("commits", "rows", "todo"):
                self.database.execute(f"delete from {table}")

    def ingest(self, name: str, sha256: str, tables: Iterable[pa.Table]) -> None:
        """Take in one file of the table, in one transaction; files come in the order in which they were committed."""
        with self.database:
            for rows in tables:
                numbers = rows["modified"].cast(pa.int64()).to_pylist()
                known = map(_known_row, rows.select(INGESTED).to_pylist(maps_as_pydicts="strict"), numbers)
                self.database.executemany("insert or replace into rows values (?, ?, ?, ?, ?, ?, ?)", known)
            self.database.execute("insert or replace into commits values (?, ?)", (name, sha256))

    def rows(self, kind: Literal["all", "computed", "copied"], size: int) -> Iterator[list[Todo]]:
        """The work table in the order of its paths, so many rows at once: all, what needs a network, what does not."""
        where = {"all": "true", "computed": _COMPUTED, "copied": f"not ({_COMPUTED})"}[kind]
        columns = "path, size, modified, same_as, result"
        with closing(self.database.execute(f"select {columns} from todo where {where} order by path")) as cursor:
            while rows := cursor.fetchmany(size):
                yield rows


def _known_row(row: dict[str, Any], modified: int | None) -> tuple[Any, ...]:
    """Of a table, as the index keeps it."""
    result = json.dumps({column: row[column] for column in COPIED})
    return row["path"], row["model"], row["sha256"], row["bytes"], modified, row["status"], result


@contextmanager
def opened(path: Path) -> Iterator[Index]:
    """SQLite's words for a full disk or a folder without rights become an error of storage."""
    try:
        with closing(Index(path)) as index:
            yield index
    except sqlite3.Error as error:
        raise StorageError(f"could not write {path}: {error}; free some space, or choose another --cache") from error


@dataclass(frozen=True, slots=True)
class Scope:
    """What is listed, and what counts as known of it."""

    folder: str
    model: str
    """Digest: rows of another model are not known."""
    max_bytes: int
    """Of a file; a larger one is not read to the end."""
    rescore: bool
    """Nothing is known."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one listing: listed = unchanged + compute + copied."""

    listed: int
    unchanged: int
    compute: int
    copied: int
    opened: int
    """Files that had to be read to tell whether their bytes are known."""


def fill(
    index: Index, entries: Iterable[Entry], scope: Scope, on_new_paths: Callable[[int], object] = lambda count: None
) -> Counts:
    """Put everything that needs a row into the work table; `entries` is read as a stream, in any order.

    `on_new_paths` is called while there is likely to be something to compute, with the number of new paths so far, once
    for each thousand files.
    """
    database, num_listed, num_new = index.database, 0, 0
    with database:
        database.execute("delete from todo")
        for batch in _batches(entries):
            known = {} if scope.rescore else _known(database, batch, scope.model)
            num_new += sum(entry.path not in known for entry in batch)
            if num_new:
                on_new_paths(num_new)
            num_listed += len(batch)
            database.executemany(
                "insert or ignore into todo (path, size, modified) values (?, ?, ?)",
                ((e.path, e.size, e.modified) for e in batch if known.get(e.path) != (e.size, e.modified)),
            )
    num_opened = _hash_candidates(database, scope)
    with database:
        if not scope.rescore:
            _leave_out_touched(database, scope.model)
            _take_known_results(database, scope.model)
        _join_twins(database)
    num_compute, num_todo = database.execute(
        f"select count(*) filter (where {_COMPUTED}), count(*) from todo"
    ).fetchone()
    return Counts(num_listed, num_listed - num_todo, num_compute, num_todo - num_compute, num_opened)


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while batch := list(islice(iterator, BATCH_SIZE)):
        yield batch


def _known(database: sqlite3.Connection, batch: list[Entry], model: str) -> dict[str, tuple[int, int]]:
    """Size and time of every path of a batch whose row is settled."""
    marks = ",".join("?" * len(batch))
    rows = database.execute(
        f"select path, size, modified from rows where model = ? and path in ({marks}) and status in ({_SETTLED})",
        [model, *(entry.path for entry in batch)],
    )
    return {path: (size, modified) for path, size, modified in rows}


def _hash_candidates(database: sqlite3.Connection, scope: Scope) -> int:
    """Read what may hold known bytes: only files of the same size can be the same. Returns how many were read."""
    after, num_opened = "", 0
    with ThreadPoolExecutor(8) as threads, database:
        while candidates := _candidates(database, scope, after):
            hashes = threads.map(lambda candidate: _sha256(scope, *candidate), candidates)
            paths = (path for path, _ in candidates)
            database.executemany("update todo set sha256 = ? where path = ?", zip(hashes, paths, strict=True))
            num_opened += len(candidates)
            after = candidates[-1][0]
    return num_opened


def _candidates(database: sqlite3.Connection, scope: Scope, after: str) -> list[tuple[str, int]]:
    """The next paths and sizes of which there is another, in the work table or in the table."""
    return database.execute(
        """
        select path, size from todo as t where path > ? and size between 1 and ? and (
            exists (select 1 from todo as u where u.size = t.size and u.path <> t.path)
            or (? = 0 and exists (select 1 from rows as r where r.size = t.size and r.model = ?))
        ) order by path limit ?
        """,
        [after, scope.max_bytes, int(scope.rescore), scope.model, BATCH_SIZE],
    ).fetchall()


def _sha256(scope: Scope, path: str, size: int) -> str | None:
    content = reading.read(scope.folder, path, scope.max_bytes)
    # Whoever computes it will say why it cannot be read.
    return content.sha256 if isinstance(content, storage.Content) and content.size == size else None


def _leave_out_touched(database: sqlite3.Connection, model: str) -> None:
    """The same bytes under the same path with another time: no new row, and no opening next time."""
    touched = database.execute(
        "select t.path, t.modified from todo as t join rows as r "
        "on r.path = t.path and r.model = ? and r.sha256 = t.sha256",
        [model],
    ).fetchall()
    for path, modified in touched:
        database.execute("update rows set modified = ? where path = ? and model = ?", [modified, path, model])
        database.execute("delete from todo where path = ?", [path])


def _take_known_results(database: sqlite3.Connection, model: str) -> None:
    """Bytes that have a settled row under another path get its result."""
    database.execute(
        f"""
        update todo set result = (
            select r.result from rows as r
            where r.sha256 = todo.sha256 and r.model = ? and r.status in ({_SETTLED}) limit 1
        ) where sha256 is not null
        """,
        [model],
    )


def _join_twins(database: sqlite3.Connection) -> None:
    """Of the same bytes under several new paths the first is computed, the others are the same as it."""
    database.execute(
        """
        update todo set same_as = first from (
            select sha256 as content, min(path) as first from todo where sha256 is not null group by sha256
        ) where sha256 = content and path <> first and result is null
        """
    )
