"""A worker's whole way through its phases, stopped at every checkpoint and resumed there; Ray Train is a stand-in.

What only Ray can do (several workers, lost ones) is in test_elastic.
"""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
import ray.train
import ray.train.torch
import torch
from torch import Tensor

from tlearn import console
from tlearn.config import HeadConfig, OptimConfig, PreprocessConfig, TrainConfig
from tlearn.errors import IntegrityError, LockedError, StorageError, TrainingError
from tlearn.features.cache import Features, Place
from tlearn.features.cut import Frozens
from tlearn.features.phases import Phase
from tlearn.network import weights
from tlearn.network.arithmetic import Arithmetic
from tlearn.storage.lease import Holder
from tlearn.training import checkpoint, loop, ray_train, worker
from tlearn.training.checkpoint import Epoch, Position
from tlearn.training.loop import Kept, Worker
from tlearn.training.samples import Samples
from tlearn.training.worker import Attempt, Job

OPTIM = OptimConfig(
    lr=1e-3, pretrained_lr=1e-4, global_batch_size=8, num_epochs=3, warmup_epochs=0.5, schedule="plateau",
    decay_epochs=1, ema_decay=0.8, mixup=0.2, label_smoothing=0.1, clip_norm=1.0, patience=2,
)  # fmt: skip
CONFIG = TrainConfig(
    data="",
    output="",
    frozen_blocks=4,
    workers=1,
    balance=True,
    weights="none",
    arch="vgg_tiny",
    preprocess=PreprocessConfig(image_size=32, short_side=32),
    head=HeadConfig(width=16),
    optim=OPTIM,
    checkpoint_every_seconds=1e-9,
)


def features(path: Path, count: int, shape: tuple[int, int, int]) -> Features:
    """Of float16, or of uint8 where they are pixels."""
    values: np.ndarray[Any, Any] = np.random.default_rng(0).random((count, int(np.prod(shape))))
    values = (values * 256).astype(np.uint8) if shape[0] == 3 else values.astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    batch = pa.RecordBatch.from_pydict({"features": column})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return Features([Place(str(path), row, "ok", None) for row in range(count)], shape)


PRETRAINED = weights.load("none", "", CONFIG.arch)


@pytest.fixture(params=["flip", "full"])
def attempt(request: pytest.FixtureRequest, tmp_path: Path) -> Attempt:
    """The head for two epochs, then the last block with it: on features, or on fresh crops."""
    labels = tuple(row % 3 % 2 for row in range(20))
    config = dataclasses.replace(CONFIG, augment=request.param)
    phases = []
    for frozen_blocks, num_epochs, shape in ((5, 2, (16, 1, 1)), (4, 3, (16, 2, 2))):
        seen, in_step = shape, None
        if frozen_blocks < 5 and config.augment == "full":
            seen, in_step = (3, 32, 32), Frozens(config, PRETRAINED, Arithmetic()).cut(frozen_blocks)
        train = features(tmp_path / f"train{frozen_blocks}.arrow", 20, seen)
        val = features(tmp_path / f"val{frozen_blocks}.arrow", 20, shape)
        optim = dataclasses.replace(OPTIM, num_epochs=num_epochs)
        phases.append(Phase(frozen_blocks, optim, train, labels, val, in_step))
    job = Job(config, "digest", 2, 1, tuple(phases), labels)
    return Attempt(job, str(tmp_path), 1, None, f"{tmp_path}/lease.json", "")


class Stopped(Exception):
    pass


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Path]]:
    """Runs a job, from a checkpoint if there is one, and stops it after so many reports; returns the checkpoints."""
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))

    def train(attempt: Attempt, name: str, start: Path | None = None, num_reports: int = 1000) -> list[Path]:
        kept: list[Path] = []

        def report(metrics: dict[str, Any], checkpoint: Any) -> None:
            kept.append(tmp_path / name / f"{len(kept):03}")
            shutil.copytree(checkpoint.path, kept[-1], copy_function=shutil.move)
            json.dumps(metrics, allow_nan=False)
            if len(kept) == num_reports:
                raise Stopped

        latest = None if start is None else ray.train.Checkpoint.from_directory(str(start))
        monkeypatch.setattr(ray.train, "get_checkpoint", lambda: latest)
        monkeypatch.setattr(ray.train, "report", report)
        with contextlib.suppress(Stopped):
            ray_train.run({"attempt": attempt})
        return kept

    return train


def learned(folder: Path) -> dict[str, Tensor]:
    history = checkpoint.read_position(folder).history
    return checkpoint.learned_tensors(folder, history[-1].kept if history else "weights")


def without_seconds(progress: Position) -> list[Epoch]:
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in progress.history]


@pytest.mark.slow
def test_a_run_stopped_at_any_checkpoint_of_any_phase_ends_as_the_uninterrupted_one(
    attempt: Attempt, train: Callable[..., list[Path]]
) -> None:
    whole = train(attempt, "whole")
    end = checkpoint.read_position(whole[-1])
    assert end.is_finished and [epoch.phase for epoch in end.history] == [1, 1, 2, 2, 2]
    assert [epoch.train_count for epoch in end.history] == [20] * 5
    # Three updates an epoch, a checkpoint after each and one with the evaluation.
    assert len(whole) == 5 * 4
    # Within an epoch, between two, at the end of the first phase, within the second, before the last epoch's end.
    for number in (1, 3, 7, 9, 18):
        folder = whole[number]
        progress = checkpoint.read_position(folder)
        assert (len(progress.history), progress.start) == divmod(number + 1, 4)
        assert (folder / "logits.safetensors").exists() is (progress.start == 0)
        resumed = train(attempt, f"resumed{number}", start=folder)
        assert len(resumed) == len(whole) - number - 1
        last = checkpoint.read_position(resumed[-1])
        assert without_seconds(last) == without_seconds(end)
        expected, found = learned(whole[-1]), learned(resumed[-1])
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_second_phase_goes_on_with_the_head_of_the_first_and_the_pretrained_layers(
    attempt: Attempt, train: Callable[..., list[Path]]
) -> None:
    kept = train(attempt, "run", num_reports=9)  # one update into the second phase
    head = learned(kept[7])["head.last.weight"]
    second = learned(kept[8])
    assert torch.equal(second["head.scale"], learned(kept[7])["head.scale"])
    moved = (second["head.last.weight"] - head).abs().max().item()
    assert 0 < moved < 2 * OPTIM.lr
    name = "block5_conv1.weight"
    moved = (second[f"layers.{name}"] - PRETRAINED[name]).abs().max().item()
    assert 0 < moved < 2 * OPTIM.pretrained_lr


def test_an_epoch_keeps_weights_or_average_whichever_is_better(
    attempt: Attempt, train: Callable[..., list[Path]]
) -> None:
    phase = dataclasses.replace(attempt.job.phases[0], optim=dataclasses.replace(OPTIM, num_epochs=4))
    config = dataclasses.replace(attempt.job.config, checkpoint_every_seconds=None)
    attempt = dataclasses.replace(attempt, job=dataclasses.replace(attempt.job, phases=(phase,), config=config))
    chosen, labels = set(), torch.tensor(attempt.job.val_labels)
    for folder in train(attempt, "run"):
        epoch, losses = checkpoint.read_position(folder).history[-1], {}
        for kept in get_args(Kept):
            trainable = worker.build_model(attempt.job, phase, torch.device("cpu"))
            trainable.load_state_dict(checkpoint.learned_tensors(folder, kept))
            logits = loop.evaluate(trainable, Samples(phase.val.gather, labels), 8, Worker())
            losses[kept] = loop.measure(logits, labels).rates()[0]
            if kept == epoch.kept:
                assert torch.allclose(checkpoint.val_logits(folder), logits, atol=1e-6)
        assert losses[epoch.kept] == min(losses.values()) == pytest.approx(epoch.val_loss)
        chosen.add(epoch.kept)
    assert chosen == set(get_args(Kept))


def test_a_run_without_improvement_stops_by_its_patience(attempt: Attempt, train: Callable[..., list[Path]]) -> None:
    # A rate so small that rounding is all that moves; later losses are never lower by as much as one update.
    phase = dataclasses.replace(
        attempt.job.phases[0], optim=dataclasses.replace(OPTIM, num_epochs=30, lr=3.0, patience=2, clip_norm=None)
    )
    config = dataclasses.replace(attempt.job.config, checkpoint_every_seconds=None)
    job = dataclasses.replace(attempt.job, phases=(phase,), config=config)
    kept = train(dataclasses.replace(attempt, job=job), "run")
    losses = [epoch.val_loss for epoch in checkpoint.read_position(kept[-1]).history]
    assert len(losses) < 30 and checkpoint.read_position(kept[-1]).is_finished
    assert losses.index(min(losses)) == len(losses) - 3


def test_a_run_that_is_asked_to_stop_writes_a_checkpoint_within_the_epoch(
    attempt: Attempt, train: Callable[..., list[Path]]
) -> None:
    config = dataclasses.replace(attempt.job.config, checkpoint_every_seconds=None)
    attempt = dataclasses.replace(attempt, job=dataclasses.replace(attempt.job, config=config))
    Path(attempt.stop_location).touch()
    (kept,) = train(attempt, "stopped")  # and nothing after it
    progress = checkpoint.read_position(kept)
    assert (len(progress.history), progress.start) == (0, 1)


@pytest.mark.parametrize(("num_updates", "where"), [(3, "loss is nan in step"), (1, "validation loss is")])
def test_a_loss_that_is_no_number_ends_the_job_for_good(
    attempt: Attempt, train: Callable[..., list[Path]], num_updates: int, where: str
) -> None:
    optim = OptimConfig(name="sgd", lr=1e30, global_batch_size=-(-20 // num_updates))
    phase = dataclasses.replace(attempt.job.phases[0], optim=optim)
    config = dataclasses.replace(attempt.job.config, checkpoint_every_seconds=None)
    with pytest.raises(TrainingError, match=f"expected a loss that is a number, but {where}"):
        train(dataclasses.replace(attempt, job=dataclasses.replace(attempt.job, phases=(phase,), config=config)), "run")
    assert not (Path(attempt.folder) / "run").exists()


def test_nothing_is_reported_once_another_run_holds_the_folder(
    attempt: Attempt, train: Callable[..., list[Path]], tmp_path: Path
) -> None:
    lease = tmp_path / "lease.json"
    ours = dataclasses.replace(attempt, lease=str(lease), owner="ours")
    holder = Holder("ours", "host", "boot", 1, None)
    for content in (holder.to_json(), b"", b"{"):
        lease.write_bytes(content)
        assert train(ours, f"after {len(content)}", num_reports=1)
    lease.write_bytes(dataclasses.replace(holder, owner="another").to_json())
    with pytest.raises(LockedError, match="run another has taken it over"):
        train(ours, "lost")
    assert not (tmp_path / "lost").exists()


def test_a_checkpoint_for_which_there_is_no_room_is_an_error_of_storage(
    attempt: Attempt, train: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="No space left on device"):
        train(attempt, "run")


def test_what_was_saved_on_a_gpu_is_gone_on_with_where_there_is_none(
    attempt: Attempt, train: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as on_gpu:
        on_gpu.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        (saved,) = train(attempt, "gpu", num_reports=1)
    assert train(attempt, "cpu", start=saved, num_reports=1)


def test_what_no_start_can_use_is_removed_and_damage_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(name: str, losses: list[float], *, start: int = 0, digest: str = "ours") -> None:
        history = [
            dataclasses.asdict(Epoch(1, number, 0.1, 9, 0.5, 0.5, loss, 0.5, 1, 1.0))
            for number, loss in enumerate(losses, 1)
        ]
        content = {"digest": digest, "start": start, "sums": [0, 0, 0], "history": history, "sha256": {}}
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "progress.json").write_text(json.dumps(content))

    write("run-001/first", [0.3])
    write("run-001/best", [0.3, 0.1])
    write("run-002/initial", [0.3, 0.1])
    write("run-002/later", [0.3, 0.1, 0.2])
    write("run-002/within", [0.3, 0.1, 0.2], start=7)
    write("run-003/another", [0.01], digest="another")
    (tmp_path / "run-003" / "cut").mkdir()
    (tmp_path / "run-003" / "metrics.jsonl").touch()
    found = checkpoint.whole(str(tmp_path), "ours")
    with console.shown():
        checkpoint.tidy(str(tmp_path), found)
    left = sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.glob("*/*/progress.json"))
    assert left == ["run-001/best", "run-002/within"]
    assert not (tmp_path / "run-003" / "cut").exists() and (tmp_path / "run-003" / "metrics.jsonl").exists()
    assert capsys.readouterr().err.count("it is removed") == 1
    with console.shown():
        checkpoint.tidy(str(tmp_path), checkpoint.whole(str(tmp_path), "ours"))
    assert capsys.readouterr().err == ""


def test_a_damaged_checkpoint_is_refused(attempt: Attempt, train: Callable[..., list[Path]]) -> None:
    folder = train(attempt, "run", num_reports=1)[0]
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(IntegrityError, match="expected"):
            checkpoint.read_position(folder)
        path.write_bytes(content)
    checkpoint.read_position(folder)
