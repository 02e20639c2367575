"""What `tlearn check` finds, for programs and for people."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

import tlearn
from tlearn.classes import Classes
from tlearn.cli import main
from tlearn.config import CheckConfig
from tlearn.data.copies import Copies
from tlearn.data.findings import Finding, Kind, Suspect
from tlearn.doctor.check import BadFile, Findings, following, lines
from tlearn.doctor.check import check as checked
from tlearn.recipes import checked_as

JSON = (
    '{"classes": ["cat", "dog"], "train": {"cat": 2, "dog": 3}, "val": {"cat": 1, "dog": 1}, "test": 1, "ignored": 1, '
    '"remarks": ["ignored, by name no pictures: .txt 1", '
    '"1 images are in train and in val, byte for byte: val_accuracy flatters"], '
    '"bad": [{"path": "train/dog/2.jpg", "status": "unreadable", '
    '"error": "not an image that can be read: the file is empty"}], "ignored_names": {".txt": 1}, "links": [], '
    '"copies": [{"paths": ["train/cat/0.png", "val/cat/0.png"], "splits": ["train", "val"], "classes": ["cat"]}], '
    '"code": 4, "refusal": "expected at most 5.0% bad images, got 1 of 7 (train/dog/2.jpg: '
    'not an image that can be read: the file is empty): mend them, or raise --max-error-rate"}'
)

LINES = """\
train: 5 images of 2 classes (cat 2, dog 3)
val: 2 images of 2 classes (cat 1, dog 1)
test: 1 images
note: ignored, by name no pictures: .txt 1
note: 1 images are in train and in val, byte for byte: val_accuracy flatters
train/dog/2.jpg: unreadable: not an image that can be read: the file is empty
1 of them cannot be used
1 file is a copy of another, byte for byte (1 in two splits): train/cat/0.png (like val/cat/0.png)
  Exclude the copies: what is learned from must not be judged on, and what is there twice counts twice.
next: tlearn check photos --output findings.csv lists 2 files, with what to do"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    names = ("train/cat/0", "train/cat/1", "train/dog/0", "train/dog/1", "val/cat/0", "val/dog/0", "test/cat/0")
    for number, name in enumerate(names):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number, 0, 0)).save(path)
    (tmp_path / "train/dog/2.jpg").touch()
    (tmp_path / "train/notes.txt").touch()
    (tmp_path / "val/cat/0.png").write_bytes((tmp_path / "train/cat/0.png").read_bytes())
    return tmp_path


def check(data: str) -> Findings:
    return checked(checked_as(CheckConfig(data=data)), quick=True)


def test_findings_for_programs_and_for_people(data: Path) -> None:
    findings = check(str(data))
    said = findings.to_json()
    kinds = [finding["kind"] for finding in said.pop("findings")]
    assert kinds == ["unreadable", "exact_duplicates"] and said.pop("depth") == "listing" and said.pop("seconds") >= 0
    assert json.dumps(said) == JSON
    assert "\n".join([*lines(findings), *following(findings, "photos", None)]) == LINES


def test_of_many_bad_files_a_person_sees_the_first_twenty(data: Path) -> None:
    for number in range(30):
        (data / f"train/cat/bad-{number:02}.jpg").touch()
    findings = check(str(data))
    shown = list(lines(findings))
    assert len(findings.bad) == 31 and sum(": unreadable: " in line for line in shown) == 20
    at = shown.index("31 of them cannot be used")
    assert shown[at - 1] == "and 11 more: --json lists them all"


def draw(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number, 1, 1)).save(path)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Copies of pictures of train/ and val/ in test/: in the same class, in another, in an unknown one, in none."""
    for number, name in enumerate(
        ("train/cat/0", "train/cat/1", "train/dog/0", "train/dog/1", "val/cat/0", "val/dog/0")
    ):
        draw(tmp_path / f"{name}.png", number)
    copies = ("train/cat/0 cat/copy", "train/cat/1 dog/other", "train/dog/0 fox/unknown", "val/dog/0 a\nb")
    for source, target in (pair.split(" ") for pair in copies):
        path = tmp_path / "test" / f"{target}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / f"{source}.png", path)
    return tmp_path


def test_the_same_bytes_in_any_two_splits_are_named_file_by_file(copied: Path) -> None:
    findings = check(str(copied))
    assert findings.copies == (
        Copies(("train/cat/0.png", "test/cat/copy.png"), ("train", "test"), ("cat",)),
        Copies(("train/cat/1.png", "test/dog/other.png"), ("train", "test"), ("cat", "dog")),
        Copies(("train/dog/0.png", "test/fox/unknown.png"), ("train", "test"), ("dog", "fox")),
        Copies(("val/dog/0.png", "test/a\nb.png"), ("val", "test"), ("dog",)),
    )
    assert findings.test == 4
    text = list(lines(findings))
    (same,) = [finding for finding in findings.findings if finding.kind == "exact_duplicates"]
    beside = {suspect.path: (suspect.suggestion, suspect.beside) for suspect in same.suspects}
    assert beside["val/dog/0.png"] == ("exclude", ("test/a\nb.png",)) and len(beside) == 4
    assert beside["train/cat/1.png"][0] == "look"  # it is in two classes
    assert "note: folders of test/ that are no class of train/: fox" in text
    assert any("3 images are in train and in test" in line for line in text)
    assert any("1 images are in val and in test" in line for line in text)
    assert any("2 images are in two classes" in line for line in text)


def test_files_without_a_picture_are_no_copies_of_each_other(copied: Path) -> None:
    for name in ("train/cat", "train/dog", "test/dog"):
        (copied / name / "empty.jpg").touch()
    findings = check(str(copied))
    assert len(findings.bad) == 3 and len(findings.copies) == 4


def test_pictures_that_are_held_out_have_no_copy_in_train(tmp_path: Path) -> None:
    for number in range(10):
        for name in ("cat", "dog"):
            path = tmp_path / "train" / name / f"{number}.png"
            draw(path, number + 100 * (name == "dog"))
            shutil.copy(path, path.with_name(f"Copy of {number}.png"))
    findings = check(str(tmp_path))
    assert sum(findings.val.values()) == 8 and findings.copies == ()


@pytest.mark.parametrize(
    ("num_bad", "code", "says"),
    [(0, 0, ""), (1, 0, ""), (3, 4, "at most 5.0% bad images"), (20, 3, "readable images of dog in train/")],
)
def test_check_ends_as_train_would(
    num_bad: int, code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(400 if num_bad == 20 else 20):
        draw(tmp_path / f"train/cat/{number}.png", number % 256)
        if number < 20:
            draw(tmp_path / f"train/dog/{number}.png", number)
    draw(tmp_path / "val/cat/0.png", 1)
    for number in range(num_bad):
        (tmp_path / f"train/dog/{number}.png").write_bytes(b"")
    assert main(["check", "--data", str(tmp_path), "--quick", "--quiet", "--json"]) == code
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["code"], len(found["bad"])) == (code, num_bad)
    assert says in (found["refusal"] or "") and says in printed.err and printed.err.count("\n") == (code > 0)


def test_much_of_anything_makes_no_long_text() -> None:
    names = tuple(f"a long class name, number {number}" for number in range(1000))
    counts = dict.fromkeys(names, 7) | {names[3]: 1, names[5]: 9}
    suspects = tuple(Suspect(f"train/{number}.jpg", "exclude", 1.0, (f"val/{number}.jpg",)) for number in range(500))
    kinds = get_args(Kind)
    found = tuple(Finding(kind, f"500 files are {kind}", suspects, "Look at them.") for kind in kinds)
    bad = tuple(BadFile(suspect.path, "unreadable", "empty") for suspect in suspects)
    findings = Findings(names, counts, counts, 0, 0, (), bad, {}, (), (), 0, None, found)
    text = [*lines(findings), *following(findings, "photos", "list.csv")]
    assert len(text) < 27 + 2 * len(kinds) and max(map(len, text)) < 200
    assert f"from {names[3]} 1 to {names[5]} 9" in text[0] and "and 480 more: --json lists them all" in text
    assert "and 497 more" in text[-3] and "look at 500 files in list.csv" in text[-1]
    assert Classes(names).counted(counts) in text[0]


def test_a_check_is_of_the_pictures_that_training_would_take(tmp_path: Path) -> None:
    """With the labels, the groups and the decisions of files."""
    (tmp_path / "photos").mkdir()
    for number in range(8):
        Image.new("RGB", (40, 30), (30 * number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "labels.csv").write_text("name,label\n" + "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(8)))
    (tmp_path / "out.csv").write_text("path,suggestion\n0.png,exclude\n1.png,look\n2.png,relabel:b\n")
    tables = {"labels": str(tmp_path / "labels.csv"), "exclude": str(tmp_path / "out.csv")}
    found = tlearn.check(tmp_path / "photos", quick=True, groups=r"(\d)", **tables)
    assert Counter(found.train) + Counter(found.val) == {"a": 2, "b": 5}


def test_a_folder_that_training_refuses_is_described_all_the_same(tmp_path: Path) -> None:
    for number, name in enumerate(("cat/0", "cat/1", "dog/0")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (30 * number, 0, 0)).save(tmp_path / f"{name}.png")
    found = tlearn.check(tmp_path, quick=True)
    assert found.code == 3 and found.refusal is not None and "dog" in found.refusal
    assert found.train == {"cat": 2, "dog": 1} and not found.val


def test_groups_in_two_splits_are_found(data: Path) -> None:
    found = tlearn.check(data, quick=True, groups=r"(\d)\.").findings
    assert "group_in_two_splits" in [finding.kind for finding in found]
