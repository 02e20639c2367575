"""A model gets a small network where that says what the large one says, and none where it would not."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import CLASSES, build

from tlearn.config import HeadConfig, PreprocessConfig, TrainConfig
from tlearn.data.manifest import File, Listing
from tlearn.evaluation.deferral import margins
from tlearn.network import model
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Draft
from tlearn.training import cascade
from tlearn.training.cascade import Small

CONFIG = TrainConfig(
    data="d",
    output="o",
    arch="vgg_tiny",
    weights="none",
    head=HeadConfig(width=8),
    preprocess=PreprocessConfig(image_size=192, short_side=200),
)


def learned(num_val: int) -> Any:
    files = [
        File(split, f"{split}/{name}/{number}.jpg", name, 1, 1, f"{split}{name}{number}")
        for split, count in (("train", 400), ("val", num_val))
        for number in range(count // 2)
        for name in CLASSES.names
    ]
    _, trainable = build(5, CONFIG.preprocess, CONFIG.head, 1, "vgg_tiny")
    trainable.head.initialize(torch.Generator().manual_seed(0))
    val = [file for file in files if file.split == "val"]
    return SimpleNamespace(
        trainable=trainable.eval(),
        listing=Listing(files, CLASSES),
        train_files=[file for file in files if file.split == "train"],
        val_files=val,
        val_labels=lambda indices: torch.tensor([indices[file.label] for file in val]),
        frozen=SimpleNamespace(arithmetic=Arithmetic()),
        phase=SimpleNamespace(frozen_blocks=5),
    )


def fitted(found: Any, distance: float, monkeypatch: pytest.MonkeyPatch, config: TrainConfig = CONFIG) -> Small | None:
    """With features that tell the classes apart by so many deviations."""
    generator = torch.Generator().manual_seed(0)

    def usable(config: TrainConfig, files: list[File], cut: Any, what: str) -> Any:
        assert cut == (5, 128) and what == "features at 128 px"
        labels = torch.tensor([CLASSES.indices[file.label] for file in files])
        features = 5 + torch.randn(len(files), 16, 4, 4, generator=generator)
        features[:, 0] += distance * (labels[:, None, None] - 0.5)
        return SimpleNamespace(files=files, features=SimpleNamespace(gather=features.__getitem__), num_computed=0)

    monkeypatch.setattr(cascade, "usable", usable)
    monkeypatch.setattr(cascade, "Frozens", _Frozens)
    labels = found.val_labels(CLASSES.indices)
    large = 16.0 * (labels[:, None] - 0.5) + torch.randn(len(labels), 1, generator=generator)
    return cascade.fit(config, {}, found, large)


class _Frozens:
    def __init__(self, *_: Any):
        pass

    def cut(self, frozen_blocks: int, preprocess: PreprocessConfig) -> Any:
        return _Cut((frozen_blocks, preprocess.image_size))


class _Cut(tuple[int, int]):
    arithmetic = Arithmetic()


def test_one_that_tells_the_classes_apart_answers_most_and_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = learned(400)
    small = fitted(found, 8.0, monkeypatch)
    assert small is not None and small.deferral.answered > 0.8 and small.deferral.passes
    assert small.cascade.preprocess.image_size == 128 and small.cascade.preprocess.short_side == 133
    draft = Draft(
        classes=CLASSES,
        frozen_blocks=5,
        preprocess=CONFIG.preprocess,
        head=CONFIG.head,
        arithmetic=Arithmetic(),
        training={"recipe": "frozen", "num_train": 1, "num_val": 1},
        metrics={"val_accuracy": 1.0, "val_loss": 0.0},
        reference={},
        arch="vgg_tiny",
        cascade=small.cascade,
    )
    frozen, _ = build(5, CONFIG.preprocess, CONFIG.head, 1, "vgg_tiny")
    model.save(tmp_path / "model", frozen.layers.state_dict(), found.trainable, draft, small.tensors())
    loaded = model.load(str(tmp_path / "model"))
    assert loaded.small is not None and loaded.description.cascade == small.cascade
    maps = small.seen.val[:, :, None, None]
    torch.testing.assert_close(loaded.small.head(maps), small.head(torch.nn.functional.normalize(small.seen.val)))
    assert (margins(loaded.small.head(maps)) >= small.cascade.limit).double().mean() >= small.deferral.answered


def test_one_that_cannot_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fitted(learned(400), 0.0, monkeypatch) is None


@pytest.mark.parametrize(
    ("num_val", "changes"),
    [
        (198, {}),
        (400, {"head": HeadConfig(kind="dense", width=8)}),
        (400, {"preprocess": PreprocessConfig(image_size=191, short_side=191)}),
    ],
)
def test_where_there_is_nothing_to_gain_nothing_is_computed(
    num_val: int, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = learned(num_val)
    monkeypatch.setattr(cascade, "look", None)
    assert cascade.fit(dataclasses.replace(CONFIG, **changes), {}, found, torch.zeros(num_val, 1)) is None
