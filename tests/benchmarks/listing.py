"""Time and memory of a nightly run over a large folder: python tests/benchmarks/listing.py 10000 100000 1000000

Tiny files, all of one size, which is the worst case: every one has to be read to tell whether its bytes are known. The
network is replaced by a constant, so what is measured is listing, planning, merging, committing: all that grows with
the folder. Every run is a process of its own.
"""

import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tlearn.classes import Classes
from tlearn.config import HeadConfig, PreprocessConfig, ScoreConfig
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Draft, to_json
from tlearn.scoring import job as scoring
from tlearn.scoring import parts, plan
from tlearn.scoring.plan import Run
from tlearn.scoring.table import Row
from tlearn.storage import Entry


def save_model(folder: Path) -> None:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"none")
    draft = Draft(
        classes=Classes(("cat", "dog")),
        frozen_blocks=5,
        preprocess=PreprocessConfig(),
        head=HeadConfig(),
        arithmetic=Arithmetic(),
        training={},
        metrics={},
        reference={},
    )
    content = to_json(draft, hashlib.sha256(b"none").hexdigest())
    (folder / "model.json").write_text(json.dumps(content))


def fill(folder: Path, first: int, count: int) -> None:
    """Files of 9 bytes, each with bytes of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number:09}.jpg").write_bytes(b"%09d" % number)


def constant_row(entry: Entry, model: str, run: str) -> Row:
    """It says the same of every file."""
    return Row(
        path=entry.path,
        status="scored",
        prediction="cat",
        probability=1.0,
        probabilities={"cat": 1.0, "dog": 0.0},
        bytes=entry.size,
        modified=entry.modified,
        sha256=hashlib.sha256(entry.path.encode()).hexdigest(),
        model=model,
        run=run,
        scored_at=datetime.now(UTC),
    )


def compute(config: ScoreConfig, run: Run, missing: list[int], num_images: int) -> float:
    """In the time that it takes to write the rows."""
    with plan.opened(run.folder) as planned:
        for number in missing:
            rows = [constant_row(entry, run.model.digest, run.id) for entry in planned.entries(number)]
            parts.write(f"{run.folder}/{parts.name(number)}", rows, None)
    return 0.0


def one_run(root: str) -> None:
    """In a process of its own: score, print seconds, peak memory in MB, counts."""
    scoring._compute = compute
    scoring._start_ray = lambda: None
    config = ScoreConfig(
        model=f"{root}/model", input=f"{root}/input", output=f"{root}/table/", cache=f"{root}/cache", quiet=True
    )
    started = time.monotonic()
    scored = scoring.score(config)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "megabytes": megabytes, "added": scored.added}))


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
    if sys.argv[1] == "--one":
        one_run(sys.argv[2])
    else:
        main([int(size) for size in sys.argv[1:]])
