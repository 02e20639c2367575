"""What a run leaves for its page: every picture with what is known of it, what the layers respond to, the baselines."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import alone
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tlearn.data.fetch import Fetched
from tlearn.report import pictures
from tlearn.report.pictures import LAYERS, PICTURES
from tlearn.training import gallery, layers
from tlearn.training.run import RunFolder, Summary

NAMES = ("cat", "dog", "yak", "emu")


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    alone.without_ray(monkeypatch)


def draw(folder: Path, num_classes: int) -> Path:
    """12 training and 6 validation pictures a class; test/ holds the validation pictures once more."""
    counts = {f"{split}/{name}": n for split, n in (("train", 12), ("val", 6)) for name in NAMES[:num_classes]}
    data = alone.draw(folder, counts)
    shutil.copy(data / "train/cat/3.png", data / "val/cat/copy.png")
    shutil.copytree(data / "val", data / "test")
    return data


def rows(run: Path, name: str = "pictures.parquet") -> list[dict[str, Any]]:
    table = pq.read_table(run / name)
    assert table.schema.equals(PICTURES if name == "pictures.parquet" else LAYERS)
    found: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="strict")
    return found


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


SETTINGS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "frozen": ("frozen", 2, {}),
    "many classes, dense": ("frozen", 4, {"head": {"kind": "dense", "width": 8}}),
    "two blocks trained": ("frozen", 3, {"frozen_blocks": 3}),
    "head first": ("finetune", 2, {"optim": {"num_epochs": 1, "head_epochs": 1}, "frozen_blocks": 4}),
    "pixels only": ("finetune", 3, {"optim": {"num_epochs": 1, "head_epochs": 0}, "frozen_blocks": 0}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_says_all_that_is_known_of_its_pictures(name: str, tmp_path: Path) -> None:
    recipe, num_classes, settings = SETTINGS[name]
    data, quick = draw(tmp_path / "data", num_classes), {"optim": {"num_epochs": 2}}
    run = alone.train(data, tmp_path / "run", recipe, **{**quick, **settings})
    shown = rows(tmp_path / "run")
    by_split = {split: [row for row in shown if row["split"] == split] for split in ("val", "test", "train")}
    assert len(by_split["val"]) == len(by_split["test"]) == 6 * num_classes + 1
    for said, row in zip(pq.read_table(tmp_path / "run/validation.parquet").to_pylist(), by_split["val"], strict=True):
        assert [row[key] for key in ("path", "label", "prediction")] == [
            said[key] for key in ("path", "label", "prediction")
        ]
        assert (
            row["probabilities"] == pytest.approx(said["probabilities"])
            and row["raw"].keys() == said["probabilities"].keys()
        )
        assert row["probability"] == pytest.approx(max(said["probabilities"].values()))
    for row in shown:
        assert (row["width"], row["height"], row["format"]) == (40, 40, "PNG") and opened(row["thumbnail"]).size == (
            32,
            32,
        )
        assert row["bytes"] == (data / row["path"]).stat().st_size and 0 < row["brightness"] < 1
        assert (row["prediction"] is None) == (row["split"] == "train")
        assert row["split"] == "train" or len(row["attention"]) == row["attention_rows"] ** 2 == 1
    has_train, has_test = name != "pixels only", name != "head first"
    named = {near["path"] for row in shown for near in row["nearest"]}
    assert named == {row["path"] for row in by_split["train"]} and bool(named) == has_train
    (copy,) = (row for row in by_split["val"] if row["path"].endswith("copy.png"))
    if has_train:
        assert copy["nearest"][0]["path"] == "train/cat/3.png" and copy["nearest"][0]["label"] == "cat"
        assert copy["nearest"][0]["similarity"] == pytest.approx(1, abs=1e-3)
    for row in by_split["val"] + by_split["test"] * has_test:
        assert row["cluster"] is not None and -1 <= row["typicality"] <= 1.001
    assert rows(tmp_path / "run", "layers.parquet")
    baseline = run.summary.baseline
    assert baseline is not None and baseline.largest_class == pytest.approx(7 / (6 * num_classes + 1))
    assert (baseline.linear_probe is None) == (name in ("two blocks trained", "pixels only"))
    assert Summary.from_json(json.loads((tmp_path / "run/summary.json").read_text())) == run.summary


def test_a_run_that_is_stopped_while_it_writes_them_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, quick = draw(tmp_path / "data", 2), {"optim": {"num_epochs": 2}}
    expected = alone.train(data, tmp_path / "whole", **quick)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "write_pictures", stop)
        alone.train(data, tmp_path / "run", **quick)
    found = alone.train(data, tmp_path / "run", **quick)
    assert found.summary.model_digest == expected.summary.model_digest
    for name in ("pictures.parquet", "layers.parquet"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_of_more_pictures_than_are_shown_the_wrong_and_the_least_certain_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "most_shown", lambda num_classes: 20)
    monkeypatch.setattr(gallery, "MAX_TRAIN_SHOWN", 5)
    alone.train(draw(tmp_path / "data", 3), tmp_path / "run", optim={"num_epochs": 1, "lr": 1e-9})
    shown = rows(tmp_path / "run")
    assert [sum(row["split"] == split for row in shown) for split in ("val", "test", "train")] == [10, 10, 5]
    said = pq.read_table(tmp_path / "run/validation.parquet").to_pylist()
    least = sorted(said, key=lambda row: row["probabilities"][row["label"]])[:5]
    assert {row["path"] for row in least} <= {row["path"] for row in shown}


def test_layers_show_pictures_lit_and_channels_by_their_strongest_pictures(tmp_path: Path) -> None:
    alone.train(draw(tmp_path / "data", 3), tmp_path / "run", optim={"num_epochs": 1})
    found = rows(tmp_path / "run", "layers.parquet")
    for view, num_ranks, side in (("picture", 4, 96), ("channel", 6, 64)):
        of_view = [row for row in found if row["view"] == view]
        assert {row["block"] for row in of_view} == {1, 2, 3, 4, 5}
        key = "path" if view == "picture" else "channel"
        groups: dict[Any, list[dict[str, Any]]] = {}
        for row in of_view:
            groups.setdefault((row["block"], row[key]), []).append(row)
        assert all([row["rank"] for row in group] == list(range(num_ranks)) for group in groups.values())
        assert all(opened(row["image"]).size == (side, side) for row in of_view)
        if view == "channel":  # the strongest first
            assert all(group == sorted(group, key=lambda row: -row["value"]) for group in groups.values())
            assert len({channel for block, channel in groups if block == 5}) == 8
        else:
            assert len({path for _, path in groups}) == 12


def test_a_picture_is_dark_where_a_channel_does_not_respond() -> None:
    maps, images = torch.zeros(1, 2, 4, 4), torch.full((1, 3, 96, 96), 200, dtype=torch.uint8)
    maps[0, 1, :, 2:] = 7.0
    block = layers._Block(1, maps, images, images, ["a.png"])
    lit, dark = (np.asarray(channel.float().mean(0)) for channel in block._lit(torch.tensor([[1, 0]]))[0])
    assert lit[:, -20:].mean() > 190 and lit[:, :20].mean() < 50 > dark.max()


def test_channels_are_telling_by_the_share_of_their_variance_between_the_classes() -> None:
    labels = torch.tensor([0, 0, 2, 2])
    values = torch.tensor([[1.0, 5, 3, 0], [1, 5, 9, 0], [4, 5, 3, 0], [4, 5, 9, 1]])
    assert layers._between(values, labels).tolist() == pytest.approx([1, 0, 0, 1 / 3], abs=1e-5)


def test_files_that_are_gone_when_a_run_ends_cost_their_pictures_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (layers, pictures):
        monkeypatch.setattr(module, "fetch", lambda *_: Fetched("missing", "no such file when it was read"))
    run = alone.train(draw(tmp_path / "data", 2), tmp_path / "run", optim={"num_epochs": 1})
    assert not (tmp_path / "run/layers.parquet").exists() and Path(run.report).exists()
    shown = rows(tmp_path / "run")
    assert all(row["thumbnail"] is row["width"] is None for row in shown)
    assert all(row["attention"] for row in shown if row["split"] != "train")


@pytest.mark.parametrize("most", [2, 5, 9, 30])
def test_of_many_training_pictures_the_first_of_each_class_are_compared(most: int) -> None:
    labels = torch.tensor([0] * 10 + [1] * 3 + [2] * 10)
    found = gallery._first(labels, most).tolist()
    assert len(found) <= max(most, 3) and set(labels[found].tolist()) == {0, 1, 2}
    assert found[0] == 0 and (most < 23 or len(found) == 23)
