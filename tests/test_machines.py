"""Terminals, disks and hosts of all kinds: what a command says there, and what it leaves alone."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from PIL import Image
from processes import TLEARN

from tlearn import cli, console, errors
from tlearn.data import listing, manifest
from tlearn.errors import StorageError

CHECK = ["check", "--quick", "--data"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """With names that ASCII has no letters for."""
    for split in ("train", "val"):
        for label in ("кошка", "🐕"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for number in range(2):
                pixels = np.full((8, 8, 3), hash((split, label, number)) % 256, np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "data"


def test_names_that_a_terminal_cannot_show_are_replaced_there(data: Path) -> None:
    own = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*TLEARN, *CHECK, data], env=own, capture_output=True, timeout=60)
    assert done.returncode == 0 and b"\\u043a\\u043e" in done.stdout, done.stderr


def test_closed_streams_are_written_to_nowhere(data: Path) -> None:
    words = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *TLEARN, *CHECK, str(data)]
    assert subprocess.run(words, timeout=60).returncode == 0


def test_work_goes_on_when_its_reader_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        with console.shown(), console.Progress("scored", 2) as progress:
            for _ in range(3):
                console.say("a line")
                console.warn("a warning")
                progress.advance(1)


@pytest.mark.parametrize("number", errors._OF_THE_MACHINE)
def test_what_a_disk_refuses_is_a_line_with_the_place(number: int) -> None:
    with (
        pytest.raises(StorageError, match=r"expected a place to read and write at /cache/x, got .*--cache"),
        errors.of_the_machine(),
    ):
        raise OSError(number, os.strerror(number), "/cache/x")


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(FileNotFoundError), errors.of_the_machine():
        raise FileNotFoundError(errno.ENOENT, "no such file")
    with pytest.raises(StorageError, match=r"^of ours$"), errors.of_the_machine():
        raise StorageError("of ours")


def test_a_cache_that_cannot_be_written_is_done_without(data: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    files = listing.read(str(data)).files
    assert all(file.sha256 for file in manifest.add_hashes(str(data), files, f"{tmp_path}/cache"))


def test_the_handlers_of_a_host_are_put_back(data: Path) -> None:
    def host(number: int, frame: FrameType | None) -> None: ...

    before = {number: signal.signal(number, host) for number in errors.Stopped.WORDS}
    try:
        assert cli.main([*CHECK, str(data)]) == 0
        assert {signal.getsignal(number) for number in before} == {host}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_command_runs_in_any_thread(data: Path) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli.main([*CHECK, str(data)])))
    thread.start()
    thread.join(60)
    assert codes == [0]
