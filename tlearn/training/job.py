"""The training job: from a config to a run folder."""

import contextlib
import dataclasses
import json
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import TrainConfig, digest
from tlearn.console import event, say
from tlearn.data import manifest
from tlearn.data.manifest import File, Listing
from tlearn.distributed import meters
from tlearn.distributed.launch import has_gpus, require_shared, start_ray
from tlearn.errors import InputError, IntegrityError, TooManyBadFiles, UsageError
from tlearn.evaluation import drift, metrics, quality, report
from tlearn.features.cache import Features, outcomes, pooled, ranges
from tlearn.features.compute import compute, plan
from tlearn.features.cut import Cut, Frozens
from tlearn.features.phases import Phase, num_used, prepare
from tlearn.network import arithmetic, description, model, vgg, weights
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Draft
from tlearn.network.frozen import Frozen
from tlearn.network.trainable import Trainable
from tlearn.storage import Workplace
from tlearn.storage.lease import Lease
from tlearn.training import auto, fit, loop, worker
from tlearn.training.gate import MAX_IMAGES, compare, passes, sentence
from tlearn.training.loop import Samples, Worker

_MAX_REFERENCE = 2000

# What a result does not depend on: where it is put, how it is computed and what is printed.
_INCIDENTAL = (
    "output", "cache", "workers", "device", "decode", "resume", "max_failures", "checkpoint_every_seconds", "json",
    "quiet",
)  # fmt: skip


def train(config: TrainConfig) -> dict[str, Any]:
    """Fine-tune; leave the run's folder; return what summary.json says."""
    started = time.monotonic()
    listing = manifest.read(config.data, val_fraction=config.val_fraction, seed=config.seed)
    storage.require_writable(config.output)
    output = storage.absolute(config.output.rstrip("/"))
    with Lease(output), storage.workplace(output) as run:
        listing = listing.with_outcomes(manifest.add_hashes(config.data, listing.files, config.cache))
        return _train(config, run, listing, started)


def _train(config: TrainConfig, run: Workplace, listing: Listing, started: float) -> dict[str, Any]:
    classes = listing.classes
    tensors = _pretrained(config)
    files = [(file.path, file.label, file.sha256) for file in listing.files]
    job_digest = digest([_essential(config), weights.tensors_digest(tensors), files])
    previous = _previous(config, run.location, job_digest)
    if previous and storage.exists(storage.join(run.location, "summary.json")):
        say(f"{run.location} holds this run already, finished: nothing to do", quiet=config.quiet)
        return _finished(run.location)
    _describe_data(config, listing)

    start_ray()
    weights_file = [] if config.weights in ("imagenet", "none") else [config.weights]
    require_shared([storage.join(config.data, listing.files[0].path), *weights_file], [config.cache, run.location])
    requested = config
    plain, candidates = _arithmetics(config, tensors, listing, previous)
    num_computed = 0
    if config.recipe == "auto":
        config, listing, num_computed = _decide(config, tensors, listing, candidates[0])
    _describe_layers(config, classes)
    gate: dict[str, float] = {}
    for candidate in candidates:
        facts = {"digest": job_digest, "arithmetic": dataclasses.asdict(candidate)}
        provenance = {**_provenance(config), "requested": dataclasses.asdict(requested)}
        _write_json(run.path / "config.json", {**facts, **provenance})
        run.upload()
        learned = _learn(run, listing, Frozens(config, tensors, candidate), job_digest, num_computed)
        listing, num_computed = learned.listing, learned.facts["features_computed"]
        if not learned.frozen.arithmetic.ranges:
            break
        gate = _gate(config, classes, learned, Frozens(config, tensors, plain).cut(learned.phase.frozen_blocks))
        if passes(gate):
            break
        what = "learning from plain ones" if candidate is not candidates[-1] else "as --precision int8 asks, kept"
        say(f"{sentence(gate)}: {what}", quiet=config.quiet)

    best = learned.history[-1]
    labels = torch.tensor([classes.indices[file.label] for file in learned.files["val"]])
    temperature = quality.fit_temperature(learned.logits, labels)
    logits = learned.logits / temperature
    probabilities = metrics.probabilities(logits)
    _write_validation(run.path, learned.files["val"], probabilities, classes)
    counts = {f"num_{split}": len(files) for split, files in learned.files.items()}
    summary: dict[str, Any] = {
        "recipe": config.recipe,
        "classes": list(classes.names),
        **counts,
        "epochs": learned.num_epochs,
        "best_epoch": best["epoch"],
        "frozen_blocks": learned.phase.frozen_blocks,
        "val_accuracy": best["val_accuracy"],
        "val_loss": best["val_loss"],
        "train_accuracy": best["train_accuracy"],
        "temperature": temperature,
        "quality": quality.quality(logits, labels, classes),
        "arithmetic": learned.frozen.arithmetic.name,
        **gate,
        "skipped": sum(file.status != "ok" for file in listing.files),
        **learned.facts,
    }
    summary["model_digest"] = model.save(
        run.path / "model",
        {name: tensors[name] for name in learned.frozen.layers.state_dict()},
        learned.trainable,
        Draft(
            classes=classes,
            frozen_blocks=learned.phase.frozen_blocks,
            preprocess=config.preprocess,
            head=config.head,
            arithmetic=learned.frozen.arithmetic,
            training={**_essential(config), **counts},
            metrics={name: best[name] for name in ("val_accuracy", "val_loss", "train_accuracy", "train_loss")} | gate,
            reference=_reference(learned.trainable, learned.phase.val, probabilities),
            arch=config.arch,
            temperature=temperature,
        ),
    )
    summary["seconds_total"] = round(time.monotonic() - started, 2)
    run.upload(last="model.json")
    _write_json(run.path / "summary.json", summary)
    report.write_report(run.path)
    run.upload(last="summary.json")
    event("trained", run=run.location, val_accuracy=best["val_accuracy"], model=summary["model_digest"])
    return summary


def _arithmetics(
    config: TrainConfig, tensors: dict[str, torch.Tensor], listing: Listing, previous: dict[str, Any]
) -> tuple[Arithmetic, list[Arithmetic]]:
    """What this cluster computes with, int8 aside, and what to try in turn: int8 first where it promises speed."""
    plain = arithmetic.plain(config.engine, config.precision, on_gpu=has_gpus())
    if previous:  # a run that goes on keeps its arithmetic, wherever it goes on
        first = description.arithmetic_of(previous["arithmetic"])
    elif config.frozen_blocks and arithmetic.may_quantize(plain, config.precision):
        frozen = Frozens(config, tensors, plain).frozen(5)
        peaks = ranges(listing.of("train"), config.data, frozen, config.cache)
        first = Arithmetic("openvino", "int8", peaks) if peaks else plain
    else:
        first = plain
    return plain, [first, plain] if first.ranges and config.precision == "auto" else [first]


def _decide(
    config: TrainConfig, tensors: dict[str, torch.Tensor], listing: Listing, chosen: Arithmetic
) -> tuple[TrainConfig, Listing, int]:
    """The recipe `auto`: which case this is, by the features that every case needs, and how many were computed."""
    cut, files = Frozens(config, tensors, chosen).cut(5), listing.of("train")
    num_computed = compute(config, plan([(files, ("plain",))], cut), cut)
    found = outcomes(files, "plain", cut)
    labels = [listing.classes.indices[file.label] for file in found.files if file.status == "ok"]
    counts = Counter(labels)
    separability = auto.separability(
        pooled(Features(found.places, cut.shape)), torch.tensor(labels), len(listing.classes.names), config.seed
    )
    choice = auto.choose(config, len(labels), min(counts.values(), default=0), separability)
    say(f"auto: {choice.reason}\n", quiet=config.quiet)
    return choice.config, listing.with_outcomes(found.files), num_computed


@dataclass(frozen=True, slots=True)
class _Learned:
    """What training on the features of one arithmetic came to."""

    listing: Listing
    """Each file with what became of it."""
    files: dict[str, list[File]]
    """Those that could be read, of train and val."""
    phase: Phase
    """In which the best checkpoint was written."""
    frozen: Frozen
    trainable: Trainable
    logits: torch.Tensor
    """(num_val, num_logits)"""
    history: tuple[dict[str, float], ...]
    num_epochs: int
    facts: dict[str, Any]


def _learn(run: Workplace, listing: Listing, frozens: Frozens, job_digest: str, num_computed: int) -> _Learned:
    """Features, then training; the best checkpoint. `num_computed` features were computed before."""
    started, config = time.monotonic(), frozens.config
    prepared = prepare(config, frozens, listing)
    listing, num_computed = prepared.listing, num_computed + prepared.num_computed
    pq.write_table(manifest.table(listing.files), run.path / "manifest.parquet")
    run.upload()
    _say_skipped(config, listing)
    files = {split: listing.usable(split) for split in ("train", "val")}
    _require_enough(config, listing, files["train"], files["val"])
    train_started = time.monotonic()

    classes = listing.classes
    found = prepared.phases()
    job = worker.Job(
        config=config,
        digest=digest([job_digest, frozens.arithmetic.name]),
        num_classes=len(classes.names),
        num_logits=classes.num_logits,
        phases=found,
        val_labels=tuple(classes.indices[file.label] for file in files["val"]),
        num_threads=1,
        metrics_path="",
        initial_checkpoint=None,
    )
    num_reused = max(num_used(found) - num_computed, 0)
    event("features", run=run.location, computed=num_computed, reused=num_reused)
    meters.count("features_reused", num_reused)
    meters.count("stage_seconds", train_started - started, stage="features")
    checkpoint, num_epochs = fit.best_checkpoint(job, run)
    meters.count("stage_seconds", time.monotonic() - train_started, stage="train")
    with checkpoint.as_directory() as folder:
        progress = worker.checkpoint_progress(folder)
        learned = worker.learned_tensors(Path(folder))
        logits = load_file(Path(folder, "logits.safetensors"))["logits"]
    phase = found[progress.phase]
    trainable = Trainable(phase.frozen_blocks, config.preprocess, config.head, classes.num_logits, config.arch)
    trainable.load_state_dict(learned)
    return _Learned(
        listing=listing,
        files=files,
        phase=phase,
        frozen=frozens.frozen(phase.frozen_blocks),
        trainable=trainable,
        logits=logits,
        history=progress.history,
        num_epochs=num_epochs,
        facts={
            "features_computed": num_computed,
            "features_reused": num_reused,
            "seconds_features": round(train_started - started, 2),
            "seconds_train": round(time.monotonic() - train_started, 2),
        },
    )


def _gate(config: TrainConfig, classes: Classes, learned: _Learned, plain: Cut) -> dict[str, float]:
    """What the model says of (at most 500) validation images whose features are quantised, and are not."""
    files = sorted(learned.files["val"], key=lambda file: file.sha256 or "")[:MAX_IMAGES]
    compute(config, plan([(files, ("plain",))], plain), plain)
    rows = {file.path: row for row, file in enumerate(learned.files["val"])}
    found = outcomes(files, "plain", plain)
    files = [file for file in found.files if file.status == "ok"]
    labels = torch.tensor([classes.indices[file.label] for file in files])
    samples = Samples(Features(found.places, plain.shape).gather, labels)
    logits = loop.evaluate(learned.trainable, samples, config.optim.global_batch_size, Worker())
    return compare(logits, learned.logits[[rows[file.path] for file in files]], labels)


def _reference(trainable: Trainable, val: Features, probabilities: torch.Tensor) -> dict[str, Any]:
    """Histograms of (at most 2,000) validation images, with which scoring compares what it sees."""
    rows = torch.arange(len(val))[:: max(len(val) // _MAX_REFERENCE, 1)]
    with torch.no_grad():
        pooled = torch.cat([trainable.trunk(val.gather(part)).mean((2, 3)) for part in rows.split(64)])
    return drift.reference(drift.series(probabilities[rows].numpy(), pooled.numpy()))


def _pretrained(config: TrainConfig) -> dict[str, torch.Tensor]:
    if config.weights == "none":
        print("WARNING: --weights none: nothing is pretrained, accuracy will be poor", file=sys.stderr, flush=True)
    return weights.load(config.weights, config.cache, config.arch)


def _describe_data(config: TrainConfig, listing: Listing) -> None:
    """Print what the notebook printed: images and class indices."""
    if config.quiet:
        return
    for split in ("train", "val"):
        counts = Counter(file.label for file in listing.of(split))
        print(f"{split}: {sum(counts.values()):,} images of {len(listing.classes.names)} classes", end="")
        print(" (" + ", ".join(f"{name} {counts[name]:,}" for name in listing.classes.names) + ")")
    for remark in [*listing.remarks, *manifest.leaks(listing.files)]:
        print(f"note: {remark}")
    print(f"class indices: {listing.classes.indices}\n", flush=True)


def _describe_layers(config: TrainConfig, classes: Classes) -> None:
    """Print the layer table."""
    if config.quiet:
        return
    layers = list(vgg.summary(config.frozen_blocks, config.preprocess, config.head, classes.num_logits, config.arch))
    print(f"{'layer':<14} {'kind':<22} {'output shape':<18} {'parameters':>12}")
    for layer in layers:
        state = ("trained" if layer.trained else "frozen") if layer.num_parameters else ""
        shape = f"({', '.join(map(str, layer.output_shape))})"
        print(f"{layer.name:<14} {layer.kind:<22} {shape:<18} {layer.num_parameters:>12,}  {state}".rstrip())
    trained = sum(layer.num_parameters for layer in layers if layer.trained)
    total = sum(layer.num_parameters for layer in layers)
    print(f"parameters: {total:,} in all, {trained:,} trained, {total - trained:,} frozen\n", flush=True)


def _essential(config: TrainConfig) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in _INCIDENTAL}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _previous(config: TrainConfig, run: str, job_digest: str) -> dict[str, Any]:
    """The config.json of an earlier start of this run, empty if there is none; UsageError for another run."""
    try:
        previous: dict[str, Any] = storage.read_json(storage.join(run, "config.json"))
    except FileNotFoundError:
        if config.resume == "require":
            raise UsageError(f"expected a run to go on with in {run}, found none: leave out --resume require") from None
        return {}
    except ValueError as error:
        raise IntegrityError(f"expected JSON in {run}/config.json: {error}; remove {run}") from None
    if config.resume == "never":
        raise UsageError(f"expected no run in {run}, found one: choose another --output, or remove it")
    if previous.get("digest") != job_digest:
        old, new = _flat(previous.get("requested", {})), _flat(dataclasses.asdict(config))
        changed = [
            f"{name} {old.get(name)} there, {value} here" for name, value in new.items() if old.get(name) != value
        ]
        changed = [text for text in changed if text.split()[0] not in _INCIDENTAL]
        what = "; ".join(changed) or "the images or the weights have changed since"
        raise UsageError(f"expected the same run in {run}, found another ({what}): choose another --output")
    return previous


def _finished(run: str) -> dict[str, Any]:
    summary: dict[str, Any] = storage.read_json(storage.join(run, "summary.json"))
    if description.describe(storage.join(run, "model")).digest != summary["model_digest"]:
        raise IntegrityError(f"expected model {summary['model_digest']} in {run}/model, found another: remove {run}")
    return summary


def _say_skipped(config: TrainConfig, listing: Listing) -> None:
    bad = [file for file in listing.files if file.status != "ok"]
    if bad and not config.quiet:
        print(f"skipped {len(bad)} of {len(listing.files):,} images:")
        for file in bad[:20]:
            print(f"  {file.path}: {file.status}: {file.error}")
        if len(bad) > 20:
            print(f"  and {len(bad) - 20} more, in manifest.parquet")


def _require_enough(config: TrainConfig, listing: Listing, train_files: list[File], val_files: list[File]) -> None:
    bad = [file for file in listing.files if file.status != "ok"]
    if len(bad) > config.max_error_rate * len(listing.files):
        raise TooManyBadFiles(
            f"expected at most {config.max_error_rate:.1%} bad images, got {len(bad)} of {len(listing.files)} "
            f"({bad[0].path}: {bad[0].error}): mend them, or raise --max-error-rate"
        )
    for split, files in (("train", train_files), ("val", val_files)):
        empty = set(listing.classes.names) - {file.label for file in files} if split == "train" else set()
        if empty or not files:
            raise InputError(
                f"expected readable images of {', '.join(sorted(empty)) or 'any class'} in {split}/, found none"
            )


def _write_validation(run: Path, files: Sequence[File], probabilities: torch.Tensor, classes: Classes) -> None:
    best = probabilities.max(1)
    columns = {
        "path": [file.path for file in files],
        "label": [file.label for file in files],
        "prediction": [classes.names[int(i)] for i in best.indices],
        "probability": pa.array(best.values.tolist(), pa.float32()),
        "probabilities": pa.array(
            [dict(zip(classes.names, values, strict=True)) for values in probabilities.tolist()],
            pa.struct([(name, pa.float32()) for name in classes.names]),
        ),
    }
    pq.write_table(pa.table(columns), run / "validation.parquet")


def _provenance(config: TrainConfig) -> dict[str, Any]:
    names = ("ray", "torch", "torchvision", "pyarrow", "numpy", "pillow", "tlearn")
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):  # tlearn itself in a job's working directory
            versions[name] = metadata.version(name)
    try:
        here = Path(__file__).parent
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {
        "config": dataclasses.asdict(config),
        "versions": {"python": platform.python_version(), **versions},
        "git_commit": commit,
        "command": " ".join(sys.argv),
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    storage.write_bytes(str(path), (json.dumps(value, indent=2) + "\n").encode())
