"""What is seen of something that runs: on a terminal, in a log, with --quiet; and the lines for machines."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tlearn import console
from tlearn.console import Epochs, Progress

BAR = """
import time
from tlearn import console
with console.shown():
    console.say("features first")
    with console.Progress("features", 40) as progress:
        for _ in range(4):
            time.sleep(0.1)
            progress.advance(10)
        console.say("said beside the bar")
    epochs = console.Epochs(2)
    epochs.add(1, train=(0.5, 0.8), val=(0.6, 0.7), seconds=1.0)
    epochs.add(2, train=(0.4, 0.9), val=(0.3, 0.85), seconds=1.5)
"""


def on_a_terminal(code: str) -> str:
    """What a process writes to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    written = b""
    while True:
        if not select.select([ours], [], [], 60)[0]:
            break
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's word for a terminal that nobody holds any more
            break
        written += part
    os.close(ours)
    assert process.wait(10) == 0
    return written.decode()


def test_a_terminal_shows_a_bar_with_rate_and_time_left_and_a_table_that_grows() -> None:
    text = on_a_terminal(BAR)
    assert "40/40" in text and "images/s" in text and "0:00 left" in text
    assert "features: 40 in 0:0" in text and "images/s after the start" in text
    lines = [line.strip() for line in text.replace("\r", "").splitlines()]
    assert "said beside the bar" in text
    assert lines[-3].split() == ["epoch", "train", "loss", "accuracy", "val", "loss", "accuracy", "seconds"]
    assert lines[-2].split()[:6] == ["1/2", "0.5000", "0.8000", "0.6000", "0.7000", "1.0"]
    assert lines[-1].split()[:6] == ["2/2", "0.4000", "0.9000", "0.3000", "0.8500", "1.5"]
    assert lines[-1].endswith("lowest so far")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_a_line_every_ten_seconds(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with console.shown(), Progress("scored", 100, num_parallel=2) as progress:
        for _ in range(25):
            clock[0] += 1
            progress.advance(4)
    assert capsys.readouterr().err.splitlines() == [
        "scored: 40 of 100, 4.0 images/s, 0:15 left",
        "scored: 80 of 100, 4.0 images/s, 0:05 left",
        "scored: 100 in 0:25, 4.0 images/s after the start",
    ]


def test_a_rate_begins_when_as_many_parts_are_done_as_are_worked_on_at_once(clock: list[float]) -> None:
    progress = Progress("scored", 100, num_parallel=2)
    assert progress.rate() == 0.0
    for seconds in (30.0, 1.0):  # both actors had to start first
        clock[0] += seconds
        progress.advance(10)
    assert progress.rate() == 0.0
    clock[0] += 2
    progress.advance(10)
    assert progress.rate() == 5.0


def test_quiet_shows_warnings_and_nothing_else(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with console.shown(quiet=True):
        console.say("said")
        console.warn("WARNING: look")
        Epochs(3).add(1, train=(0.5, 0.8), val=(0.6, 0.7), seconds=1.0)
        with Progress("scored", 100) as progress:
            clock[0] += 20
            progress.advance(100)
    output = capsys.readouterr()
    assert output.out == "" and output.err == "WARNING: look\n"
    with console.shown():
        console.say("said")
    assert capsys.readouterr().out == "said\n"


def test_an_epoch_is_a_line_of_its_own_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with console.shown():
        Epochs(12).add(3, train=(0.51234, 0.8), val=(0.6, 0.7), seconds=1.04)
    said = capsys.readouterr().out
    assert said == "epoch   3 of 12: train loss 0.5123 accuracy 0.8000, val loss 0.6000 accuracy 0.7000, 1.0 s\n"


@pytest.fixture
def in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    yield


def test_a_notebook_has_one_line_that_is_rewritten(
    in_a_notebook: None, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with console.shown(), Progress("features", 4, unit="views") as progress:
        for _ in range(4):
            clock[0] += 1
            progress.advance(1)
    lines = capsys.readouterr().err.split("\r")
    assert [line.strip() for line in lines[:2]] == ["features: 1 of 4", "features: 2 of 4, 1.0 views/s, 0:02 left"]
    assert lines[-1].startswith("features: 4 in 0:04") and lines[-1].endswith("\n")


def test_a_rate_of_less_than_a_moment_is_not_said(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with console.shown(), Progress("features", 20) as progress:
        for _ in range(2):
            clock[0] += 0.2
            progress.advance(10)
    assert progress.rate() == 0 and "/s" not in capsys.readouterr().err


def test_columns_are_aligned_and_a_name_is_no_markup() -> None:
    lines = console.table(("path", "status", "n"), [("[red]a.jpg", "ok", "1"), ("b", "missing", "23")], num_left=2)
    assert lines.splitlines() == ["path        status    n", "[red]a.jpg  ok        1", "b           missing  23"]
