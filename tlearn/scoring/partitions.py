"""Planning by tasks, for inputs that outgrow one process: several folders or lists, on a cluster.

Each is listed by a task, which splits it by the digest of the paths; each share of the paths is planned by a task, with
an index of its own, on the disk of the node that plans it. Of the same bytes in two shares both are computed.
"""

import functools
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.data.names import Ignored
from tlearn.scoring import columns, index, waves
from tlearn.scoring.index import Share
from tlearn.scoring.inputs import Input
from tlearn.scoring.output import GrowingTable
from tlearn.scoring.waves import Counts, Scope, Wave

MOST_SHARES = 64
_MAX_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Partitions:
    """What is planned, and where."""

    inputs: tuple[Input, ...]
    """Each of which is listed by itself."""
    output: GrowingTable
    cache: str
    """Local folder, on each node."""
    scope: Scope

    @property
    def count(self) -> int:
        """Of the shares."""
        return min(len(self.inputs), MOST_SHARES)

    @property
    def folder(self) -> str:
        """Of what the inputs are split into: `share-000/000000.parquet` is the first share of the first one."""
        return storage.join(self.output.work, "shares")

    def share(self, number: int) -> str:
        return storage.join(self.folder, f"share-{number:03}")


@dataclass(frozen=True, slots=True)
class Found:
    """A wave of a share, in a file."""

    location: str
    counts: Counts


def by_tasks(partitions: Partitions, ignored: Ignored) -> Iterator[Wave]:
    """The waves of all shares, and one without a file at the end. What is no picture by name goes to `ignored`.

    All is planned before the first one is given: actors, which come then, leave no room for tasks.
    """
    from tlearn.distributed import tasks

    try:
        splits = {number: (partitions, number) for number in range(len(partitions.inputs))}
        for _, left_out in tasks.run(split, splits, 1, 0, _MAX_FAILURES):
            ignored.take(left_out)
        shares = {number: (partitions, number) for number in range(partitions.count)}
        planned = dict(tasks.run(plan_share, shares, 1, 0, _MAX_FAILURES))
        rest = Counts()
        for number in sorted(planned):
            for found in planned[number]:
                with storage.open_input(found.location) as file:
                    table = pq.read_table(file)
                if table.num_rows:
                    yield Wave(table, found.counts, is_last=False)
                else:
                    rest += found.counts
        yield Wave(waves.SCHEMA.empty_table(), rest, is_last=True)
    finally:
        storage.remove_folder(partitions.folder)


def split(given: tuple[Partitions, int]) -> Ignored:
    """List one of the inputs, and write its shares."""
    partitions, number = given
    ignored = Ignored()
    with tempfile.TemporaryDirectory() as folder:
        batches = (batch for table in partitions.inputs[number].batches(ignored) for batch in table.to_batches())
        with index.connect(":memory:", threads=1, temp_directory=folder) as database:
            database.register("listed", pa.RecordBatchReader.from_batches(columns.SCHEMA, batches))
            database.execute(
                f"copy (select *, md5_number(path) % {partitions.count} as share from listed) to '{folder}/shares' "
                "(format parquet, partition_by share)"
            )
        for share in range(partitions.count):
            for part in sorted(Path(folder, "shares", f"share={share}").glob("*.parquet")):
                with part.open("rb") as source:
                    target = storage.join(partitions.share(share), f"{number:06}-{part.stem}.parquet")
                    storage.write(target, functools.partial(shutil.copyfileobj, source))
    return ignored


def plan_share(given: tuple[Partitions, int]) -> list[Found]:
    """Write the waves of one share."""
    partitions, number = given
    found: list[Found] = []
    whole = partitions.output.index(partitions.cache)
    path = whole.with_name(f"{whole.stem}-{number:03}-of-{partitions.count:03}.duckdb")
    with index.opened(path, Share(number, partitions.count)) as known:
        partitions.output.catch_up(known)
        listed = _listed(partitions.share(number))
        for wave in waves.waves(known, listed, partitions.scope, waves.sizes()):
            location = storage.join(partitions.share(number), f"wave-{len(found):06}.parquet")
            storage.write(location, functools.partial(pq.write_table, wave.table))
            found.append(Found(location, wave.counts))
    return found


def _listed(folder: str) -> Iterator[pa.Table]:
    for name in storage.names(folder):
        with storage.open_input(storage.join(folder, name)) as file:
            # By itself it keeps the bytes of all row groups in memory.
            parquet = pq.ParquetFile(file, pre_buffer=False)
            for batch in parquet.iter_batches(columns=columns.SCHEMA.names):
                yield pa.Table.from_batches([batch]).cast(columns.SCHEMA)
