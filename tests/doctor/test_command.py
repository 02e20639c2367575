"""`tlearn check` as a command and in Python: codes, the list, the features that training finds; and what a run says."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from alone import SMALL, draw, train, without_ray
from PIL import Image

import tlearn
from tlearn.cli import main
from tlearn.config import CheckConfig
from tlearn.data.findings import Finding, Kind, Suspect
from tlearn.doctor import check as checking
from tlearn.doctor import training
from tlearn.doctor.check import Findings, check
from tlearn.doctor.training import Examined
from tlearn.errors import UsageError
from tlearn.recipes import checked_as, replaced

SPLITS = ("train", "val")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Textures of two colours."""
    folder = tmp_path / "data"
    for number, place in enumerate(
        f"{split}/{label}/{i}" for split in ("train", "val") for label in "ab" for i in "012"
    ):
        path = folder / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shades = np.random.default_rng(number).integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(shades).resize((120, 120)).save(path)
    return folder


@pytest.mark.parametrize(("plant", "code", "says"), [
    (None, 0, ""),
    ("look", 0, ""),
    ("exclude", 4, "expected no file to exclude or to relabel (--strict), found 1"),
    ("refused", 3, "tlearn train would end with 3"),
])  # fmt: skip
def test_strict_ends_with_4_where_a_file_is_to_be_changed(
    data: Path, plant: str | None, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if plant == "look":
        planted.dark(data / "train/a/0.png")
    elif plant == "exclude":
        planted.copied(data / "train/a/0.png", data / "val/a/copy.png")
    elif plant == "refused":
        planted.moved(data / "val/a/0.png", data / "val/c/0.png")
    assert main(["check", str(data), "--quick", "--strict"]) == code
    printed = capsys.readouterr()
    assert says in printed.err and (plant is None) == ("next: tlearn check" not in printed.out)
    assert main(["check", str(data), "--quick"]) == (code if plant == "refused" else 0)


def test_a_quick_look_loads_no_ray(data: Path) -> None:
    code = f"import sys, tlearn; tlearn.check({str(data)!r}, quick=True); sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_the_list_has_a_row_for_each_file_of_each_finding(data: Path, tmp_path: Path) -> None:
    name = 'a,"b"\n; c.png'
    planted.copied(data / "train/a/0.png", data / "val/a" / name)
    planted.truncated(data / "train/b/1.png")
    output = tmp_path / "deep" / "findings.csv"
    found = tlearn.check(data, quick=True, output=str(output), quiet=True)
    rows = list(csv.DictReader(io.StringIO(output.read_text(), newline="")))
    assert rows == [
        {"path": "train/b/1.png", "finding": "unreadable", "suggestion": "exclude", "sure": "1.000", "beside": ""},
        {"path": "train/a/0.png", "finding": "exact_duplicates", "suggestion": "exclude", "sure": "1.000",
         "beside": f"val/a/{name}"},
    ]  # fmt: skip
    assert found.to_change == 2


def test_bytes_of_a_path_that_are_no_utf_8_stay_as_they_are() -> None:
    suspect = Suspect(b"train/a/\xff.png".decode(errors="surrogateescape"), "look", 0.5)
    found = Findings((), {}, {}, 0, 0, (), (), {}, (), (), 0, None, (Finding("dark", "1 is", (suspect,), "Look."),))
    assert b"train/a/\xff.png,dark,look,0.500," in found.to_csv()


def test_a_list_is_a_file_of_comma_separated_values() -> None:
    with pytest.raises(UsageError, match=r"NAME\.csv, got list\.txt"):
        CheckConfig(data="photos", output="list.txt")


def test_findings_survive_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted.copied(data / "train/a/0.png", data / "val/a/copy.png")
    assert main(["check", str(data), "--quick", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = tlearn.check(data, quick=True, quiet=True).findings
    assert tuple(map(Finding.from_json, said["findings"])) == found and said["depth"] == "listing"


def test_training_finds_the_features_of_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)
    folder = draw(tmp_path / "data", {"train/cat": 4, "train/dog": 4, "val/cat": 2, "val/dog": 2})
    config = checked_as(CheckConfig(data=str(folder), weights="none", cache=str(tmp_path / "cache")))
    checked = check(replaced(config, SMALL))
    assert checked.depth == "features"
    quick: dict[str, Any] = {"optim": {"num_epochs": 1}, "head": {"width": 4}}
    summary = train(folder, tmp_path / "run", **quick).summary
    assert summary.features_computed == 8  # the mirror images of train/


def test_a_run_leaves_its_findings_and_says_the_most_important_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    folder = draw(tmp_path / "data", {"train/cat": 4, "train/dog": 4, "val/cat": 2, "val/dog": 2})
    smooth = np.random.default_rng(0).integers(0, 255, (6, 6, 3), np.uint8)
    Image.fromarray(smooth).resize((90, 90)).save(folder / "train/cat/a.png")
    planted.mirrored(folder / "train/cat/a.png", folder / "val/cat/b.jpg")
    planted.copied(folder / "train/dog/0.png", folder / "train/dog/copy.png")
    quick: dict[str, Any] = {"optim": {"num_epochs": 1}, "head": {"width": 4}}
    run = train(folder, tmp_path / "run", **quick)
    said = json.loads((tmp_path / "run/findings.json").read_text())
    found = {each.kind: [one.path for one in each.suspects] for each in map(Finding.from_json, said["findings"])}
    assert found == {"exact_duplicates": ["train/dog/copy.png"], "near_duplicates": ["train/cat/a.png"]}
    assert said["depth"] == "features" and said["seconds"] < 20
    (line,) = (line for line in run.summary.lines("run") if "other picture" in line or "another picture" in line)
    assert line.startswith("note: 1 file is another picture")


def test_of_the_findings_of_a_run_a_wrong_label_is_said_first() -> None:
    kinds: tuple[Kind, ...] = ("exact_duplicates", "near_duplicates", "wrong_label", "dark")
    found = tuple(Finding(kind, f"1 is {kind}", (), "Look.") for kind in kinds)
    assert Examined(found, True, 0.0).remarks == ("1 is wrong_label: see the findings in the report",)
    assert Examined(found[:2], True, 0.0).remarks == ("1 is near_duplicates: see the findings in the report",)
    assert Examined(found[:1], True, 0.0).remarks == ()


def test_of_very_many_pictures_some_are_compared_and_it_is_said(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("check", "examine"):
        monkeypatch.setattr(f"tlearn.doctor.{module}.MAX_COMPARED", 6)
    remarks = checking.check(checked_as(CheckConfig(data=str(data))), quick=True).remarks
    assert any("in 6 of 12 images" in remark for remark in remarks)


@pytest.mark.parametrize("change", ["nothing", "label", "content", "damage"])
def test_findings_of_the_same_pictures_are_kept_and_of_others_not(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    folder = draw(tmp_path / "data", {"train/cat": 4, "train/dog": 4, "val/cat": 2, "val/dog": 2})
    planted.copied(folder / "train/dog/0.png", folder / "train/dog/copy.png")
    quick: dict[str, Any] = {"optim": {"num_epochs": 1}, "head": {"width": 4}}
    train(folder, tmp_path / "run", **quick)
    if change == "label":
        (folder / "train/cat/1.png").rename(folder / "train/dog/9.png")
    elif change == "content":
        planted.copied(folder / "train/cat/1.png", folder / "train/cat/2.png")
    elif change == "damage":
        (kept,) = (tmp_path / "cache" / "findings").iterdir()
        kept.write_bytes(kept.read_bytes()[:-2])
    looked: list[int] = []
    examine = training.examine
    monkeypatch.setattr(training, "examine", lambda *known: looked.append(1) or examine(*known))
    train(folder, tmp_path / "again", **quick)
    assert len(looked) == (change != "nothing")
    first, again = (json.loads((tmp_path / name / "findings.json").read_text()) for name in ("run", "again"))
    assert (first["findings"] == again["findings"]) is (change != "content")
    assert first["depth"] == again["depth"]
