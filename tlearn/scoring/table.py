"""The table of scores: its columns, and its newest rows."""

import csv
import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.classes import Classes
from tlearn.console import warn
from tlearn.errors import InputError, IntegrityError, UsageError, printable
from tlearn.scoring import flat
from tlearn.scoring.ledger import FOLDER, Ledger

COPIED = ("status", "prediction", "probability", "probabilities", "error", "width", "height", "sha256")
"""Columns that two paths with the same bytes share."""

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
    """As `read`, some rows at once, with these columns only; the others are null."""
    try:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        for batch in parquet.iter_batches(flat.NUM_ROWS, columns=list(columns)):
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


def latest(location: str) -> pa.Table:
    """The newest row of every path of a table, a folder or a single file, by its path or URI.

    Raises InputError where there is none, IntegrityError for one that is damaged.
    """
    rows = pa.concat_tables(_tables(storage.absolute(location.rstrip("/"))))
    order = pc.sort_indices(rows, [("path", "ascending"), ("scored_at", "ascending")])  # of equal ones the last is last
    paths = rows["path"].take(order).combine_chunks()
    is_newest = pa.concat_arrays([pc.not_equal(paths[:-1], paths[1:]), pa.array([True] * (len(paths) > 0), pa.bool_())])
    return rows.take(order.filter(is_newest))


def _tables(location: str) -> Iterator[pa.Table]:
    """Of every file in the ledger; without a ledger of every Parquet file in the folder, or of the file itself."""
    ledger = Ledger(location)
    if records := ledger.records():
        for stranger in ledger.strangers():
            warn(f"left out {storage.join(location, stranger)}: it is not in the ledger")
        for record in records:
            with ledger.open(record) as file:
                yield read(file, record.name)
        return
    files = [storage.join(location, name) for name in storage.names(location) if name.endswith(".parquet")]
    if not files and location.endswith(".parquet") and storage.exists(location):
        files = [location]
    if not files and location.endswith(".csv"):
        raise InputError(
            f"expected a table of scores in Parquet, got {location}: CSV is for other programs, "
            "score into NAME.parquet or DIR/ and give that"
        )
    if not files:
        raise InputError(f"expected a table of scores in {location}, found no Parquet file: run tlearn score first")
    for name in files:
        with storage.open_input(name) as file:
            yield read(file, name)


def write(rows: pa.Table, output: str, top_k: int | None = None) -> None:
    """As NAME.parquet, with `top_k` in more columns, or as NAME.csv. Raises UsageError for what is neither, and as
    `require_own_file`.
    """
    location = storage.absolute(output)
    if not output.endswith(FILES):
        raise UsageError(f"expected --output NAME.parquet or NAME.csv, got {output}")
    require_own_file(location)
    if output.endswith(".csv"):
        storage.write(location, lambda sink: flat.write_csv(sink, [rows], flat.classes(rows), top_k))
    else:
        storage.write(
            location, functools.partial(pq.write_table, rows if top_k is None else flat.with_top_k(rows, top_k))
        )


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
