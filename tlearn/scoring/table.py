"""The table of scores: its columns, and its newest rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.classes import Classes
from tlearn.errors import InputError

COPIED = ("status", "prediction", "probability", "probabilities", "error", "width", "height", "sha256")
"""Columns that two paths with the same bytes share."""

LATEST = """
select * from read_parquet('{folder}/*.parquet')
qualify row_number() over (partition by path order by scored_at desc) = 1
""".strip()
"""The newest row of every path, for DuckDB; `latest` is the same."""


def schema(classes: Classes) -> pa.Schema:
    return pa.schema(
        [
            ("path", pa.string()),
            ("status", pa.string()),
            ("prediction", pa.string()),
            ("probability", pa.float32()),
            ("probabilities", pa.struct([(name, pa.float32()) for name in classes.names])),
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


def label_of(path: str, classes: Classes) -> str | None:
    """The innermost folder that is named as a class."""
    return next((part for part in reversed(path.split("/")[:-1]) if part in classes.names), None)


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


def of_rows(rows: Sequence[Row], classes: Classes) -> pa.Table:
    columns = schema(classes)
    arrays = [pa.array([getattr(row, column.name) for row in rows], column.type) for column in columns]
    return pa.table(arrays, schema=columns)


def latest(location: str) -> pa.Table:
    """The newest row of every path of a table, a folder or a single file, by its path or URI."""
    location = storage.absolute(location.rstrip("/"))
    files = [location] if location.endswith(".parquet") and storage.exists(location) else []
    files = files or [storage.join(location, name) for name in storage.names(location) if name.endswith(".parquet")]
    if not files:
        raise InputError(f"expected a table of scores in {location}, found no Parquet file: run tlearn score first")
    table = pa.concat_tables([_read(file) for file in files], promote_options="default")
    newest: dict[str, int] = {}
    times = table["scored_at"].to_pylist()
    for position, path in enumerate(table["path"].to_pylist()):
        if path not in newest or times[position] >= times[newest[path]]:
            newest[path] = position
    return table.take(sorted(newest.values())).sort_by("path")


def _read(location: str) -> pa.Table:
    with storage.open_input(location) as file:
        return pq.read_table(file)


def write(rows: pa.Table, output: str) -> None:
    storage.write(storage.absolute(output), lambda sink: pq.write_table(rows, sink))


def lines(rows: pa.Table) -> Iterator[str]:
    """Rows for a person: path, status, prediction, probability, error."""
    width = max([len(path) for path in rows["path"].to_pylist()], default=4)
    yield f"{'path':<{width}} {'status':<11} {'prediction':<12} {'probability':>11}  error"
    for row in rows.to_pylist():
        probability = "" if row["probability"] is None else f"{row['probability']:.3f}"
        text = f"{row['path']:<{width}} {row['status']:<11} {row['prediction'] or '':<12} {probability:>11}"
        yield f"{text}  {row['error'] or ''}".rstrip()
