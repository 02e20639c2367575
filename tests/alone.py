"""Training from end to end in this process: in the place of Ray, what it does with one worker."""

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray.train
import ray.train.torch
import torch
from PIL import Image

from tlearn.distributed import launch, meters, pool, tasks
from tlearn.distributed.nodes import Here, Node, Nodes, Threads
from tlearn.doctor import features
from tlearn.recipes import configured
from tlearn.training import fit, job
from tlearn.training.run import Run

SMALL: dict[str, Any] = {
    "weights": "none", "arch": "vgg_tiny", "engine": "torch", "precision": "fp32", "device": "cpu",
    "preprocess": {"image_size": 32, "short_side": 32},
}  # fmt: skip


class Trainer:
    """As TorchTrainer with one worker that nobody kills."""

    def __init__(self, loop: Any, *, train_loop_config: Any, scaling_config: Any, run_config: Any):
        self.loop, self.config, self.run_config = loop, train_loop_config, run_config
        self.folder = Path(run_config.storage_path, run_config.name)
        self.kept: list[tuple[float, Path]] = []

    def fit(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                ray.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
            )
            patch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
            patch.setattr(ray.train, "get_checkpoint", lambda: None)
            patch.setattr(ray.train, "report", self.report)
            self.loop(self.config)

    def report(self, metrics: dict[str, Any], checkpoint: Any) -> None:
        self.kept.append((metrics["val_loss"], self.folder / f"checkpoint_{len(self.kept):06}"))
        shutil.copytree(checkpoint.path, self.kept[-1][1])
        for _, folder in self.kept[:-1]:
            if folder != min(self.kept)[1]:
                shutil.rmtree(folder, ignore_errors=True)


def computed(chunks: Any, work: str, task: Any, actors: Any, name: str | None = None) -> Iterator[Any]:
    """As pool.run."""
    module, _, kind = work.partition(":")
    actor = getattr(importlib.import_module(module), kind)(task, Threads(1, Here(1)))
    yield from map(actor, chunks)


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "nodes", lambda: Nodes((Node(1),)))
    for module in (launch, job, features):
        monkeypatch.setattr(module, "wait_for_room", lambda bundles, seconds: None)
    for module in (job, features):
        monkeypatch.setattr(module, "start_ray", lambda: None)
        monkeypatch.setattr(module, "require_shared", lambda files, folders: None)
    monkeypatch.setattr(meters, "count", lambda name, number, **tags: None)
    monkeypatch.setattr(pool, "run", computed)
    monkeypatch.setattr(
        tasks, "run", lambda function, todo, *resources: ((key, function(of)) for key, of in todo.items())
    )
    monkeypatch.setattr(fit, "_Trainer", Trainer)


def draw(data: Path, counts: dict[str, int]) -> Path:
    """Pictures of a colour for each class, with noise: {"train/cat": 2, "val/cat": 1}."""
    names = sorted({folder.rpartition("/")[2] for folder in counts})
    rng = np.random.default_rng(0)
    for folder, count in counts.items():
        (data / folder).mkdir(parents=True)
        base = np.random.default_rng(names.index(folder.rpartition("/")[2])).integers(0, 200, 3)
        for number in range(count):
            pixels = (base + rng.integers(0, 50, (40, 40, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(data / folder / f"{number}.png")
    return data


def train(data: str | Path, output: str | Path, recipe: str = "frozen", **settings: Any) -> Run:
    """With little of everything, and the cache beside the run."""
    cache = str(Path(output).absolute().parent / "cache")
    return job.train(configured(recipe, str(data), str(output), {"cache": cache, **SMALL, **settings}))
