"""Scheduled scoring on a real Ray with a real network: processes killed at awkward moments, then the same command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import test_images
import test_storage
import torch
from PIL import Image
from support import build

from tlearn import storage
from tlearn.classes import Classes
from tlearn.cli import main
from tlearn.config import HeadConfig, PreprocessConfig
from tlearn.data.fetch import Fetched, fetch
from tlearn.demo import drawings
from tlearn.network import model, weights
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Draft
from tlearn.network.vgg import load_pretrained
from tlearn.scoring import job as scoring
from tlearn.scoring.actor import Score
from tlearn.scoring.ledger import Ledger
from tlearn.training.streams import generator

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]

TLEARN = [sys.executable, "-c", "import sys; from tlearn.cli import main; sys.exit(main())"]
PREPROCESS = PreprocessConfig(image_size=96, short_side=104)


def save_model(folder: Path, cache: Path) -> None:
    """One that was not trained."""
    frozen, trainable = build(5, PREPROCESS, HeadConfig(width=8), 1)
    load_pretrained(frozen.layers, weights.load("imagenet", str(cache)))
    trainable.head.initialize(generator(0))
    draft = Draft(
        classes=Classes(("cat", "dog")),
        frozen_blocks=5,
        preprocess=PREPROCESS,
        head=HeadConfig(width=8),
        arithmetic=Arithmetic(),
        training={"recipe": "frozen", "num_train": 1, "num_val": 1},
        metrics={"val_accuracy": 0.5, "val_loss": 0.7},
        reference={},
    )
    model.save(folder, frozen.layers.state_dict(), trainable, draft)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A model and 120 pictures."""
    root = tmp_path_factory.mktemp("nightly")
    save_model(root / "model", cache)
    drawings.draw_folder(root / "drawn", num_train=2, num_val=2, num_test=120, seed=3)
    (root / "drawn" / "test" / "broken.jpg").unlink()
    return root


def words(place: Path, table: Path) -> list[str]:
    return [
        *["score", "--model", f"{place}/model", "--input", f"{place}/drawn/test", "--output", f"{table}/"],
        *["--cache", f"{place}/cache", "--batch-size", "4", "--quiet"],
    ]


def rows(table: Path) -> list[dict[str, Any]]:
    found = [row for file in sorted(table.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return sorted(found, key=lambda row: str(row["path"]))


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> list[dict[str, Any]]:
    assert main(words(place, place / "undisturbed")) == 0
    return rows(place / "undisturbed")


def assert_same(table: Path, undisturbed: list[dict[str, Any]]) -> None:
    found = rows(table)
    assert [row["path"] for row in found] == [row["path"] for row in undisturbed]
    for row, other in zip(found, undisturbed, strict=True):
        for name in ("status", "prediction", "label", "sha256", "width", "height", "bytes", "model"):
            assert row[name] == other[name]
        assert row["probability"] == pytest.approx(other["probability"], abs=1e-5)
    assert Ledger(str(table)).verify() == []


def start(place: Path, table: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*TLEARN, *words(place, table)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def wait_for_parts(process: subprocess.Popen[bytes], table: Path, count: int) -> list[Path]:
    deadline = time.monotonic() + 120
    while True:
        parts = sorted(table.glob("_tlearn/runs/*/0*.parquet"))
        if len(parts) >= count:
            return parts
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def test_every_picture_has_one_row(undisturbed: list[dict[str, Any]], place: Path) -> None:
    assert len(undisturbed) == 120 and {row["status"] for row in undisturbed} == {"scored"}
    assert torch.tensor([row["probability"] for row in undisturbed]).isfinite().all()


def test_a_run_that_is_ended_again_and_again_ends_as_if_it_had_not_been(
    place: Path, undisturbed: list[dict[str, Any]], tmp_path: Path
) -> None:
    """SIGTERM, then kill -9, then five missed schedules at once while it goes on."""
    table = tmp_path / "table"
    process = start(place, table)
    wait_for_parts(process, table, 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert not (table / "_tlearn" / "lease.json").exists()

    process = start(place, table)
    wait_for_parts(process, table, 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(table.glob("*.parquet"))
    # What is left of the killed run may finish a chunk more; what is there by now stays as it is.
    time.sleep(3)
    kept = {part.name: part.stat().st_ino for part in table.glob("_tlearn/runs/*/0*.parquet")}
    assert 4 <= len(kept) < 15

    process = start(place, table)
    wait_for_parts(process, table, len(kept) + 1)
    process.send_signal(signal.SIGSTOP)  # it would be done before the others have started
    seen = {part.name: part.stat().st_ino for part in table.glob("_tlearn/runs/*/0*.parquet")}
    assert seen.items() >= kept.items()
    others = [start(place, table) for _ in range(5)]
    assert [other.wait(60) for other in others] == [75] * 5
    process.send_signal(signal.SIGCONT)
    assert process.wait(200) == 0
    assert start(place, table).wait(60) == 0
    assert len(list(table.glob("*.parquet"))) == 1
    assert_same(table, undisturbed)


def test_a_killed_actor_costs_no_row(place: Path, undisturbed: list[dict[str, Any]], tmp_path: Path) -> None:
    table = tmp_path / "table"
    process = start(place, table)
    wait_for_parts(process, table, 2)
    killed = 0
    for entry in Path("/proc").iterdir():
        try:
            is_ours = entry.name.isdigit() and os.getsid(int(entry.name)) == process.pid
            if is_ours and "MapWorker" in (entry / "cmdline").read_text() and not killed:
                os.kill(int(entry.name), signal.SIGKILL)
                killed += 1
        except OSError:
            continue
    assert killed == 1
    assert process.wait(200) == 0
    assert_same(table, undisturbed)


def poison(folder: str, path: str, preprocess: PreprocessConfig) -> Fetched:
    """Ends its process at one picture, as a decoder with a fault would."""
    if path == "poison.png":
        os.abort()
    return fetch(folder, path, preprocess)


class Poisoned(Score):
    def __init__(self, *arguments: Any, **more: Any):
        super().__init__(*arguments, **more, fetch=poison)


def test_awkward_files_have_the_rows_that_are_expected_of_them(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of picture, of no picture and of name, links, a pipe, and a picture that kills who decodes it."""
    folder = tmp_path / "input"
    folder.mkdir()
    good = test_images.encode(test_images.rgb(), "PNG")
    expected = {}

    def put(name: str, data: bytes, status: str) -> None:
        (folder / name).write_bytes(data)
        expected[storage.encode_name(os.fsencode(name))] = status

    for number, (kind, options) in enumerate(test_images.ENCODED.values()):
        data = test_images.encode(test_images.rgb(), kind, **options)
        put(f"{number}.jpg", data, "scored")
        put(f"cut-{number}.jpg", data[: len(data) // 2], "unreadable")
    for name, (data, _) in test_images.BAD.items():
        put(f"{name}.jpg", data, "unreadable")
    put("bomb.png", test_images.bomb(), "too_large")
    put("strip.png", test_images.encode(Image.new("L", (65500, 1)), "PNG"), "scored")
    put("trailing.jpg", test_images.encode(test_images.rgb(), "JPEG") + b"garbage" * 100, "scored")
    for name in (*test_storage.NAMES, os.fsdecode(b"bad\xff\xfe.jpg")):
        put(name, good, "scored")
    os.link(folder / "0.jpg", folder / "hard.jpg")
    (folder / "link.jpg").symlink_to("0.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere")
    (folder / "loop").symlink_to(".")
    os.mkfifo(folder / "pipe.jpg")
    expected |= {"hard.jpg": "scored", "link.jpg": "scored", "dangling.jpg": "missing"}
    put("poison.png", good + b"poison", "decoder_crash")

    monkeypatch.setattr(scoring, "_SCORER", f"{__name__}:Poisoned")
    table = tmp_path / "table"
    command = words(place, table)
    command[command.index("--input") + 1] = str(folder)
    assert main(command) == 4
    found = rows(table)
    assert len(found) == len(expected)
    assert {row["path"]: row["status"] for row in found} == expected
    assert all((row["error"] is None) == (row["status"] == "scored") for row in found)
    assert Ledger(str(table)).verify() == []
