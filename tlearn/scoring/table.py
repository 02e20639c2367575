"""The table of scores: its columns, and how the files of chunks become one file of it."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.classes import Classes
from tlearn.data.status import SETTLED
from tlearn.errors import InputError
from tlearn.evaluation import drift
from tlearn.scoring.plan import COPIED

_PARTS_OF_ROW_GROUP = 256

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


@dataclass(slots=True)
class Merged:
    """A file of the table, not yet visible, and what it holds."""

    sha256: str = ""
    num_rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    num_repeated: int = 0
    """Files that failed again as they did before: counted, but given no further row."""
    histograms: drift.Histograms | None = None


def part_name(number: int) -> str:
    return f"{number:06}.parquet"


def write_part(
    location: str, rows: list[dict[str, Any]], classes: Classes, histograms: drift.Histograms | None
) -> None:
    metadata = {"histograms": json.dumps(histograms)}
    table = pa.Table.from_pylist(rows, schema=schema(classes).with_metadata(metadata))
    storage.write(location, lambda sink: pq.write_table(table, sink))


def merge(
    plan: pq.ParquetFile,
    num_chunks: int,
    parts: str,
    target: Path,
    classes: Classes,
    facts: dict[str, str],
    is_repeated: Callable[[dict[str, Any]], bool],
) -> Merged:
    """Write the files of the chunks, in order, and then the copies, as one file, whole and on disk.

    `facts` are the columns model and run of the copies.
    """
    merged = Merged()
    wanted = {path for rows in _copies(plan, num_chunks) for row in rows if (path := row["same_as"])}
    originals: dict[str, dict[str, Any]] = {}

    def rows_of_parts() -> Iterator[pa.Table]:
        for start in range(0, num_chunks, _PARTS_OF_ROW_GROUP):
            tables = []
            for number in range(start, min(start + _PARTS_OF_ROW_GROUP, num_chunks)):
                table = pq.read_table(pa.BufferReader(storage.read(storage.join(parts, part_name(number))).data))
                histograms = json.loads(table.schema.metadata[b"histograms"])
                if histograms:
                    merged.histograms = drift.add(merged.histograms, histograms)
                tables.append(table.replace_schema_metadata(None))
            yield pa.concat_tables(tables)

    def rows_of_copies() -> Iterator[pa.Table]:
        for rows in _copies(plan, num_chunks):
            copies = [
                {
                    **(originals[row["same_as"]] if row["same_as"] else json.loads(row["result"])),
                    "path": row["path"],
                    "bytes": row["size"],
                    "modified": datetime.fromtimestamp(row["modified"] / 1e6, UTC),
                    "label": label_of(row["path"], classes),
                    **facts,
                    "scored_at": datetime.now(UTC),
                }
                for row in rows
            ]
            yield pa.Table.from_pylist(copies, schema=schema(classes))

    def write_to(sink: Any) -> None:
        with pq.ParquetWriter(sink, schema(classes), write_page_checksum=True) as writer:
            for source in (rows_of_parts, rows_of_copies):
                for table in source():
                    for row in table.select(["path", *COPIED]).to_pylist() if wanted else ():
                        if row["path"] in wanted:
                            originals[row["path"]] = {name: row[name] for name in COPIED}
                    merged.statuses.update(table["status"].to_pylist())
                    table = _without_repeated(table, is_repeated, merged)
                    merged.num_rows += table.num_rows
                    writer.write_table(table)

    storage.write(str(target), write_to)
    merged.sha256 = storage.sha256_file(target)
    return merged


def _copies(plan: pq.ParquetFile, num_chunks: int) -> Iterator[list[dict[str, Any]]]:
    for group in range(num_chunks, plan.num_row_groups):
        yield plan.read_row_group(group).to_pylist()


def _without_repeated(table: pa.Table, is_repeated: Callable[[dict[str, Any]], bool], merged: Merged) -> pa.Table:
    statuses = table["status"].to_pylist()
    if all(status in SETTLED for status in statuses):
        return table
    rows = table.select(["path", "status", "error"]).to_pylist()
    keep = [row["status"] in SETTLED or not is_repeated(row) for row in rows]
    merged.num_repeated += len(keep) - sum(keep)
    return table.filter(pa.array(keep))


def latest(folder: Path) -> pa.Table:
    """The newest row of every path of a table."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise InputError(f"expected a table of scores in {folder}, found no Parquet file: run tlearn score first")
    table = pa.concat_tables([pq.read_table(file) for file in files], promote_options="default")
    newest: dict[str, int] = {}
    times = table["scored_at"].to_pylist()
    for position, path in enumerate(table["path"].to_pylist()):
        if path not in newest or times[position] >= times[newest[path]]:
            newest[path] = position
    return table.take(sorted(newest.values())).sort_by("path")


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
