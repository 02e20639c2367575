"""The other commands."""

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Literal

from tyro.conf import arg

from tlearn.config.values import (
    Arch,
    EngineChoice,
    LakeChoice,
    PrecisionChoice,
    at_least,
    between,
    check_groups,
    check_types,
)
from tlearn.errors import UsageError
from tlearn.storage import default_cache


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig:
    """Say what is in a data folder and what is wrong with it.

    tlearn check photos/
    """

    data: str
    """Folder (or URI) with train/ and perhaps val/ and test/, each with one folder per class; or with these folders."""
    quick: bool = False
    """Decode every picture and compute no features: no Ray, no weights; labels are not judged, crops not recognised."""
    strict: bool = False
    """End with 4 where there is a file to be excluded or to get another label."""
    output: str | None = None
    """File (NAME.csv) for a row for each file that is named: path, finding, suggestion (exclude, relabel:CLASS, look),
    sure, beside."""
    labels: str | None = None
    """As of tlearn train: file with names of pictures and their classes."""
    groups: str | None = None
    """As of tlearn train: which pictures no split may part."""
    exclude: str | None = None
    """As of tlearn train: table of pictures to leave out."""
    weights: str = "imagenet"
    """imagenet, or a path or URI to .safetensors or .pth: by which features pictures are compared."""
    cache: str = field(default_factory=default_cache)
    """Folder (or URI) for weights and features; training finds the features there."""
    json: bool = False
    """Print a summary as JSON in the last line."""
    quiet: bool = False
    """Show nothing but warnings and the result."""
    verbose: bool = False
    """Show what Ray says too."""

    def __post_init__(self) -> None:
        check_types(self)
        check_groups(self.groups)
        if self.output is not None and not self.output.endswith(".csv"):
            raise UsageError(f"output must be a file NAME.csv, got {self.output}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Write report.html of a run again.

    tlearn report runs/a
    """

    run: str
    """Folder (or URI) of a finished run."""

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishConfig:
    """Write the log by which a lake reads a table of scores.

    tlearn publish scores/ --as delta
    """

    table: str
    """Folder (or URI) of the table."""
    kind: Annotated[LakeChoice, arg(name="as")] = "delta"
    """delta: TABLE/_delta_log/, which Spark, DuckDB and Polars read."""
    json: bool = False
    """Print what the log has as JSON in the last line."""

    def __post_init__(self) -> None:
        check_types(self)


EXPORTS = {"onnx": "model.onnx", "torch": "model.pt2", "torchvision": "torchvision.safetensors"}
"""What a model can become, and the name that it has then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Write a model for other programs, after a comparison with itself on pictures.

    tlearn export runs/a/model --to onnx
    """

    model: str
    """Model folder of a run: RUN/model."""
    to: Literal["onnx", "torch", "torchvision"]
    """onnx: pixels in, probabilities out, resize and calibration inside. torch: the same, for torch.export.load.
    torchvision: weights for its network of the same name."""
    output: str | None = None
    """NAME.onnx, NAME.pt2 or NAME.safetensors; beside the model folder unless told."""
    images: str | None = None
    """Folder (or URI) of pictures to compare on, at most 100 of them; the run's validation pictures unless told, and
    drawn ones where these are gone."""
    json: bool = False
    """Print a summary as JSON in the last line."""

    def __post_init__(self) -> None:
        check_types(self)
        suffix = PurePosixPath(EXPORTS[self.to]).suffix
        if self.output is not None and not self.output.endswith(suffix):
            raise UsageError(f"expected --output NAME{suffix} with --to {self.to}, got {self.output}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsConfig:
    """Fetch and verify the pretrained weights.

    tlearn weights
    """

    weights: str = "imagenet"
    """imagenet, or a path or URI to .safetensors or .pth."""
    arch: Arch = "vgg16"
    """Of which VGG network."""
    cache: str = field(default_factory=default_cache)
    """Folder in which they are kept."""

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """The whole way on pictures that are drawn for it: draw, train, score.

    tlearn demo --output runs/demo
    """

    output: str = "runs/demo"
    """Folder for pictures, run and scores."""
    num_classes: int = 2
    """2: cats and dogs. 3: rabbits too."""
    num_train: int = 240
    """Pictures to train on."""
    num_val: int = 80
    """Pictures to validate on."""
    num_test: int = 60
    """Pictures to score."""
    seed: int = 0
    """Of the drawings and of training."""
    cache: str = field(default_factory=default_cache)
    """Folder for weights and features."""

    def __post_init__(self) -> None:
        check_types(self)
        between("num_classes", self.num_classes, 2, 3)
        at_least("num_train", self.num_train, 20)  # one picture is broken on purpose, which is many of fewer
        at_least("num_val", self.num_val, self.num_classes)
        at_least("num_test", self.num_test, 1)
        at_least("seed", self.seed, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    """Throughput of this machine beside its limits: images per second.

    tlearn bench
    """

    input: str | None = None
    """Folder of images to measure with; pictures are drawn unless told."""
    num_images: int = 128
    """How many of them."""
    engine: EngineChoice = "auto"
    """What computes the convolutions in our jobs; auto takes openvino on processors if it is installed."""
    precision: PrecisionChoice = "auto"
    """Their arithmetic; auto takes int8 (openvino) or bf16 where the processor or GPU has it."""
    cache: str = field(default_factory=default_cache)
    """Folder for weights; no features are kept."""
    json: bool = False
    """Print the figures as JSON in the last line."""

    def __post_init__(self) -> None:
        check_types(self)
        at_least("num_images", self.num_images, 32)


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitConfig:
    """Where a job is sent, and how often.

    tlearn submit --address http://HOST:8265 train --data s3://b/photos --output s3://b/runs/a
    """

    address: str | None = None
    """Of the job server, http://HOST:8265; RAY_API_SERVER_ADDRESS, RAY_ADDRESS or a Ray on this machine unless told."""
    submission_id: str | None = None
    """What the job is called in Ray; a digest of the command unless told. One that is pending or runs is followed, not
    started twice. One that failed or was stopped is tried again as ID-attempt-2. One that succeeded under an ID that
    was given is done and not run again; without one the command runs again, for what is new since."""
    runtime_env: str | None = None
    """Ray's runtime environment, a YAML file. Unless told, cluster/runtime_env.yaml of the project that this tlearn is
    run from, with its code; a tlearn that is installed without the project sends no code: the cluster has it."""
    entrypoint_num_cpus: float = 0
    """CPUs that the cluster keeps for the driver. A driver that asks for any resource may run on every node, else on
    the head only."""
    entrypoint_resources: dict[str, float] = field(default_factory=dict)
    """Resources of your own that the driver's node must have: NAME NUMBER."""
    max_attempts: int = 3
    """How often the job is started at most. Again only after what may pass: 5 (training failed), 7 (storage), 75
    (another run holds the output), and a driver that was killed or lost. All go on where the last one was."""
    retry_seconds: float = 30.0
    """Time before the second attempt; twice as long before each further one, ten minutes at most."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.submission_id is not None and not re.fullmatch(r"[\w.-]+", self.submission_id):
            raise UsageError(f"submission_id must be letters, digits, '.', '_' and '-', got {self.submission_id!r}")
        for name, amount in [("num_cpus", self.entrypoint_num_cpus), *self.entrypoint_resources.items()]:
            at_least(f"entrypoint_{name}", amount, 0)
        at_least("max_attempts", self.max_attempts, 1)
        at_least("retry_seconds", self.retry_seconds, 0)
