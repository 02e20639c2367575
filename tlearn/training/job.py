"""The training job: from a config to a run folder."""

import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from tlearn import storage
from tlearn.config import TrainConfig, digest
from tlearn.console import event, say, warn
from tlearn.data import groups, manifest, splits
from tlearn.data.listing import hold_out, read
from tlearn.data.manifest import File, Listing
from tlearn.distributed import launch
from tlearn.evaluation import metrics, quality
from tlearn.evaluation.interval import accuracy_interval
from tlearn.features.cache import pooled
from tlearn.features.choice import arithmetics
from tlearn.features.compute import usable
from tlearn.features.cut import Cut, Frozens
from tlearn.network import card, description, model, weights
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Draft
from tlearn.report import pictures
from tlearn.training import aside, auto, cascade, fit, gallery, gate, layers, live, loop, track
from tlearn.training.cascade import Small
from tlearn.training.fit import Learned
from tlearn.training.folds import cross_validate
from tlearn.training.gallery import Judged, Known
from tlearn.training.gate import Gate
from tlearn.training.loop import Worker
from tlearn.training.remarks import remarks
from tlearn.training.run import (
    Baseline,
    Earlier,
    Run,
    RunFolder,
    Start,
    Summary,
    essential,
    git_commit,
    opened,
    versions,
)
from tlearn.training.samples import Samples


@dataclass(frozen=True, slots=True)
class _Task:
    """What a run is to do."""

    config: TrainConfig
    """Of the recipe auto: what was asked for, later the case that was chosen."""
    listing: Listing
    tensors: dict[str, torch.Tensor]
    """The pretrained ones."""
    told: tuple[str, ...]
    """What auto was told by name, where its value is that of the recipe."""

    def digest(self, places: Mapping[str, Any]) -> str:
        """Of what the result depends on, and of these settings beside."""
        files = [_facts(self.config, file) for file in self.listing.of("train", "val")]
        facts = [{**essential(self.config), **places}, weights.tensors_digest(self.tensors), files]
        return digest([*facts, self.told] if self.told else facts)


def _facts(config: TrainConfig, file: File) -> tuple[str | None, ...]:
    """What a result depends on of a file. Its split follows from its path and the settings, unless a table says it."""
    more = (file.split, file.group) if config.labels or config.groups else ()
    return (file.path, file.label, file.sha256, *more)


def train(config: TrainConfig, given: frozenset[str] = frozenset()) -> Run:
    """Fine-tune; leave the run's folder; return the run.

    `given` are the dotted names of the settings that a person has set ("frozen_blocks", "optim.lr"): the recipe auto
    leaves them as they are. Without it, it takes those that differ from the recipe.
    """
    started = time.monotonic()
    track.require(config.track)
    listing = read(config.data, labels=config.labels, groups=config.groups, exclude=config.exclude)
    with opened(config.output) as run:
        listing = listing.with_outcomes(manifest.add_hashes(config.data, listing.files, config.cache))
        listing = hold_out(listing, config.val_fraction, config.seed)
        files = listing.of("train", "val")
        numbers = splits.folds(files, config.folds, config.seed) if config.folds else {}
        task = _Task(config, listing, _pretrained(config), auto.told(config, given))
        earlier = run.earlier(config, task.digest, task.told)
        finished = run.finished() if earlier else None
        if finished is not None and _has_folds(finished, config):
            say(f"{run.location} holds this run already, finished: nothing to do")
            return Run(run.location, finished)
        _start(task, run)
        with track.tracked(config, run):
            if finished is None:
                chosen, learned, gate_figures = _learn(task, run, earlier, given)
                summary = _publish(chosen, run, learned, gate_figures, started)
                event("trained", run=run.location, val_accuracy=summary.val_accuracy, model=summary.model_digest)
            else:
                say(f"{run.location} holds this run already, finished, without these folds")
                chosen, summary = _decided(task, run.arithmetic(), given)[0], finished
                live.describe_folds(chosen.config)
            if numbers:
                frozens = Frozens(chosen.config, task.tensors, run.arithmetic())
                summary = cross_validate(frozens, run, listing, numbers, summary)
        return Run(run.location, summary)


def _has_folds(summary: Summary, config: TrainConfig) -> bool:
    return config.folds is None or (summary.folds is not None and summary.folds.num_folds == config.folds)


def _pretrained(config: TrainConfig) -> dict[str, torch.Tensor]:
    if config.weights == "none":
        warn("WARNING: --weights none: nothing is pretrained, accuracy will be poor")
    return weights.load(config.weights, config.cache, config.arch)


def _start(task: _Task, run: RunFolder) -> None:
    """Say what is there; on a cluster, or on GPUs, start Ray and make sure that all nodes see it."""
    config, files = task.config, task.listing.files
    live.describe_data(task.listing)
    live.describe_recipe(config.recipe, task.listing)
    weights_file = [] if config.weights in ("imagenet", "none") else [config.weights]
    first = storage.join(config.data, files[0].path)
    launch.join([first, *weights_file], [config.cache, run.location], config.wait_seconds)


def _learn(
    task: _Task, run: RunFolder, earlier: Earlier | None, given: frozenset[str]
) -> tuple[_Task, Learned, Gate | None]:
    """The task as it was carried out, int8 features where they change nothing, and how that was seen."""
    requested, listing, run_digest = task.config, task.listing, task.digest({})
    if earlier is not None:  # by its digest its checkpoints are known
        requested, run_digest = dataclasses.replace(requested, **earlier.places), earlier.digest  # type: ignore[arg-type]
    before = earlier.arithmetic if earlier else None
    plain, candidates = arithmetics(task.config, task.tensors, listing.of("train"), before)
    figures = None
    task, num_computed = _decided(task, candidates[0], given)
    config = task.config
    live.describe_layers(config, listing.classes)
    live.describe_folds(config)
    for candidate in candidates:
        command = " ".join(sys.argv)
        run.write_start(Start(run_digest, candidate, config, versions(), git_commit(), command, requested, task.told))
        learned = fit.learn(Frozens(config, task.tensors, candidate), run, listing, run_digest, num_computed)
        num_computed = learned.features_computed
        if not learned.frozen.arithmetic.ranges:
            break
        figures = _gate(task, learned, Frozens(config, task.tensors, plain).cut(learned.phase.frozen_blocks))
        if figures.passes:
            break
        what = "learning from plain ones" if candidate is not candidates[-1] else "as --precision int8 asks, kept"
        say(f"{figures}: {what}")
    return task, learned, figures


def _decided(task: _Task, first: Arithmetic, given: frozenset[str]) -> tuple[_Task, int]:
    """Of recipe auto, which case the data are, by the features that every case needs, and how many were computed."""
    config, classes = task.config, task.listing.classes
    if config.recipe != "auto":
        return task, 0
    cut = Frozens(config, task.tensors, first).cut(5)
    found = usable(config, task.listing.of("train"), cut)
    labels = torch.tensor([classes.indices[file.label] for file in found.files])
    choice = auto.decide(config, pooled(found.features), labels, len(classes.names), given)
    say(f"auto: {choice.reason}\n")
    return dataclasses.replace(task, config=choice.config), found.num_computed


def _gate(task: _Task, learned: Learned, plain: Cut) -> Gate:
    """What the model says of (at most 500) validation images whose features are quantised, and of some that are not."""
    rows = sorted(range(len(learned.val_files)), key=lambda row: learned.val_files[row].sha256 or "")[: gate.MAX_IMAGES]
    files = [learned.val_files[row] for row in rows]
    numbers = {file.path: number for number, file in enumerate(files)}

    def ask(asked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = [files[number] for number in asked.tolist()]
        judged = _evaluated(task, learned, wanted, plain, "int8 checked on validation images")
        return torch.tensor([numbers[file.path] for file in judged.files]), judged.logits

    return gate.judge(learned.val_logits[rows], learned.val_labels(task.listing.classes.indices)[rows], ask)


def _evaluated(task: _Task, learned: Learned, files: list[File], cut: Cut, what: str) -> Judged:
    """What the model says of those of the files that can be read."""
    found = usable(task.config, files, cut, what)
    labels = torch.tensor([task.listing.classes.indices[file.label] for file in found.files])
    samples = Samples(found.features.gather, labels)
    logits = loop.evaluate(learned.trainable, samples, task.config.optim.global_batch_size, Worker())
    return Judged(found.files, found.features, logits)


def _tested(task: _Task, learned: Learned) -> Judged | None:
    """The pictures of test/, on which nothing was chosen; None where it has no class folders or no picture in them."""
    files = task.listing.usable("test")
    if not files:
        return None
    say(f"evaluating the model on {len(files):,} images of test/")
    cut = Frozens(task.config, task.tensors, learned.frozen.arithmetic).cut(learned.phase.frozen_blocks)
    judged = _evaluated(task, learned, files, cut, "features of test/")
    return judged if judged.files else None


def _show(task: _Task, run: RunFolder, learned: Learned, test: Judged | None, temperature: float) -> Baseline:
    """Leave what the report shows; returns what the model has to beat."""
    known, val = Known.of(learned), Judged(learned.val_files, learned.phase.val, learned.val_logits)
    judged = [val] if test is None else [val, test]
    shown = gallery.pictures(task.config, learned, known, judged, temperature)
    looks = aside.opened(task.config, learned.listing, [picture.path for picture in shown])
    table = pictures.table(shown, task.config.data, task.config.preprocess, looks)
    run.write_pictures(table, layers.table(task.config, learned, val))
    return gallery.baseline(learned, known)


def _publish(task: _Task, run: RunFolder, learned: Learned, figures: Gate | None, started: float) -> Summary:
    """Calibrate on the validation images; leave the model, then the summary."""
    config, classes, best = task.config, task.listing.classes, learned.best
    labels = learned.val_labels(classes.indices)
    temperature = quality.fit_temperature(learned.val_logits, labels)
    logits = learned.val_logits / temperature
    probabilities = metrics.probabilities(logits)
    run.write_validation(learned.val_files, probabilities, classes)
    small = cascade.fit(config, task.tensors, learned, logits)
    model_digest = _save_model(task, run, learned, figures, temperature, small)
    run.publish_model()
    measured, test = quality.measure(logits, labels, classes), _tested(task, learned)
    baseline = _show(task, run, learned, test, temperature)
    run.write_findings(learned.examined.to_json())
    summary = Summary(
        recipe=config.recipe,
        classes=classes.names,
        num_train=len(learned.train_files),
        num_val=len(learned.val_files),
        epochs=len(learned.history),
        best_epoch=best.epoch,
        frozen_blocks=learned.phase.frozen_blocks,
        val_accuracy=best.val_accuracy,
        val_loss=best.val_loss,
        train_accuracy=best.train_accuracy,
        temperature=temperature,
        quality=measured,
        arithmetic=learned.frozen.arithmetic.name,
        gate=figures,
        cascade=small.deferral if small else None,
        skipped=sum(file.status != "ok" for file in learned.listing.of("train", "val")),
        features_computed=learned.features_computed,
        features_reused=learned.features_reused,
        seconds_features=learned.seconds_features,
        seconds_train=learned.seconds_train,
        model_digest=model_digest,
        test=test if test is None else test.quality(temperature, classes),
        seconds_total=round(time.monotonic() - started, 2),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        remarks=(
            *groups.remarks(task.listing.files),
            *_decided_upon(task.listing),
            *remarks(learned.history, best, measured, config.recipe),
            *learned.examined.remarks,
        ),
        ignored_names=dict(task.listing.ignored.names.most_common()),
        excluded=task.listing.excluded,
        relabelled=task.listing.relabelled,
        baseline=baseline,
    )
    _write_card(task, run, learned, summary)
    run.publish(summary)
    return summary


def _save_model(
    task: _Task, run: RunFolder, learned: Learned, figures: Gate | None, temperature: float, small: Small | None
) -> str:
    """Leave the model folder; returns the model's digest."""
    config, best, classes = task.config, learned.best, task.listing.classes
    cut = Frozens(config, task.tensors, learned.frozen.arithmetic).cut(learned.phase.frozen_blocks)
    seen = cascade.look(config, learned, cut, classes.indices, "features of training images")
    counts = {"num_train": len(learned.train_files), "num_val": len(learned.val_files)}
    epoch_metrics = {name: getattr(best, name) for name in ("val_accuracy", "val_loss", "train_accuracy", "train_loss")}
    draft = Draft(
        classes=task.listing.classes,
        frozen_blocks=learned.phase.frozen_blocks,
        preprocess=config.preprocess,
        head=config.head,
        arithmetic=learned.frozen.arithmetic,
        training={**essential(config), **counts},
        metrics=epoch_metrics | (dataclasses.asdict(figures) if figures else {}),
        reference=seen.reference(learned.val_logits / temperature),
        arch=config.arch,
        temperature=temperature,
        novelty=seen.novelty,
        cascade=small.cascade if small else None,
    )
    frozen_tensors = {name: task.tensors[name] for name in learned.frozen.layers.state_dict()}
    run.lease.check()
    beside = {description.POINTS: seen.points} if draft.novelty else {}
    return model.save(
        run.path / "model", frozen_tensors, learned.trainable, draft, beside | (small.tensors() if small else {})
    )


def _decided_upon(listing: Listing) -> list[str]:
    if not listing.excluded and not listing.relabelled:
        return []
    return [f"pictures left out by hand: {listing.excluded:,}; given another class: {listing.relabelled:,} (--exclude)"]


def _write_card(task: _Task, run: RunFolder, learned: Learned, summary: Summary) -> None:
    """The model's card, with all that the run knows."""
    qualities = {"val": summary.quality, "test": summary.test}
    measured = {split: of for split, of in qualities.items() if of is not None}
    counts: dict[str, Mapping[str, int]] = {"train": Counter(file.label for file in learned.train_files)}
    counts |= {split: {name: each.count for name, each in of.per_class.items()} for split, of in measured.items()}
    results = [
        card.Result(
            split, of.num_images, of.accuracy, accuracy_interval(of.accuracy, of.num_images), of.log_loss,
            of.calibration_error,
        )
        for split, of in measured.items()
    ]  # fmt: skip
    facts = card.Facts(task.config.weights, counts, tuple(results))
    run.write_card(card.text(storage.read_json(str(run.path / "model" / "model.json")), facts))
