"""A random process of a job killed at a random moment: python tests/benchmarks/kills.py 30 --job score --seed 1

Each time the command is to end with a code of ours and one line, to leave no process after 30 seconds, and to come
to its end when it is given again: a table with each picture once, or a model. With --signal STOP the process stands
still instead. Prints a line of JSON a kill; ends with 1 where one of them was not as it should be.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.dataset
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))
from support import PreprocessConfig, save_model

ALLOWED = {0, 5, 7, 130, 143, -signal.SIGKILL}
NUM_PICTURES = 300
END_SECONDS, LEFT_SECONDS = 200.0, 30.0
SMALL = ["--arch", "vgg_tiny", "--weights", "none", "--precision", "fp32", "--optim.num-epochs", "30"]
SMALL += ["--preprocess.image-size", "32", "--preprocess.short-side", "32"]


@dataclass(frozen=True)
class Kill:
    """What became of one."""

    seconds: float
    """After the start of the command."""
    victim: str
    code: int | None
    """None: it did not end."""
    lines: list[str]
    """Of stderr, but for progress."""
    left: list[str]
    """Processes, 30 seconds after the end."""
    then: int
    """The exit code of the same command afterwards."""
    is_whole: bool

    @property
    def is_right(self) -> bool:
        says = len(self.lines) <= (0 if self.code in (0, -signal.SIGKILL) else 1)
        return self.code in ALLOWED and says and not self.left and self.then == 0 and self.is_whole


def draw(folder: Path, num_pictures: int) -> None:
    folder.mkdir(parents=True)
    random_pixels = np.random.default_rng(len(str(folder)))
    for number in range(num_pictures):
        Image.fromarray(random_pixels.integers(0, 255, (48, 64, 3), np.uint8)).save(folder / f"{number:04}.png")


class Job:
    """A command on pictures of its own."""

    def __init__(self, root: Path, kind: str, workers: int = 1):
        self.root, self.kind, self.workers = root, kind, workers
        if kind == "score":
            draw(root / "in", NUM_PICTURES)
            save_model(root / "model", PreprocessConfig(image_size=32, short_side=32))
        else:
            for split, number in (("train", 20), ("val", 8)):
                for label in ("cat", "dog"):
                    draw(root / "data" / split / label, number)

    def command(self, number: int, cache: str | None = None) -> list[str]:
        cache = cache or f"{self.root}/cache-{number}"
        words = ["--output", f"{self.root}/{number}/", "--cache", cache, "--quiet", "--workers", str(self.workers)]
        if self.kind == "score":
            words += ["--model", f"{self.root}/model", "--input", f"{self.root}/in"]
        else:
            words += ["--data", f"{self.root}/data", *SMALL]
        return [sys.executable, "-m", "tlearn", self.kind, *words]

    def is_whole(self, number: int) -> bool:
        output = self.root / str(number)
        if self.kind == "train":
            return (output / "model" / "model.json").exists()
        parts = [str(path) for path in output.glob("*.parquet")]
        paths = pyarrow.dataset.dataset(parts).to_table(columns=["path"])["path"].to_pylist()
        return sorted(paths) == sorted(path.name for path in (self.root / "in").iterdir())


def processes(mark: str) -> Iterator[tuple[int, str]]:
    """Those that were started under a command with this mark, but for remains."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield int(folder.name), name.strip()


def short(name: str) -> str:
    return name if name.startswith("ray::") else " ".join(word.rpartition("/")[2] for word in name.split()[:3])


def kill_once(job: Job, number: int, seconds: float, chance: random.Random, what: signal.Signals) -> Kill:
    mark = uuid.uuid4().hex
    environment = {**os.environ, "TLEARN_KILLS": mark, "RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
    started = subprocess.Popen(
        job.command(number), env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    time.sleep(seconds)
    victim, code, lines = "none: it had ended", None, []
    running = sorted(processes(mark))
    if running:
        process, victim = chance.choice(running)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, what)
    try:
        _, said = started.communicate(timeout=END_SECONDS)
        code, lines = started.returncode, [line for line in said.splitlines() if "WARNING" not in line]
    except subprocess.TimeoutExpired:
        pass
    deadline = time.monotonic() + LEFT_SECONDS
    while (left := [name for _, name in processes(mark)]) and time.monotonic() < deadline:
        time.sleep(0.5)
    for process, _ in processes(mark):
        os.kill(process, signal.SIGKILL)
    then = subprocess.run(job.command(number), env=environment, stdout=subprocess.DEVNULL).returncode
    return Kill(round(seconds, 1), short(victim), code, lines, left, then, job.is_whole(number))


def kills(job: Job, count: int, seed: int, what: signal.Signals = signal.SIGKILL) -> Iterator[Kill]:
    chance = random.Random(seed)
    began = time.monotonic()
    subprocess.run(job.command(0), env={**os.environ, "RAY_ADDRESS": "local"}, check=True, stdout=subprocess.DEVNULL)
    whole_seconds = time.monotonic() - began
    for number in range(1, count + 1):
        yield kill_once(job, number, chance.uniform(0.5, whole_seconds), chance, what)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--job", choices=["score", "train"], default="score")
    parser.add_argument("--workers", type=int, default=1, help="1 is a child of the command, more are Ray's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=["KILL", "STOP"], default="KILL")
    words = parser.parse_args()
    num_wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        what = signal.Signals[f"SIG{words.signal}"]
        for kill in kills(Job(Path(folder), words.job, words.workers), words.count, words.seed, what):
            num_wrong += not kill.is_right
            print(json.dumps({"right": kill.is_right, **asdict(kill)}), flush=True)
    print(f"{num_wrong} of {words.count} were not as they should be")
    return int(num_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
