"""plan.parquet: what is to be done, cut into chunks. Written by the driver, read by every actor and by the merge.

A row group holds some chunks, which are numbered through; the groups after the chunks are copies, which need no
network.
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
from tlearn.scoring.waves import SCHEMA, Wave
from tlearn.storage import Entry

_NAME = "plan.parquet"

_ROWS_OF_GROUP = 4096
"""About so many: a group of few rows costs more than its rows, and one of many is read whole for each of its chunks."""


@dataclass(frozen=True, slots=True)
class Facts:
    """With what a plan is carried out; one that was stopped goes on under the same facts only."""

    model: str
    """Digest."""
    input: str
    rescore: bool
    abstain_below: float | None
    number: int
    """Of the commit in a growing table. In a single file: of its runs, from 0."""
    cascade: str = "auto"
    unknown_rate: float = 0.01
    after: str | None = None
    """The run of the commit before: with another one there, the plan is void."""
    is_last: bool = True
    """Whether the listing ended with it."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def agree(self, others: Mapping[str, Any]) -> bool:
        """Whether a plan has the same ones; one of an earlier version lacks some that have a default."""
        asked = {name: value for name, value in self.to_json().items() if name not in ("after", "is_last")}
        is_same = all(others.get(name, _DEFAULTS.get(name)) == value for name, value in asked.items())
        return is_same and others.get("after", self.after) == self.after


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
    number: int = 0
    """As in Facts."""
    is_last: bool = True


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
        kept = self._parquet.metadata.metadata or {}
        self.facts: dict[str, Any] = json.loads(kept.get(b"tlearn", b"{}"))
        """What `Facts.to_json` gave, num_chunks, chunk_size and chunks_per_group."""
        self._chunks_per_group: int = self.facts.get("chunks_per_group", 1)  # as in an earlier version

    @property
    def num_chunks(self) -> int:
        return int(self.facts["num_chunks"])

    @property
    def num_rows(self) -> int:
        return int(self._parquet.metadata.num_rows)

    def require_whole(self) -> None:
        """Read all of it once. Raises what Arrow, JSON and disks raise where that cannot be done."""
        num_read = sum(batch.num_rows for batch in self._parquet.iter_batches())
        if num_read != self.num_rows or self._first_copies > self._parquet.num_row_groups:
            raise ValueError(f"{num_read} rows in {self._parquet.num_row_groups} groups")

    def num_images(self, chunk: int) -> int:
        return self._place(chunk)[2]

    def entries(self, chunk: int) -> list[Entry]:
        group, start, num_rows = self._place(chunk)
        rows = self._parquet.read_row_group(group, ["path", "size", "modified"])
        return [Entry(**row) for row in rows.slice(start, num_rows).to_pylist()]

    def _place(self, chunk: int) -> tuple[int, int, int]:
        """Row group, first row in it, number of rows."""
        group, number = divmod(chunk, self._chunks_per_group)
        num_rows = self._parquet.metadata.row_group(group).num_rows
        size = self.facts.get("chunk_size", num_rows)
        return group, number * size, min(size, num_rows - number * size)

    @property
    def _first_copies(self) -> int:
        """The row group with which the copies begin."""
        return -(-self.num_chunks // self._chunks_per_group)

    def copies(self) -> Iterator[list[Copy]]:
        """Group by group."""
        for group in range(self._first_copies, self._parquet.num_row_groups):
            rows = self._parquet.read_row_group(group).to_pylist()
            yield [
                Copy(Entry(row["path"], row["size"], row["modified"]), row["same_as"], row["result"]) for row in rows
            ]


@contextmanager
def opened(run_folder: str) -> Iterator[Plan]:
    with storage.open_input(storage.join(run_folder, _NAME)) as file:
        yield Plan(file)


def facts(run_folder: str) -> dict[str, Any] | None:
    """Of the plan in a folder, if there is a whole one."""
    if not is_whole(run_folder):
        return None
    with opened(run_folder) as plan:
        return plan.facts


def is_whole(run_folder: str) -> bool:
    """Whether there is a plan, and not one that a power failure has emptied or cut."""
    try:
        with opened(run_folder) as plan:
            plan.require_whole()
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return False
    return True


def digest(wave: Wave, facts: Facts) -> str:
    """Names the run of a plan: 16 hex digits over what is to be done, and with what."""
    sha256 = hashlib.sha256(json.dumps(facts.to_json(), sort_keys=True).encode())
    for rows in wave.rows("all", _ROWS_OF_GROUP):
        # In one piece: the buffers of equal rows are equal then.
        sha256.update(rows.combine_chunks().to_batches()[0].serialize())
    return sha256.hexdigest()[:16]


def write(wave: Wave, run_folder: str, facts: Facts, chunk_size: int) -> None:
    """Write what `Plan` reads: the chunks, then the copies; metadata: `Plan.facts`."""
    chunks_per_group = max(1, _ROWS_OF_GROUP // chunk_size)
    layout = {
        "num_chunks": -(-wave.counts.compute // chunk_size),
        "chunk_size": chunk_size,
        "chunks_per_group": chunks_per_group,
    }

    def write_to(sink: Any) -> None:
        # Paths and results are hardly ever twice.
        with pq.ParquetWriter(sink, SCHEMA, use_dictionary=False, write_page_checksum=True) as writer:
            for rows in wave.rows("computed", chunks_per_group * chunk_size):
                writer.write_table(rows)
            for rows in wave.rows("copied", _ROWS_OF_GROUP):
                writer.write_table(rows)
            writer.add_key_value_metadata({"tlearn": json.dumps({**facts.to_json(), **layout})})

    storage.write(storage.join(run_folder, _NAME), write_to)
