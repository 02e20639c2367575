"""What the demo says of few pictures and of places that it cannot draw in."""

from pathlib import Path

import pytest

from tlearn.cli import main
from tlearn.demo.run import Accuracy


def test_the_accuracy_is_that_of_the_pictures_with_a_score() -> None:
    labels = {"test/1.jpg": "cat", "test/2.jpg": "dog", "test/3.jpg": "dog"}
    rows = [
        {"path": "1.jpg", "status": "scored", "prediction": "cat"},
        {"path": "2.jpg", "status": "uncertain", "prediction": "cat"},
        {"path": "3.jpg", "status": "unreadable", "prediction": None},
    ]
    assert str(Accuracy.of(rows, labels)) == "0.500 of 2 pictures"


def test_without_a_picture_that_has_a_score_there_is_no_accuracy() -> None:
    rows = [{"path": "broken.jpg", "status": "unreadable", "prediction": None}]
    assert str(Accuracy.of(rows, {})) == "n/a of 0 pictures"


def test_a_place_that_is_not_on_this_machine_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--output", "s3://bucket/demo"]) == 2
    said = capsys.readouterr().err
    assert "expected a folder of this machine for --output, got s3://bucket/demo" in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
