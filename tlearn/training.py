"""The training job: from a config to a run folder."""

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

from tlearn import (
    description,
    drift,
    features,
    fit,
    loop,
    manifest,
    metrics,
    model,
    network,
    report,
    storage,
    weights,
    worker,
)
from tlearn.classes import Classes
from tlearn.config import Arithmetic, TrainConfig, digest
from tlearn.description import Description
from tlearn.errors import IntegrityError, TooManyBadFiles, UsageError
from tlearn.features import Cut, Features, View
from tlearn.launch import causes, may_quantize, plain_arithmetic, start_ray
from tlearn.lease import Lease
from tlearn.loop import Samples, Worker
from tlearn.manifest import File, Listing
from tlearn.progress import Progress, say

_MAX_REFERENCE = 2000
_MAX_GATE = 500

# What a result does not depend on: where it is put, how it is computed and what is printed.
_INCIDENTAL = ("output", "cache", "workers", "resume", "max_failures", "json", "quiet")


def train(config: TrainConfig) -> dict[str, Any]:
    """Fine-tune; leave the run's folder; return what summary.json says."""
    started = time.monotonic()
    run = storage.local(config.output)
    listing = manifest.read(config.data, val_fraction=config.val_fraction, seed=config.seed)
    storage.require_writable(config.output)
    with Lease(str(run)):
        manifest.add_hashes(config.data, listing.files, config.cache)
        return _train(config, run, listing, started)


def _train(config: TrainConfig, run: Path, listing: Listing, started: float) -> dict[str, Any]:
    classes = listing.classes
    frozen = network.Frozen(config.frozen_blocks, config.preprocess)
    tensors = _pretrained(config)
    network.load_pretrained(frozen, tensors)
    files = [(file.path, file.label, file.sha256) for file in listing.files]
    job_digest = digest([_essential(config), weights.tensors_digest(tensors), files])
    previous = _previous(config, run, job_digest)
    if previous and (run / "summary.json").exists():
        say(f"{run} holds this run already, finished: nothing to do", quiet=config.quiet)
        return _finished(run)
    _describe(config, listing)

    start_ray()
    plain, candidates = _arithmetics(config, frozen, listing, previous)
    gate: dict[str, float] = {}
    for arithmetic in candidates:
        facts = {"digest": job_digest, "arithmetic": dataclasses.asdict(arithmetic)}
        _write_json(run / "config.json", {**facts, **_provenance(config)})
        frozen.arithmetic = arithmetic
        learned = _learn(config, run, listing, _cut(config, frozen), job_digest)
        frozen.arithmetic = plain
        if not arithmetic.ranges:
            break
        gate = _gate(config, listing.classes, learned, _cut(config, frozen))
        if _passes(gate):
            break
        what = "learning from plain ones" if arithmetic is not candidates[-1] else "as --precision int8 asks, kept"
        say(
            f"int8 features change the predictions for {1 - gate['agreement']:.1%} of {gate['gate_num_val']} "
            f"validation images (log-loss {gate['int8_val_loss']:.4f}, otherwise "
            f"{gate['plain_val_loss']:.4f}): {what}",
            quiet=config.quiet,
        )

    best = learned.history[-1]
    probabilities = metrics.probabilities(learned.logits)
    _write_validation(run, learned.files["val"], probabilities, classes)
    counts = {f"num_{split}": len(files) for split, files in learned.files.items()}
    summary: dict[str, Any] = {
        "recipe": config.recipe,
        "classes": list(classes.names),
        **counts,
        "epochs": config.optim.num_epochs,
        "best_epoch": best["epoch"],
        "val_accuracy": best["val_accuracy"],
        "val_loss": best["val_loss"],
        "train_accuracy": best["train_accuracy"],
        "arithmetic": arithmetic.name,
        **gate,
        "skipped": sum(file.status != "ok" for file in listing.files),
        **learned.facts,
    }
    summary["model_digest"] = model.save(
        run / "model",
        {name: tensors[name] for name in frozen.layers.state_dict()},
        learned.trainable,
        Description(
            classes=classes,
            frozen_blocks=config.frozen_blocks,
            preprocess=config.preprocess,
            head=config.head,
            arithmetic=arithmetic,
            weights_sha256="",
            training={**_essential(config), **counts},
            metrics={name: best[name] for name in ("val_accuracy", "val_loss", "train_accuracy", "train_loss")} | gate,
            reference=_reference(learned.trainable, learned.val, probabilities),
        ),
    )
    summary["seconds_total"] = round(time.monotonic() - started, 2)
    _write_json(run / "summary.json", summary)
    report.write_report(run)
    return summary


def _arithmetics(
    config: TrainConfig, frozen: network.Frozen, listing: Listing, previous: dict[str, Any]
) -> tuple[Arithmetic, list[Arithmetic]]:
    """What this cluster computes with, int8 aside, and what to try in turn: int8 first where it promises speed."""
    plain = plain_arithmetic(config.engine, config.precision)
    if previous:  # a run that goes on keeps its arithmetic, wherever it goes on
        first = description.arithmetic_of(previous["arithmetic"])
    elif config.frozen_blocks and may_quantize(plain, config.precision):
        ranges = features.ranges(listing.of("train"), config.data, frozen, config.cache)
        first = Arithmetic("openvino", "int8", ranges) if ranges else plain
    else:
        first = plain
    return plain, [first, plain] if first.ranges and config.precision == "auto" else [first]


def _cut(config: TrainConfig, frozen: network.Frozen) -> Cut:
    return Cut(
        config.weights, config.cache, config.frozen_blocks, config.preprocess, frozen.arithmetic, frozen.digest()
    )


@dataclass(frozen=True, slots=True)
class _Learned:
    """What training on the features of one arithmetic came to."""

    files: dict[str, list[File]]
    """Those that could be read, of train and val."""
    val: Features
    trainable: network.Trainable
    logits: torch.Tensor
    """(num_val, num_logits)"""
    history: list[dict[str, float]]
    facts: dict[str, Any]


def _learn(config: TrainConfig, run: Path, listing: Listing, cut: Cut, job_digest: str) -> _Learned:
    """Features, then training; the best checkpoint."""
    started = time.monotonic()
    views: dict[str, tuple[View, ...]] = {
        "train": ("plain", "mirror") if config.augment == "flip" else ("plain",),
        "val": ("plain",),
    }
    plans = [plan for split, wanted in views.items() for plan in features.plan(listing.of(split), wanted, cut)]
    num_computed = _compute_features(config, plans, cut)
    train_files, val_files = listing.of("train"), listing.of("val")
    places = [place for view in views["train"] for place in features.collect(train_files, view, cut)]
    val_places = features.collect(val_files, "plain", cut)
    pq.write_table(manifest.table(listing.files), run / "manifest.parquet")
    _say_skipped(config, listing)
    train_files = [file for file in train_files if file.status == "ok"]
    val_files = [file for file in val_files if file.status == "ok"]
    _require_enough(config, listing, train_files, val_files)
    train_started = time.monotonic()

    classes = listing.classes
    job = worker.Job(
        config=config,
        digest=digest([job_digest, cut.arithmetic.name]),
        num_logits=classes.num_logits,
        train=Features(places, cut.shape),
        train_labels=tuple(classes.indices[file.label] for file in train_files) * len(views["train"]),
        val=Features(val_places, cut.shape),
        val_labels=tuple(classes.indices[file.label] for file in val_files),
        num_threads=1,
        metrics_path="",
        initial_checkpoint=None,
    )
    checkpoint = fit.best_checkpoint(job, run)
    trainable = network.Trainable(config.frozen_blocks, config.preprocess, config.head, classes.num_logits)
    trainable.load_state_dict(load_file(checkpoint / "trainable.safetensors"))
    return _Learned(
        files={"train": train_files, "val": val_files},
        val=job.val,
        trainable=trainable,
        logits=load_file(checkpoint / "logits.safetensors")["logits"],
        history=worker.checkpoint_progress(checkpoint)["history"],
        facts={
            "features_computed": num_computed,
            "features_reused": len(places) + len(val_places) - num_computed,
            "seconds_features": round(train_started - started, 2),
            "seconds_train": round(time.monotonic() - train_started, 2),
        },
    )


def _gate(config: TrainConfig, classes: Classes, learned: _Learned, plain: Cut) -> dict[str, float]:
    """What the model says of (at most 500) validation images whose features are quantised, and are not."""
    files = sorted(learned.files["val"], key=lambda file: file.sha256 or "")[:_MAX_GATE]
    _compute_features(config, features.plan(files, ("plain",), plain), plain)
    rows = {file.path: row for row, file in enumerate(learned.files["val"])}
    places = features.collect(files, "plain", plain)
    files = [file for file in files if file.status == "ok"]
    labels = torch.tensor([classes.indices[file.label] for file in files])
    samples = Samples(Features(places, plain.shape).gather, labels)
    logits = {
        "plain": loop.evaluate(learned.trainable, samples, config.optim.global_batch_size, Worker()),
        "int8": learned.logits[[rows[file.path] for file in files]],
    }
    gate: dict[str, float] = {"gate_num_val": len(files)}
    for name, values in logits.items():
        gate[f"{name}_val_loss"], gate[f"{name}_val_accuracy"] = loop.measure(values, labels).rates()
    same = metrics.predictions(logits["plain"]) == metrics.predictions(logits["int8"])
    return gate | {"agreement": same.double().mean().item()}


def _passes(gate: dict[str, float]) -> bool:
    """Whether int8 costs nothing: half a point, 1% of the predictions (or one of them), 0.01 of the log-loss."""
    one = 1.0001 / gate["gate_num_val"]
    return (
        gate["int8_val_accuracy"] >= gate["plain_val_accuracy"] - max(0.005, one)
        and gate["agreement"] >= 1 - max(0.01, one)
        and gate["int8_val_loss"] <= gate["plain_val_loss"] + 0.01
    )


def _reference(trainable: network.Trainable, val: Features, probabilities: torch.Tensor) -> dict[str, Any]:
    """Histograms of (at most 2,000) validation images, with which scoring compares what it sees."""
    rows = torch.arange(len(val))[:: max(len(val) // _MAX_REFERENCE, 1)]
    with torch.no_grad():
        pooled = torch.cat([trainable.trunk(val.gather(part)).mean((2, 3)) for part in rows.split(64)])
    return drift.reference(drift.series(probabilities[rows].numpy(), pooled.numpy()))


def _pretrained(config: TrainConfig) -> dict[str, torch.Tensor]:
    if config.weights != "none":
        return weights.load(config.weights, config.cache)
    print("WARNING: --weights none: nothing is pretrained, accuracy will be poor", file=sys.stderr, flush=True)
    generator = torch.Generator().manual_seed(config.seed)
    tensors = {name: torch.zeros(shape) for name, shape in weights.shapes().items()}
    for tensor in tensors.values():
        if tensor.dim() > 1:
            torch.nn.init.kaiming_normal_(tensor, generator=generator)
    return tensors


def _describe(config: TrainConfig, listing: Listing) -> None:
    """Print what the notebook printed: the class indices and the layer table."""
    if config.quiet:
        return
    for split in ("train", "val"):
        counts = Counter(file.label for file in listing.of(split))
        print(f"{split}: {sum(counts.values()):,} images of {len(listing.classes.names)} classes", end="")
        print(" (" + ", ".join(f"{name} {counts[name]:,}" for name in listing.classes.names) + ")")
    for remark in [*listing.remarks, *manifest.leaks(listing.files)]:
        print(f"note: {remark}")
    print(f"class indices: {listing.classes.indices}\n")
    layers = list(network.layers(config.frozen_blocks, config.preprocess, config.head, listing.classes.num_logits))
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


def _previous(config: TrainConfig, run: Path, job_digest: str) -> dict[str, Any]:
    """The config.json of an earlier start of this run, empty if there is none; UsageError for another run."""
    try:
        previous: dict[str, Any] = json.loads((run / "config.json").read_bytes())
    except FileNotFoundError:
        if config.resume == "require":
            raise UsageError(f"expected a run to go on with in {run}, found none: leave out --resume require") from None
        return {}
    except ValueError as error:
        raise IntegrityError(f"expected JSON in {run}/config.json: {error}; remove {run}") from None
    if config.resume == "never":
        raise UsageError(f"expected no run in {run}, found one: choose another --output, or remove it")
    if previous.get("digest") != job_digest:
        old, new = _flat(previous.get("config", {})), _flat(dataclasses.asdict(config))
        changed = [
            f"{name} {old.get(name)} there, {value} here" for name, value in new.items() if old.get(name) != value
        ]
        changed = [text for text in changed if text.split()[0] not in _INCIDENTAL]
        what = "; ".join(changed) or "the images or the weights have changed since"
        raise UsageError(f"expected the same run in {run}, found another ({what}): choose another --output")
    return previous


def _finished(run: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run / "summary.json").read_bytes())
    if description.describe(str(run / "model")).digest != summary["model_digest"]:
        raise IntegrityError(f"expected model {summary['model_digest']} in {run}/model, found another: remove {run}")
    return summary


def _compute_features(config: TrainConfig, plans: list[features.Plan], cut: Cut) -> int:
    if not plans:
        return 0
    total = sum(plan.num_images for plan in plans)
    with causes(), Progress("features", total, quiet=config.quiet) as progress:
        num_computed, _ = features.compute(plans, config.data, cut, config.workers, progress)
    return num_computed


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
            raise ValueError(
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
    versions = {name: metadata.version(name) for name in names}
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
