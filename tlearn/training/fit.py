"""Learning: features, then from a job to its best checkpoint, through kills and lost workers."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tlearn import storage
from tlearn.config import TrainConfig, digest
from tlearn.console import event, say
from tlearn.data import manifest
from tlearn.data.manifest import File, Listing
from tlearn.distributed import launch, meters
from tlearn.distributed.launch import causes
from tlearn.doctor.training import Examined
from tlearn.errors import IntegrityError, TrainingError, UsageError
from tlearn.features.cut import Frozens
from tlearn.features.phases import Phase, num_used, prepare
from tlearn.network.frozen import Frozen
from tlearn.network.trainable import Trainable
from tlearn.training import alone, aside, checkpoint, failures, live
from tlearn.training.checkpoint import Epoch, Position
from tlearn.training.run import RunFolder, essential
from tlearn.training.worker import Attempt, Job, Workers


@dataclass(frozen=True, slots=True)
class Learned:
    """What learning on the features of one arithmetic came to."""

    listing: Listing
    """Each file with what became of it."""
    examined: Examined
    phases: tuple[Phase, ...]
    phase: Phase
    """In which the best checkpoint was written."""
    frozen: Frozen
    trainable: Trainable
    val_logits: torch.Tensor
    """(num_val, num_logits)"""
    best: Epoch
    history: tuple[Epoch, ...]
    """Every epoch, of all phases."""
    features_computed: int
    features_reused: int
    seconds_features: float
    seconds_train: float

    @property
    def train_files(self) -> list[File]:
        return self.listing.usable("train")

    @property
    def val_files(self) -> list[File]:
        return self.listing.usable("val")

    def val_labels(self, indices: Mapping[str, int]) -> torch.Tensor:
        """(num_val,) int64"""
        return torch.tensor([indices[file.label] for file in self.val_files])


def learn(frozens: Frozens, run: RunFolder, listing: Listing, run_digest: str, num_computed: int) -> Learned:
    """Features, then training on them: the best checkpoint. So many features were computed for it before."""
    started, config, classes = time.monotonic(), frozens.config, listing.classes
    prepared = prepare(config, frozens, listing)
    listing = prepared.listing
    run.write_manifest(listing)
    live.describe_skipped(listing)
    manifest.require_enough(listing, config.max_error_rate)
    features_ended = time.monotonic()

    phases = prepared.phases()
    num_computed += prepared.num_computed
    num_reused = max(num_used(phases) - num_computed, 0)
    event("features", run=run.location, computed=num_computed, reused=num_reused)
    meters.count("features_reused", num_reused)
    meters.count("stage_seconds", features_ended - started, stage="features")
    facts = [run_digest, frozens.arithmetic.name]
    if config.recipe == "auto":  # what it has chosen may be another thing in another version
        facts.append(digest(essential(config)))
    job = Job(
        config=config,
        digest=digest(facts),
        num_classes=len(classes.names),
        num_logits=classes.num_logits,
        phases=phases,
        val_labels=tuple(classes.indices[file.label] for file in listing.usable("val")),
    )
    beside = aside.begin(config, listing, frozens.cut(5))
    best, history = best_checkpoint(job, run)
    meters.count("stage_seconds", time.monotonic() - features_ended, stage="train")
    with checkpoint.opened(best) as folder:
        progress = checkpoint.read_position(folder)
        tensors = checkpoint.learned_tensors(folder, progress.history[-1].kept)
        val_logits = checkpoint.val_logits(folder)
    phase = phases[progress.phase]
    trainable = Trainable(phase.frozen_blocks, config.preprocess, config.head, classes.num_logits, config.arch)
    trainable.load_state_dict(tensors)
    return Learned(
        listing=listing,
        examined=beside.result(),
        phases=phases,
        phase=phase,
        frozen=frozens.frozen(phase.frozen_blocks),
        trainable=trainable,
        val_logits=val_logits,
        best=progress.history[-1],
        history=history,
        features_computed=num_computed,
        features_reused=num_reused,
        seconds_features=round(features_ended - started, 2),
        seconds_train=round(time.monotonic() - features_ended, 2),
    )


def best_checkpoint(job: Job, run: RunFolder) -> tuple[str, tuple[Epoch, ...]]:
    """Train from the newest whole checkpoint to the end; returns the folder of the best one and all epochs."""
    root = storage.join(run.location, "checkpoints")
    found = checkpoint.whole(root, job.digest)
    if found:
        _say_resumed(found[checkpoint.newest(found)])
    elif job.config.resume == "require":
        raise UsageError(f"expected a checkpoint in {root}, found none: leave out --resume require")
    run.lease.check()
    checkpoint.tidy(root, found)
    if not any(progress.is_finished for progress in found.values()):
        _train(job, run, root, found)
        found = checkpoint.whole(root, job.digest)
        run.lease.check()
        checkpoint.tidy(root, found)
    history = max((progress.history for progress in found.values()), key=len)
    run.write_metrics(checkpoint.lines(history))
    return checkpoint.best(found), history


def _say_resumed(progress: Position) -> None:
    within = f" and {progress.start} updates" if progress.start else ""
    say(f"resumed after epoch {len(progress.history)}{within}")


def _train(job: Job, run: RunFolder, root: str, found: Mapping[str, Position]) -> None:
    """One more attempt in the folder `root`, from the newest of the checkpoints found there."""
    config, workers = job.config, _workers(job.config)
    # A name of its own for every start: Ray's own index of a run does not survive a kill while it is written,
    # and workers of a killed driver live on for a moment; they go on with the folder of their attempt. Ray's
    # dashboard shows the name, and tags its meters with it, which takes ASCII: so it is not the person's name.
    name = f"train-{digest(run.location)[:8]}-{len(storage.folders(root)) + 1:03}"
    folder = storage.join(root, name)
    initial = _take_over(root, storage.join(folder, "initial"), job.digest) if found else None
    attempt = Attempt(job, folder, workers.num_threads, initial, run.lease.location, run.lease.owner)
    storage.write_bytes(attempt.metrics_location, b"")
    num_seen = max((len(progress.history) for progress in found.values()), default=0)
    has_board = "tensorboard" in config.track
    with causes(), live.followed(attempt.metrics_location, run, job.num_epochs, num_seen, has_board=has_board):
        try:
            if launch.is_alone() and workers.num_workers == 1:
                alone.learn(attempt)
            else:
                from tlearn.training import ray_train

                ray_train.learn(attempt, workers)
        except Exception as error:
            raise failures.ours(error) or TrainingError(f"training failed: {failures.root_cause(error)}") from error


def _take_over(root: str, target: str, job_digest: str) -> str:
    """Copy the newest whole checkpoint, which may vanish while we look if an earlier attempt still lives."""
    for _ in range(5):
        newest = checkpoint.newest(checkpoint.whole(root, job_digest))
        storage.remove_folder(target)
        with contextlib.suppress(OSError, IntegrityError):
            storage.copy_folder(newest, target)
            checkpoint.read_position(target)
            return target
    raise IntegrityError(f"expected a checkpoint that stays in {root}, every one vanished: is another run in {root}?")


def _workers(config: TrainConfig) -> Workers:
    """The GPUs of the cluster, or one worker with all CPUs."""
    nodes = launch.nodes()
    num_gpus, num_cpus = nodes.num_gpus, nodes.num_cpus
    use_gpu = config.device == "gpu" or (config.device == "auto" and num_gpus > 0)
    available = num_gpus if use_gpu else num_cpus
    lowest, highest = config.num_workers or (max(num_gpus, 1) if use_gpu else 1,) * 2
    if lowest > available:
        raise UsageError(
            f"expected at most {available} workers on {'GPUs' if use_gpu else 'CPUs'} ({num_cpus} CPUs, {num_gpus} "
            f"GPUs in the cluster), got {config.workers or lowest}: lower --workers, or add nodes"
        )
    cpus_per_worker = nodes.cpus_of_each(min(highest, available), on_gpus=use_gpu)
    return Workers(lowest if lowest == highest else (lowest, highest), use_gpu, cpus_per_worker)
