"""An export is written whole after it has agreed with the model, or not at all."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import picture
from support import save_model
from torch import Tensor

import tlearn
from tlearn.cli import main
from tlearn.config import PreprocessConfig
from tlearn.network import export as making
from tlearn.network.export import Made, Program
from tlearn.network.model import Model
from tlearn.scoring import export

PREPROCESS = PreprocessConfig(image_size=32, short_side=36)


def exact(model: Model) -> Made:
    return Made(b"whole file", Program(model).eval(), model.large.prepare())


def off_by(amount: float) -> Any:
    def made(model: Model) -> Made:
        network = Program(model).eval()

        def run(images: Tensor) -> Tensor:
            said: Tensor = network(images)
            # Of one picture among those that are compared.
            return said + amount * (images.shape[2] == 80)

        return Made(b"another file", run, model.large.prepare())

    return made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run folder whose model is quickly exported; beside it photos/ with pictures."""
    monkeypatch.setattr(export, "_MAKERS", {"onnx": exact, "torch": exact, "torchvision": exact})
    monkeypatch.setattr(export, "_NUM_DRAWN", 3)
    monkeypatch.setattr(export.os, "cpu_count", lambda: 1)  # as conftest.py has it
    save_model(tmp_path / "run" / "model", PREPROCESS)
    for number, size in enumerate([(70, 60), (80, 90), (40, 200)]):
        place = tmp_path / "photos" / "val" / "cat" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture(number, size))
    yield tmp_path / "run"


def finish(run: Path) -> None:
    """Let the run name its validation pictures, one of which is gone."""
    data = run.parent / "photos"
    (run / "config.json").write_text(json.dumps({"config": {"data": str(data)}}))
    paths = [f"val/cat/{number}.png" for number in range(4)]
    pq.write_table(pa.table({"path": paths, "prediction": ["cat"] * 4}), run / "validation.parquet")


@pytest.mark.parametrize(
    ("to", "name"), [("onnx", "model.onnx"), ("torch", "model.pt2"), ("torchvision", "torchvision.safetensors")]
)
def test_a_file_lies_beside_the_model_unless_told(run: Path, to: str, name: str) -> None:
    finish(run)
    assert main(["export", f"{run}/model/", "--to", to]) == 0
    assert (run / name).read_bytes() == b"whole file"
    told = run.parent / f"told{Path(name).suffix}"
    for _ in range(2):  # over one that is there, too
        assert main(["export", "--to", to, "--model", f"{run}/model", "--output", str(told)]) == 0
    assert told.read_bytes() == b"whole file"


def test_it_is_compared_on_the_pictures_that_are_given_else_on_those_of_the_run_else_on_drawn_ones(run: Path) -> None:
    drawn = tlearn.export(run / "model", "onnx")
    assert (drawn.images, drawn.num_images) == ("drawn pictures", 3)
    finish(run)
    of_run = tlearn.export(run / "model", "onnx")
    assert (of_run.images, of_run.num_images) == ("validation pictures of the run", 3)
    given = run.parent / "photos" / "val"
    (given / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    told = tlearn.export(run / "model", "onnx", images=given)
    assert (told.images, told.num_images) == (f"pictures of {given}", 3)
    (run.parent / "photos").rename(run.parent / "moved")
    assert tlearn.export(run / "model", "onnx") == drawn
    assert max(drawn.difference, of_run.difference, told.difference) < 1e-5


@pytest.mark.parametrize(("count", "expected"), [(10, 10), (11, 6), (25, 9)])
def test_so_many_pictures_at_most_from_all_over_a_folder_are_compared(
    run: Path, count: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_MAX_IMAGES", 10)
    for number in range(count):
        (run.parent / "photos" / f"{number:03}.png").write_bytes(picture(number, (8, 9)))
    shutil.rmtree(run.parent / "photos" / "val")
    assert tlearn.export(run / "model", "onnx", images=run.parent / "photos").num_images == expected


@pytest.mark.parametrize("amount", [2e-4, -1.0, float("nan"), float("inf")])
def test_a_file_that_says_something_else_of_one_picture_is_not_written(
    run: Path, amount: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(run)
    (run / "model.onnx").write_bytes(b"what was there")
    before = sorted(path.name for path in run.iterdir())
    monkeypatch.setattr(export, "_MAKERS", {"onnx": off_by(amount)})
    assert main(["export", f"{run}/model", "--to", "onnx"]) == 6
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "within 0.0001" in said and "nothing was written" in said
    assert (run / "model.onnx").read_bytes() == b"what was there"
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_difference_that_rounding_makes_is_none(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(run)
    monkeypatch.setattr(export, "_MAKERS", {"onnx": off_by(5e-5)})
    assert tlearn.export(run / "model", "onnx").difference == pytest.approx(5e-5, rel=0.01)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--to", "onnx", "--output", "a.pt2"], 2, "expected --output NAME.onnx with --to onnx, got a.pt2"),
        (["--to", "torchvision", "--output", "folder/"], 2, "NAME.safetensors"),
        (["--to", "onxx"], 2, "did you mean onnx?"),
        ([], 2, "expected --to"),
        (["--to", "onnx", "--images", "empty"], 3, "expected a picture that can be read in empty"),
        (["--to", "onnx", "--images", "absent"], 3, "--images"),
        (["--to", "onnx", "--output", "model.json/a.onnx"], 7, "expected a folder that can be written"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    run: Path,
    words: list[str],
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(run / "model")
    (run / "model" / "empty").mkdir()
    assert main(["export", f"{run}/model", *words]) == code
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_a_damaged_model_is_not_exported(run: Path) -> None:
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert main(["export", f"{run}/model", "--to", "onnx"]) in (3, 6)
    assert not (run / "model.onnx").exists()


def test_the_summary_is_that_of_python(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(run)
    assert main(["export", f"{run}/model", "--to", "torch", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said == tlearn.export(run / "model", "torch").to_json()
    assert said["location"] == str(run / "model.pt2") and said["num_bytes"] == len(b"whole file")


def test_a_real_file_is_made_without_ray(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(run)
    monkeypatch.setattr(export, "_MAKERS", {"torch": making.to_torch})
    made = tlearn.export(run / "model", "torch")
    loaded = torch.export.load(made.location).module()
    said = loaded(torch.zeros(2, 3, 50, 40, dtype=torch.uint8))
    assert said.shape == (2, 2) and torch.allclose(said.sum(1), torch.ones(2))
