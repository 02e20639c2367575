"""What is to be done: of a listing as it comes, what has no row yet, cut into waves. Each becomes a run of its own.

The listing is joined with the index, many files at once. What is new may hold bytes that are known, so files of a size
that is not theirs alone are read.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, count, repeat
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tlearn import storage
from tlearn.data import reading
from tlearn.data.status import SETTLED
from tlearn.scoring.index import KEPT, Index
from tlearn.scoring.table import COPIED

FIRST, MOST = 4096, 2**18
"""New files of a wave: of the first, which is soon found, and of the largest, which is planned and merged in memory."""

_LARGEST_NEW, _LARGEST_ROUND = 2**19, 3 * 2**19
"""Listed files that are joined with the index at once, where most are new and where few are: a file takes 100 to 200
bytes of memory, and a join reads the index from end to end.
"""

_READ_AT_ONCE = 8192

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("modified", pa.int64()),
        ("same_as", pa.string()),  # path of a file of this wave or of an earlier one that holds the same bytes
        ("result", pa.string()),  # JSON: the outcome of these bytes in an earlier run
    ]
)
"""Of what is to be done."""

_SETTLED = ", ".join(f"'{status}'" for status in SETTLED)

_IS_KNOWN = f"r.model = $model and r.number <= $last_number and r.status in ({_SETTLED})"
"""Of a row of the index."""


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
    """Of one wave, or of all: listed = unchanged + compute + copied."""

    listed: int = 0
    unchanged: int = 0
    compute: int = 0
    copied: int = 0
    opened: int = 0
    """Files that had to be read to tell whether their bytes are known."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.listed + other.listed,
            self.unchanged + other.unchanged,
            self.compute + other.compute,
            self.copied + other.copied,
            self.opened + other.opened,
        )


@dataclass(frozen=True, slots=True)
class Wave:
    """What needs a row, of what was listed since the wave before."""

    table: pa.Table
    """In SCHEMA, in the order of the paths; only the last may be empty."""
    counts: Counts
    is_last: bool

    def rows(self, kind: Literal["all", "computed", "copied"], size: int) -> Iterator[pa.Table]:
        """So many rows at once: all, what needs a network, what does not."""
        rows = self.table
        if kind != "all":
            is_computed = _is_computed(rows)
            rows = rows.filter(is_computed if kind == "computed" else pc.invert(is_computed))
        for start in range(0, rows.num_rows, size):
            yield rows.slice(start, size)


def _is_computed(rows: pa.Table) -> pa.ChunkedArray:
    return pc.and_(pc.is_null(rows["same_as"]), pc.is_null(rows["result"]))


def sizes() -> Iterator[int]:
    """New files of each wave: few at first, so that computing starts while the folder is listed."""
    return (min(FIRST << number, MOST) if number < 16 else MOST for number in count())


def waves(
    index: Index,
    batches: Iterable[pa.Table],
    scope: Scope,
    sizes: Iterable[int] = (),
    on_new_paths: Callable[[int], object] = lambda count: None,
) -> Iterator[Wave]:
    """Cut what needs a row into waves of these sizes; what is left when they, or the files, end is the last one.

    `batches` have the columns path, size, modified and etag, in any order of the files; what comes twice counts once.
    `on_new_paths` is called while there is likely to be something to compute, with the number of new paths so far.
    """
    with index.beside():
        planning = _Planning(index, scope, on_new_paths)
        limits = chain(sizes, repeat(None))
        limit, waiting = next(limits), None
        for unknown in planning.rounds(batches):
            waiting = unknown if waiting is None else pa.concat_tables([waiting, unknown])
            if limit is None or waiting.num_rows < limit:
                continue
            num_rows = waiting.num_rows - waiting.num_rows % limit  # of several waves, so that fewer joins are made
            rows, waiting = planning.todo(waiting.slice(0, num_rows)), waiting.slice(num_rows)
            while rows.num_rows:
                yield planning.wave(rows.slice(0, limit), is_last=False)
                rows, limit = rows.slice(rows.num_rows if limit is None else limit), next(limits)
        last = planning.wave(planning.todo(waiting), is_last=True)
    yield last  # without those gigabytes: computing may take days


def _taken(tables: list[pa.Table]) -> pa.Table:
    """All of them in one; whoever gets it holds it alone, and can let it go."""
    table = pa.concat_tables(tables)
    tables.clear()
    return table


class _Planning:
    """One listing, some waves of what is unknown after others, in tables of DuckDB's.

    fresh: what these waves bring. planned: what all have brought. twins: of it, what is alike something fresh, which
    means of the same size and e-tag. hashed: what has been read.
    """

    def __init__(self, index: Index, scope: Scope, on_new_paths: Callable[[int], object]):
        self.index, self.scope, self.on_new_paths = index, scope, on_new_paths
        # What is ingested meanwhile comes from this listing, and is in `planned`.
        self.known = {"model": scope.model, "last_number": -1 if scope.rescore else index.num_commits()}
        self.num_waves = self.num_listed = self.num_new = self.num_unchanged = self.num_opened = 0
        for table, others in {
            "planned": "size bigint, modified bigint, alike ubigint",
            "hashed": "content blob",
        }.items():
            index.sql(f"create table beside.{table} (key uhugeint, path varchar, {others}, wave int)")

    def wave(self, rows: pa.Table, *, is_last: bool) -> Wave:
        num_compute = pc.sum(_is_computed(rows)).as_py() or 0
        num_listed = self.num_unchanged + rows.num_rows
        counts = Counts(num_listed, self.num_unchanged, num_compute, rows.num_rows - num_compute, self.num_opened)
        self.num_unchanged = self.num_opened = 0
        return Wave(rows, counts, is_last)

    def rounds(self, batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Of twice as many listed files each time, those that have no settled row of this size and time. Where most are
        new, what comes of them is not kept waiting for many more.
        """
        gathered: list[pa.Table] = []
        size = FIRST
        for batch in batches:
            gathered.append(batch)
            if sum(batch.num_rows for batch in gathered) >= size:
                unknown = self._unknown(_taken(gathered))
                size = min(2 * size, _LARGEST_NEW if 2 * unknown.num_rows > size else _LARGEST_ROUND)
                yield unknown
                del unknown
        if gathered:
            yield self._unknown(_taken(gathered))

    def _unknown(self, listed: pa.Table) -> pa.Table:
        numbers = np.arange(listed.num_rows)
        found = self.index.sql(_FOUND, self.known, listed=listed.append_column("number", pa.array(numbers)))
        is_new, is_unknown = np.ones((2, listed.num_rows), bool)
        is_new[found["number"]] = False
        is_unknown[found["number"].filter(found["is_same"])] = False
        listed = listed.append_column("number", pa.array(numbers + self.num_listed))
        self.num_listed += listed.num_rows
        self.num_new += int(is_new.sum())
        if self.num_new:
            self.on_new_paths(self.num_new)
        self.num_unchanged += listed.num_rows - int(is_unknown.sum())
        return listed if is_unknown.all() else listed.filter(pa.array(is_unknown))

    def todo(self, unknown: pa.Table | None) -> pa.Table:
        """What of these files needs a row, in the order of the paths."""
        if not unknown:
            return SCHEMA.empty_table()
        self.num_waves += 1
        self.index.sql(_FRESH, unknown=unknown)
        num_fresh = self.index.sql("select count(*) as number from fresh")["number"][0].as_py()
        num_opened = self._hash_candidates()
        planned = "insert into beside.planned select key, path, size, modified, alike, $wave from fresh"
        self.index.sql(planned, {"wave": self.num_waves})
        if num_opened:
            self._leave_out_touched()
        rows = self.index.sql(_TODO, known=self._known_results() if num_opened else _KNOWN.empty_table())
        self.num_opened += num_opened
        self.num_unchanged += num_fresh - rows.num_rows
        return rows.cast(SCHEMA)

    def _hash_candidates(self) -> int:
        """Read what may hold known bytes: only files of the same size can be the same. Returns how many were read."""
        limits = {"max_bytes": self.scope.max_bytes, "wave": self.num_waves}
        self.index.sql(_TWINS)
        candidates = self.index.sql(_CANDIDATES, {**self.known, **limits})
        with ThreadPoolExecutor(8) as threads:
            for start in range(0, candidates.num_rows, _READ_AT_ONCE):
                files = candidates.slice(start, _READ_AT_ONCE)
                found = threads.map(self._sha256, *(files[name].to_pylist() for name in ("path", "size", "modified")))
                self.index.sql(
                    "insert into beside.hashed select md5_number(path), path, content, wave from files",
                    files=files.append_column("content", pa.array(found, pa.binary())),
                )
        return int(candidates.num_rows)

    def _sha256(self, path: str, size: int, modified: int) -> bytes | None:
        """None where it cannot be read, or is not as it was listed: whoever computes it will say so."""
        content = reading.read(self.scope.folder, path, self.scope.max_bytes)
        if isinstance(content, storage.Content):
            listed = storage.Entry(path, size, modified)
            return bytes.fromhex(content.sha256) if listed.change(content.size, content.modified) is None else None
        return None

    def _leave_out_touched(self) -> None:
        """The same bytes under the same path with another time: no new row, and no opening next time."""
        self.index.sql(_TOUCHED, self.known)
        self.index.sql(
            "update rows set modified = t.modified from touched as t where rows.key = t.key and rows.model = $model",
            {"model": self.scope.model},
        )
        self.index.sql("delete from fresh where key in (select key from touched)")

    def _known_results(self) -> pa.Table:
        """Of the bytes that were read, those that have a settled row, whatever its path."""
        found = self.index.sql(_RESULTS, self.known)
        results = [json.dumps(row) for row in found.select(COPIED).to_pylist(maps_as_pydicts="strict")]
        return pa.table([found["content"], pa.array(results, pa.string())], schema=_KNOWN)


_KNOWN = pa.schema([("content", pa.binary()), ("result", pa.string())])

_FOUND = f"""
select l.number, (l.size in (-1, r.size) and (
    l.modified in (-1, r.modified)
    or (l.modified // 1000000 = r.modified // 1000000 and (l.modified % 1000000 = 0 or r.modified % 1000000 = 0))
    or (l.modified // 1000 = r.modified // 1000 and (l.modified % 1000 = 0 or r.modified % 1000 = 0))
)) is true as is_same
from rows as r join listed as l on r.key = md5_number(l.path)
where {_IS_KNOWN}
"""
"""A size or a time of -1 is not known, and not compared."""

_FRESH = """
create or replace temp table fresh as
with firsts as materialized (
    select md5_number(path) as key, min(number) as number from unknown group by key
), seen as materialized (
    select number from firsts join beside.planned using (key)
)
select md5_number(path) as key, path, size, modified, hash(size, etag) as alike, number from unknown
where number in (select number from firsts) and number not in (from seen)
"""
"""Each path once. Keys and numbers are joined, not paths: a join of these would not find room in memory."""

_TWINS = """
create or replace temp table twins as
select p.rowid as row, alike from beside.planned as p semi join fresh using (alike)
"""
"""Planned before, and alike one of the new: found in one column, so that the paths of the others are not read."""

_CANDIDATES = """
with shared as (
    select alike from fresh group by alike having count(*) > 1
    union
    select alike from twins
), known as (
    select distinct size from rows as r semi join fresh using (size)
    where r.model = $model and r.number <= $last_number
)
select path, size, modified, wave from (
    select path, size, modified, $wave as wave from fresh where alike in (from shared) or size in (from known)
    union all
    select path, size, modified, wave from beside.planned anti join beside.hashed using (key)
    where rowid in (select row from twins)
) where size between 0 and $max_bytes order by path
"""
"""Of a size of which there is another: new, planned before, or with a row, if not from this listing."""

_TOUCHED = f"""
create or replace temp table touched as
select f.key, f.modified from fresh as f join beside.hashed as h using (key) join rows as r using (key)
where r.content = h.content and {_IS_KNOWN}
"""

_RESULTS = f"""
select distinct on (content) content, lower(hex(content)) as sha256, {", ".join(KEPT)} from rows as r
where content in (select content from fresh join beside.hashed using (key)) and {_IS_KNOWN}
order by content, key
"""

_TODO = """
with firsts as (
    select content, arg_min(path, (wave, path)) as first
    from beside.hashed semi join (select content from fresh join beside.hashed using (key)) as h using (content)
    group by content
)
select f.path, f.size, f.modified, if(k.result is null and first <> f.path, first, null) as same_as, k.result
from fresh as f left join beside.hashed as h using (key)
left join known as k on k.content = h.content left join firsts on firsts.content = h.content
order by f.path
"""
"""Of the same bytes under several new paths the first is computed, the others are the same as it."""
