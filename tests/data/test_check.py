"""What `tlearn check` finds, for programs and for people."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tlearn.data.check import check, lines

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
same bytes: train/cat/0.png, val/cat/0.png
train/dog/2.jpg: unreadable: not an image that can be read: the file is empty
1 of them cannot be used"""


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


def test_findings_for_programs_and_for_people(data: Path) -> None:
    findings = check(str(data))
    assert json.dumps(findings.to_json()) == JSON
    assert "\n".join(lines(findings)) == LINES


def test_of_many_bad_files_a_person_sees_the_first_twenty(data: Path) -> None:
    for number in range(30):
        (data / f"train/cat/bad-{number:02}.jpg").touch()
    findings = check(str(data))
    shown = list(lines(findings))
    assert len(findings.bad) == 31 and sum(": unreadable: " in line for line in shown) == 20
    assert shown[-2:] == ["and 11 more: --json lists them all", "31 of them cannot be used"]
