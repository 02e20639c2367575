"""The table of scores: its columns, and its newest rows."""

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
from tlearn.scoring.ledger import FOLDER, Ledger

COPIED = (
    "status", "prediction", "probability", "probabilities", "novelty", "stage", "error", "width", "height", "sha256",
)  # fmt: skip
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
    """As `read`, some rows at once, with these columns only; the others are null."""
    try:
        for batch in pq.ParquetFile(file, page_checksum_verification=True).iter_batches(columns=list(columns)):
            yield current(pa.Table.from_batches([batch]))
    except (pa.ArrowException, OSError) as error:
        raise damaged(location, error) from error


def is_replaceable(location: str) -> bool:
    """Whether a file is a table of scores, or what is left of a damaged one; not somebody's other Parquet file."""
    try:
        with storage.open_input(location) as file:
            return set(pq.read_schema(file).names) >= _NEEDED
    except pa.ArrowException:
        return True


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
    newest: dict[str, int] = {}
    times = rows["scored_at"].cast(pa.int64()).to_pylist()
    for position, path in enumerate(rows["path"].to_pylist()):
        if path not in newest or times[position] >= times[newest[path]]:
            newest[path] = position
    return rows.take(sorted(newest.values())).sort_by("path")


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
    if not files:
        raise InputError(f"expected a table of scores in {location}, found no Parquet file: run tlearn score first")
    for name in files:
        with storage.open_input(name) as file:
            yield read(file, name)


def write(rows: pa.Table, output: str) -> None:
    """Raises UsageError for a name that does not end in .parquet, and for one inside a table that grows."""
    location = storage.absolute(output)
    if not output.endswith(".parquet") or FOLDER in storage.folders(location.rpartition("/")[0]):
        raise UsageError(f"expected --output NAME.parquet outside of a table that grows, got {output}")
    storage.write(location, lambda sink: pq.write_table(rows, sink))


def lines(rows: pa.Table) -> Iterator[str]:
    """Rows for a person: path, status, prediction, probability, error."""
    shown = rows.select(["path", "status", "prediction", "probability", "error"]).to_pylist()
    paths = [printable(row["path"]) for row in shown]
    width = max(map(len, paths), default=4)
    yield f"{'path':<{width}} {'status':<11} {'prediction':<12} {'probability':>11}  error"
    for path, row in zip(paths, shown, strict=True):
        probability = "" if row["probability"] is None else f"{row['probability']:.3f}"
        prediction = printable(row["prediction"]) if row["prediction"] is not None else ""
        text = f"{path:<{width}} {row['status']:<11} {prediction:<12} {probability:>11}"
        yield f"{text}  {row['error'] or ''}".rstrip()
