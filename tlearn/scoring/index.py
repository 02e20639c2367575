"""What a table holds, in DuckDB: on disk, so that memory does not grow with the table.

The table is the truth. The index is a copy of its latest rows that is joined and not loaded; it is brought up to date
from the table, and can be deleted at any time.
"""

import hashlib
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from tlearn.errors import StorageError
from tlearn.scoring.table import COPIED, OUTCOME, SCHEMA

INGESTED = ("path", "model", "bytes", "modified", "scored_at", *COPIED)
"""Columns of the table that the index is made from."""

_SETTINGS: dict[str, Any] = {
    # With what is outside of it, Arrow's tables and the allocator's slack, a driver stays below 1 GB.
    "memory_limit": "300MB",
    # Their buffers are outside of the limit.
    "threads": 2,
    "preserve_insertion_order": False,
    # Nothing is fetched.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}

KEPT = [column for column in COPIED if column != "sha256"]
"""Columns that are kept as they are."""

_ROWS = f"""
select $number::integer as number, md5_number(path) as key, model, bytes as size, modified, unhex(sha256) as content,
    {", ".join(KEPT)}
from ingested
"""
"""Of a table, as the index keeps it: a path is found by its digest, a quarter of its length."""


@dataclass(frozen=True, slots=True)
class Share:
    """One of so many shares of all paths."""

    number: int
    """From 0."""
    count: int

    @property
    def condition(self) -> str:
        """In SQL, whether a path belongs to it."""
        return "true" if self.count == 1 else f"md5_number(path) % {self.count} = {self.number}"


WHOLE = Share(0, 1)


class Index:
    """The latest row of every path and model in a table, or of a share of the paths. Several threads may use it.

    `rows` has the columns number (of the commit, in the order in which they came), key (of a path), model, size in
    bytes, modified in microseconds, content (the 32 bytes of its SHA-256), and those in KEPT.
    """

    def __init__(self, path: Path, share: Share = WHOLE):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._share, self._seal = path, share, path.with_suffix(".seal")
        if not self._is_sealed():
            _remove_all(path)
        self._seal.unlink(missing_ok=True)
        self._lock, self._is_broken = threading.RLock(), False
        self._database = connect(str(path), temp_directory=f"{path}.tmp")
        self.sql("create table if not exists commits (name varchar, sha256 varchar)")
        nothing = _ingested(SCHEMA.empty_table())
        self.sql(f"create table if not exists rows as {_ROWS}", {"number": 0}, ingested=nothing)

    def _is_sealed(self) -> bool:
        """Whether it is what was closed: neither of another version, nor left by a process that was killed."""
        try:
            return self._seal.read_text() == _state(self._path)
        except (OSError, UnicodeDecodeError):
            return False

    def close(self) -> None:
        with self._lock:
            self._database.close()
        if not self._is_broken:
            with suppress(OSError):  # without a seal it is made anew
                self._seal.write_text(_state(self._path))

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Attach `beside`, a database for what is joined and forgotten. Temporary tables would hold up to two bytes of
        memory for every row.
        """
        _remove_all(self._path, ".beside")  # of somebody who was ended in the middle
        quoted = str(self._path.with_suffix(".beside")).replace("'", "''")
        self.sql(f"attach '{quoted}' as beside")
        try:
            yield
        finally:
            self.sql("detach beside")
            _remove_all(self._path, ".beside")

    def sql(self, statement: str, parameters: dict[str, Any] | None = None, **tables: pa.Table) -> pa.Table:
        """What a statement gives; `tables` are those that it reads by their names beside the index's own."""
        with self._lock:
            for name, rows in tables.items():
                self._database.register(name, rows)
            try:
                result = self._database.sql(statement, params=parameters)
                return None if result is None else result.to_arrow_table()
            except duckdb.Error:
                self._is_broken = True
                raise
            finally:
                for name in tables:
                    self._database.unregister(name)

    def outcomes(self, paths: Sequence[str], model: str) -> dict[str, tuple[Any, ...]]:
        """OUTCOME of the latest row of each path that has one. Each call is a scan: ask for many at once."""
        found = self._latest(paths, model, "status, error, lower(hex(content)) as sha256")
        outcomes = zip(*(found[name].to_pylist() for name in OUTCOME), strict=True)
        return dict(zip(found["path"].to_pylist(), outcomes, strict=True))

    def results(self, paths: Sequence[str], model: str) -> pa.Table:
        """Columns path and COPIED of the latest row of each path that has one, in any order. Scans as `outcomes`."""
        return self._latest(paths, model, f"lower(hex(content)) as sha256, {', '.join(KEPT)}").select(["path", *COPIED])

    def _latest(self, paths: Sequence[str], model: str, columns: str) -> pa.Table:
        return self.sql(
            f"select path, {columns} from rows join asked on key = md5_number(path) where model = $model",
            {"model": model},
            asked=pa.table({"path": pa.array(paths, pa.string())}),
        )

    def commits(self) -> dict[str, str]:
        found = self.sql("select name, sha256 from commits")
        return dict(zip(found["name"].to_pylist(), found["sha256"].to_pylist(), strict=True))

    def num_commits(self) -> int:
        return int(self.sql("select count(*) as number from commits")["number"][0].as_py())

    def clear(self) -> None:
        for table in ("commits", "rows"):
            self.sql(f"delete from {table}")

    def ingest(self, name: str, sha256: str, tables: Iterable[pa.Table]) -> None:
        """Take in one file of the table, in one transaction; files come in the order in which they were committed."""
        self.sql("create or replace temp table incoming as from rows limit 0")
        number = {"number": self.num_commits() + 1}
        for rows in tables:
            self.sql(f"insert into incoming {_ROWS} where {self._share.condition}", number, ingested=_ingested(rows))
        with self._lock:
            self.sql("begin")
            self.sql("delete from rows using incoming as i where rows.key = i.key and rows.model = i.model")
            self.sql("insert into rows from incoming")
            self.sql("insert into commits values ($name, $sha256)", {"name": name, "sha256": sha256})
            self.sql("commit")
        self.sql("drop table incoming")


def connect(path: str, **settings: Any) -> duckdb.DuckDBPyConnection:
    """Open a database; ":memory:" is none of a file."""
    database = duckdb.connect(path, config={**_SETTINGS, **settings})
    database.sql("set enable_progress_bar_print = false")  # it would be in the output of a command
    return database


def _ingested(rows: pa.Table) -> pa.Table:
    """With times as numbers."""
    columns = [rows[name].cast(pa.int64()) if name == "modified" else rows[name] for name in INGESTED]
    return pa.table(dict(zip(INGESTED, columns, strict=True)))


def _state(path: Path) -> str:
    """Of a closed index: in what version it is, and what its file system says of it."""
    version = hashlib.sha256(f"{duckdb.__version__} {_ROWS}".encode()).hexdigest()
    return f"{version} {path.stat().st_size} {path.stat().st_mtime_ns}"


def _remove_all(path: Path, suffix: str = ".") -> None:
    """The file, those that DuckDB puts beside it, and what earlier versions had in its place; or those of a suffix."""
    for file in path.parent.glob(f"{path.stem}{suffix}*"):
        if file.is_dir():
            shutil.rmtree(file, ignore_errors=True)
        else:
            file.unlink(missing_ok=True)


@contextmanager
def opened(path: Path, share: Share = WHOLE) -> Iterator[Index]:
    """DuckDB's words for a full disk or a folder without rights become an error of storage."""
    try:
        with closing(Index(path, share)) as index:
            yield index
    except duckdb.Error as error:
        said = " ".join(str(error).split())
        raise StorageError(f"could not write {path}: {said}; free some space, or choose another --cache") from error
