"""The job from a folder of pictures to a run folder, in one process: data sets of a few pictures, names of folders,
losses that are no numbers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from alone import draw, train, without_ray

from tlearn.data.fetch import fetch
from tlearn.errors import TlearnError, TrainingError
from tlearn.network import description
from tlearn.report import pictures

TWO = {"train/cat": 3, "train/dog": 3, "val/cat": 2, "val/dog": 2}
QUICK: dict[str, Any] = {"optim": {"num_epochs": 2}}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def test_a_run_folder_may_have_any_name(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", TWO)
    digests = {train(data, tmp_path / name, **QUICK).summary.model_digest for name in (".run", "deep/.hidden/é 猫#%41")}
    assert len(digests) == 1


def test_a_folder_is_the_same_under_all_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "data", TWO)
    monkeypatch.chdir(tmp_path)
    first = train("data", "run", **QUICK)
    for name in ("data/", "./data", str(tmp_path / "data"), "data/../data"):
        assert train(name, "run", **QUICK) == first
        assert train(name, f"again/{len(name)}", **QUICK).summary.model_digest == first.summary.model_digest


FEW = {"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dog": 1}
UNEVEN = {"train/cat": 1, "train/dog": 9, "val/dog": 1}
MANY_CLASSES = {f"{split}/class{number:03}": 1 for number in range(60) for split in ("train", "val")}


@pytest.mark.parametrize(
    ("recipe", "counts"),
    [
        ("frozen", FEW),
        ("frozen", UNEVEN),
        ("frozen", MANY_CLASSES),
        ("frozen", {"train/cat": 2, "train/dog": 2}),
        ("notebook", UNEVEN),
        ("auto", FEW),
        ("auto", MANY_CLASSES),
    ],
)
def test_the_smallest_data_train(tmp_path: Path, recipe: str, counts: dict[str, int]) -> None:
    quick = {"optim": {"num_epochs": 1}, "head": {"width": 8}}
    summary = train(draw(tmp_path / "data", counts), tmp_path / "run", recipe, **quick).summary
    assert summary.num_val >= 1 and 0 <= summary.val_accuracy <= 1
    for file in ("summary.json", "model/model.json"):
        json.loads((tmp_path / "run" / file).read_text(), parse_constant=pytest.fail)


def test_a_test_folder_of_which_nothing_can_be_read_has_no_figures(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {**TWO, "test/cat": 1, "test/dog": 1})
    for path in data.glob("test/*/*"):
        path.write_bytes(path.read_bytes()[:60])
    assert train(data, tmp_path / "run", **QUICK).summary.test is None


def test_too_little_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TlearnError) as error:
        train(draw(tmp_path / "data", {"train/cat": 1, "train/dog": 1}), tmp_path / "run", **QUICK)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_epochs", [1, 3])
def test_a_loss_that_is_no_number_leaves_no_model(tmp_path: Path, num_epochs: int) -> None:
    data = draw(tmp_path / "data", TWO)
    for _ in range(2):  # and the same command ends in the same way
        with pytest.raises(TrainingError, match="expected a loss that is a number"):
            train(data, tmp_path / "run", optim={"name": "sgd", "lr": 1e38, "num_epochs": num_epochs})
        assert not {"model", "summary.json", "report.html"} & {path.name for path in (tmp_path / "run").iterdir()}


def test_a_finished_run_keeps_its_best_checkpoint_and_its_last(tmp_path: Path) -> None:
    train(draw(tmp_path / "data", TWO), tmp_path / "run", optim={"num_epochs": 6})
    assert 1 <= len(list((tmp_path / "run" / "checkpoints").glob("*/*/progress.json"))) <= 2
    assert description.verify(str(tmp_path / "run" / "model")).training["recipe"] == "frozen"


@pytest.mark.parametrize("change", ["nothing", "content", "damage"])
def test_a_second_run_opens_for_its_page_only_what_the_first_has_not(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = draw(tmp_path / "data", TWO)
    train(data, tmp_path / "run", **QUICK)
    if change == "content":
        shutil.copy(data / "train/dog/0.png", data / "val/cat/0.png")
        (data / "val/cat/new.png").write_bytes((data / "val/cat/1.png").read_bytes() + b" ")
    elif change == "damage":
        (kept,) = (tmp_path / "cache" / "looks").iterdir()
        kept.write_bytes(kept.read_bytes()[:-9])
    opened: list[str] = []
    monkeypatch.setattr(pictures, "fetch", lambda *words: opened.append(words[1]) or fetch(*words))
    train(data, tmp_path / "again", **QUICK)
    shown = [pq.read_table(tmp_path / name / "pictures.parquet") for name in ("run", "again")]
    assert shown[1].num_rows >= 4
    assert all(picture["thumbnail"] and picture["format"] == "PNG" for picture in shown[1].to_pylist())
    if change == "content":
        assert "val/cat/new.png" in opened
    else:
        assert shown[0].equals(shown[1])
        assert len(opened) == (shown[1].num_rows if change == "damage" else 0)
