"""What is to be done: the listing against what the table holds, on disk, so that memory does not grow with the folder.

The table is the truth. The index is a copy of its latest rows in SQLite that is looked up and not loaded; it is
brought up to date from the table, and can be deleted at any time.
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.data.status import SETTLED
from tlearn.errors import StorageError
from tlearn.storage import Entry

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("modified", pa.int64()),
        ("same_as", pa.string()),  # path of a file of this plan that holds the same bytes
        ("result", pa.string()),  # JSON: the outcome of these bytes in an earlier run
    ]
)

COPIED = ("status", "prediction", "probability", "probabilities", "error", "width", "height", "sha256")
"""Columns that two paths with the same bytes share."""

_BATCH_SIZE = 1000

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


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """SQLite's words for a full disk or a folder without rights are an error of storage."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(f"could not write {path}: {error}; free some space, or choose another --cache") from error


class Index:
    """The latest row of every path and model in a table, and the work table of one plan."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open(path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # damaged, for instance by a power failure: it is made anew
            path.unlink()
            self._open(path)

    def _open(self, path: Path) -> None:
        self.database = sqlite3.connect(path)
        # Safe against a killed process; a lost index costs a minute.
        self.database.execute("pragma journal_mode = wal")
        self.database.execute("pragma synchronous = off")
        self.database.executescript(_TABLES)

    def outcome(self, path: str, model: str) -> tuple[str, str | None] | None:
        """Status and error of the latest row of a path, None if it has none."""
        row = self.database.execute(
            "select status, result ->> 'error' from rows where path = ? and model = ?", [path, model]
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def close(self) -> None:
        self.database.close()

    def commits(self) -> dict[str, str]:
        return dict(self.database.execute("select name, sha256 from commits"))

    def clear(self) -> None:
        with self.database:
            for table in ("commits", "rows", "todo"):
                self.database.execute(f"delete from {table}")

    def ingest(self, name: str, sha256: str, batches: Iterable[pa.RecordBatch]) -> None:
        """Take in one file of the table, in one transaction; files come in the order in which they were committed."""
        with self.database:
            for batch in batches:
                rows = batch.to_pylist()
                self.database.executemany(
                    "insert or replace into rows values (?, ?, ?, ?, ?, ?, ?)",
                    (
                        (
                            row["path"],
                            row["model"],
                            row["sha256"],
                            row["bytes"],
                            None if row["modified"] is None else int(row["modified"].timestamp() * 1e6 + 0.5),
                            row["status"],
                            json.dumps({column: row[column] for column in COPIED}),
                        )
                        for row in rows
                    ),
                )
            self.database.execute("insert or replace into commits values (?, ?)", (name, sha256))


@dataclass(slots=True)
class Counts:
    """Of one listing: listed = unchanged + compute + copied."""

    listed: int = 0
    unchanged: int = 0
    compute: int = 0
    copied: int = 0
    ignored: int = 0
    opened: int = 0
    """Files that had to be read to tell whether their bytes are known."""


def fill(
    index: Index,
    entries: Iterable[Entry],
    folder: str,
    model: str,
    max_bytes: int,
    *,
    rescore: bool,
    on_new_path: Callable[[], object] = lambda: None,
) -> Counts:
    """Put everything that needs a row into the work table; `entries` is read as a stream, in any order.

    `on_new_path` is called as soon as there is likely to be something to compute, once for each thousand files.
    """
    database, counts = index.database, Counts()
    with database:
        database.execute("delete from todo")
        for batch in _batches(entries):
            known = {} if rescore else _known(database, batch, model)
            fresh = [e for e in batch if known.get(e.path) != (e.size, e.modified)]
            if any(entry.path not in known for entry in fresh):
                on_new_path()
            counts.listed += len(batch)
            counts.unchanged += len(batch) - len(fresh)
            database.executemany(
                "insert or ignore into todo (path, size, modified) values (?, ?, ?)",
                ((e.path, e.size, e.modified) for e in fresh),
            )
    _find_copies(index, folder, model, max_bytes, counts, rescore=rescore)
    counts.compute, counts.copied = database.execute(
        "select sum(same_as is null and result is null), sum(same_as is not null or result is not null) from todo"
    ).fetchone()
    counts.compute, counts.copied = counts.compute or 0, counts.copied or 0
    return counts


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while batch := list(islice(iterator, _BATCH_SIZE)):
        yield batch


def _known(database: sqlite3.Connection, batch: list[Entry], model: str) -> dict[str, tuple[int, int]]:
    marks, settled = ",".join("?" * len(batch)), ",".join("?" * len(SETTLED))
    rows = database.execute(
        f"select path, size, modified from rows where model = ? and path in ({marks}) and status in ({settled})",
        [model, *(entry.path for entry in batch), *SETTLED],
    )
    return {path: (size, modified) for path, size, modified in rows}


def _find_copies(index: Index, folder: str, model: str, max_bytes: int, counts: Counts, *, rescore: bool) -> None:
    """Find the same bytes under two paths. Only files of the same size can be the same, so only they are read."""
    database = index.database

    def hashed(candidate: tuple[str, int]) -> tuple[str | None, str]:
        path, size = candidate
        try:
            content = storage.read_listed(folder, path, max_bytes)
        except OSError:
            return None, path  # whoever computes it will say why
        return (content.sha256 if content.size == size else None), path

    after = ""
    with ThreadPoolExecutor(8) as threads, database:
        while candidates := database.execute(
            """
            select path, size from todo as t where path > ? and size between 1 and ? and (
                exists (select 1 from todo as u where u.size = t.size and u.path <> t.path)
                or (? = 0 and exists (select 1 from rows as r where r.size = t.size and r.model = ?))
            ) order by path limit ?
            """,
            [after, max_bytes, int(rescore), model, _BATCH_SIZE],
        ).fetchall():
            database.executemany("update todo set sha256 = ? where path = ?", threads.map(hashed, candidates))
            counts.opened += len(candidates)
            after = candidates[-1][0]
    with database:
        if not rescore:
            _leave_out_touched(database, model, counts)
            settled = ",".join("?" * len(SETTLED))
            database.execute(
                f"""
                update todo set result = (
                    select r.result from rows as r
                    where r.sha256 = todo.sha256 and r.model = ? and r.status in ({settled}) limit 1
                ) where sha256 is not null
                """,
                [model, *SETTLED],
            )
        database.execute(
            """
            update todo set same_as = first from (
                select sha256 as content, min(path) as first from todo where sha256 is not null group by sha256
            ) where sha256 = content and path <> first and result is null
            """
        )


def _leave_out_touched(database: sqlite3.Connection, model: str, counts: Counts) -> None:
    """The same bytes under the same path with another time: no new row, and no opening next time."""
    touched = database.execute(
        "select t.path, t.modified from todo as t join rows as r "
        "on r.path = t.path and r.model = ? and r.sha256 = t.sha256",
        [model],
    ).fetchall()
    for path, modified in touched:
        database.execute("update rows set modified = ? where path = ? and model = ?", [modified, path, model])
        database.execute("delete from todo where path = ?", [path])
    counts.unchanged += len(touched)


def digest(index: Index, facts: dict[str, Any]) -> str:
    """Names the run of a plan: 16 hex digits over what is to be done, and with what."""
    sha256 = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for rows in _groups(index, "true", _BATCH_SIZE):
        sha256.update(repr(rows).encode())
    return sha256.hexdigest()[:16]


def write(index: Index, location: str, facts: dict[str, Any], chunk_size: int) -> None:
    """Write the plan as Parquet, one row group a chunk, then the copies; metadata: the facts, the number of chunks."""

    def write_to(sink: Any) -> None:
        num_chunks = 0
        with pq.ParquetWriter(sink, SCHEMA) as writer:
            for rows in _groups(index, "same_as is null and result is null", chunk_size):
                writer.write_table(_table(rows))
                num_chunks += 1
            for rows in _groups(index, "same_as is not null or result is not null", _BATCH_SIZE):
                writer.write_table(_table(rows))
            writer.add_key_value_metadata({"tlearn": json.dumps({**facts, "num_chunks": num_chunks})})

    storage.write(location, write_to)


def facts_of(plan: pq.ParquetFile) -> dict[str, Any]:
    """What `write` was given, and num_chunks."""
    facts: dict[str, Any] = json.loads(plan.metadata.metadata[b"tlearn"])
    return facts


def _groups(index: Index, where: str, size: int) -> Iterator[list[tuple[Any, ...]]]:
    columns = "path, size, modified, same_as, result"
    with closing(index.database.execute(f"select {columns} from todo where {where} order by path")) as cursor:
        while rows := cursor.fetchmany(size):
            yield rows


def _table(rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table([pa.array(one, field.type) for one, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
