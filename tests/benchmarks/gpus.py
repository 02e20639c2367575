"""What a GPU gives: python tests/benchmarks/gpus.py --model RUN/model --input DIR [--only PART ...] [--num-images N]

One line of JSON for each figure. Of the pictures of DIR copies are made, so many that a second tells nothing.

network      the convolutions alone, of pictures that are on the GPU, as we compute them and as torch does by itself
closeness    features and probabilities against those that the processor computes in fp32
decoding     reading, decoding and resizing, by so many processes of so many threads
actor        what one scoring actor of all cores does with chunk after chunk, without and with the small network; no Ray
training     `tlearn train` on drawings: seconds of an epoch; the memory and the use of the GPU as nvidia-smi sees them
scoring      `tlearn score` of the copies: images/s after the start, and in all
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from tlearn.config import BenchConfig, PreprocessConfig
from tlearn.data import listing
from tlearn.data.fetch import fetch
from tlearn.demo import bench, drawings
from tlearn.distributed.nodes import Here, Threads
from tlearn.network import frozen, model, weights
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.frozen import Frozen
from tlearn.scoring import parts
from tlearn.scoring.actor import Score
from tlearn.scoring.task import Limits, Task

Figure = dict[str, Any]

_CPUS = os.cpu_count() or 1
_BF16 = Arithmetic("torch", "bf16")
_FP32 = Arithmetic("torch", "fp32")


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured with what."""

    model: str
    weights: str
    folder: Path
    """Of copies of the pictures, of drawings, of what the commands write."""
    data: str | None
    """Folder with train/ and val/."""
    num_images: int
    batch_sizes: tuple[int, ...]
    device: str

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object], repeats: int = 7) -> float:
    """The median, after two calls that do not count."""
    seconds = []
    for _ in range(repeats + 2):
        wait()
        started = time.monotonic()
        work()
        wait()
        seconds.append(time.monotonic() - started)
    return median(seconds[2:])


def network(b: Bench) -> Iterator[Figure]:
    tensors, preprocess = weights.load(b.weights, ""), PreprocessConfig()
    if torch.cuda.is_available():
        for precision in ("bf16", "fp32"):
            yield {"matrix product, TFLOP/s": round(bench._matrix_product(precision) / 1000, 1), "in": precision}
    ways = {"ours": frozen.by_cudnn, "torch": lambda layers: layers}
    for arithmetic, by in product((_BF16, _FP32), ways):
        frozen.by_cudnn = ways[by]
        extract = Frozen(5, preprocess, arithmetic, tensors=tensors).prepare(b.device)
        for batch_size in b.batch_sizes:
            images = torch.randint(256, (batch_size, 3, 240, 240), dtype=torch.uint8, device=b.device)
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            rate = batch_size / seconds_of(lambda e=extract, i=images: e(i))
            memory = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0
            what = {"precision": arithmetic.precision, "by": by, "batch_size": batch_size}
            yield {**what, "images/s": round(rate, 1), "TFLOP/s": round(rate * 0.0353, 1), "MiB": round(memory)}


def closeness(b: Bench) -> Iterator[Figure]:
    names, preprocess = sorted(path.name for path in b.pictures.iterdir())[:96], PreprocessConfig()
    fetched = [fetch(str(b.pictures), name, preprocess).pixels for name in names]
    images = torch.stack([pixels for pixels in fetched if pixels is not None])

    def outputs(arithmetic: Arithmetic, device: str) -> tuple[torch.Tensor, ...]:
        network = model.load(b.model, arithmetic).large.prepare(device)
        batches = images.split(16)
        features = torch.cat([network.extract(batch.to(device)).float().cpu() for batch in batches])
        logits = torch.cat([network.outputs(batch.to(device))[0].cpu() for batch in batches])
        return features, torch.sigmoid(logits)

    exact = outputs(_FP32, "cpu")
    for name, arithmetic, tf32 in (("bf16", _BF16, True), ("fp32", _FP32, True), ("fp32, no TF32", _FP32, False)):
        torch.backends.cudnn.allow_tf32 = tf32
        found = outputs(arithmetic, b.device)
        yield {
            "in": name,
            "features, relative error": ((found[0] - exact[0]).norm() / exact[0].norm()).item(),
            "probabilities, largest difference": (found[1] - exact[1]).abs().max().item(),
            "predictions that differ": int(((found[1] > 0.5) != (exact[1] > 0.5)).sum().item()),
            "images": len(images),
        }
    torch.backends.cudnn.allow_tf32 = True


def decoding(b: Bench) -> Iterator[Figure]:
    names = sorted(path.name for path in b.pictures.iterdir())
    parts = [names[start : start + 32] for start in range(0, len(names), 32)]
    for num_processes in sorted({1, max(_CPUS // 4, 1), max(_CPUS // 2, 1), _CPUS}):
        for num_threads in sorted({1, max(_CPUS // num_processes, 1)}):
            work = partial(_decode, str(b.pictures), num_threads)
            taken = parts[: 8 * num_processes * num_threads]
            with ProcessPoolExecutor(num_processes, get_context("spawn")) as processes:
                list(processes.map(work, [names[:8]] * 8 * num_processes))  # they start, and load torch
                started = time.monotonic()
                num_images = sum(processes.map(work, taken))
                rate = num_images / (time.monotonic() - started)
            yield {"processes": num_processes, "threads of each": num_threads, "images/s": round(rate, 1)}


def _decode(folder: str, num_threads: int, names: list[str]) -> int:
    torch.set_num_threads(1)
    preprocess = PreprocessConfig()
    with ThreadPoolExecutor(num_threads) as threads:
        return sum(threads.map(lambda name: fetch(folder, name, preprocess).status == "ok", names))


def actor(b: Bench) -> Iterator[Figure]:
    entries = list(listing.pictures(str(b.pictures)))
    digest = model.load(b.model, _BF16).description.digest
    for chunk, cascade in product((64, 1024), (False, True)):
        score = Score(
            Task(b.model, digest, _BF16, str(b.pictures), "", str(b.folder), None, Limits(), cascade),
            Threads(_CPUS, Here(_CPUS)),
        )
        chunks = [entries[start : start + chunk] for start in range(0, len(entries), chunk)]
        score.rows(chunks[0])
        num_large, started = 0, time.monotonic()
        for number, rows_of in enumerate(chunks):
            scores = score.rows(rows_of)
            parts.write(str(b.folder / parts.name(number)), scores.rows, scores.histograms)
            num_large += sum(row.stage == 240 for row in scores.rows)
        rate = len(entries) / (time.monotonic() - started)
        yield {
            "chunk": chunk,
            "cascade": cascade,
            "at 240": round(num_large / len(entries), 3),
            "images/s": round(rate),
        }


def training(b: Bench) -> Iterator[Figure]:
    data = b.data or str(b.folder / "drawn")
    if b.data is None:
        drawings.draw_folder(Path(data), num_train=b.num_images // 5, num_val=b.num_images // 20, num_test=0, seed=0)
    at_240 = ("--preprocess.image-size", "240", "--preprocess.short-side", "264")
    for number, flags in enumerate((("frozen",), ("frozen",), ("finetune", *at_240), ("finetune",))):
        run = b.folder / f"run{number}"
        options = ["--data", data, "--output", str(run), "--weights", b.weights, "--seed", str(number // 2)]
        done = command(["train", *flags, *options, "--cache", str(b.folder / "cache"), "--quiet"])
        if not done["exit code"]:
            epochs = [json.loads(line)["seconds"] for line in (run / "metrics.jsonl").read_text().splitlines()]
            summary = json.loads((run / "summary.json").read_text())
            names = ("num_train", "val_accuracy", "val_loss", "arithmetic", "features_computed")
            done |= {name: summary[name] for name in (*names, "seconds_features", "seconds_train")}
            done["seconds of epochs"] = epochs
        yield {"train": " ".join(flags), **done}


def scoring(b: Bench) -> Iterator[Figure]:
    for number, flags in enumerate(([], ["--workers", "1"], ["--decode", "pool"])):
        options = ["--model", b.model, "--input", str(b.pictures), "--output", str(b.folder / f"table{number}/")]
        done = command(["score", *options, *flags, "--cache", str(b.folder / "cache"), "--json"])
        if not done["exit code"]:
            summary = json.loads(done["last line"])
            done |= {name: summary.get(name) for name in ("listed", "added", "images_per_second", "seconds_total")}
            done.pop("last line")
        yield {"score": " ".join(flags), **done}


def command(words: list[str]) -> Figure:
    """Exit code, seconds, what the GPU was used, and the last line."""
    samples: list[tuple[float, float]] = []
    ended = threading.Event()

    def watch() -> None:
        query = ["nvidia-smi", "--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader,nounits"]
        while not ended.wait(0.25):
            try:
                memory, use = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()[0].split(",")
                samples.append((float(memory), float(use)))
            except (OSError, IndexError, ValueError):
                return

    watching = threading.Thread(target=watch)
    watching.start()
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "tlearn", *words], capture_output=True, text=True)
    seconds = time.monotonic() - started
    ended.set()
    watching.join()
    found: Figure = {"exit code": done.returncode, "seconds": round(seconds, 1)}
    if samples:
        found |= {"MiB": max(memory for memory, _ in samples), "use": round(mean(use for _, use in samples))}
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    return found | {"last line": lines[-1][:2000] if lines else ""}


PARTS = {part.__name__: part for part in (network, closeness, decoding, actor, training, scoring)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--data", help="folder to train on; pictures are drawn unless told")
    parser.add_argument("--weights", default="imagenet", help="as in tlearn train: imagenet, none or a file")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--num-images", type=int, default=8192)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[16, 32, 64, 128, 256, 512, 1024])
    arguments = parser.parse_args()
    is_gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if is_gpu else "no GPU"
    print(json.dumps({"device": name, "CPUs": _CPUS, "torch": torch.__version__}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        measured = Bench(
            str(Path(arguments.model).absolute()),
            arguments.weights,
            Path(folder),
            arguments.data,
            arguments.num_images,
            tuple(arguments.batch_sizes),
            "cuda" if is_gpu else "cpu",
        )
        bench._fill(measured.pictures, BenchConfig(input=arguments.input, num_images=arguments.num_images))
        for part in arguments.only:
            started = time.monotonic()
            try:
                for figure in PARTS[part](measured):
                    print(json.dumps({"part": part, **figure}), flush=True)
            except Exception:  # the others are worth having
                print(json.dumps({"part": part, "error": traceback.format_exc()}), flush=True)
            print(json.dumps({"part": part, "seconds of the part": round(time.monotonic() - started, 1)}), flush=True)


if __name__ == "__main__":
    main()
