"""An epoch on cached features beside a plain torch loop, and the memory of a worker: python tests/benchmarks/epochs.py

Both loops train the same layers with the same optimiser on the same number of features of 7x7x512, the plain one from a
single memory-mapped array, ours from the cache's files, by turns. Memory is what a process of its own holds that is in
no file (RssAnon), at its highest, with features that are drawn by lot.
"""

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import torch

from tlearn.config import TrainConfig
from tlearn.evaluation.metrics import Totals, sample_losses
from tlearn.features.cache import Features, Place
from tlearn.network.trainable import Trainable
from tlearn.recipes import RECIPES
from tlearn.training import loop, optim, worker
from tlearn.training.loop import Learner
from tlearn.training.samples import Samples
from tlearn.training.streams import generator

SHAPE = (512, 7, 7)
ROWS = 64


def fill(folder: Path, count: int) -> Features:
    """The cache's files, each with 64 images."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    values = np.maximum(rng.normal(0, 1, (ROWS, *SHAPE)), 0).astype(np.float16)
    size = int(np.prod(SHAPE))
    places = []
    for number in range(0, count, ROWS):
        path = folder / f"{number:08}.arrow"
        column = pa.FixedSizeListArray.from_arrays(pa.array(np.roll(values, number, axis=1).reshape(-1)), size)
        batch = pa.RecordBatch.from_pydict({"features": column})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        places += [Place(str(path), row, "ok", None) for row in range(ROWS)]
    return Features(places[:count], SHAPE)


def parts(config: TrainConfig) -> tuple[Trainable, torch.optim.Optimizer]:
    trainable = Trainable(5, config.preprocess, config.head, 1)
    trainable.head.initialize(generator(0))
    return trainable, optim.optimizer(trainable, config.optim)


def ours(config: TrainConfig, features: Features, labels: torch.Tensor) -> Callable[[], None]:
    trainable, optimizer = parts(config)
    learner, samples = Learner(trainable, optimizer, config.optim), Samples(features.gather, labels)

    def epoch() -> None:
        for _ in loop.train_epoch(learner, samples, 0, Totals(torch.device("cpu"))):
            pass

    return epoch


def plain(config: TrainConfig, path: Path, labels: torch.Tensor) -> Callable[[], None]:
    trainable, optimizer = parts(config)
    trainable.head.dropout.rate = 0.0
    dropout = torch.nn.Dropout(config.head.dropout)
    trainable.head.dropout.forward = dropout.forward  # type: ignore[method-assign]
    array = np.memmap(path, np.float16, "r", shape=(len(labels), *SHAPE))

    def epoch() -> None:
        trainable.train()
        for rows in torch.randperm(len(labels)).split(config.optim.global_batch_size):
            logits = trainable(torch.from_numpy(array[rows.numpy()]))
            loss = sample_losses(logits, labels[rows]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss.item()

    return epoch


def compare(name: str, count: int, rounds: int) -> None:
    config = RECIPES[name]
    labels = torch.arange(count) % 2
    with tempfile.TemporaryDirectory() as folder:
        features = fill(Path(folder) / "features", count)
        path = Path(folder) / "array"
        array = np.memmap(path, np.float16, "w+", shape=(count, *SHAPE))
        for rows in torch.arange(count).split(ROWS):
            array[rows.numpy()] = features.gather(rows).numpy()
        loops = {"plain": plain(config, path, labels), "ours": ours(config, features, labels)}
        seconds: dict[str, list[float]] = {kind: [] for kind in loops}
        for _ in range(rounds + 1):
            for kind, epoch in loops.items():
                started = time.monotonic()
                epoch()
                seconds[kind].append(time.monotonic() - started)
        middle = {kind: median(values[1:]) for kind, values in seconds.items()}
        print(
            f"{name:<10}{count:>8,} features: an epoch takes {middle['plain']:.2f} s in the plain loop, "
            f"{middle['ours']:.2f} s in ours: {middle['plain'] / middle['ours']:.2f} of its speed",
            flush=True,
        )


def memory(name: str, count: int) -> None:
    """In a process of its own: one epoch as a worker runs it."""
    config = dataclasses.replace(RECIPES[name])
    with tempfile.TemporaryDirectory() as folder:
        features = fill(Path(folder) / "features", count)
        highest, ended = 0, threading.Event()

        def watch() -> None:
            nonlocal highest
            while not ended.wait(0.05):
                status = Path("/proc/self/status").read_text()
                highest = max(highest, int(status.partition("RssAnon:")[2].split()[0]))

        watcher = threading.Thread(target=watch)
        watcher.start()
        trainable, optimizer = parts(config)
        samples = worker._samples(features, tuple(row % 2 for row in range(count)), trainable)
        for _ in loop.train_epoch(Learner(trainable, optimizer, config.optim), samples, 0, Totals(torch.device("cpu"))):
            pass
        ended.set()
        watcher.join()
    print(f"{name:<10}{count:>8,} features: {highest / 1024:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-features", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", nargs=2)
    arguments = parser.parse_args()
    if arguments.memory:
        memory(arguments.memory[0], int(arguments.memory[1]))
        return
    for name in ("notebook", "frozen"):
        compare(name, arguments.num_features, arguments.rounds)
    for name in ("notebook", "frozen"):
        for count in (5_000, 50_000):
            subprocess.run([sys.executable, __file__, "--memory", name, str(count)], check=True)


if __name__ == "__main__":
    main()
