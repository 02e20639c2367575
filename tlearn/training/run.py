"""A run folder: who may write it, what an earlier start has left in it, what this one leaves.

config.json         the settings, asked for and resolved, and what computed with them
manifest.parquet    every file that was listed
metrics.jsonl       a line an epoch
validation.parquet  what the model says of every validation image
tracking.json       by what trackers outside know the run
folds.parquet       of every image what a head says that has not seen it, where folds are asked for
pictures.parquet    the pictures that the report shows, with all that is known of each
layers.parquet      what the layers respond to
findings.json       what may be wrong with the data
model/              the model folder
summary.json        written last: with it a run is finished
report.html         one file, pictures inside
"""

import contextlib
import dataclasses
import json
import platform
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from safetensors.torch import save as safetensors

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import TrainConfig
from tlearn.config.values import flat
from tlearn.data import manifest
from tlearn.data.manifest import File, Listing
from tlearn.errors import IntegrityError, UsageError
from tlearn.evaluation.deferral import Deferral
from tlearn.evaluation.folds import Folds
from tlearn.evaluation.interval import accuracy_interval
from tlearn.evaluation.quality import Quality
from tlearn.network import description
from tlearn.network.arithmetic import Arithmetic
from tlearn.report import page
from tlearn.storage import Workplace
from tlearn.storage.lease import Lease
from tlearn.training.gate import Gate

# What a result does not depend on: where it is put, how it is computed and what is printed.
_INCIDENTAL = (
    "output", "cache", "workers", "device", "decode", "resume", "max_failures", "checkpoint_every_seconds", "json",
    "quiet", "verbose", "wait_seconds", "folds", "track",
)  # fmt: skip
PLACES = ("data", "weights")
"""Settings that say where something is: the same place has many names."""
_TABLES = ("labels", "groups", "exclude")
"""Settings that are known by what they say of the files."""
_PACKAGES = ("ray", "torch", "torchvision", "pyarrow", "numpy", "pillow", "simplejpeg", "tlearn")
_OPTIONAL = ("remarks", "ignored_names", "test", "excluded", "relabelled", "folds", "baseline", "cascade", "ended")
"""Of the summary: not in its JSON where there is nothing to say."""
_FOLDS = "folds"
"""Folder of what is kept until the cross-validation is done."""
_GATE = [field.name for field in dataclasses.fields(Gate)]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a model has to beat: accuracies on the validation images."""

    largest_class: float
    """Of whoever names their largest class always."""
    linear_probe: float | None
    """Of ridge regression on the pooled features of the pretrained network; None where these were not computed."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What summary.json says."""

    recipe: str
    classes: tuple[str, ...]
    num_train: int
    """Images that could be read."""
    num_val: int
    epochs: int
    """That were trained, of all phases."""
    best_epoch: int
    """From 1; that with the lowest validation loss, whose weights are the model's."""
    frozen_blocks: int
    val_accuracy: float
    val_loss: float
    train_accuracy: float
    temperature: float
    quality: Quality
    arithmetic: str
    gate: Gate | None
    """Where int8 was tried."""
    skipped: int
    """Files that could not be read."""
    features_computed: int
    features_reused: int
    seconds_features: float
    seconds_train: float
    model_digest: str
    seconds_total: float
    remarks: tuple[str, ...] = ()
    """What went otherwise than it should."""
    ignored_names: dict[str, int] = field(default_factory=dict)
    """How many files of each suffix, and of each name that systems leave behind, were no images (folders end in /)."""
    test: Quality | None = None
    """Of the images of test/, where it has class folders."""
    excluded: int = 0
    """Pictures that were left out by --exclude."""
    relabelled: int = 0
    """Pictures to which --exclude gave another class."""
    folds: Folds | None = None
    """Cross-validation, where it was asked for."""
    baseline: Baseline | None = None
    cascade: Deferral | None = None
    """Where a small network may answer first in scoring: what that does to the answers."""
    ended: str = ""
    """When the model was there, in UTC as ISO 8601 has it."""

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for name, value in dataclasses.asdict(self).items():
            content |= (value or {}) if name == "gate" else {name: value}
        return {name: value for name, value in content.items() if value or name not in _OPTIONAL}

    def lines(self, output: str) -> list[str]:
        """What a person reads at the end: how good, how sure, what to look at, what to do next."""
        low, high = accuracy_interval(self.val_accuracy, self.num_val)
        model, report = (shlex.quote(storage.join(output, name)) for name in ("model", "report.html"))
        return [
            f"val_accuracy {self.val_accuracy:.4f} of {self.num_val:,} images (95% sure: {low:.3f} to {high:.3f}), "
            f"val_loss {self.val_loss:.4f}, lowest in epoch {self.best_epoch} of {self.epochs}; "
            f"{self.seconds_total:.0f} seconds",
            *self._test_lines(),
            *(self.folds.lines() if self.folds else ()),
            *(f"note: {remark}" for remark in self.remarks),
            f"report: {report}",
            f"next: tlearn score --model {model} --input DIR --output scores.parquet",
        ]

    def _test_lines(self) -> list[str]:
        """What a person reads of test/."""
        if self.test is None:
            return []
        low, high = accuracy_interval(self.test.accuracy, self.test.num_images)
        return [
            f"test_accuracy {self.test.accuracy:.4f} of {self.test.num_images:,} images of test/ "
            f"(95% sure: {low:.3f} to {high:.3f})"
        ]

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Summary":
        # A summary without the number of those that were asked is of a gate that asked all.
        figures = {"gate_num_asked": content.get("gate_num_val"), **content}
        gate = Gate(**{name: figures[name] for name in _GATE}) if "agreement" in content else None
        rest = {name: value for name, value in content.items() if name not in _GATE}
        typed = {"classes": tuple(content["classes"]), "quality": Quality.from_json(content["quality"]), "gate": gate}
        test = Quality.from_json(content["test"]) if "test" in content else None
        folds = Folds.from_json(content["folds"]) if "folds" in content else None
        baseline = Baseline(**content["baseline"]) if "baseline" in content else None
        cascade = Deferral(**content["cascade"]) if "cascade" in content else None
        typed |= {"remarks": tuple(content.get("remarks", ())), "cascade": cascade}
        typed |= {"test": test, "folds": folds, "baseline": baseline}
        return cls(**rest | typed)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: where it is, and what its summary says."""

    location: str
    summary: Summary

    @property
    def val_accuracy(self) -> float:
        """Share of the validation images that are predicted rightly."""
        return self.summary.val_accuracy

    @property
    def val_loss(self) -> float:
        """Log-loss of the validation images in the best epoch, before calibration."""
        return self.summary.val_loss

    @property
    def model(self) -> str:
        """The model folder, for `tlearn.load` and `tlearn.score`."""
        return storage.join(self.location, "model")

    @property
    def report(self) -> str:
        return storage.join(self.location, "report.html")


@dataclass(frozen=True, slots=True)
class Start:
    """What config.json says."""

    digest: str
    """Of what the run was asked for: settings, weights, images."""
    arithmetic: Arithmetic
    """Of the frozen layers."""
    config: TrainConfig
    """What is trained: of the recipe auto, the case that was chosen."""
    versions: dict[str, str]
    git_commit: str | None
    command: str
    requested: TrainConfig
    given: tuple[str, ...] = ()
    """What auto was told by name, where its value is that of the recipe."""

    def to_json(self) -> dict[str, Any]:
        content = dataclasses.asdict(self)
        return content if self.given else {name: value for name, value in content.items() if name != "given"}


@dataclass(frozen=True, slots=True)
class Earlier:
    """What config.json says of an earlier start of the same run."""

    digest: str
    arithmetic: Arithmetic
    places: dict[str, str]
    """The texts of PLACES; they stay, because the digest may be of them too."""


Digest = Callable[[Mapping[str, Any]], str]


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # tlearn itself in a job's working directory
            found[name] = metadata.version(name)
    return found


def git_commit() -> str | None:
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def essential(config: TrainConfig) -> dict[str, Any]:
    """What a result depends on. Not on where images, weights and tables lie: what they are is known by their bytes."""
    omitted = (*_INCIDENTAL, *PLACES, *_TABLES)
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in omitted}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run folder that this process holds. Nothing is written into it once another run has taken it over."""

    workplace: Workplace
    lease: Lease

    @property
    def location(self) -> str:
        return self.workplace.location

    @property
    def path(self) -> Path:
        """Where its files are written, on a local disk."""
        return self.workplace.path

    def earlier(self, config: TrainConfig, digest: Digest, given: Sequence[str]) -> Earlier | None:
        """What an earlier start of this run has left; None without one, UsageError where another run is there.

        `digest` gives that of this run, or, of the texts of PLACES, what it was when these were a part of it.
        """
        try:
            content: dict[str, Any] = storage.read_json(storage.join(self.location, "config.json"))
        except FileNotFoundError:
            if config.resume == "require":
                raise UsageError(
                    f"expected a run to go on with in {self.location}, found none: leave out --resume require"
                ) from None
            return None
        except ValueError as error:
            raise IntegrityError(
                f"expected JSON in {self.location}/config.json: {error}; remove {self.location}"
            ) from None
        if config.resume == "never":
            raise UsageError(f"expected no run in {self.location}, found one: choose another --output, or remove it")
        asked = content.get("requested", {})
        places = {name: asked.get(name, getattr(config, name)) for name in PLACES}
        if content.get("digest") not in (digest({}), digest(places)):
            what = "; ".join(_changes(content, config, given)) or "the images or the weights have changed since"
            raise UsageError(
                f"expected the same run in {self.location}, found another ({what}): choose another --output"
            )
        return Earlier(content["digest"], description.arithmetic_of(content["arithmetic"]), places)

    def finished(self) -> Summary | None:
        """What a run that is finished says; None where it is not. IntegrityError where its model is another."""
        try:
            summary = Summary.from_json(storage.read_json(storage.join(self.location, "summary.json")))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"expected a summary.json of tlearn in {self.location}: {error}; remove it") from None
        if description.describe(storage.join(self.location, "model")).digest != summary.model_digest:
            raise IntegrityError(
                f"expected model {summary.model_digest} in {self.location}/model, found another: remove {self.location}"
            )
        return summary

    def write_start(self, start: Start) -> None:
        self._write_json("config.json", start.to_json())
        self.workplace.upload()

    def write_manifest(self, listing: Listing) -> None:
        self._write_table("manifest.parquet", manifest.table(listing.files))
        self.workplace.upload()

    def write_metrics(self, lines: str) -> None:
        self.lease.check()
        storage.write_bytes(str(self.path / "metrics.jsonl"), lines.encode())
        self.workplace.upload()

    def write_validation(self, files: Sequence[File], probabilities: torch.Tensor, classes: Classes) -> None:
        """What the model says of every validation image; probabilities are (images, classes)."""
        kind = pa.struct([(name, pa.float32()) for name in classes.names])
        self._write_table("validation.parquet", pa.table(_said(files, probabilities, classes, kind)))

    def arithmetic(self) -> Arithmetic:
        """Of the frozen layers, as the last start has settled it."""
        return description.arithmetic_of(storage.read_json(storage.join(self.location, "config.json"))["arithmetic"])

    def write_fold(self, name: str, logits: torch.Tensor) -> None:
        """Keep what one fold has come to, (images, num_logits), until all of them have."""
        self.lease.check()
        storage.write_bytes(str(self.path / _FOLDS / name), safetensors({"logits": logits}))
        self.workplace.upload()

    def fold(self, name: str) -> torch.Tensor | None:
        """What an earlier start has kept under this name."""
        try:
            return load(storage.read(storage.join(self.location, _FOLDS, name)).data)["logits"]
        except (FileNotFoundError, SafetensorError, KeyError):
            return None

    def publish_folds(
        self, summary: Summary, files: Sequence[File], numbers: Sequence[int], probabilities: torch.Tensor
    ) -> None:
        """What the heads of a cross-validation say of every image, (images, classes), and a summary with figures."""
        classes = Classes(summary.classes)
        columns = _said(files, probabilities, classes, pa.map_(pa.string(), pa.float32()))
        table = pa.table(columns).add_column(2, "fold", pa.array(numbers, pa.int32()))
        self._write_table("folds.parquet", table)
        self._write_json("summary.json", summary.to_json())
        self.workplace.upload(last="summary.json")
        page.write_report(self.location)
        storage.remove_folder(storage.join(self.location, _FOLDS))

    def write_pictures(self, pictures: pa.Table, layers: pa.Table | None) -> None:
        """What the report shows, in the schemas of tlearn.report.pictures."""
        self._write_table("pictures.parquet", pictures)
        if layers is not None:
            self._write_table("layers.parquet", layers)

    def write_findings(self, content: dict[str, Any]) -> None:
        """What may be wrong with the data."""
        self._write_json("findings.json", content)

    def publish_model(self) -> None:
        """Let readers see the model folder, its description last."""
        self.lease.check()
        self.workplace.upload(last="model.json")

    def write_card(self, text: str) -> None:
        """The card of the model that is there."""
        self.lease.check()
        storage.write_bytes(str(self.path / "model" / "README.md"), text.encode())

    def publish(self, summary: Summary) -> None:
        """Summary and report: with them the run is finished."""
        self._write_json("summary.json", summary.to_json())
        page.write_report(self.path)
        self.lease.check()
        self.workplace.upload(last="summary.json")

    def _write_table(self, name: str, table: pa.Table) -> None:
        self.lease.check()
        storage.write(str(self.path / name), lambda file: pq.write_table(table, file))

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        self.lease.check()
        storage.write_bytes(str(self.path / name), (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def _said(files: Sequence[File], probabilities: torch.Tensor, classes: Classes, kind: pa.DataType) -> dict[str, Any]:
    """Columns of what is said of each file; probabilities are (images, classes), in the table of type `kind`."""
    best = probabilities.max(1)
    return {
        "path": [file.path for file in files],
        "label": [file.label for file in files],
        "prediction": [classes.names[int(i)] for i in best.indices],
        "probability": pa.array(best.values.tolist(), pa.float32()),
        "probabilities": pa.array(
            [dict(zip(classes.names, values, strict=True)) for values in probabilities.tolist()], kind
        ),
    }


@contextlib.contextmanager
def opened(output: str) -> Iterator[RunFolder]:
    """Hold a run folder while the block runs. Raises StorageError, LockedError where another run holds it."""
    storage.require_writable(output)
    location = storage.absolute(output.rstrip("/"))
    with Lease(location) as lease, storage.workplace(location) as workplace:
        yield RunFolder(workplace, lease)


def _changes(content: dict[str, Any], config: TrainConfig, given: Sequence[str]) -> list[str]:
    """Each setting that differs from an earlier start, with both values."""
    old, new = flat(content.get("requested", {})), flat(dataclasses.asdict(config))
    names = [name for name, value in new.items() if old.get(name) != value and name not in _INCIDENTAL]
    changes = [f"{name} {old.get(name)} there, {new[name]} here" for name in names]
    given_there = content.get("given", [])
    changes += [f"{name} left to auto there, {new[name]} here" for name in given if name not in given_there]
    return changes + [f"{name} {old.get(name)} there, left to auto here" for name in given_there if name not in given]
