"""What the demo says of few pictures and of places that it cannot draw in."""

from pathlib import Path

import pytest

from tlearn.cli import main


def test_a_place_that_is_not_on_this_machine_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--output", "s3://bucket/demo"]) == 2
    said = capsys.readouterr().err
    assert "expected a folder of this machine for --output, got s3://bucket/demo" in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
