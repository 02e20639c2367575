"""Scheduled scoring on a real Ray: processes killed at awkward moments, then the same command."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pictures
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from processes import started, wait_for
from ray._private import state
from support import save_model

from tlearn import storage
from tlearn.cli import main
from tlearn.config import PreprocessConfig
from tlearn.demo import drawings
from tlearn.scoring import compute
from tlearn.scoring.ledger import Ledger

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]

HELD = """
import sys
from tlearn.cli import main
from tlearn.scoring import compute
compute.SCORER = "actors:Held"
sys.exit(main())
"""
NUM_CHUNKS = 8
ONE_ACTOR = ["--workers", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and pictures for eight chunks."""
    root = tmp_path_factory.mktemp("nightly")
    save_model(root / "model", PreprocessConfig(image_size=32, short_side=36))
    drawings.draw_folder(root / "drawn", num_train=2, num_val=2, num_test=8 * NUM_CHUNKS, seed=3)
    (root / "drawn" / "test" / "broken.jpg").unlink()
    return root


@pytest.fixture
def hold(place: Path) -> Iterator[Path]:
    """The file that says at which chunk actors stand still."""
    path = place / "drawn" / "hold"
    yield path
    path.unlink(missing_ok=True)


def words(place: Path, table: Path, *more: str) -> list[str]:
    return [
        *["score", "--model", f"{place}/model", "--input", f"{place}/drawn/test", "--output", f"{table}/"],
        *["--cache", f"{place}/cache", "--batch-size", "4", "--quiet", *more],
    ]


def rows(table: Path) -> list[dict[str, Any]]:
    found = [row for file in sorted(table.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return sorted(found, key=lambda row: str(row["path"]))


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> list[dict[str, Any]]:
    assert main(words(place, place / "undisturbed", *ONE_ACTOR)) == 0
    return rows(place / "undisturbed")


def assert_same(table: Path, undisturbed: list[dict[str, Any]]) -> None:
    found = rows(table)
    assert [row["path"] for row in found] == [row["path"] for row in undisturbed]
    for row, other in zip(found, undisturbed, strict=True):
        for name in ("status", "prediction", "label", "sha256", "width", "height", "bytes", "model"):
            assert row[name] == other[name]
        assert row["probability"] == pytest.approx(other["probability"], abs=1e-5)
    assert Ledger(str(table)).verify() == []


def start(place: Path, table: Path, *more: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return started(sys.executable, "-c", HELD, *words(place, table, *more))


def parts(table: Path) -> dict[str, int]:
    """The inode of every chunk that is done."""
    return {part.name: part.stat().st_ino for part in table.glob("_tlearn/runs/*/0*.parquet")}


@contextlib.contextmanager
def standing_after(num_parts: int, hold: Path, place: Path, table: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A run that stands still when so many chunks are done."""
    hold.write_text(str(num_parts))
    with start(place, table, *more) as process:
        wait_for(lambda: len(parts(table)) >= num_parts, process)
        yield process


def test_every_picture_has_one_row(undisturbed: list[dict[str, Any]]) -> None:
    assert len(undisturbed) == 8 * NUM_CHUNKS and {row["status"] for row in undisturbed} == {"scored"}
    assert torch.tensor([row["probability"] for row in undisturbed]).isfinite().all()


@pytest.mark.long
def test_a_run_that_is_ended_again_and_again_ends_as_if_it_had_not_been(
    place: Path, undisturbed: list[dict[str, Any]], hold: Path, tmp_path: Path
) -> None:
    """SIGTERM, then kill -9, then five missed schedules at once while it goes on."""
    table = tmp_path / "table"
    with standing_after(2, hold, place, table, *ONE_ACTOR) as process:
        process.terminate()
        assert process.wait(60) == 143
    assert not (table / "_tlearn" / "lease.json").exists()

    with standing_after(4, hold, place, table, *ONE_ACTOR) as process:
        process.kill()
    assert not list(table.glob("*.parquet"))
    kept = parts(table)

    with standing_after(5, hold, place, table, *ONE_ACTOR) as process:
        assert parts(table).items() >= kept.items()
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(start(place, table)) for _ in range(5)]
            assert [other.wait(100) for other in others] == [75] * 5
        hold.unlink()
        assert process.wait(200) == 0
    with start(place, table) as process:
        assert process.wait(60) == 0
    assert len(list(table.glob("*.parquet"))) == 1
    assert_same(table, undisturbed)


def living_scorers() -> list[int]:
    """The processes of the scoring actors."""
    actors = state.actors().values()
    return [one["Pid"] for one in actors if one["State"] == "ALIVE" and "Held" in one["ActorClassName"]]


@pytest.mark.long
def test_a_killed_actor_costs_no_row(
    place: Path, undisturbed: list[dict[str, Any]], hold: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table"
    with standing_after(2, hold, place, table) as process:
        wait_for(lambda: len(living_scorers()) == 2, process)
        os.kill(living_scorers()[0], signal.SIGKILL)
        hold.unlink()
        assert process.wait(200) == 0
    assert_same(table, undisturbed)


def test_awkward_files_have_the_rows_that_are_expected_of_them(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of picture, of no picture and of name, links, a pipe, and a picture that kills who decodes it."""
    folder = tmp_path / "input"
    folder.mkdir()
    good = pictures.encode(pictures.rgb(), "PNG")
    expected = {}

    def put(name: str, data: bytes, status: str) -> None:
        (folder / name).write_bytes(data)
        expected[storage.encode_name(os.fsencode(name))] = status

    for number, (kind, options) in enumerate(pictures.ENCODED.values()):
        data = pictures.encode(pictures.rgb(), kind, **options)
        put(f"{number}.jpg", data, "scored")
        put(f"cut-{number}.jpg", data[: len(data) // 2], "unreadable")
    for name, (data, _) in pictures.BAD.items():
        put(f"{name}.jpg", data, "unreadable")
    put("bomb.png", pictures.bomb(), "too_large")
    put("strip.png", pictures.encode(Image.new("L", (65500, 1)), "PNG"), "scored")
    put("trailing.jpg", pictures.encode(pictures.rgb(), "JPEG") + b"garbage" * 100, "scored")
    for name in (*pictures.NAMES, os.fsdecode(b"bad\xff\xfe.jpg")):
        put(name, good, "scored")
    os.link(folder / "0.jpg", folder / "hard.jpg")
    (folder / "link.jpg").symlink_to("0.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere")
    (folder / "loop").symlink_to(".")
    os.mkfifo(folder / "pipe.jpg")
    expected |= {"hard.jpg": "scored", "link.jpg": "scored", "dangling.jpg": "missing"}
    put("poison.png", good + b"poison", "decoder_crash")

    monkeypatch.setattr(compute, "SCORER", "actors:Poisoned")
    table = tmp_path / "table"
    command = words(place, table, *ONE_ACTOR)
    command[command.index("--input") + 1] = str(folder)
    assert main(command) == 4
    found = rows(table)
    assert len(found) == len(expected)
    assert {row["path"]: row["status"] for row in found} == expected
    assert all((row["error"] is None) == (row["status"] == "scored") for row in found)
    assert Ledger(str(table)).verify() == []
