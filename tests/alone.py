"""Training from end to end in this process: in the place of Ray, and of a child, a call."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tlearn.distributed import launch, meters, pool, tasks
from tlearn.distributed.nodes import Here, Node, Nodes, Threads
from tlearn.recipes import configured
from tlearn.training import alone, job
from tlearn.training.run import Run

SMALL: dict[str, Any] = {
    "weights": "none", "arch": "vgg_tiny", "engine": "torch", "precision": "fp32", "device": "cpu",
    "preprocess": {"image_size": 32, "short_side": 32},
}  # fmt: skip


class Child:
    """As child.Child, in this process, where nothing dies."""

    def __init__(self, function: Any, argument: Any):
        self.run = function, argument

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def results(self) -> Iterator[Any]:
        function, argument = self.run
        yield from function(argument)


def computed(chunks: Any, work: str, task: Any, actors: Any, name: str | None = None) -> Iterator[Any]:
    """As pool.run."""
    module, _, kind = work.partition(":")
    actor = getattr(importlib.import_module(module), kind)(task, Threads(1, Here(1)))
    yield from map(actor, chunks)


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "is_alone", lambda: True)
    monkeypatch.setattr(launch, "nodes", lambda: Nodes((Node(1),)))
    monkeypatch.setattr(meters, "count", lambda name, number, **tags: None)
    monkeypatch.setattr(pool, "run", computed)
    monkeypatch.setattr(
        tasks, "run", lambda function, todo, *resources: ((key, function(of)) for key, of in todo.items())
    )
    monkeypatch.setattr(alone, "Child", Child)


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
