"""Time and memory of a nightly run over a large folder.

    python tests/benchmarks/listing.py 10000 100000 1000000
    python tests/benchmarks/listing.py --lists 1000000 10000000 100000000
    python tests/benchmarks/listing.py --shares 10 100000

Folders: tiny files, all of one size, which is the worst case: every one has to be read to tell whether its bytes are
known. The network is replaced by a constant, so what is measured is listing, planning, merging, committing: all that
grows with the folder.

Lists: planning alone, of a Parquet file with paths of 84 bytes, sizes of 36 to 442 kB, times and e-tags. One file in a
thousand is a copy of another, and these two are read; reading is replaced. Plans are written, and removed. What is
taken in are files of 262,144 rows, as the largest waves make them.

Shares: so many lists of so many files, split and planned by shares, by two processes at once, beside one of each.

Every run is a process of its own.
"""

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from constant import constant_row

sys.path.append(str(Path(__file__).parents[1]))
from instant import save_model

from tlearn.config import ScoreConfig
from tlearn.distributed.chunks import ChunkResult, chunk_size
from tlearn.scoring import compute, index, partitions, parts, plan, planning, table, waves
from tlearn.scoring import job as scoring
from tlearn.scoring.inputs import Input
from tlearn.scoring.output import GrowingTable
from tlearn.scoring.partitions import Partitions
from tlearn.scoring.plan import Facts
from tlearn.scoring.planning import Places
from tlearn.scoring.stream import Stream


def fill(folder: Path, first: int, count: int) -> None:
    """Files of 9 bytes, each with bytes of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number:09}.jpg").write_bytes(b"%09d" % number)


def chunks(places: Places, stream: Stream) -> Iterator[tuple[ChunkResult, float]]:
    """In the time that it takes to write the rows."""
    for chunk in filter(None, stream.chunks()):
        run, _, number = chunk.id.rpartition("/")
        folder = f"{places.runs}/{run}"
        with plan.opened(folder) as planned:
            rows = [constant_row(entry, places.model.digest) for entry in planned.entries(int(number))]
        parts.write(f"{folder}/{parts.name(int(number))}", rows, {})
        yield ChunkResult(chunk.id, len(rows), 0), 0.0


def one_run(root: str) -> None:
    """In a process of its own: score, print seconds, peak memory in MB, counts."""
    compute.chunks = chunks
    planning.start_ray = lambda: None
    config = ScoreConfig(
        model=f"{root}/model", input=f"{root}/input", output=f"{root}/table/", cache=f"{root}/cache", quiet=True
    )
    started = time.monotonic()
    scored = scoring.score(config)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "megabytes": megabytes, "added": scored.added}))


LIST = """
copy (
    select printf('archive/2026/site-%03d/camera-%04d/%s/frame-%09d.jpg', i // 10000000, i // 10000 % 1000,
                  md5(i::varchar), i) as path,
           exp(10.5 + 2.5 * (hash(original) % 1000003) / 1000003.0)::bigint as size,
           1700000000000000 + (hash(i) % 31536000)::bigint * 1000000 as modified,
           md5(original::varchar) as etag
    from (select i, if(i % 1000 = 999, i - 1, i) as original from range({count}) as numbers (i))
) to '{file}' (format parquet, row_group_size 122880, compression zstd)
"""


def listed(file: Path, size: int = 65536) -> Iterator[pa.Table]:
    for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(size):
        yield pa.Table.from_batches([batch])


def scored(files: pa.Table) -> pa.Table:
    """The rows of a table for these files, with two classes."""
    size = files.num_rows
    probabilities = np.random.default_rng(0).random(2 * size, np.float32)
    columns = {field.name: pa.nulls(size, field.type) for field in table.SCHEMA} | {
        "path": files["path"],
        "bytes": files["size"],
        "modified": files["modified"].cast(pa.timestamp("us", "UTC")),
        "sha256": pc.binary_join_element_wise(files["etag"], files["etag"], ""),
        "probability": pa.array(probabilities[:size]),
        "novelty": pa.array(probabilities[size:]),
        "probabilities": pa.MapArray.from_arrays(
            np.arange(size + 1, dtype=np.int32) * 2, pa.array(["cat", "dog"] * size), probabilities
        ),
    }
    same = {"status": "scored", "prediction": "cat", "model": "0" * 64, "stage": 240, "width": 640, "height": 480}
    columns |= {name: pa.repeat(value, size).cast(table.SCHEMA.field(name).type) for name, value in same.items()}
    return pa.table(columns, schema=table.SCHEMA)


def constant_sha256(planning: object, path: str, size: int, modified: int) -> bytes:
    return hashlib.sha256(str(size).encode()).digest()


def one_list(root: Path, what: str) -> None:
    """In a process of its own: plan a list, or take in its rows; print seconds, peak memory in MB, counts."""
    waves._Planning._sha256 = constant_sha256
    started, added = time.monotonic(), 0
    with index.opened(root / f"{what == 'first'}.duckdb") as known:
        if what == "taken in":
            for number, files in enumerate(listed(root / "list.parquet", waves.MOST)):
                known.ingest(f"scores-{number:06}.parquet", "", [scored(files)])
        else:
            facts = Facts("0" * 64, "input", rescore=False, abstain_below=None, number=1)
            scope = waves.Scope("input", "0" * 64, 2**26, rescore=False)
            for wave in waves.waves(known, listed(root / "list.parquet"), scope, waves.sizes()):
                added += wave.table.num_rows
                if wave.table.num_rows:
                    plan.digest(wave, facts)
                    plan.write(wave, str(root / "run"), facts, chunk_size(wave.counts.compute))
    seconds = time.monotonic() - started
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"added": added, "seconds": seconds, "cpu": time.process_time(), "megabytes": megabytes}))


def lists(sizes: list[int]) -> None:
    print(f"{'files':>11}  {'run':<12} {'added':>11} {'seconds':>8} {'processor seconds':>18} {'MB':>6}")
    for size in sizes:
        root = Path(tempfile.mkdtemp())
        duckdb.sql(LIST.format(count=size, file=root / "list.parquet"))
        for what in ("first", "taken in", "nothing new"):
            command = [sys.executable, __file__, "--one-list", str(root), what]
            result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            measured = f"{result['added']:>11,} {result['seconds']:>8.1f} {result['cpu']:>18.1f} "
            print(f"{size:>11,}  {what:<12} {measured}{result['megabytes']:>6.0f}", flush=True)
        shutil.rmtree(root)


def shares(num_shares: int, size: int) -> None:
    print(f"{'shares':>6} {'files':>11} {'seconds':>8}")
    for number in (1, num_shares):
        root = Path(tempfile.mkdtemp())
        files = [root / f"{part}.parquet" for part in range(number)]
        for file in files:
            duckdb.sql(LIST.format(count=size, file=file).replace("'archive/", f"'{file.stem}/"))
        scope = waves.Scope("input", "0" * 64, 2**26, rescore=False)
        (root / "input").mkdir()
        parts = Input.of(f"{root}/input", [*map(str, files)]).parts
        found = Partitions(parts, GrowingTable(f"{root}/table"), f"{root}/cache", scope)
        started = time.monotonic()
        with ProcessPoolExecutor(2) as processes:
            list(processes.map(partitions.split, [(found, part) for part in range(number)]))
            planned = list(processes.map(share, [(found, part) for part in range(number)]))
        print(f"{number:>6} {sum(planned):>11,} {time.monotonic() - started:>8.1f}", flush=True)
        shutil.rmtree(root)


def share(given: tuple[Partitions, int]) -> int:
    waves._Planning._sha256 = constant_sha256
    return sum(wave.counts.listed for wave in partitions.plan_share(given))


def main(sizes: list[int]) -> None:
    print(f"{'files':>10}  {'run':<16} {'added':>10} {'seconds':>8} {'MB':>6}")
    for size in sizes:
        root = Path(tempfile.mkdtemp())
        save_model(root / "model")
        fill(root / "input", 0, size)
        for what in ("first", "nothing new", "100 new"):
            if what == "100 new":
                fill(root / "input", size, 100)
            command = [sys.executable, __file__, "--one", str(root)]
            result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            measured = f"{result['added']:>10,} {result['seconds']:>8.1f} {result['megabytes']:>6.0f}"
            print(f"{size:>10,}  {what:<16} {measured}", flush=True)
        shutil.rmtree(root)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", type=int)
    parser.add_argument("--lists", action="store_true")
    parser.add_argument("--shares", action="store_true")
    parser.add_argument("--one")
    parser.add_argument("--one-list", nargs=2)
    given = parser.parse_args()
    if given.one:
        one_run(given.one)
    elif given.one_list:
        one_list(Path(given.one_list[0]), given.one_list[1])
    elif given.shares:
        shares(*given.sizes)
    else:
        (lists if given.lists else main)(given.sizes)
