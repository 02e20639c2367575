"""A run folder: what is understood again, and that only its holder writes it."""

import dataclasses
import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import TrainConfig
from tlearn.data.manifest import File, Listing
from tlearn.errors import LockedError, StorageError, UsageError
from tlearn.evaluation.quality import ClassQuality, Quality
from tlearn.network.arithmetic import Arithmetic
from tlearn.training import checkpoint, job
from tlearn.training.checkpoint import Epoch
from tlearn.training.gate import Gate
from tlearn.training.run import Earlier, Start, Summary, essential, opened

CONFIG = TrainConfig(data="data", output="run", cache="cache")
LISTING = Listing([File("train", "train/cat/a.jpg", "cat", 1, 1, "abc")], Classes(("cat", "dog")))
START = Start("digest", Arithmetic(), CONFIG, {"python": "3"}, None, "tlearn", CONFIG)
EPOCH = Epoch(1, 1, 0.1, 20, 0.5, 0.5, 0.5, 0.5, 1, 2.0)
GATE = Gate(24, 0.1, 0.9, 0.2, 0.8, 0.95, 20)
QUALITY = Quality(0.9, 0.3, 0.1, 0.02, 0.95, {"cat": ClassQuality(0.9, None, 24)})
SUMMARY = Summary(
    "frozen", ("cat", "dog"), 60, 24, 4, 3, 5, 0.9, 0.1, 0.8, 1.2, QUALITY, "torch-fp32", None, 1, 144, 0,
    1.5, 2.5, "0123456789abcdef", 5.0,
)  # fmt: skip


@pytest.mark.parametrize("gate", [None, GATE])
def test_a_summary_is_a_flat_object_and_is_read_again(gate: Gate | None) -> None:
    summary = dataclasses.replace(SUMMARY, gate=gate)
    content = json.loads(json.dumps(summary.to_json()))
    assert Summary.from_json(content) == summary
    assert list(content)[11:14] == ["quality", "arithmetic", "gate_num_val" if gate else "skipped"]
    assert ("agreement" in content) is (gate is not None) and "gate" not in content


def test_a_gate_that_does_not_say_how_many_were_asked_has_asked_all() -> None:
    content = dataclasses.replace(SUMMARY, gate=GATE).to_json()
    del content["gate_num_asked"]
    assert Summary.from_json(content).gate == dataclasses.replace(GATE, gate_num_asked=GATE.gate_num_val)


def test_remarks_are_kept_and_absent_where_there_are_none() -> None:
    summary = dataclasses.replace(SUMMARY, remarks=("phase 2 ended worse",))
    assert Summary.from_json(json.loads(json.dumps(summary.to_json()))) == summary
    assert "remarks" not in SUMMARY.to_json()


def test_the_end_says_how_sure_and_how_long_where_to_look_and_what_to_do() -> None:
    figures, note, report, following = dataclasses.replace(SUMMARY, remarks=("phase 2",)).lines("my runs/a")
    assert "0.9000 of 24 images (95% sure: 0.720 to 0.969)" in figures
    assert "lowest in epoch 3 of 4" in figures and "5 seconds" in figures
    assert (note, report) == ("note: phase 2", "report: 'my runs/a/report.html'")
    assert following.startswith("next: tlearn score --model 'my runs/a/model' --input ")


def test_an_earlier_start_of_the_same_run_is_known_by_its_digest(tmp_path: Path) -> None:
    def same(places: Mapping[str, Any]) -> str:
        return "digest"

    def other(places: Mapping[str, Any]) -> str:
        return "other"

    with opened(str(tmp_path / "run")) as run:
        assert run.earlier(CONFIG, same, ()) is None
        with pytest.raises(UsageError, match="expected a run to go on with"):
            run.earlier(dataclasses.replace(CONFIG, resume="require"), same, ())
        run.write_start(dataclasses.replace(START, arithmetic=Arithmetic("openvino", "int8", (0.5,))))
        assert run.earlier(CONFIG, same, ()) == Earlier(
            "digest", Arithmetic("openvino", "int8", (0.5,)), {"data": "data", "weights": "imagenet"}
        )
        assert run.finished() is None
        with pytest.raises(UsageError, match="found another \\(seed 0 there, 1 here\\)"):
            run.earlier(dataclasses.replace(CONFIG, seed=1, quiet=True), other, ())
        with pytest.raises(UsageError, match="found another \\(frozen_blocks left to auto there, 5 here\\)"):
            run.earlier(CONFIG, other, ("frozen_blocks",))
        with pytest.raises(UsageError, match="the images or the weights have changed"):
            run.earlier(CONFIG, other, ())


@pytest.mark.parametrize("there", ["data", "data/", "./data", "/elsewhere/data", "s3://bucket/data"])
def test_a_run_is_the_same_wherever_its_images_and_weights_lie(tmp_path: Path, there: str) -> None:
    config = dataclasses.replace(CONFIG, data=there, weights=f"{there}/w.pth")
    assert essential(config) == essential(CONFIG)
    task, task_there = (job._Task(each, LISTING, {}, ()) for each in (CONFIG, config))
    assert task.digest({}) == task_there.digest({})
    before = task_there.digest({"data": there, "weights": f"{there}/w.pth"})  # as long as the texts were a part of it
    assert before != task_there.digest({})
    with opened(str(tmp_path / "run")) as run:
        run.write_start(dataclasses.replace(START, digest=before, requested=config))
        assert run.earlier(CONFIG, task.digest, ()) == Earlier(
            before, Arithmetic(), {"data": there, "weights": config.weights}
        )


def test_a_run_on_a_disk_without_room_ends_as_storage_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(str(tmp_path / "run")) as run:
        monkeypatch.setattr(os, "fsync", full)
        for write in (
            lambda: run.write_start(START),
            lambda: run.write_metrics(""),
            lambda: run.write_manifest(LISTING),
            lambda: run.write_validation(LISTING.files, torch.tensor([[0.5, 0.5]]), LISTING.classes),
            lambda: run.publish(SUMMARY),
        ):
            with pytest.raises(StorageError, match="No space left on device"):
                write()


def test_no_number_that_is_none_is_written(tmp_path: Path) -> None:
    with opened(str(tmp_path / "run")) as run, pytest.raises(ValueError, match="JSON compliant"):
        run.publish(dataclasses.replace(SUMMARY, val_loss=math.nan))
    with pytest.raises(ValueError, match="JSON compliant"):
        checkpoint.lines([EPOCH, dataclasses.replace(EPOCH, val_loss=math.nan)])


def test_lines_of_epochs_are_read_again_and_older_ones_too() -> None:
    epochs = [EPOCH, dataclasses.replace(EPOCH, epoch=2, kept="weights")]
    assert checkpoint.parsed_lines(checkpoint.lines(epochs)) == epochs
    older = {name: value for name, value in dataclasses.asdict(EPOCH).items() if name != "kept"}
    assert checkpoint.parsed_lines(json.dumps(older)) == [EPOCH]  # what was averaged was kept


def test_a_run_that_another_has_taken_over_writes_nothing(tmp_path: Path) -> None:
    with opened(str(tmp_path / "run")) as run:
        storage.write_bytes(run.lease.location, b'{"owner": "another"}')
        for write in (
            lambda: run.write_start(START),
            lambda: run.write_metrics(""),
            lambda: run.write_manifest(LISTING),
            lambda: run.write_validation(LISTING.files, torch.tensor([[0.5, 0.5]]), LISTING.classes),
            lambda: run.publish(SUMMARY),
            run.publish_model,
        ):
            with pytest.raises(LockedError):
                write()
        assert [path.name for path in run.path.iterdir()] == ["lease.json"]
