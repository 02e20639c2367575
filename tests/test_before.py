"""What an earlier version left is used, and nothing of it is computed again.

`before/` holds the run, the features and the table that tlearn 0.1.0 made, before its modules were sorted into wings,
of the pictures that are drawn here. The weights follow from a formula; only what was trained is kept.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from alone import without_ray
from PIL import Image
from processes import TESTS
from safetensors.torch import load_file, save

import tlearn
from tlearn.cli import main
from tlearn.network.layers import shapes

BEFORE = TESTS / "before"
FLAGS = ["--quiet", "--engine", "torch", "--precision", "fp32"]
TRAIN = [
    "train", "frozen", "--data", "data", "--weights", "vgg11.safetensors", "--arch", "vgg11", "--cache", "cache",
    "--preprocess.image-size", "32", "--preprocess.short-side", "36", "--head.width", "8", "--optim.num-epochs", "2",
    "--device", "cpu", *FLAGS,
]  # fmt: skip
SCORE = ["score", "--model", "run/model", "--input", "inbox", "--output", "table/", "--cache", "cache", *FLAGS]
TIME = 1_700_000_000


def draw(path: Path, number: int) -> None:
    rng = np.random.default_rng([7, number])
    base = np.array([(200, 60, 60), (60, 60, 200)][number % 2])
    pixels = (base + rng.integers(-50, 51, (40, 48, 3))).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "BMP")
    os.utime(path, (TIME, TIME))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with all that was there when the earlier version had ended."""
    shutil.copytree(BEFORE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for split, count, first in (("train", 12, 0), ("val", 6, 100)):
        for number in range(count):
            draw(tmp_path / "data" / split / ("red", "blue")[number % 2] / f"{number:02}.bmp", first + number)
    for number in range(5):
        draw(tmp_path / "inbox" / f"{number}.bmp", 200 + number)
    broken = tmp_path / "inbox" / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff not a picture")
    os.utime(broken, (TIME, TIME))
    tensors = {}
    for number, (name, shape) in enumerate(shapes("vgg11").items()):
        scale = 1.0 if len(shape) == 1 else 4 / np.sqrt(np.prod(shape[1:]))
        values = np.random.default_rng([11, number]).random(shape, np.float32) - np.float32(0.5)
        tensors[name] = torch.from_numpy(values * np.float32(scale))
    (tmp_path / "vgg11.safetensors").write_bytes(save(tensors))
    model = tmp_path / "run" / "model"
    learned = load_file(model / "trainable.safetensors")
    whole = {f"frozen.{name}": tensor for name, tensor in tensors.items()}
    whole |= {f"trainable.{name}": tensor for name, tensor in learned.items()}
    (model / "model.safetensors").write_bytes(save(whole))
    return tmp_path


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("there is nothing to compute")

    for name in ("start_ray", "join"):
        monkeypatch.setattr(f"tlearn.distributed.launch.{name}", refuse)


@pytest.mark.parametrize("with_test", [False, True])
def test_a_finished_run_is_known(
    with_test: bool, place: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    if with_test:  # it is not trained on
        draw(place / "data" / "test" / "red" / "0.bmp", 300)
    before = {path: path.stat().st_mtime_ns for path in (place / "run").rglob("*")}
    assert main([*TRAIN, "--output", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((BEFORE / "run" / "summary.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in (place / "run").rglob("*")} == before


def test_other_settings_for_that_run_are_refused(place: Path, no_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--output", "run", "--optim.lr", "0.5"]) == 2
    assert "optim.lr 0.0001 there, 0.5 here" in capsys.readouterr().err


def test_a_finished_run_gets_its_folds_and_keeps_all_else(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_ray(monkeypatch)
    assert main([*TRAIN, "--output", "run", "--folds", "2", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary.pop("folds")["num_folds"] == 2 and pq.read_table("run/folds.parquet").num_rows == 18
    assert summary == json.loads((BEFORE / "run" / "summary.json").read_text())


@pytest.mark.long
@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_its_features_are_not_computed_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--output", "again", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["features_computed"] == 0 and summary["features_reused"] == 30
    earlier = json.loads((BEFORE / "run" / "summary.json").read_text())
    assert summary["val_loss"] == pytest.approx(earlier["val_loss"], abs=1e-5)


def test_its_table_grows_by_nothing_and_is_whole(place: Path, no_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scores", "table/"]) == 0 and main(["verify", "table/"]) == 0
    before = capsys.readouterr().out
    assert main(SCORE) == 0
    assert "6 files listed, 6 unchanged, 0 rows added" in capsys.readouterr().out
    assert main(["scores", "table/"]) == 0 and main(["verify", "table/"]) == 0
    assert capsys.readouterr().out == before
    assert [path.name for path in (place / "table").glob("*.parquet")] == ["scores-000001-616124bafa871017.parquet"]


def test_its_model_says_the_same(place: Path, no_ray: None) -> None:
    model = tlearn.load("run/model", engine="torch", precision="fp32")
    (table,) = (BEFORE / "table").glob("*.parquet")
    for before in pq.read_table(table).to_pylist():
        (row,) = model.predict([f"inbox/{before['path']}"])
        assert (row.status, row.prediction, row.error) == (before["status"], before["prediction"], before["error"])
        assert row.probability == pytest.approx(before["probability"], abs=1e-5)
