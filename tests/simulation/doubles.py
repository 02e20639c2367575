"""What is too slow for a million worlds, in memory: Parquet files, the pool, a model."""

import dataclasses
import functools
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from tlearn import storage
from tlearn.data import reading
from tlearn.data.status import SETTLED
from tlearn.distributed.chunks import ChunkResult
from tlearn.scoring import parts, plan, table
from tlearn.scoring.planning import Places
from tlearn.scoring.stream import Stream
from tlearn.scoring.table import COPIED, OUTCOME, Row
from tlearn.scoring.waves import SCHEMA, Counts, Scope, Wave
from tlearn.storage import Content, Entry, clock

_MAGIC = b"PAR1"
_LENGTH = 40


class Parquet:
    """What the scoring modules use of `pyarrow.parquet`. A file is a short text that names its content.

    A file that lacks a byte, or holds others, is no file of Parquet here either.
    """

    def __init__(self) -> None:
        self.contents: dict[bytes, _Content] = {}
        self.ParquetWriter = functools.partial(_ParquetWriter, self)
        self.ParquetFile = functools.partial(_ParquetFile, self)

    def write_table(self, table: pa.Table, sink: Any, **_: Any) -> None:
        with self.ParquetWriter(sink, table.schema) as writer:
            writer.write_table(table)

    def read_schema(self, file: Any) -> pa.Schema:
        return self.ParquetFile(file).schema_arrow

    def read_table(self, data: bytes) -> pa.Table:
        return self.ParquetFile(io.BytesIO(data)).read()

    def save(self, content: "_Content") -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, content.schema) as stream:
            for table in content.groups:
                stream.write_table(table)
        digest = hashlib.sha256(sink.getvalue())
        digest.update(repr((sorted(content.metadata.items()), [table.num_rows for table in content.groups])).encode())
        data = _MAGIC + digest.hexdigest()[: _LENGTH - 8].encode() + _MAGIC
        self.contents[data] = content
        return data


class _Content:
    def __init__(self, schema: pa.Schema, groups: list[pa.Table], metadata: dict[bytes, bytes]):
        self.schema, self.groups, self.metadata = schema, groups, metadata

    @functools.cached_property
    def whole(self) -> pa.Table:
        whole = self.groups[0] if len(self.groups) == 1 else pa.concat_tables([self.schema.empty_table(), *self.groups])
        return whole.replace_schema_metadata(self.metadata)


class _ParquetWriter:
    def __init__(self, parquet: Parquet, sink: Any, schema: pa.Schema, **_: Any):
        self.parquet, self.sink = parquet, sink
        self.content = _Content(schema, [], dict(schema.metadata or {}))

    def __enter__(self) -> "_ParquetWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.sink.write(self.parquet.save(self.content))

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
        size = row_group_size or max(table.num_rows, 1)
        self.content.groups += [table.slice(start, size) for start in range(0, max(table.num_rows, 1), size)]

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self.write_table(pa.Table.from_batches([batch]))

    def add_key_value_metadata(self, values: dict[str, str]) -> None:
        self.content.metadata |= {key.encode(): value.encode() for key, value in values.items()}


class _ParquetFile:
    def __init__(self, parquet: Parquet, file: Any, **_: Any):
        file.seek(0)
        content = parquet.contents.get(bytes(file.read()))
        if content is None:
            raise pa.ArrowInvalid("Parquet magic bytes not found in footer: it is cut or something else")
        self._content = content
        self.schema_arrow = content.schema
        self.num_row_groups = len(content.groups)
        self.metadata = SimpleNamespace(
            num_rows=sum(table.num_rows for table in content.groups),
            num_row_groups=self.num_row_groups,
            metadata=content.metadata,
            row_group=lambda number: SimpleNamespace(num_rows=content.groups[number].num_rows),
        )

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        table = self._content.whole
        return table if columns is None else table.select(_known(table, columns))

    def read_row_group(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        return self.read_row_groups([number], columns)

    def read_row_groups(self, numbers: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
        table = pa.concat_tables([self._content.groups[number] for number in numbers])
        return table if columns is None else table.select(_known(table, columns))

    def iter_batches(
        self, batch_size: int = 65536, row_groups: Sequence[int] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """More columns than asked for, so that none is made anew."""
        table = self.read() if row_groups is None else self.read_row_groups(row_groups)
        yield from table.to_batches(batch_size)


def _known(table: pa.Table, columns: Sequence[str]) -> list[str]:
    return [name for name in columns if name in table.column_names]


def outcome_of(data: bytes) -> dict[str, Any]:
    """What a row says of these bytes."""
    if data.startswith(b"bad"):
        return {"status": "unreadable", "error": "bad", "prediction": None, "probability": None}
    share = hashlib.sha256(data).digest()[0] / 256  # as exact in 32 bits as in 64
    probability, prediction = max((1 - share, "cat"), (share, "dog"))
    return {"status": "scored", "error": None, "prediction": prediction, "probability": probability}


def row_of(places: Places, entry: Entry) -> Row:
    """What an actor makes of a listed file, without a network."""
    content = reading.read(places.input.folder, entry.path, places.model.preprocess.max_bytes)
    facts: dict[str, Any] = {"path": entry.path, "model": places.model.digest, "scored_at": parts.datetime.now(UTC)}
    if isinstance(content, reading.NotRead):
        return Row(**facts, status=content.status, error=content.error)
    facts |= {"bytes": content.size, "modified": content.modified}
    if entry.change(content.size, content.modified) is not None:
        return Row(**facts, status="changed", error="changed")
    return Row(**facts, **outcome_of(content.data), sha256=content.sha256, width=1, height=1)


def chunks(places: Places, stream: Stream) -> Iterator[tuple[ChunkResult, float]]:
    """What a pool does: the parts that are missing, one after the other."""
    for chunk in filter(None, stream.chunks()):
        run, _, number = chunk.id.rpartition("/")
        folder = storage.join(places.runs, run)
        with plan.opened(folder) as planned:
            entries = planned.entries(int(number))
        clock.sleep(2.0)
        rows = [row_of(places, entry) for entry in entries]
        parts.write(storage.join(folder, parts.name(int(number))), rows, {})
        yield ChunkResult(chunk.id, len(rows), 0), 0.0


_RESULTS = pa.schema([table.SCHEMA.field(name) for name in ("path", *COPIED)])


@dataclass(frozen=True)
class _Known:
    """The latest row of a path and a model."""

    number: int
    """Of its commit."""
    size: int | None
    modified: int | None
    result: dict[str, Any]
    """The columns that files with the same bytes share."""

    @property
    def is_settled(self) -> bool:
        return self.result["status"] in SETTLED


class MemoryIndex:
    """`tlearn.scoring.index.Index` without a database."""

    def __init__(self, read: dict[str, list[Any]]) -> None:
        """`read`: what `ingest` has found in files, by their sha256; shared by the writers of a world."""
        self.rows: dict[tuple[str, str], _Known] = {}
        self.names: dict[str, str] = {}
        self.read = read

    def commits(self) -> dict[str, str]:
        return dict(self.names)

    def clear(self) -> None:
        self.rows.clear()
        self.names.clear()

    def ingest(self, name: str, sha256: str, tables: Iterable[pa.Table]) -> None:
        tables = list(tables)
        if sha256 not in self.read:
            self.read[sha256] = list(chain.from_iterable(map(_rows_of, tables)))
        self.names[name] = sha256
        number = len(self.names)
        self.rows |= {(path, model): _Known(number, *facts) for path, model, *facts in self.read[sha256]}

    def outcomes(self, paths: Sequence[str], model: str) -> dict[str, tuple[Any, ...]]:
        found = {path: self.rows[path, model].result for path in paths if (path, model) in self.rows}
        return {path: tuple(row[name] for name in OUTCOME) for path, row in found.items()}

    def results(self, paths: Sequence[str], model: str) -> pa.Table:
        found = [{"path": path, **self.rows[path, model].result} for path in paths if (path, model) in self.rows]
        return pa.Table.from_pylist(found, _RESULTS)


def _rows_of(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Path, model, size, time and what files with the same bytes share."""
    times = table["modified"].cast(pa.int64()).to_pylist()
    results = table.select(COPIED).to_pylist(maps_as_pydicts="strict")
    return zip(*(table[name].to_pylist() for name in ("path", "model", "bytes")), times, results, strict=True)


@dataclass
class _Todo:
    """A file that needs a row."""

    path: str
    size: int
    modified: int
    etag: str | None
    sha256: str | None = None
    wave: int = 0
    """In which it was read; 0 for one that was not."""


def waves(
    index: MemoryIndex, batches: Iterable[pa.Table], scope: Scope, sizes: Iterable[int], on_new_paths: object = None
) -> Iterator[Wave]:
    """`tlearn.scoring.waves.waves` in the words of its promises."""
    planning, limits = _Planning(index, scope), iter(sizes)
    limit, waiting = next(limits, None), list[_Todo]()
    for batch in batches:
        waiting += planning.unknown(batch)
        if limit is None or len(waiting) < limit:
            continue
        num_rows = len(waiting) - len(waiting) % limit
        rows, waiting = planning.todo(waiting[:num_rows]), waiting[num_rows:]
        while rows:
            yield planning.wave(rows[:limit], is_last=False)
            rows, limit = [] if limit is None else rows[limit:], next(limits, None)
    yield planning.wave(planning.todo(waiting), is_last=True)


class _Planning:
    def __init__(self, index: MemoryIndex, scope: Scope):
        self.index, self.scope = index, scope
        self.last_number = -1 if scope.rescore else len(index.names)
        """What is ingested later comes from this listing, and is planned."""
        self.planned: dict[str, _Todo] = {}
        self.num_waves = self.num_unchanged = self.num_opened = 0

    def known(self, path: str) -> _Known | None:
        known = self.index.rows.get((path, self.scope.model))
        return known if known is not None and known.is_settled and known.number <= self.last_number else None

    def wave(self, rows: list[tuple[Any, ...]], *, is_last: bool) -> Wave:
        num_computed = sum(row[3:] == (None, None) for row in rows)
        num_listed = self.num_unchanged + len(rows)
        counts = Counts(num_listed, self.num_unchanged, num_computed, len(rows) - num_computed, self.num_opened)
        self.num_unchanged = self.num_opened = 0
        columns = zip(*rows, strict=True) if rows else [[]] * len(SCHEMA)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        return Wave(pa.table(arrays, schema=SCHEMA), counts, is_last)

    def unknown(self, batch: pa.Table) -> list[_Todo]:
        """What of a batch has no settled row of its size and time."""
        listed = [_Todo(**row) for row in batch.to_pylist()]
        found = [file for file in listed if not self._is_known(file)]
        self.num_unchanged += len(listed) - len(found)
        return found

    def _is_known(self, file: _Todo) -> bool:
        known = self.known(file.path)
        if known is None or known.size is None or known.modified is None:
            return False
        return Entry(file.path, file.size, file.modified).change(known.size, known.modified) is None

    def todo(self, unknown: list[_Todo]) -> list[tuple[Any, ...]]:
        """What of these files needs a row: path, size, modified, same_as, result."""
        self.num_waves += 1
        fresh: dict[str, _Todo] = {}
        for file in unknown:
            if file.path not in self.planned:
                fresh.setdefault(file.path, file)
        num_listed = len(fresh)  # each once
        self._read_candidates(fresh)
        self.planned |= fresh
        for path, file in list(fresh.items()):
            known = self.known(path)
            if known is not None and file.sha256 is not None and known.result["sha256"] == file.sha256:
                self.index.rows[path, self.scope.model] = dataclasses.replace(known, modified=file.modified)
                del fresh[path]
        self.num_unchanged += num_listed - len(fresh)
        return [self._row(fresh[path]) for path in sorted(fresh)]

    def _read_candidates(self, fresh: dict[str, _Todo]) -> None:
        """Only files of the same size can be the same, and of a store's those with the same e-tag."""
        alike = Counter((file.size, file.etag) for file in fresh.values())
        alike.update({(file.size, file.etag) for file in self.planned.values()})
        sizes = set()
        for (_, model), row in self.index.rows.items():
            if model == self.scope.model and row.number <= self.last_number:
                sizes.add(row.size)
        here = {(file.size, file.etag) for file in fresh.values()}
        earlier = [file for file in self.planned.values() if (file.size, file.etag) in here and not file.wave]
        for file in sorted([*fresh.values(), *earlier], key=lambda file: file.path):
            if 0 <= file.size <= self.scope.max_bytes and (file.size in sizes or alike[file.size, file.etag] > 1):
                content = reading.read(self.scope.folder, file.path, self.scope.max_bytes)
                file.wave = self.num_waves
                self.num_opened += 1
                listed = Entry(file.path, file.size, file.modified)
                if isinstance(content, Content) and listed.change(content.size, content.modified) is None:
                    file.sha256 = content.sha256

    def _row(self, file: _Todo) -> tuple[Any, ...]:
        same_as = result = None
        if file.sha256 is not None:
            settled = [row.result for (path, model), row in self.index.rows.items() if self.known(path) is row]
            result = next((json.dumps(row) for row in settled if row["sha256"] == file.sha256), None)
            twins = [(one.wave, one.path) for one in self.planned.values() if one.sha256 == file.sha256]
            first = min(twins)[1]
            same_as = first if result is None and first != file.path else None
        return file.path, file.size, file.modified, same_as, result
