"""What a person sees of a run before it starts."""

import pytest

from tlearn import console
from tlearn.classes import Classes
from tlearn.data.manifest import File, Listing
from tlearn.training import live


def test_the_data_of_two_classes_are_said_as_the_notebook_did(capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        File(split, f"{split}/{name}/1.jpg", name, 1, 1, split)
        for split in ("train", "val", "test")
        for name in ("a", "b")
    ]
    with console.shown():
        live.describe_data(Listing(files, Classes(("a", "b")), remarks=["look"]))
    assert capsys.readouterr().out.splitlines() == [
        "train: 2 images of 2 classes (a 1, b 1)",
        "val: 2 images of 2 classes (a 1, b 1)",
        "test: 2 images of 2 classes (a 1, b 1)",
        "note: look",
        "note: 3 images are in two classes, byte for byte",
        "class indices: {'a': 0, 'b': 1}",
        "",
    ]


def test_many_classes_with_odd_names_make_no_long_and_no_broken_line(capsys: pytest.CaptureFixture[str]) -> None:
    names = tuple(sorted(f"a class with a\nlong name, number {number}" for number in range(1000)))
    files = [File("train", f"train/{name}/1.jpg", name, 1, 1) for name in names]
    with console.shown():
        live.describe_data(Listing(files, Classes(names)))
        live.describe_skipped(
            Listing([File("train", "train/a\nb.jpg", "a", 1, 1, None, "missing", "gone")], Classes(names))
        )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) < 1200 and len(lines) == 5
    assert lines[-1] == r"  train/a\nb.jpg: missing: gone"
