"""plan.parquet: what is to be done, cut into chunks. Written by the driver, read by every actor and by the merge.

A row group is a chunk, its number the chunk's id; the groups after the chunks are copies, which need no network.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.network.description import Description
from tlearn.scoring.index import BATCH_SIZE, Index, Todo
from tlearn.storage import Entry

_NAME = "plan.parquet"

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("modified", pa.int64()),
        ("same_as", pa.string()),  # path of a file of this plan that holds the same bytes
        ("result", pa.string()),  # JSON: the outcome of these bytes in an earlier run
    ]
)


@dataclass(frozen=True, slots=True)
class Facts:
    """With what a plan is carried out; one that was stopped goes on under the same facts only."""

    model: str
    """Digest."""
    input: str
    rescore: bool
    abstain_below: float | None
    number: int
    """Of the commit in a growing table; 0 for a single file."""
    cascade: str = "auto"
    unknown_rate: float = 0.01

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def agree(self, others: Mapping[str, Any]) -> bool:
        """Whether a plan has the same ones; one of an earlier version lacks those that have a default."""
        return all(others.get(name, _DEFAULTS.get(name)) == value for name, value in self.to_json().items())


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Facts)}


@dataclass(frozen=True, slots=True)
class Run:
    """A plan that is carried out: a folder with plan.parquet, one part a chunk and, at the end, the merged file."""

    id: str
    """Digest of the plan."""
    folder: str
    model: Description
    input: str
    """Folder of the listed files."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A file whose bytes have an outcome: that of `same_as`, a path of this plan, or `result`, of an earlier run."""

    entry: Entry
    same_as: str | None
    result: str | None
    """JSON of table.COPIED."""


class Plan:
    """A plan.parquet that is open for reading."""

    def __init__(self, file: Any):
        self._parquet = pq.ParquetFile(file, page_checksum_verification=True)

    @property
    def facts(self) -> dict[str, Any]:
        """What `Facts.to_json` gave, and num_chunks."""
        facts: dict[str, Any] = json.loads(self._parquet.metadata.metadata[b"tlearn"])
        return facts

    @property
    def num_chunks(self) -> int:
        return int(self.facts["num_chunks"])

    @property
    def num_rows(self) -> int:
        return int(self._parquet.metadata.num_rows)

    def require_whole(self) -> None:
        """Read all of it once. Raises what Arrow, JSON and disks raise where that cannot be done."""
        num_read = sum(batch.num_rows for batch in self._parquet.iter_batches())
        if num_read != self.num_rows or self.num_chunks > self._parquet.num_row_groups:
            raise ValueError(f"{num_read} rows in {self._parquet.num_row_groups} groups")

    def num_images(self, chunk: int) -> int:
        return int(self._parquet.metadata.row_group(chunk).num_rows)

    def entries(self, chunk: int) -> list[Entry]:
        rows = self._parquet.read_row_group(chunk, ["path", "size", "modified"]).to_pylist()
        return [Entry(**row) for row in rows]

    def copies(self) -> Iterator[list[Copy]]:
        """Group by group."""
        for group in range(self.num_chunks, self._parquet.num_row_groups):
            rows = self._parquet.read_row_group(group).to_pylist()
            yield [
                Copy(Entry(row["path"], row["size"], row["modified"]), row["same_as"], row["result"]) for row in rows
            ]


def ids(work: str) -> list[str]:
    """Of the runs in a work folder."""
    return storage.folders(storage.join(work, "runs"))


def run_folder(work: str, run: str) -> str:
    return storage.join(work, "runs", run)


@contextmanager
def opened(run_folder: str) -> Iterator[Plan]:
    with storage.open_input(storage.join(run_folder, _NAME)) as file:
        yield Plan(file)


def is_whole(run_folder: str) -> bool:
    """Whether there is a plan, and not one that a power failure has emptied or cut."""
    try:
        with opened(run_folder) as plan:
            plan.require_whole()
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return False
    return True


def digest(index: Index, facts: Facts) -> str:
    """Names the run of a plan: 16 hex digits over what is to be done, and with what."""
    sha256 = hashlib.sha256(json.dumps(facts.to_json(), sort_keys=True).encode())
    for rows in index.rows("all", BATCH_SIZE):
        sha256.update(repr(rows).encode())
    return sha256.hexdigest()[:16]


def write(index: Index, run_folder: str, facts: Facts, chunk_size: int) -> None:
    """Write what `Plan` reads: the chunks, then the copies; metadata: the facts, the number of chunks."""

    def write_to(sink: Any) -> None:
        num_chunks = 0
        with pq.ParquetWriter(sink, SCHEMA, write_page_checksum=True) as writer:
            for rows in index.rows("computed", chunk_size):
                writer.write_table(_table(rows))
                num_chunks += 1
            for rows in index.rows("copied", BATCH_SIZE):
                writer.write_table(_table(rows))
            writer.add_key_value_metadata({"tlearn": json.dumps({**facts.to_json(), "num_chunks": num_chunks})})

    storage.write(storage.join(run_folder, _NAME), write_to)


def _table(rows: list[Todo]) -> pa.Table:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.table(arrays, schema=SCHEMA)
