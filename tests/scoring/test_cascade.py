"""A cascade says what the large network says where the small one is not sure, and tells which of the two it was."""

import dataclasses
import functools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pictures import picture
from support import build

from tlearn.classes import Classes
from tlearn.config import HeadConfig, PreprocessConfig
from tlearn.data import images
from tlearn.data.fetch import Fetched
from tlearn.errors import IntegrityError
from tlearn.evaluation import drift, novelty
from tlearn.evaluation.drift import Reference
from tlearn.network import description, model, weights
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Cascade, Draft, Novelty
from tlearn.network.frozen import Frozen
from tlearn.network.vgg import load_pretrained
from tlearn.scoring import predict
from tlearn.scoring.predict import Predictor
from tlearn.scoring.table import Row
from tlearn.scoring.task import Limits

LARGE, SMALL = PreprocessConfig(image_size=64, short_side=64), PreprocessConfig(image_size=32, short_side=32)
NUM_PICTURES = 40


def reference() -> dict[str, object]:
    generator = np.random.default_rng(0)
    second = generator.random(200)
    values = drift.series(np.stack([1 - second, second], 1), generator.random((200, 16)))
    return Reference.of(values).to_json()


@functools.cache
def pooled() -> torch.Tensor:
    """(pictures, 16) of unit length: what the small network sees."""
    layers = Frozen(5, SMALL, arch="vgg_tiny", tensors=weights.load("none", "", "vgg_tiny")).prepare()
    pixels = torch.stack([images.load(picture(number), SMALL)[0] for number in range(1, 9)])
    return F.normalize(layers(pixels).float().mean((2, 3)))


def saved(folder: Path, limit: float, max_novelty: float = 100.0, classes: Classes | None = None) -> str:
    """A model of noise whose small network answers from a margin on."""
    classes = classes or Classes(("cat", "dog"))
    generator = torch.Generator().manual_seed(0)
    frozen, trainable = build(5, LARGE, HeadConfig(width=16), classes.num_logits, "vgg_tiny")
    load_pretrained(frozen.layers, weights.load("none", "", "vgg_tiny"))
    trainable.head.initialize(generator)
    points = novelty.points(torch.rand(30, 16, generator=generator))
    known = Novelty(num_points=30, distances=tuple(sorted(torch.rand(50, generator=generator).tolist())))
    cascade = Cascade(
        preprocess=SMALL,
        arithmetic=Arithmetic(),
        limit=limit,
        novelty=known,
        max_novelty=max_novelty,
        reference=reference(),
        figures={"answered": 0.5},
    )
    draft = Draft(
        classes=classes,
        frozen_blocks=5,
        preprocess=LARGE,
        head=HeadConfig(width=16),
        arithmetic=Arithmetic(),
        training={"recipe": "frozen", "num_train": 1, "num_val": 1},
        metrics={"val_accuracy": 1.0, "val_loss": 0.0},
        reference=reference(),
        arch="vgg_tiny",
        novelty=known,
        cascade=cascade,
    )
    weight = torch.randn(classes.num_logits, 16, generator=generator)
    seen = pooled()
    weight /= F.linear(seen, weight).std() / 2
    beside = {
        description.POINTS: points,
        description.CASCADE_POINTS: points.flip(0),
        f"{description.CASCADE}last.weight": weight,
        f"{description.CASCADE}last.bias": -F.linear(seen, weight).mean(0),
    }
    model.save(folder, frozen.layers.state_dict(), trainable, draft, beside)
    return str(folder)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(NUM_PICTURES):
        (folder / f"{number:02}.png").write_bytes(picture(number) if number % 9 else b"no picture")
    return [str(folder / f"{number:02}.png") for number in range(NUM_PICTURES)]


def scored(folder: str, paths: list[str], cascade: str = "auto") -> list[Row]:
    return list(predict.load(folder, "torch", "fp32", cascade).predict(paths))  # type: ignore[arg-type]


def said(row: Row) -> dict[str, object]:
    return {name: value for name, value in dataclasses.asdict(row).items() if name not in ("scored_at", "model")}


def median_margin(folder: Path, paths: list[str]) -> float:
    """That half of the pictures of the small network reach."""
    rows = [row for row in scored(saved(folder, 0.0), paths) if row.probability]
    return float(np.median([np.log(row.probability / (1 - row.probability)) for row in rows if row.probability])) + 1e-4


def test_each_picture_is_answered_by_the_network_that_is_sure(tmp_path: Path, paths: list[str]) -> None:
    limit = median_margin(tmp_path / "first", paths)
    folder = saved(tmp_path / "model", limit)
    small, large = scored(saved(tmp_path / "small", 0.0), paths), scored(folder, paths, "off")
    rows = scored(folder, paths)
    assert [row.path for row in rows] == paths
    assert {row.stage for row in small} == {32, None} and {row.stage for row in large} == {64, None}
    assert {row.stage for row in rows} == {32, 64, None}
    for row, first, second in zip(rows, small, large, strict=True):
        expected = first if row.stage == 32 else second
        assert {**said(row), "probabilities": None} == {
            **said(expected),
            "probabilities": None,
            "probability": pytest.approx(expected.probability, abs=1e-6) if expected.probability else None,
            "novelty": pytest.approx(expected.novelty, abs=2.1) if expected.novelty is not None else None,
        }
        if first.probability is not None:
            assert (row.stage == 32) == (np.log(first.probability / (1 - first.probability)) >= limit)


def test_what_is_strange_goes_to_the_large_network(tmp_path: Path, paths: list[str]) -> None:
    alone = {row.path: row.novelty for row in scored(saved(tmp_path / "alone", 0.0), paths) if row.novelty is not None}
    limit = sorted(alone.values())[len(alone) // 2]
    rows = scored(saved(tmp_path / "model", 0.0, max_novelty=limit), paths)
    assert {row.path: row.stage == 64 for row in rows if row.stage} == {
        path: novel > limit for path, novel in alone.items()
    }


def ready(folder: str, limits: Limits, *, cascade: bool = True) -> Predictor:
    loaded = predict.load(folder, "torch", "fp32")
    return Predictor.of(model.load(folder), loaded.device, limits, cascade=cascade)


def test_what_may_be_unknown_goes_to_the_large_network_whatever_the_rate(tmp_path: Path, paths: list[str]) -> None:
    folder = saved(tmp_path / "model", 0.0)
    rows = [row for row in ready(folder, Limits(0.0, 1.0)).predict(paths) if row.novelty]
    assert {row.stage for row in rows} == {64} and {row.status for row in rows} == {"unknown"}


@pytest.mark.parametrize("rate", [0.0, 0.9, 1.0])
def test_only_the_large_network_says_that_a_picture_is_unknown(rate: float, tmp_path: Path, paths: list[str]) -> None:
    limit = median_margin(tmp_path / "first", paths)
    rows = list(ready(saved(tmp_path / "model", limit), Limits(0.0, rate)).predict(paths))
    for row in rows:
        if row.novelty is not None:
            is_unknown = row.stage == 64 and row.novelty > 100 * (1 - rate)
            assert row.status == ("unknown" if is_unknown else "scored") and row.prediction and row.probability
    assert any(row.status == "unknown" for row in rows) or rate == 0


@pytest.mark.parametrize(
    "changes",
    [{"sha256": "other"}, {"sha256": "e3b0", "status": "unreadable", "pixels": None}, {"sha256": None, "size": 9**9}],
)
def test_a_picture_that_changes_between_both_looks_is_changed(
    changes: dict[str, Any], tmp_path: Path, paths: list[str]
) -> None:
    predictor = ready(saved(tmp_path / "model", 1e9), Limits())
    first, *others = list(predict._decoded(paths, SMALL))[1:8]

    def again(names: Sequence[str]) -> Iterator[Fetched]:
        for fetched in predict._decoded(names, LARGE):
            yield dataclasses.replace(fetched, **changes) if fetched.sha256 == first.sha256 else fetched

    rows = predictor.scores(zip(paths[1:8], [first, *others], strict=True), again).rows
    assert [row.status for row in rows] == ["changed", *["scored"] * 6]
    assert rows[0].prediction is None and rows[0].error == "written to while it was scored"


def test_drift_is_counted_by_the_network_that_sees_all(tmp_path: Path, paths: list[str]) -> None:
    folder = saved(tmp_path / "model", median_margin(tmp_path / "first", paths))
    files = list(zip(paths, predict._decoded(paths, SMALL), strict=True))
    counted = ready(folder, Limits()).scores(files, lambda names: predict._decoded(names, LARGE)).histograms
    num_decoded = sum(number % 9 != 0 for number in range(NUM_PICTURES))
    assert set(counted) == {"small"} and {sum(series) for series in counted["small"]} == {num_decoded}
    files = list(zip(paths, predict._decoded(paths, LARGE), strict=True))
    counted = ready(folder, Limits(), cascade=False).scores(files, lambda names: iter(())).histograms
    assert set(counted) == {"large"}


def test_a_model_of_several_classes_has_a_cascade_too(tmp_path: Path, paths: list[str]) -> None:
    folder = saved(tmp_path / "model", 0.5, classes=Classes(("a", "b", "c")))
    rows = scored(folder, paths)
    assert {row.stage for row in rows} == {32, 64, None}
    assert all(len(row.probabilities) == 3 for row in rows if row.probabilities)


@pytest.mark.parametrize("name", [description.POINTS, description.CASCADE_POINTS, f"{description.CASCADE}last.weight"])
def test_a_model_without_one_of_its_tensors_is_refused(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    saved(tmp_path / "model", 1.0)
    shutil.copytree(tmp_path / "model", tmp_path / "other")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "other" / "model.safetensors")
    with pytest.raises(IntegrityError):
        model.load(str(tmp_path / "other"))
