"""More workers than this machine has: python tests/benchmarks/scale.py 1 4 16 64

The real driver, planner, actor pool, parts, merge and ledger on a real Ray; only the decoding and the network are
replaced, by a sleep as long as they would take. The actors hold no CPU of the cluster, so that 64 of them fit on two
cores, which they share with the driver: what is measured is what the rest costs. Tiny files, made for it.

efficiency    the seconds that the workers slept at least, divided by the seconds from the first chunk to the last
whole         the same, divided by the seconds of the whole command: listing, start, merge and commit too
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from constant import constant_row

from tlearn.config import ScoreConfig
from tlearn.distributed.chunks import Chunk, ChunkResult
from tlearn.distributed.nodes import Nodes, Pool, Threads
from tlearn.scoring import parts, plan
from tlearn.scoring.task import Task


class Sleeper:
    """A scoring actor that reads its part of the plan, sleeps, and writes its rows."""

    def __init__(self, rate_and_task: tuple[float, Task], threads: Threads):
        self.rate, self.task = rate_and_task

    def __call__(self, chunk: Chunk) -> ChunkResult:
        started = time.monotonic()
        folder, number = self.task.place(chunk.id)
        with plan.opened(folder) as planned:
            entries = planned.entries(number)
        rows = [constant_row(entry, self.task.model_digest) for entry in entries]
        # An actor decodes ahead and writes while the next chunk computes; its own work here is part of the time.
        time.sleep(max(len(entries) / self.rate - (time.monotonic() - started), 0))
        parts.write(f"{folder}/{parts.name(number)}", rows, {})
        return ChunkResult(chunk.id, len(entries), 0)


def one_run(root: str, num_workers: int, rate: float) -> None:
    """In a process of its own."""
    from tlearn.distributed import pool
    from tlearn.scoring import compute
    from tlearn.scoring import job as scoring

    os.environ["RAY_ADDRESS"] = "local"
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    times: list[float] = []
    run = pool.run

    def watched(chunks: Any, kind: Any, task: Task, actors: Pool) -> Any:
        for result in run(chunks, kind, (rate, task), actors):
            times.append(time.monotonic())
            yield result

    pool.run = watched
    Nodes.pool = lambda nodes, workers, num_chunks, decode: Pool(num_workers, 0, 0)
    compute.SCORER = "scale:Sleeper"
    config = ScoreConfig(
        model=f"{root}/model", input=f"{root}/input", output=f"{root}/table/", cache=f"{root}/cache", quiet=True
    )
    started = time.monotonic()
    scored = scoring.score(config)
    seconds = time.monotonic() - started
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # The first result of every worker is its start; what comes after is steady.
    steady = times[num_workers - 1 :]
    num_steady = scored.added * (len(steady) - 1) / len(times)
    print(
        json.dumps(
            {
                "added": scored.added,
                "efficiency": num_steady / rate / num_workers / (steady[-1] - steady[0]),
                "whole": scored.added / rate / num_workers / seconds,
                "seconds": seconds,
                "cpu": usage.ru_utime + usage.ru_stime,
                "megabytes": usage.ru_maxrss / 1024,
                "chunk_milliseconds": 1000 * ((steady[-1] - steady[0]) / (len(steady) - 1)),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workers", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--rate", type=float, default=28.0, help="images a second of one worker: a core, in int8")
    parser.add_argument("--images-per-worker", type=int, default=2000)
    parser.add_argument("--one", nargs=3)
    arguments = parser.parse_args()
    if arguments.one:
        one_run(arguments.one[0], int(arguments.one[1]), float(arguments.one[2]))
        return
    print(
        f"{'workers':>8}{'images':>11}{'efficiency':>12}{'whole':>8}{'seconds':>9}{'driver CPU':>12}{'driver MB':>11}"
    )
    sys.path.append(str(Path(__file__).parents[1]))
    from instant import save_model
    from listing import fill

    for num_workers in arguments.workers:
        root = Path(tempfile.mkdtemp())
        save_model(root / "model")
        fill(root / "input", 0, num_workers * arguments.images_per_worker)
        command = [sys.executable, __file__, "--one", str(root), str(num_workers), str(arguments.rate)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        one = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
        print(
            f"{num_workers:>8}{one['added']:>11,}{one['efficiency']:>12.3f}{one['whole']:>8.3f}{one['seconds']:>9.1f}"
            f"{one['cpu']:>12.1f}{one['megabytes']:>11.0f}",
            flush=True,
        )
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
