"""What every worker runs: resume, the phases, the loop, one checkpoint an epoch and more where asked for.

And the same in a process of its own, without a checkpoint, of which only the end is wanted: a fold.
"""

import contextlib
import dataclasses
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from tlearn import storage
from tlearn.config import HeadConfig, OptimConfig, TrainConfig
from tlearn.console import say
from tlearn.errors import IntegrityError, LockedError, TrainingError
from tlearn.evaluation.metrics import Totals
from tlearn.features.cache import Features, Pictures
from tlearn.features.phases import Phase
from tlearn.network import weights
from tlearn.network.arithmetic import native_precision
from tlearn.network.columns import Columns
from tlearn.network.trainable import Trainable
from tlearn.network.vgg import load_pretrained
from tlearn.storage.lease import Holder
from tlearn.training import checkpoint, loop, optim
from tlearn.training.checkpoint import Epoch, Position
from tlearn.training.loop import Kept, Learner, Worker
from tlearn.training.samples import Augment, Samples, class_weights
from tlearn.training.streams import Stream, generator

_STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be learned."""

    config: TrainConfig
    digest: str
    """Of what the result depends on: settings, samples, frozen layers."""
    num_classes: int
    num_logits: int
    phases: tuple[Phase, ...]
    val_labels: tuple[int, ...]

    @property
    def num_epochs(self) -> int:
        """Of all phases, unless patience ends one of them earlier."""
        return sum(phase.optim.num_epochs for phase in self.phases)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of a job, from where an earlier one had come; small enough to be sent to every worker."""

    job: Job
    folder: str
    """Of its checkpoints."""
    num_threads: int
    initial: str | None
    """Folder of the checkpoint from which it starts."""
    lease: str
    """Location of the lease of the run folder, in which `owner` is this run."""
    owner: str

    @property
    def metrics_location(self) -> str:
        return storage.join(self.folder, "metrics.jsonl")

    @property
    def stop_location(self) -> str:
        """Of a file that asks for a checkpoint within the epoch, because the run is to stop."""
        return storage.join(self.folder, "stop")

    def check_lease(self) -> None:
        """Raise LockedError where another run holds the run folder. A lease that cannot be read says nothing."""
        holder = None
        with contextlib.suppress(OSError):
            holder = Holder.from_json(storage.read(self.lease).data)
        if holder is not None and holder.owner != self.owner:
            raise LockedError(f"expected to hold {self.lease}, run {holder.owner[:8]} has taken it over: wait for it")

    def stop(self) -> None:
        """Ask for a checkpoint within the epoch, and wait until it is whole; not for long, workers may be gone too."""
        say("stopping after a checkpoint within the epoch")
        seen = {"initial", *storage.folders(self.folder)}
        storage.write_bytes(self.stop_location, b"")
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline:
            for name in set(storage.folders(self.folder)) - seen:
                with contextlib.suppress(IntegrityError):
                    progress = checkpoint.read_position(storage.join(self.folder, name))
                    if progress.start or progress.is_finished:  # else an epoch ended before the workers looked
                        return
                    seen.add(name)
            time.sleep(0.2)


@dataclass(frozen=True, slots=True)
class Workers:
    """What the workers have of the cluster."""

    num_workers: int | tuple[int, int]
    use_gpu: bool
    cpus_per_worker: float

    @property
    def num_threads(self) -> int:
        """Of each."""
        return max(int(self.cpus_per_worker), 1)

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Of the fewest workers."""
        fewest = self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]
        return [{"CPU": self.cpus_per_worker, "GPU": int(self.use_gpu)}] * fewest


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold of a cross-validation; it leaves nothing in the attempt's folder."""

    attempt: Attempt
    num_epochs: int
    """Of all phases; the images of the fold do not choose the epoch."""
    device: str


def learn(attempt: Attempt, worker: Worker, folder: Path | None, report: "Reporting") -> None:
    """Train from the checkpoint in a folder, or from the pretrained weights, to the end of the last phase.

    Raises TrainingError for a loss that is no number, StorageError, LockedError: another start would meet them again.
    """
    torch.set_num_threads(attempt.num_threads)
    progress = checkpoint.read_position(folder) if folder else Position(attempt.job.digest)
    assert progress.digest == attempt.job.digest, "the driver offers only checkpoints of this job"
    _train(_stage(attempt, progress.phase, worker, report, folder=folder), progress)


def run_fold(fold: Fold) -> Tensor:
    """(num_val, num_logits) on the CPU: what is said of the validation images at the end. Raises TrainingError."""
    attempt, worker = fold.attempt, Worker(device=torch.device(fold.device))
    torch.set_num_threads(attempt.num_threads)
    last: list[Tensor] = []

    def keep(attempt: Attempt, reached: Reached) -> None:
        assert reached.logits is not None, "there are no checkpoints within an epoch"
        last[:] = [reached.logits]
        if len(reached.progress.history) == fold.num_epochs:
            raise _Stop

    _train(_stage(attempt, 0, worker, keep), Position(attempt.job.digest))
    return last[0]


def _train(stage: "Stage", progress: Position) -> None:
    """This phase and those after it, to the end of the last one."""
    attempt, worker = stage.attempt, stage.learner.worker
    try:
        progress = stage.train(progress)
        for phase in range(progress.phase + 1, len(attempt.job.phases)):
            stage = _stage(attempt, phase, worker, stage.report, head=stage.kept(progress).head.state_dict())
            progress = stage.train(dataclasses.replace(progress, phase=phase))
    except _Stop:
        pass
    except FloatingPointError as error:
        raise TrainingError(f"expected a loss that is a number, but {error}: try a lower --optim.lr") from None


def _stage(
    attempt: Attempt,
    number: int,
    worker: Worker,
    report: "Reporting",
    *,
    head: dict[str, Tensor] | None = None,
    folder: Path | None = None,
) -> "Stage":
    """A phase from its start, with a fresh head or that of the phase before, or from the checkpoint in a folder."""
    job, phase = attempt.job, attempt.job.phases[number]
    trainable = build_model(job, phase, worker.device)
    train_samples = _train_samples(attempt, phase, trainable, worker)
    val_samples = _samples(phase.val, job.val_labels, trainable)
    if head is not None:
        trainable.head.load_state_dict(head)
    trainable.to(worker.device)
    if head is None and folder is None and job.config.head.scale_features:
        loop.fit_scale(trainable, train_samples, job.config.seed)
    trainable.layers.to(memory_format=torch.channels_last)
    learner = _learner(job.config, phase, trainable, worker, folder)
    return Stage(attempt, phase, number == len(job.phases) - 1, learner, train_samples, val_samples, report)


def build_model(job: Job, phase: Phase, device: torch.device) -> Trainable:
    """The layers after the cut, on the CPU: pretrained, with a fresh head."""
    config = job.config
    has_bf16 = device.type == "cuda" or native_precision() == "bf16"
    trainable = Trainable(
        phase.frozen_blocks,
        config.preprocess,
        config.head,
        job.num_logits,
        config.arch,
        convolves_in_bf16=phase.optim.precision == "bf16" or (phase.optim.precision == "auto" and has_bf16),
    )
    if phase.frozen_blocks < 5:
        load_pretrained(trainable.layers, weights.load(config.weights, config.cache, config.arch))
    trainable.head.initialize(generator(config.seed, Stream.HEAD))
    return trainable


def _learner(config: TrainConfig, phase: Phase, trainable: Trainable, worker: Worker, folder: Path | None) -> Learner:
    """With the optimiser that a phase asks for, filled from the checkpoint in a folder where there is one."""
    average = None
    if phase.optim.ema_decay is not None:  # a copy, so made before the workers divide a layer between them
        average = AveragedModel(trainable, multi_avg_fn=optim.averaging(phase.optim.ema_decay))
    columns = Columns(trainable.head.first) if _shares_columns(config.head, phase, worker) else None
    optimizer = optim.optimizer(trainable, phase.optim, columns)
    if folder is not None:
        checkpoint.restore(folder, trainable, average, optimizer, columns)
    network: nn.Module = trainable
    if worker.num_workers > 1:
        network = DistributedDataParallel(
            trainable, device_ids=[worker.device] if worker.device.type == "cuda" else None
        )
    return Learner(network, optimizer, phase.optim, config.seed, config.shuffle, worker, average, columns)


@dataclass(frozen=True, slots=True)
class Stage:
    """A phase, ready to run in this process."""

    attempt: Attempt
    phase: Phase
    is_last: bool
    learner: Learner
    train_samples: Samples
    val_samples: Samples
    report: "Reporting"

    def train(self, progress: Position) -> Position:
        """Epoch by epoch, from where the progress is to the end of the phase."""
        clock = _Clock(self.attempt, self.learner.worker)
        while not _is_over(progress.val_losses(progress.phase), self.phase.optim):
            epoch, logits = self._epoch(progress, clock)
            history = (*progress.history, epoch)
            progress = Position(progress.digest, progress.phase, history=history)
            is_finished = self.is_last and _is_over(progress.val_losses(progress.phase), self.phase.optim)
            progress = dataclasses.replace(progress, is_finished=is_finished)
            self.report(self.attempt, self._reached(progress, logits))
        return progress

    def _epoch(self, progress: Position, clock: "_Clock") -> tuple[Epoch, Tensor]:
        """The rest of the epoch that is under way: its line of metrics, and the logits of the validation images."""
        learner, started = self.learner, time.monotonic()
        totals = self._updates(progress, clock)
        train_loss, train_accuracy = totals.rates()
        kept, logits = self._better()
        val_loss, val_accuracy = loop.measure(logits, self.val_samples.labels).rates()
        epoch = Epoch(
            phase=progress.phase + 1,
            epoch=len(progress.history) + 1,
            lr=learner.optimizer.param_groups[0]["lr"],
            train_count=totals.count,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            num_workers=learner.worker.num_workers,
            seconds=round(time.monotonic() - started, 3),
            kept=kept,
        )
        return epoch, logits

    def _better(self) -> tuple[Kept, Tensor]:
        """Weights or average, whichever has the lower validation loss, and its logits of the validation images."""
        batch_size, worker = self.phase.optim.global_batch_size, self.learner.worker
        logits = {
            kept: loop.evaluate(network, self.val_samples, batch_size, worker)
            for kept, network in self.learner.candidates.items()
        }
        losses = {kept: loop.measure(logits[kept], self.val_samples.labels).rates()[0] for kept in logits}
        if not all(map(math.isfinite, losses.values())):
            raise FloatingPointError(f"validation loss is {max(losses.values(), key=math.isnan)}")
        kept = min(losses, key=losses.__getitem__)
        return kept, logits[kept]

    def _reached(self, progress: Position, logits: Tensor | None) -> "Reached":
        columns, optimizer = self.learner.columns, self.learner.optimizer
        state = columns.whole_state(optimizer) if columns else optimizer.state_dict()
        return Reached(self.learner, progress, logits, state)

    def kept(self, progress: Position) -> Trainable:
        """What the last epoch has kept."""
        candidates = self.learner.candidates
        return candidates.get(progress.history[-1].kept, candidates["weights"])

    def _updates(self, progress: Position, clock: "_Clock") -> Totals:
        """The sums of the whole epoch, over all workers."""
        learner, val_losses = self.learner, progress.val_losses(progress.phase)
        is_first = learner.worker.rank == 0  # the sums of all workers go on in one of them
        totals = Totals(learner.worker.device, progress.sums if is_first else (0.0, 0.0, 0.0))
        for start in loop.train_epoch(
            learner, self.train_samples, len(val_losses), totals, val_losses=val_losses, start=progress.start
        ):
            due = clock.due()
            if due != "nothing":
                self._complete()
                sums = tuple(totals.reduced().sums.tolist())
                reached = self._reached(dataclasses.replace(progress, start=start, sums=sums), None)
                self.report(self.attempt, reached)
            if due == "stop":
                raise _Stop
        self._complete()
        return totals.reduced()

    def _complete(self) -> None:
        """Fetch what other workers have trained of a layer that is shared out."""
        columns = self.learner.columns
        for trainable in self.learner.candidates.values() if columns else ():
            assert columns is not None
            columns.complete(trainable.head.first)


@dataclass(frozen=True, slots=True)
class Reached:
    """What training has come to, in every worker: all of them have fetched what they share, and any one can save it."""

    learner: Learner
    progress: Position
    logits: Tensor | None
    """Of the validation images, (num_val, num_logits); None within an epoch."""
    optimizer_state: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write a checkpoint. Raises StorageError."""
        checkpoint.save(folder, self.learner, self.optimizer_state, self.logits, self.progress)


Reporting = Callable[[Attempt, Reached], None]
"""What is done after an epoch, or within one."""


def _shares_columns(head: HeadConfig, phase: Phase, worker: Worker) -> bool:
    """Whether the head's first layer is too large to be left to DDP, and can be shared out."""
    return (
        head.kind == "dense"
        and worker.num_workers > 1
        and phase.frozen_blocks == 5
        and head.width % worker.num_workers == 0
        and phase.optim.clip_norm is None  # a norm over all workers' gradients
    )


def _is_over(val_losses: list[float], config: OptimConfig) -> bool:
    return len(val_losses) >= config.num_epochs or optim.should_stop(val_losses, config)


class _Stop(Exception):
    """The run is to stop, and its checkpoint is written. A later one would take its place."""


_Due = Literal["nothing", "checkpoint", "stop"]


class _Clock:
    """Says what is due within an epoch: as the first worker sees it, on all workers at once."""

    def __init__(self, attempt: Attempt, worker: Worker):
        self.every_seconds, self.stop_location = attempt.job.config.checkpoint_every_seconds, attempt.stop_location
        self.worker = worker
        self.last = time.monotonic()
        self.looked = -math.inf

    def due(self) -> _Due:
        choices = get_args(_Due)
        is_late = self.every_seconds is not None and time.monotonic() - self.last >= self.every_seconds
        seen: _Due = "stop" if self._is_to_stop() else "checkpoint" if is_late else "nothing"
        number = torch.tensor(choices.index(seen), device=self.worker.device)
        if self.worker.num_workers > 1:
            torch.distributed.broadcast(number, 0)
        if number.item():
            self.last = time.monotonic()
        due: _Due = choices[int(number.item())]
        return due

    def _is_to_stop(self) -> bool:
        """Looked up once a second: storage may be slow, and a step takes milliseconds."""
        if self.worker.rank or time.monotonic() - self.looked < 1:
            return False
        self.looked = time.monotonic()
        return storage.exists(self.stop_location)


def _train_samples(attempt: Attempt, phase: Phase, trainable: Trainable, worker: Worker) -> Samples:
    job = attempt.job
    if phase.in_step is None:
        samples = _samples(phase.train, phase.train_labels, trainable)
    else:
        samples = Samples(phase.train.gather, torch.tensor(phase.train_labels))
    if job.config.balance:
        samples = dataclasses.replace(samples, weights=class_weights(samples.labels, job.num_classes))
    if phase.in_step is not None:
        frozen = phase.in_step.load().prepare(worker.device.type)
        augment = Augment(job.config.preprocess, job.config.seed, attempt.num_threads)
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
    mapped = np.memmap(file, np.float32, "w+", shape=(len(source), trainable.head.channels, 1, 1))
    pooled = torch.from_numpy(mapped)
    with torch.no_grad():
        for part in torch.arange(len(source)).split(64):
            pooled[part] = trainable.trunk(source.gather(part))
    return Samples(pooled.__getitem__, targets)
