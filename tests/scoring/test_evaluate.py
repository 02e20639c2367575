"""What an evaluation says is true of the rows and of the labels, whichever way these are given."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import instant
import pyarrow.parquet as pq
import pytest

import tlearn
from tlearn.classes import Classes
from tlearn.cli import main
from tlearn.errors import InputError, UsageError
from tlearn.scoring import labels
from tlearn.scoring.evaluate import Evaluated

CLASSES = Classes(("cat", "dog"))


def put(folder: Path, names: Iterable[str]) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{'bad' if 'bad' in name else 'ok'} {number}")
    return folder


FLAT = [f"{number}.jpg" for number in range(4)]


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["cat/a.jpg", "dog/b/c.jpg"], "."),
        (["train/cat/a.jpg", "test/cat/a.jpg", "val/dog/a.jpg"], "test"),
        (["train/cat/a.jpg", "test/a.jpg", "val/cat/a.jpg"], "val"),
        (["Test/dog/a.jpg", "val/dog/a.jpg"], "Test"),
        (["validation/dog/a.jpg"], "validation"),
    ],
)
def test_class_folders_are_looked_for_in_the_folder_then_in_test_then_in_val(
    names: list[str], taken: str, tmp_path: Path
) -> None:
    found = labels.find(str(put(tmp_path, names)), None, CLASSES)
    assert Path(found.folder) == tmp_path / taken
    assert found.labels == {
        str(Path(name).relative_to(taken)): Path(name).relative_to(taken).parts[0]
        for name in names
        if Path(name).is_relative_to(taken)
    }


def test_what_the_figures_do_not_cover_is_said(tmp_path: Path) -> None:
    found = labels.find(str(put(tmp_path, ["cat/a.jpg", "loose.jpg"])), None, CLASSES)
    assert found.remarks == (
        "no picture of dog: the figures say nothing of that",
        "1 pictures have no label and are left out",
    )


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["cat/a.jpg", "fox/a.jpg", "yak/a.jpg"], r"the classes of the model \(cat, dog\) in .*, found also fox, yak"),
        (["cats/a.jpg", "dogs/a.jpg"], r"a folder for each class .*found cats, dogs: or give --labels"),
        (["a.jpg"], "found no folder: or give --labels"),
        (["cat/a.txt", "dog/a.txt"], "expected pictures in the class folders"),
    ],
)
def test_other_classes_than_the_models_are_named(names: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        labels.find(str(put(tmp_path, names)), None, CLASSES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id,label\n0,cat\n1,dog\n2,dog\n", {"0.jpg": "cat", "1.jpg": "dog", "2.jpg": "dog"}),
        ("\ufeffid,label\r\n0,1\r\n3,0\r\n", {"0.jpg": "dog", "3.jpg": "cat"}),
        ("0.jpg\tcat\n1.jpg\tdog\n", {"0.jpg": "cat", "1.jpg": "dog"}),
        ("class;when;file\ndog;2020;test/0.jpg\ncat;2021;./3.jpg\n", {"0.jpg": "dog", "3.jpg": "cat"}),
        ('"0.jpg","dog"\n"2.jpg","cat"', {"0.jpg": "dog", "2.jpg": "cat"}),
        ("0, cat\n\n1, dog\n", {"0.jpg": "cat", "1.jpg": "dog"}),
        ("file,pred,label\n0.jpg,dog,cat\n1.jpg,dog,dog\n", {"0.jpg": "cat", "1.jpg": "dog"}),
        ("file,fold,Label\n0.jpg,1,cat\n1.jpg,0,dog\n", {"0.jpg": "cat", "1.jpg": "dog"}),
        ("class,id\ncat,2\ndog,0\n", {"2.jpg": "cat", "0.jpg": "dog"}),
        ("label,id\n1,2\n1,0\n0,1\n", {"2.jpg": "dog", "0.jpg": "dog", "1.jpg": "cat"}),
        ("test\\0.jpg,cat\n1.jpg,dog\n", {"0.jpg": "cat", "1.jpg": "dog"}),
        ("file,label\n0.jpg,0.0\n1.jpg,1.0", {"0.jpg": "cat", "1.jpg": "dog"}),
    ],
)
def test_labels_are_read_from_any_table_of_names_and_classes(
    text: str, expected: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "labels").write_text(text)
    found = labels.find(str(put(tmp_path / "data", FLAT)), str(tmp_path / "labels"), CLASSES)
    assert found.labels == expected
    has_numbers = not {"cat", "dog"} & set(re.findall(r"[a-z]+", text))
    assert any("numbers: 0 is cat, 1 is dog" in remark for remark in found.remarks) == has_numbers
    assert not any("not pictures" in remark for remark in found.remarks)


def test_names_that_several_pictures_have_are_no_ones_and_lines_too_many_are_counted(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,label\na,dog\nx/a.png,cat\ny/a.jpg,dog\ngone.jpg,cat\n")
    data = put(tmp_path / "data", ["test/x/a.png", "test/y/a.jpg"])
    found = labels.find(str(data), str(tmp_path / "labels.csv"), CLASSES)
    assert (Path(found.folder).name, found.labels) == ("test", {"x/a.png": "cat", "y/a.jpg": "dog"})
    assert any("2 lines of" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0,cat\n1,fox\n", "found also fox"),
        ("0,cat\n0.jpg,dog\n", "expected one class of 0.jpg in .*, found cat and dog"),
        ("a,cat\nb,dog\n", "found no line with both"),
        ("0,yak\n1,fox\n", "found no line with both"),
        ("0\n1\n", "expected 2 columns.* found 1 in line 1"),
        ("0,cat\n1\n", "expected 2 columns.* found 1 in line 2"),
        ("", "found none"),
        ("0,cat\n1,\n", "found also ''"),
        ("0,cat,dog\n1,dog,dog\n", r"found 2 \(columns 2, 3\): name the true one label"),
        ("a,cat\n", "as line 1: a,cat"),
        (b"\xff\xfe0,cat", "save it as UTF-8"),
    ],
)
def test_a_file_that_labels_nothing_is_refused(text: str | bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=says):
        labels.find(str(put(tmp_path / "data", FLAT)), str(tmp_path / "labels.csv"), CLASSES)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model's prediction of each picture follows from its bytes; one cannot be read."""
    instant.install(monkeypatch)
    instant.save_model(tmp_path / "model")
    return put(tmp_path / "data", [f"{name}/{number}.jpg" for name in CLASSES.names for number in range(20)])


def predicted(path: Path) -> tuple[str, float]:
    """The class, and the probability of dog."""
    second = int(hashlib.sha256(path.read_bytes()).hexdigest()[:4], 16) / 65535
    return ("dog" if second > 0.5 else "cat"), second


def test_the_figures_are_those_of_the_rows(data: Path, tmp_path: Path) -> None:
    put(data, ["cat/bad.jpg"])
    found = tlearn.evaluate(tmp_path / "model", data, cache=str(tmp_path / "cache"))
    pictures = [path for path in data.glob("*/*.jpg") if path.stem != "bad"]
    pairs = Counter((path.parent.name, predicted(path)[0]) for path in pictures)
    right = sum(count for (truth, said), count in pairs.items() if truth == said)
    assert isinstance(found, Evaluated) and found.num_images == len(pictures) == 40 and found.scored.failed == 1
    assert found.accuracy == found.quality.accuracy == right / 40 and 0 < found.interval[0] < found.accuracy
    assert found.confusion == {
        name: {other: pairs[name, other] for other in CLASSES.names if pairs[name, other]} for name in CLASSES.names
    }
    losses = [-math.log(p if path.parent.name == "dog" else 1 - p) for path in pictures for p in [predicted(path)[1]]]
    assert found.quality.log_loss == pytest.approx(sum(losses) / 40, rel=1e-5)
    assert found.quality.per_class["cat"].recall == pairs["cat", "cat"] / 20
    assert not list((tmp_path / "cache" / "evaluations").iterdir())


def test_the_command_prints_what_python_returns(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "rows.parquet"
    words = [
        "evaluate",
        str(tmp_path / "model"),
        str(data),
        "--output",
        str(output),
        "--cache",
        str(tmp_path / "cache"),
    ]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert f"accuracy {said['accuracy']:.4f} of 40 pictures in {data}\n" in shown and "true class" in shown
    assert pq.read_table(output).num_rows == 40
    put(data, [f"dog/bad{number}.jpg" for number in range(9)])
    assert main(words) == 4


def test_the_rows_of_an_evaluation_are_a_single_file(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--output NAME\.parquet or NAME\.csv, got rows/"):
        tlearn.evaluate(tmp_path / "model", data, output="rows/")


def test_a_folder_without_a_picture_that_can_be_scored_has_no_figures(data: Path, tmp_path: Path) -> None:
    bad = put(tmp_path / "bad", ["cat/bad.jpg"])
    with pytest.raises(InputError, match="expected pictures that can be scored"):
        tlearn.evaluate(tmp_path / "model", bad, cache=str(tmp_path / "cache"))
