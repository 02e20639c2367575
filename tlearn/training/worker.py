"""What every Ray Train worker runs: resume, the phases, the loop, one checkpoint an epoch and more where asked for.

A checkpoint is a folder whose last file, progress.json, holds the sha256 of the others:

    trainable.safetensors   the layers after the cut
    average.safetensors     their moving average, where one is kept
    optimizer.pt            read with weights_only=True
    logits.safetensors      of the validation images under these weights; not within an epoch
    progress.json           phase, updates done in its epoch, a line of metrics for each epoch done, digest of the job
"""

import contextlib
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
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
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tlearn import storage
from tlearn.config import HeadConfig, TrainConfig
from tlearn.errors import IntegrityError, StorageError
from tlearn.evaluation.metrics import Totals
from tlearn.features.cache import Features, Pictures
from tlearn.features.phases import Phase
from tlearn.network import weights
from tlearn.network.arithmetic import native_precision
from tlearn.network.columns import Columns
from tlearn.network.layers import Trainable, load_pretrained
from tlearn.network.weights import CHANNELS
from tlearn.training import loop, optim
from tlearn.training.loop import Learner, Worker
from tlearn.training.samples import Augment, Samples, class_weights
from tlearn.training.streams import Stream, generator


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that a worker needs, small enough to be sent to each."""

    config: TrainConfig
    digest: str
    """Of what the result depends on: settings, samples, frozen layers."""
    num_classes: int
    num_logits: int
    phases: tuple[Phase, ...]
    val_labels: tuple[int, ...]
    num_threads: int
    metrics_path: str
    initial_checkpoint: Checkpoint | None

    @property
    def stop_location(self) -> str:
        """Of a file that asks for a checkpoint within the epoch, because the run is to stop."""
        return storage.join(self.metrics_path.rpartition("/")[0], "stop")


@dataclass(frozen=True, slots=True)
class Progress:
    """What progress.json says: how far a job has come."""

    digest: str
    phase: int = 0
    start: int = 0
    """Updates done in the epoch that follows the last line of the history; 0 between epochs."""
    sums: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Of these updates, over all workers."""
    history: tuple[dict[str, float], ...] = ()
    """A line for each epoch done, of all phases."""
    is_finished: bool = False

    def val_losses(self, phase: int) -> list[float]:
        return [line["val_loss"] for line in self.history if line["phase"] == phase + 1]


def checkpoint_progress(folder: str | Path) -> Progress:
    """Read progress.json after checking every file against it. Raises IntegrityError; OSError of a remote store."""
    location = str(folder)
    try:
        values: dict[str, Any] = storage.read_json(storage.join(location, "progress.json"))
        for name, sha256 in values.pop("sha256").items():
            if storage.sha256_file(storage.join(location, name)) != sha256:
                raise IntegrityError(f"expected the recorded sha256 of {location}/{name}, got another")
        return Progress(**values | {name: tuple(values[name]) for name in ("sums", "history")})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if storage.is_remote(location) and isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise StorageError(f"could not read {location}: {error}") from error  # it may be whole all the same
        raise IntegrityError(f"expected a whole checkpoint in {location}: {error}") from None


def learned_tensors(folder: Path) -> dict[str, Tensor]:
    """What the checkpoint was evaluated with: the average of the weights where one is kept."""
    average = folder / "average.safetensors"
    if not average.exists():
        return load_file(folder / "trainable.safetensors")
    prefix = "module."
    return {name.removeprefix(prefix): tensor for name, tensor in load_file(average).items() if prefix in name}


def run(job_config: dict[str, Any]) -> None:
    """Train from the latest checkpoint, or from the pretrained weights, to the end of the last phase."""
    job: Job = job_config["job"]
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    torch.set_num_threads(job.num_threads)
    with _latest_checkpoint(job) as folder:
        progress = checkpoint_progress(folder) if folder else Progress(job.digest)
        assert progress.digest == job.digest, "the driver offers only checkpoints of this job"
        stage = _Stage.build(job, progress.phase, worker, head=None, folder=folder)
    progress = stage.train(progress)
    for phase in range(progress.phase + 1, len(job.phases)):
        stage = _Stage.build(job, phase, worker, head=stage.learner.evaluated.head.state_dict(), folder=None)
        progress = stage.train(dataclasses.replace(progress, phase=phase))


@contextlib.contextmanager
def _latest_checkpoint(job: Job) -> Iterator[Path | None]:
    """What this run has reached comes before what it may have started from."""
    latest = ray.train.get_checkpoint() or job.initial_checkpoint
    if latest is not None:
        with latest.as_directory() as folder:
            yield Path(folder)
    else:
        yield None


@dataclass(frozen=True, slots=True)
class _Stage:
    """A phase, ready to run in this process."""

    job: Job
    phase: Phase
    is_last: bool
    learner: Learner
    train_samples: Samples
    val_samples: Samples

    @classmethod
    def build(
        cls, job: Job, number: int, worker: Worker, *, head: dict[str, Tensor] | None, folder: Path | None
    ) -> "_Stage":
        """Pretrained, with a fresh head or that of the phase before; then filled from a checkpoint if there is one."""
        config, phase = job.config, job.phases[number]
        trainable = Trainable(phase.frozen_blocks, config.preprocess, config.head, job.num_logits, config.arch)
        trainable.convolves_in_bf16 = phase.optim.precision == "bf16" or (
            phase.optim.precision == "auto" and (worker.device.type == "cuda" or native_precision() == "bf16")
        )
        if phase.frozen_blocks < 5:
            load_pretrained(trainable, weights.load(config.weights, config.cache, config.arch))
        train_samples = _train_samples(job, phase, trainable, worker)
        val_samples = _samples(phase.val, job.val_labels, trainable)
        if head is not None:
            trainable.head.load_state_dict(head)
        else:
            trainable.head.initialize(generator(config.seed, Stream.HEAD))
            if config.head.scale_features and folder is None:
                loop.fit_scale(trainable, train_samples, config.seed)
        trainable.to(worker.device)
        trainable.layers.to(memory_format=torch.channels_last)
        average = None
        if phase.optim.ema_decay is not None:
            average = AveragedModel(trainable, multi_avg_fn=get_ema_multi_avg_fn(phase.optim.ema_decay))
        columns = None
        if _shares_columns(config.head, phase, worker):
            first = trainable.head.hidden[0]
            assert isinstance(first, nn.Linear)
            columns = trainable.head.columns = Columns(first)
        optimizer = optim.optimizer(trainable, phase.optim)
        if folder is not None:
            trainable.load_state_dict(load_file(folder / "trainable.safetensors"))
            state = torch.load(folder / "optimizer.pt", weights_only=True)
            optimizer.load_state_dict(columns.own_state(optimizer, state) if columns else state)
            if average is not None:
                average.load_state_dict(load_file(folder / "average.safetensors"))
        network: nn.Module = trainable
        if worker.num_workers > 1:
            network = DistributedDataParallel(
                trainable, device_ids=[worker.device] if worker.device.type == "cuda" else None
            )
        learner = Learner(network, optimizer, phase.optim, config.seed, config.shuffle, worker, average)
        return cls(job, phase, number == len(job.phases) - 1, learner, train_samples, val_samples)

    def train(self, progress: Progress) -> Progress:
        """Epoch by epoch, from where the progress is to the end of the phase."""
        learner, config = self.learner, self.phase.optim
        clock = _Clock(self.job, learner.worker)
        val_losses = progress.val_losses(progress.phase)
        while len(val_losses) < config.num_epochs and not optim.should_stop(val_losses, config):
            started, epoch = time.monotonic(), len(val_losses)
            totals = Totals(learner.worker.device)
            if learner.worker.rank == 0:  # the sums of all workers go on in one of them
                totals.sums += torch.tensor(progress.sums, dtype=torch.float64)
            updates = loop.train_epoch(
                learner, self.train_samples, epoch, totals, val_losses=val_losses, start=progress.start
            )
            for start in updates:
                if clock.is_due():
                    self._complete()
                    sums = tuple(totals.reduced().sums.tolist())
                    self._report(dataclasses.replace(progress, start=start, sums=sums), None)
            self._complete()
            totals = totals.reduced()
            train_loss, train_accuracy = totals.rates()
            logits = loop.evaluate(learner.evaluated, self.val_samples, config.global_batch_size, learner.worker)
            val_loss, val_accuracy = loop.measure(logits, self.val_samples.labels).rates()
            line = {
                "phase": progress.phase + 1,
                "epoch": len(progress.history) + 1,
                "lr": learner.optimizer.param_groups[0]["lr"],
                "train_count": totals.count,
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
                "num_workers": learner.worker.num_workers,
                "seconds": round(time.monotonic() - started, 3),
            }
            val_losses.append(val_loss)
            is_over = len(val_losses) == config.num_epochs or optim.should_stop(val_losses, config)
            history = (*progress.history, line)
            progress = Progress(progress.digest, progress.phase, history=history, is_finished=is_over and self.is_last)
            self._report(progress, logits)
        return progress

    def _complete(self) -> None:
        """Fetch what other workers have trained of a layer that is shared out."""
        trainable = loop.unwrapped(self.learner.network)
        for one in {trainable, self.learner.evaluated} if trainable.head.columns else ():
            first = one.head.hidden[0]
            assert isinstance(first, nn.Linear) and trainable.head.columns is not None
            trainable.head.columns.complete(first)

    def _report(self, progress: Progress, logits: Tensor | None) -> None:
        """Rank 0 writes; all report, because report is a barrier. Without logits it is a checkpoint within an epoch."""
        columns, optimizer = loop.unwrapped(self.learner.network).head.columns, self.learner.optimizer
        state = columns.whole_state(optimizer) if columns else optimizer.state_dict()
        metrics = dict(progress.history[-1]) if logits is not None else {"val_loss": sys.float_info.max}
        if self.learner.worker.rank != 0:
            ray.train.report(metrics, checkpoint=None)
            return
        with tempfile.TemporaryDirectory() as folder:
            _save(Path(folder), self.learner, state, logits, progress)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
        if logits is not None:
            lines = "".join(json.dumps(line) + "\n" for line in progress.history)
            storage.write_bytes(self.job.metrics_path, lines.encode())


def _shares_columns(head: HeadConfig, phase: Phase, worker: Worker) -> bool:
    """Whether the head's first layer is too large to be left to DDP, and can be shared out."""
    return (
        head.kind == "dense"
        and worker.num_workers > 1
        and phase.frozen_blocks == 5
        and head.width % worker.num_workers == 0
        and phase.optim.clip_norm is None  # a norm over all workers' gradients
    )


def _save(
    folder: Path, learner: Learner, optimizer_state: dict[str, Any], logits: Tensor | None, progress: Progress
) -> None:
    tensors = {"trainable": loop.unwrapped(learner.network).state_dict()}
    if learner.average is not None:
        tensors["average"] = learner.average.state_dict()
    if logits is not None:
        tensors["logits"] = {"logits": logits}
    for name, of_file in tensors.items():
        contiguous = {key: tensor.contiguous() for key, tensor in of_file.items()}
        save_file(contiguous, folder / f"{name}.safetensors")
    torch.save(optimizer_state, folder / "optimizer.pt")
    hashes = {path.name: storage.sha256_file(path) for path in folder.iterdir()}
    content = {**dataclasses.asdict(progress), "sha256": hashes}
    storage.write_bytes(str(folder / "progress.json"), json.dumps(content).encode())


class _Clock:
    """Says when a checkpoint within an epoch is due: as the first worker sees it, on all workers at once."""

    def __init__(self, job: Job, worker: Worker):
        self.every_seconds, self.stop_location = job.config.checkpoint_every_seconds, job.stop_location
        self.worker = worker
        self.last = time.monotonic()
        self.looked = -math.inf

    def is_due(self) -> bool:
        is_late = self.every_seconds is not None and time.monotonic() - self.last >= self.every_seconds
        due = torch.tensor(is_late or self._is_to_stop(), device=self.worker.device)
        if self.worker.num_workers > 1:
            torch.distributed.broadcast(due, 0)
        if due.item():
            self.last = time.monotonic()
        return bool(due.item())

    def _is_to_stop(self) -> bool:
        """Looked up once a second: storage may be slow, and a step takes milliseconds."""
        if self.worker.rank or time.monotonic() - self.looked < 1:
            return False
        self.looked = time.monotonic()
        return storage.exists(self.stop_location)


def _train_samples(job: Job, phase: Phase, trainable: Trainable, worker: Worker) -> Samples:
    if phase.in_step is None:
        samples = _samples(phase.train, phase.train_labels, trainable)
    else:
        samples = Samples(phase.train.gather, torch.tensor(phase.train_labels))
    if job.config.balance:
        samples = dataclasses.replace(samples, weights=class_weights(samples.labels, job.num_classes))
    if phase.in_step is not None:
        frozen = phase.in_step.load().prepare(worker.device.type)
        augment = Augment(job.config.preprocess, job.config.seed, job.num_threads)
        samples = dataclasses.replace(samples, augment=augment, frozen=frozen)
    return samples


def _samples(source: Features | Pictures, labels: tuple[int, ...], trainable: Trainable) -> Samples:
    """Where all blocks are frozen, what lies before the first dense layer has no parameters and is computed once."""
    targets = torch.tensor(labels)
    averages = not len(trainable.layers) and trainable.head.config.averages
    if not averages:
        return Samples(source.gather, targets)
    # Mapped from a file without a name, so that the memory of a worker does not grow with the number of images.
    file = tempfile.TemporaryFile()  # noqa: SIM115
    mapped = np.memmap(file, np.float32, "w+", shape=(len(source), CHANNELS[-1], 1, 1))
    pooled = torch.from_numpy(mapped)
    with torch.no_grad():
        for part in torch.arange(len(source)).split(64):
            pooled[part] = trainable.trunk(source.gather(part))
    return Samples(pooled.__getitem__, targets)
