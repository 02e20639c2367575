"""The figures of test/ are those of the model that was chosen, and nothing depends on them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import CLASSES, build

from tlearn.config import HeadConfig, PreprocessConfig, TrainConfig
from tlearn.data.manifest import File, Listing
from tlearn.evaluation import quality
from tlearn.evaluation.quality import Quality
from tlearn.network.arithmetic import Arithmetic
from tlearn.training import job

PREPROCESS = PreprocessConfig(image_size=32, short_side=32)
FILES = [File("test", f"test/{name}/{n}.jpg", name, 1, 1) for name in CLASSES.names for n in range(8)]


def measured(files: list[File], monkeypatch: pytest.MonkeyPatch) -> tuple[Quality | None, torch.Tensor, list[Any]]:
    """The figures, the logits of all files but the last, which cannot be decoded, and what was computed."""
    _, trainable = build(5, PREPROCESS, HeadConfig(kind="linear"), 1, "vgg_tiny")
    trainable.head.initialize(torch.Generator().manual_seed(0))
    features = torch.rand(len(files), 16, 1, 1, generator=torch.Generator().manual_seed(1))
    asked: list[Any] = []

    def usable(config: TrainConfig, wanted: list[File], cut: int, *what: str) -> Any:
        asked.append((wanted, cut))
        return SimpleNamespace(files=wanted[:-1], features=SimpleNamespace(gather=features.__getitem__))

    monkeypatch.setattr(job, "usable", usable)
    monkeypatch.setattr(job, "Frozens", lambda config, tensors, arithmetic: SimpleNamespace(cut=lambda blocks: blocks))
    config = TrainConfig(data="d", output="o", preprocess=PREPROCESS)
    task = job._Task(config, Listing(files, CLASSES), {}, ())
    frozen, phase = SimpleNamespace(arithmetic=Arithmetic()), SimpleNamespace(frozen_blocks=4)
    learned: Any = SimpleNamespace(trainable=trainable.eval(), frozen=frozen, phase=phase)
    with torch.no_grad():
        logits = trainable(features[:-1])
    judged = job._tested(task, learned)
    return judged and judged.quality(2.0, CLASSES), logits, asked


def test_they_are_measured_once_at_the_cut_and_temperature_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    found, logits, asked = measured(FILES, monkeypatch)
    assert asked == [(FILES, 4)]
    labels = torch.tensor([CLASSES.indices[file.label] for file in FILES[:-1]])
    assert found == quality.measure(logits / 2, labels, CLASSES)
    assert found is not None and found.num_images == 15


@pytest.mark.parametrize("count", [0, 1])
def test_without_a_picture_there_are_none(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(FILES[:count], monkeypatch)[0] is None
