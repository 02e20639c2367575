"""Cross-validation: of train/ and val/ together every image is judged by a head that was trained without its fold.

Each fold is a task of the cluster that trains as the run did, in one process, to the epoch that the model is of: the
images of a fold choose nothing. What a fold has come to is kept in the run folder until all are done.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from tlearn import storage
from tlearn.config import TrainConfig, digest
from tlearn.console import event, say
from tlearn.data import manifest
from tlearn.data.manifest import File, Listing
from tlearn.distributed import launch, tasks
from tlearn.evaluation import folds, metrics
from tlearn.features.cut import Frozens
from tlearn.features.phases import prepare
from tlearn.training import loop, worker
from tlearn.training.run import RunFolder, Summary, essential
from tlearn.training.worker import Attempt, Fold, Job


def cross_validate(
    frozens: Frozens, run: RunFolder, listing: Listing, numbers: Mapping[str, int], summary: Summary
) -> Summary:
    """The summary of a finished run, with the figures of its folds; `numbers` are the folds by path, from 0.

    Folds that an earlier start has done are not done again. Leaves RUN/folds.parquet; makes the report again.
    """
    started = time.monotonic()
    listing = _with_features(frozens, listing)
    parts = [_part(listing, numbers, number) for number in range(max(numbers.values()) + 1)]
    for part in parts:
        manifest.require_enough(part, max_error_rate=1)
    facts = [summary.model_digest, essential(frozens.config), summary.best_epoch, sorted(numbers.items())]
    names = [f"{digest([*facts, number])}.safetensors" for number in range(len(parts))]
    logits = {number: of for number, name in enumerate(names) if (of := run.fold(name)) is not None}
    missing = {number: part for number, part in enumerate(parts) if number not in logits}
    if len(missing) < len(parts):
        say(f"{len(parts) - len(missing)} of {len(parts)} folds are done")
    for number, of in _trained(frozens, run, missing, summary.best_epoch):
        run.write_fold(names[number], of)
        logits[number] = of
        loss, accuracy = loop.measure(of, _labels(parts[number])).rates()
        event("fold", run=run.location, fold=number + 1, val_loss=loss, val_accuracy=accuracy)
        say(
            f"fold {number + 1} of {len(parts)}: accuracy {accuracy:.4f} of {len(of):,} images, "
            f"loss {loss:.4f} before calibration"
        )
    labels = [_labels(part) for part in parts]
    calibrated = folds.calibrated([logits[number] for number in range(len(parts))], labels)
    seconds = round(time.monotonic() - started, 2)
    figures = folds.measure(calibrated, labels, listing.classes, frozens.config.groups, seconds)
    summary = dataclasses.replace(summary, folds=figures)
    files = [file for part in parts for file in part.usable("val")]
    run.publish_folds(
        summary, files, [numbers[file.path] for file in files], metrics.probabilities(torch.cat(calibrated))
    )
    return summary


def _with_features(frozens: Frozens, listing: Listing) -> Listing:
    """With what became of each file when it was wanted for training, and for judging: then no fold computes any."""
    for split in ("train", "val"):
        alone = dataclasses.replace(listing, files=_as_split(listing.of("train", "val"), split))
        listing = dataclasses.replace(listing, files=prepare(frozens.config, frozens, alone).listing.files)
    return dataclasses.replace(listing, files=[file for file in listing.files if file.status == "ok"])


def _as_split(files: Sequence[File], split: str) -> list[File]:
    return [dataclasses.replace(file, split=split) for file in files]


def _part(listing: Listing, numbers: Mapping[str, int], number: int) -> Listing:
    """The fold as val, the others as train."""
    files = [dataclasses.replace(f, split="val" if numbers[f.path] == number else "train") for f in listing.files]
    return dataclasses.replace(listing, files=files)


def _labels(part: Listing) -> Tensor:
    """(num_val,) int64"""
    return torch.tensor([part.classes.indices[file.label] for file in part.usable("val")])


def _trained(
    frozens: Frozens, run: RunFolder, parts: Mapping[int, Listing], num_epochs: int
) -> Iterator[tuple[int, Tensor]]:
    """The logits of each fold, (images, num_logits), as they are done."""
    if not parts:
        return
    config, nodes = frozens.config, launch.nodes()
    use_gpu = config.device == "gpu" or (config.device == "auto" and nodes.has_gpus)
    # A head is trained by one thread, so that its figures are the same on any number of CPUs.
    num_cpus = 1 if only_heads(config) else nodes.cpus_of_each(len(parts), on_gpus=use_gpu)
    folder, lease, device = storage.join(run.location, "folds"), run.lease, "cuda" if use_gpu else "cpu"
    todo = {}
    for number, part in parts.items():
        attempt = Attempt(_job(frozens, part), folder, num_cpus, None, lease.location, lease.owner)
        todo[number] = Fold(attempt, num_epochs, device)
    launch.wait_for_room([{"CPU": num_cpus, "GPU": int(use_gpu)}], config.wait_seconds)
    yield from tasks.run(worker.run_fold, todo, num_cpus, int(use_gpu), config.max_failures)


def only_heads(config: TrainConfig) -> bool:
    """Whether a fold is trained on cached features alone, in seconds."""
    return config.frozen_blocks == 5 and config.augment != "full"


def _job(frozens: Frozens, part: Listing) -> Job:
    """Without checkpoints within an epoch, and without an end before the epoch that the model is of."""
    phases = [
        dataclasses.replace(phase, optim=dataclasses.replace(phase.optim, patience=None))
        for phase in prepare(frozens.config, frozens, part).phases()
    ]
    return Job(
        config=dataclasses.replace(frozens.config, checkpoint_every_seconds=None),
        digest="",
        num_classes=len(part.classes.names),
        num_logits=part.classes.num_logits,
        phases=tuple(phases),
        val_labels=tuple(_labels(part).tolist()),
    )
