"""What every Ray Train worker runs: resume, the loop, one checkpoint an epoch.

A checkpoint is a folder whose last file, progress.json, holds the sha256 of the others:

    trainable.safetensors   the layers after the cut
    optimizer.pt            read with weights_only=True
    logits.safetensors      of the validation images under these weights
    progress.json           epochs done, a line of metrics for each, digest of the config
"""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.train import Checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tlearn import loop, optim, storage, weights
from tlearn.config import TrainConfig
from tlearn.errors import IntegrityError
from tlearn.features import Features
from tlearn.loop import Samples, Worker
from tlearn.network import Trainable, load_pretrained
from tlearn.weights import CHANNELS

_FILES = ("trainable.safetensors", "optimizer.pt", "logits.safetensors")


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a worker needs, small enough to be sent to each."""

    config: TrainConfig
    digest: str
    """Of what the result depends on: settings, samples, frozen layers."""
    num_logits: int
    train: Features
    train_labels: tuple[int, ...]
    val: Features
    val_labels: tuple[int, ...]
    num_threads: int
    metrics_path: str
    initial_checkpoint: str | None


def checkpoint_progress(folder: Path) -> dict[str, Any]:
    """Read progress.json after checking every file against it. Raises IntegrityError."""
    try:
        progress: dict[str, Any] = json.loads((folder / "progress.json").read_bytes())
        for name in _FILES:
            if storage.sha256_file(folder / name) != progress["sha256"][name]:
                raise IntegrityError(f"expected the recorded sha256 of {folder / name}, got another")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"expected a whole checkpoint in {folder}: {error}") from None
    return progress


def _save(
    folder: Path,
    network: Trainable,
    optimizer: torch.optim.Optimizer,
    logits: Tensor,
    progress: dict[str, Any],
) -> None:
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / _FILES[0])
    torch.save(optimizer.state_dict(), folder / _FILES[1])
    save_file({"logits": logits.contiguous()}, folder / _FILES[2])
    hashes = {name: storage.sha256_file(folder / name) for name in _FILES}
    storage.write_bytes(str(folder / "progress.json"), json.dumps({**progress, "sha256": hashes}).encode())


def _restore(
    folder: Path, job_digest: str, network: Trainable, optimizer: torch.optim.Optimizer
) -> list[dict[str, float]]:
    progress = checkpoint_progress(folder)
    assert progress["digest"] == job_digest, "the driver offers only checkpoints of this job"
    network.load_state_dict(load_file(folder / _FILES[0]))
    optimizer.load_state_dict(torch.load(folder / _FILES[1], weights_only=True))
    history: list[dict[str, float]] = progress["history"]
    return history


def _samples(features: Features, labels: tuple[int, ...], trainable: Trainable) -> Samples:
    """Where all blocks are frozen, what lies before the first dense layer has no parameters and is computed once."""
    targets = torch.tensor(labels)
    if len(trainable.layers) or trainable.head.config.pool != "average":
        return Samples(features.gather, targets)
    # Mapped from a file without a name, so that the memory of a worker does not grow with the number of images.
    file = tempfile.TemporaryFile()  # noqa: SIM115
    mapped = np.memmap(file, np.float32, "w+", shape=(len(features), CHANNELS[-1], 1, 1))
    pooled = torch.from_numpy(mapped)
    with torch.no_grad():
        for part in torch.arange(len(features)).split(64):
            pooled[part] = trainable.trunk(features.gather(part))
    return Samples(pooled.__getitem__, targets)


def run(job_config: dict[str, Any]) -> None:
    """Train from the latest checkpoint, or from the pretrained weights, to the last epoch."""
    job: Job = job_config["job"]
    config = job.config
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    torch.set_num_threads(job.num_threads)

    trainable = Trainable(config.frozen_blocks, config.preprocess, config.head, job.num_logits)
    if config.frozen_blocks < 5 and config.weights != "none":
        load_pretrained(trainable, weights.load(config.weights, config.cache))
    trainable.head.initialize(loop.generator(config.seed, 3))
    train = _samples(job.train, job.train_labels, trainable)
    val = _samples(job.val, job.val_labels, trainable)
    if config.head.scale_features:
        loop.fit_scale(trainable, train, config.seed)
    trainable.to(device)
    optimizer = optim.optimizer(trainable.parameters(), config.optim)

    # The order is important: what this run has reached comes before what it may have started from.
    history: list[dict[str, float]] = []
    latest = ray.train.get_checkpoint()
    if latest is not None:
        with latest.as_directory() as folder:
            history = _restore(Path(folder), job.digest, trainable, optimizer)
    elif job.initial_checkpoint:
        history = _restore(Path(job.initial_checkpoint), job.digest, trainable, optimizer)

    network: nn.Module = trainable
    if worker.num_workers > 1:
        network = DistributedDataParallel(trainable, device_ids=[device] if device.type == "cuda" else None)
    for epoch in range(len(history), config.optim.num_epochs):
        started = time.monotonic()
        totals = loop.train_epoch(
            network,
            optimizer,
            train,
            epoch,
            config.optim,
            seed=config.seed,
            shuffle=config.shuffle,
            worker=worker,
        )
        train_loss, train_accuracy = totals.rates()
        logits = loop.evaluate(network, val, config.optim.global_batch_size, worker)
        val_loss, val_accuracy = loop.measure(logits, val.labels).rates()
        line = {
            "epoch": epoch + 1,
            "lr": optimizer.param_groups[0]["lr"],
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "seconds": round(time.monotonic() - started, 3),
        }
        history = [*history, line]
        _report(job, worker, trainable, optimizer, logits, history)


def _report(
    job: Job,
    worker: Worker,
    trainable: Trainable,
    optimizer: torch.optim.Optimizer,
    logits: Tensor,
    history: list[dict[str, float]],
) -> None:
    """Rank 0 writes; all report, because report is a barrier."""
    metrics = dict(history[-1])
    if worker.rank != 0:
        ray.train.report(metrics, checkpoint=None)
        return
    with tempfile.TemporaryDirectory() as folder:
        _save(Path(folder), trainable, optimizer, logits, {"digest": job.digest, "history": history})
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
    lines = "".join(json.dumps(line) + "\n" for line in history)
    storage.write_bytes(job.metrics_path, lines.encode())
