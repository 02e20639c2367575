"""The table of scores: its columns, and its newest rows."""

import csv
import functools
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.classes import Classes
from tlearn.console import warn
from tlearn.errors import InputError, IntegrityError, UsageError, printable
from tlearn.scoring import flat
from tlearn.scoring.ledger import FOLDER, Ledger

COPIED = (
    "status", "prediction", "probability", "probabilities", "novelty", "stage", "error", "width", "height", "sha256",
)  # fmt: skip
"""Columns that two paths with the same bytes share."""

OUTCOME = ("status", "error", "sha256")
"""Columns in which two rows of a path are the same that say the same."""

LATEST = """
select * from read_parquet('{folder}/*.parquet')
qualify row_number() over (partition by path order by scored_at desc) = 1
""".strip()
"""The newest row of every path, for DuckDB; `latest` is the same."""

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("status", pa.string()),
        ("prediction", pa.string()),
        ("probability", pa.float32()),
        # The same type whatever the classes: models with other classes may add to one table.
        ("probabilities", pa.map_(pa.string(), pa.float32())),
        ("novelty", pa.float32()),
        ("stage", pa.int32()),
        ("label", pa.string()),
        ("error", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("modified", pa.timestamp("us", "UTC")),
        ("sha256", pa.string()),
        ("model", pa.string()),
        ("run", pa.string()),
        ("scored_at", pa.timestamp("us", "UTC")),
    ]
)
_NEEDED = {"path", "status", "scored_at"}
"""Columns without which a file is no table of scores; others came later than the first."""
FILES = (".parquet", ".csv")
"""What the name of a single file ends in."""
_MAX_HEADER_BYTES = 2**24


def label_of(path: str, classes: Classes) -> str | None:
    """The outermost folder that is named as a class, as in training."""
    return next((part for part in path.split("/")[:-1] if part in classes.names), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one file; the columns of the table in their order."""

    path: str
    status: str
    prediction: str | None = None
    probability: float | None = None
    """Of the prediction."""
    probabilities: dict[str, float] | None = None
    """Of every class."""
    novelty: float | None = None
    """Percentile of the validation images: so many in a hundred are nearer to what was trained on."""
    stage: int | None = None
    """Size in pixels of the pictures that the network sees which answered."""
    label: str | None = None
    error: str | None = None
    width: int | None = None
    """Pixels, as height, as stored in the file."""
    height: int | None = None
    bytes: int | None = None
    modified: int | None = None
    """Microseconds since 1970."""
    sha256: str | None = None
    model: str
    run: str | None = None
    scored_at: datetime


def of_rows(rows: Sequence[Row]) -> pa.Table:
    arrays = [pa.array([getattr(row, column.name) for row in rows], column.type) for column in SCHEMA]
    return pa.table(arrays, schema=SCHEMA)


def read(file: Any, location: str) -> pa.Table:
    """The rows of an open file of any version, in SCHEMA. Raises IntegrityError for anything else, by its location."""
    try:
        return current(pq.ParquetFile(file, page_checksum_verification=True).read())
    except (pa.ArrowException, OSError) as error:
        raise damaged(location, error) from error


def batches(file: Any, location: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """As `read`, some rows at once, first none, with these columns only; the others are null."""
    try:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        yield current(parquet.schema_arrow.empty_table())
        for group in range(parquet.num_row_groups):  # read over all groups, the bytes of all would stay in memory
            for batch in parquet.iter_batches(flat.NUM_ROWS, row_groups=[group], columns=list(columns)):
                yield current(pa.Table.from_batches([batch]))
    except (pa.ArrowException, OSError) as error:
        raise damaged(location, error) from error


def require_own_file(location: str) -> None:
    """Raise UsageError where NAME.parquet or NAME.csv would take the place of something else than a table of scores."""
    kind = storage.kind(location)
    if kind == "folder":
        raise UsageError(f"expected a file at {location}, found a folder: {location}/ is a table that grows")
    if FOLDER in storage.folders(location.rpartition("/")[0]):
        raise UsageError(f"expected {location} outside of a table that grows: choose another folder")
    is_ours = _is_our_csv if location.endswith(".csv") else _is_our_parquet
    if kind == "file" and not is_ours(location):
        raise UsageError(f"expected a table of scores or nothing at {location}, found other data: choose another name")


def _is_our_parquet(location: str) -> bool:
    """Whether it is a table of scores, or what is left of a damaged one; not somebody's other file."""
    try:
        with storage.open_input(location) as file:
            return set(pq.read_schema(file).names) >= _NEEDED
    except pa.ArrowException:
        return True


def _is_our_csv(location: str) -> bool:
    """Whether its header is one of a table of scores and nothing else: a column more is somebody's work. Or empty."""
    with storage.open_input(location) as file:
        head = file.read(_MAX_HEADER_BYTES).decode(errors="replace")
    try:
        names = next(csv.reader(io.StringIO(head, newline="")), [])
    except csv.Error:
        return False
    others = [name for name in names if name not in SCHEMA.names and not flat.is_column(name)]
    return not head or (set(names) >= _NEEDED and not others)


def damaged(location: str, error: object) -> IntegrityError:
    return IntegrityError(f"expected a whole table of scores in {location}, got {error}: restore it or move it away")


def current(rows: pa.Table) -> pa.Table:
    """Rows of any version, in SCHEMA. Raises ArrowInvalid for rows of something else.

    In earlier versions `probabilities` was a struct with a field for each class, and a date could be beyond the
    calendar.
    """
    if lacking := _NEEDED - set(rows.column_names):
        raise pa.ArrowInvalid(f"no column {min(lacking)}")
    columns = []
    for field in SCHEMA:
        column = rows[field.name] if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        if pa.types.is_struct(column.type):
            column = pa.array(column.to_pylist(), field.type)
        columns.append(_dated(column) if field.name == "modified" else column.cast(field.type))
    return pa.table(columns, schema=SCHEMA)


def _dated(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times as a file system gives them, in microseconds, as a calendar has them."""
    earliest, latest = storage.DATES
    numbers = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    numbers = pc.max_element_wise(pc.min_element_wise(numbers, latest, skip_nulls=False), earliest, skip_nulls=False)
    return numbers.cast(pa.timestamp("us", "UTC"))


@dataclass(frozen=True, slots=True)
class Newest:
    """Which rows of a table are the newest of their path. They are read as a stream: it may be larger than memory."""

    files: tuple[tuple[str, Callable[[], Any]], ...]
    """Names, and what opens each."""
    order: np.ndarray[Any, Any]
    """(paths,): the numbers of these rows, counted over all files, in the order of the paths."""

    def rows(self, most: int | None = None) -> Iterator[pa.Table]:
        """Those of all paths, or of the first ones, in the order in which they were added; at least one table."""
        numbers, start = np.sort(self.order[:most]), 0
        for rows in _read(self.files, SCHEMA.names):
            low, high = np.searchsorted(numbers, [start, start + rows.num_rows])
            yield rows.take(pa.array(numbers[low:high] - start))
            start += rows.num_rows

    def table(self, most: int | None = None) -> pa.Table:
        """The same in the order of the paths."""
        return pa.concat_tables(self.rows(most)).sort_by("path")


def newest(location: str) -> Newest:
    """Of a table, a folder or a single file, by its path or URI.

    Raises InputError where there is none, IntegrityError for one that is damaged.
    """
    files = tuple(_files(storage.absolute(location.rstrip("/"))))
    keys = pa.concat_tables(_read(files, sorted(_NEEDED))).select(["path", "scored_at"])
    order = pc.sort_indices(keys, [("path", "ascending"), ("scored_at", "ascending")])  # of equal ones the last is last
    paths = keys["path"].cast(pa.large_string()).take(order)
    is_last = np.ones(len(paths), bool)
    is_last[:-1] = pc.not_equal(paths[:-1], paths[1:])
    return Newest(files, order.to_numpy()[is_last])


def latest(location: str) -> pa.Table:
    """The newest row of every path, in the order of the paths. Raises as `newest`."""
    return newest(location).table()


def _files(location: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every file that a run has added; without such every Parquet file in the folder, or the file itself."""
    ledger = Ledger(location)
    if names := ledger.names():
        for stranger in set(ledger.strangers()).difference(names):
            warn(f"WARNING: left out {storage.join(location, stranger)}: it is not in the ledger")
        yield from ((name, functools.partial(ledger.open, name)) for name in names)
        return
    names = [storage.join(location, name) for name in storage.names(location) if name.endswith(".parquet")]
    if not names and location.endswith(".parquet") and storage.exists(location):
        names = [location]
    if not names and location.endswith(".csv"):
        raise InputError(
            f"expected a table of scores in Parquet, got {location}: CSV is for other programs, "
            "score into NAME.parquet or DIR/ and give that"
        )
    if not names:
        raise InputError(f"expected a table of scores in {location}, found no Parquet file: run tlearn score first")
    yield from ((name, functools.partial(storage.open_input, name)) for name in names)


def _read(files: Iterable[tuple[str, Callable[[], Any]]], columns: Sequence[str]) -> Iterator[pa.Table]:
    for name, opened in files:
        with opened() as file:
            yield from batches(file, name, columns)


def write(found: Newest, output: str, top_k: int | None = None) -> None:
    """As NAME.parquet, with `top_k` in more columns, or as NAME.csv. Raises UsageError for what is neither, and as
    `require_own_file`.
    """
    location = storage.absolute(output)
    if not output.endswith(FILES):
        raise UsageError(f"expected --output NAME.parquet or NAME.csv, got {output}")
    require_own_file(location)
    if output.endswith(".csv"):
        names = flat.classes(found.rows()) if top_k is None else []
        storage.write(location, lambda sink: flat.write_csv(sink, found.rows(), names, top_k))
    else:
        tables = found.rows() if top_k is None else (flat.with_top_k(rows, top_k) for rows in found.rows())
        storage.write(location, lambda sink: _write_parquet(sink, tables))


def _write_parquet(sink: Any, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(sink, first.schema) as writer:
        for rows in chain([first], tables):
            for batch in rows.to_batches():
                writer.write_batch(batch)  # of several it makes a row group


def lines(rows: pa.Table, top_k: int | None = None) -> Iterator[str]:
    """Rows for a person: path, status, prediction, probability, error; with `top_k` the most probable classes."""
    said = rows.select(["prediction", "probability"]) if top_k is None else flat.top_k(rows, top_k)
    names, columns = ["path", "status", *said.column_names], [rows["path"], rows["status"], *said.columns]
    cells = zip(*map(_aligned, names, columns), strict=True)
    for line, error in zip(cells, ["error", *rows["error"].to_pylist()], strict=True):
        yield f"{' '.join(line)}  {error or ''}".rstrip()


def _aligned(name: str, column: pa.ChunkedArray) -> list[str]:
    """A column with its title, in one width: names flush left, numbers flush right."""
    values = column.to_pylist()
    if pa.types.is_floating(column.type):
        texts = [name, *("" if value is None else f"{value:.3f}" for value in values)]
        return [text.rjust(max(11, *map(len, texts))) for text in texts]
    texts = [name, *("" if value is None else printable(value) for value in values)]
    least = {"path": 0, "status": 11}.get(name, 12)
    return [text.ljust(max(least, *map(len, texts))) for text in texts]
