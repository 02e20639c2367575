"""Scheduled scoring on a real Ray with a real network: processes killed at awkward moments, then the same command."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tlearn import description, drawings, loop, model, network, weights
from tlearn.classes import Classes
from tlearn.cli import main
from tlearn.config import HeadConfig, PreprocessConfig
from tlearn.ledger import Ledger

pytestmark = pytest.mark.cluster

TLEARN = [sys.executable, "-c", "import sys; from tlearn.cli import main; sys.exit(main())"]
PREPROCESS = PreprocessConfig(image_size=96, short_side=104)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A model that was not trained, and 120 pictures."""
    root = tmp_path_factory.mktemp("nightly")
    frozen, trainable = network.build(5, PREPROCESS, HeadConfig(width=8), 1)
    network.load_pretrained(frozen, weights.load("imagenet", str(cache)))
    trainable.head.initialize(loop.generator(0))
    described = description.Description(
        classes=Classes(("cat", "dog")),
        frozen_blocks=5,
        preprocess=PREPROCESS,
        head=HeadConfig(width=8),
        precision="fp32",
        weights_sha256="",
        training={"recipe": "frozen", "num_train": 1, "num_val": 1},
        metrics={"val_accuracy": 0.5, "val_loss": 0.7},
        reference={},
    )
    model.save(root / "model", frozen.layers.state_dict(), trainable, described)
    drawings.draw_folder(root / "drawn", num_train=2, num_val=2, num_test=120, seed=3)
    (root / "drawn" / "test" / "broken.jpg").unlink()
    return root


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    import ray

    from tlearn import launch

    os.environ["RAY_ADDRESS"] = "local"
    launch.start_ray()
    yield
    ray.shutdown()
    del os.environ["RAY_ADDRESS"]


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
    wait_for_parts(process, table, 6)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(table.glob("*.parquet"))
    # What is left of the killed run may finish a chunk more; what is there by now stays as it is.
    time.sleep(3)
    kept = {part.name: part.stat().st_ino for part in table.glob("_tlearn/runs/*/0*.parquet")}
    assert 6 <= len(kept) < 15

    process = start(place, table)
    wait_for_parts(process, table, len(kept) + 1)
    seen = {part.name: part.stat().st_ino for part in table.glob("_tlearn/runs/*/0*.parquet")}
    assert seen.items() >= kept.items()
    others = [start(place, table) for _ in range(5)]
    assert [other.wait(60) for other in others] == [75] * 5
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
