"""What a run is: frozen dataclasses, one tree per command; the attribute docstrings are the help."""

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from tyro import MISSING
from tyro.conf import Fixed, Suppress, arg

from tlearn.errors import UsageError
from tlearn.storage import default_cache

Precision = Literal["fp32", "bf16", "int8"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "int8"]
EngineChoice = Literal["auto", "torch", "openvino"]
DecodeChoice = Literal["here", "pool"]
Arch = Literal["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "vgg_tiny"]


_WORDS = {NoneType: "None", bool: "True or False", int: "a whole number", float: "a finite number", str: "text"}


def _check_types(config: Any) -> None:
    """Raise UsageError for a value of another type than its field, and for a number that is none (NaN, infinity)."""
    group = type(config).__name__.removesuffix("Config").lower()
    prefix = f"{group}." if group in ("preprocess", "head", "optim") else ""
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if value is not MISSING and not _fits(value, each.type):
            raise UsageError(f"{prefix}{each.name} must be {_described(each.type)}, got {value!r}")


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(value, arguments[0])
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and all(_fits(item, arguments[0]) for item in value)
    if arguments:
        return any(_fits(value, argument) for argument in arguments)
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, (int, float)) and math.isfinite(value) if kind is float else isinstance(value, kind)


def _described(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _described(arguments[0])
    if origin is dict:
        return f"names, each with {_described(arguments[1])}"
    if origin in (list, tuple):
        return f"several of {_described(arguments[0])}"
    if arguments:
        return " or ".join(argument if origin is Literal else _described(argument) for argument in arguments)
    return _WORDS.get(kind, f"settings ({getattr(kind, '__name__', kind)} or a mapping)")


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise UsageError(f"{name} must be at least {least}, got {value}")


def _between(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UsageError(f"{name} must be from {least} to {most}, got {value}")


def _workers(text: int | str | None) -> tuple[int, int] | None:
    """The fewest and the most of N or MIN:MAX."""
    if text is None:
        return None
    lowest, _, highest = str(text).partition(":")
    try:
        found = int(lowest), int(highest or lowest)
    except ValueError:
        found = (0, 0)
    if not 1 <= found[0] <= found[1]:
        raise UsageError(f"workers must be N or MIN:MAX with 1 <= MIN <= MAX, got {text}")
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessConfig:
    """From a decoded picture to what the first convolution sees."""

    image_size: int = 240
    """Height and width in pixels that the network sees."""
    resize: Literal["squash", "crop"] = "crop"
    """squash: to exactly the image size, aspect ratio not kept (as Keras does). crop: short side to
    short_side, then the centre."""
    short_side: int = 264
    """Length in pixels of the shorter side before the centre crop (resize=crop)."""
    normalization: Literal["imagenet", "rescaled_bgr"] = "imagenet"
    """imagenet: the ImageNet mean is subtracted, as the weights were trained. rescaled_bgr: pixels / 255 with
    red and blue exchanged, as the Keras notebook feeds them."""
    jpeg_scaling: bool = True
    """Decode a JPEG that is much larger than needed at a half, a quarter or an eighth of its size, but at twice the
    needed one at least: nearly twice as fast."""
    max_pixels: int = 100_000_000
    """Pictures with more pixels are reported as too_large and skipped."""
    max_bytes: int = 64 * 2**20
    """Files with more bytes are reported as too_large and skipped."""

    def __post_init__(self) -> None:
        _check_types(self)
        _between("image_size", self.image_size, 32, 4096)
        _at_least("max_pixels", self.max_pixels, 1)
        _at_least("max_bytes", self.max_bytes, 1)
        if self.resize == "crop":
            _at_least("short_side", self.short_side, self.image_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """The layers after the last convolution."""

    kind: Literal["pooled", "dense", "linear"] = "pooled"
    """pooled: the average of the last feature map, hidden layers. dense: every position of it, hidden layers (the
    notebook's). linear: the average and no hidden layer."""
    width: int = 1024
    """Units of each hidden layer."""
    depth: int = 2
    """Hidden layers before the last one (but for linear)."""
    dropout: float = 0.5
    """Share of units dropped after the first hidden layer while training."""
    unit_length: bool = True
    """Divide the average by its length (not for dense): what counts is which features an image has, not how many."""
    scale_features: bool = True
    """Divide the features by their standard deviation on the training set."""

    def __post_init__(self) -> None:
        _check_types(self)
        _between("depth", self.depth, 1, 100)
        _at_least("width", self.width, 1)
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be 0 or more and below 1, got {self.dropout}")

    @property
    def num_hidden(self) -> int:
        return 0 if self.kind == "linear" else self.depth

    @property
    def averages(self) -> bool:
        """Whether the positions of the last feature map are averaged."""
        return self.kind != "dense"


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """How the trainable layers are updated."""

    name: Literal["sgd", "adamw"] = "adamw"
    """The optimiser."""
    lr: float = 1e-4
    """Learning rate of the head at its peak."""
    head_lr: float | None = None
    """The same in head_epochs, before the layers below it learn too; lr unless told."""
    pretrained_lr: float = 1e-5
    """Learning rate of the pretrained layers that are trained, at its peak."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 0.1
    """Decoupled (AdamW) or L2 (SGD) decay of weights, not of biases."""
    schedule: Literal["constant", "cosine", "step", "plateau"] = "cosine"
    """constant; cosine to zero over all steps; step: times decay_factor every decay_epochs; plateau: times
    decay_factor after decay_epochs without a lower validation loss."""
    decay_epochs: int = 3
    """See schedule."""
    decay_factor: float = 0.1
    """See schedule."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises from zero."""
    head_epochs: int = 0
    """Epochs in which only the head learns, on the features of all five blocks, before num_epochs of the rest."""
    num_epochs: int = 10
    """Passes over the training set."""
    global_batch_size: int = 64
    """Samples of one update, over all workers together."""
    accumulation_steps: int = 1
    """Parts of a batch that go through the network one after the other; saves memory, changes nothing else."""
    clip_norm: float | None = None
    """Longer gradients are scaled to this norm."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    mixup: float = 0.0
    """Parameter of the Beta distribution by which pairs of samples are mixed; 0 mixes none."""
    ema_decay: float | None = None
    """Keep a moving average of the weights, with a decay a step that rises to this one; each epoch evaluates and saves
    it or the weights, whichever has the lower validation loss."""
    patience: int | None = None
    """Stop after so many epochs without a lower validation loss."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the trainable layers; auto takes bf16 for convolutions where the processor or GPU has it."""

    def __post_init__(self) -> None:
        _check_types(self)
        rates = [self.lr, self.pretrained_lr, *([] if self.head_lr is None else [self.head_lr])]
        if not all(rate > 0 for rate in rates):
            raise UsageError(f"learning rates must be above 0, got {' and '.join(map(str, rates))}")
        _at_least("optim.weight_decay", self.weight_decay, 0)
        _at_least("optim.decay_epochs", self.decay_epochs, 1)
        _at_least("optim.warmup_epochs", self.warmup_epochs, 0)
        _at_least("optim.head_epochs", self.head_epochs, 0)
        _at_least("optim.num_epochs", self.num_epochs, 1)
        _at_least("optim.global_batch_size", self.global_batch_size, 1)
        _at_least("optim.accumulation_steps", self.accumulation_steps, 1)
        _at_least("optim.mixup", self.mixup, 0)
        if not 0 <= self.momentum < 1:
            raise UsageError(f"optim.momentum must be 0 or more and below 1, got {self.momentum}")
        shortest = min(self.num_epochs, self.head_epochs or self.num_epochs)
        if self.warmup_epochs > shortest:
            raise UsageError(
                f"optim.warmup_epochs must be at most the {shortest} epochs of training (of the head, where "
                f"optim.head_epochs are fewer), got {self.warmup_epochs}: lower it, or train for more epochs"
            )
        if self.patience is not None:
            _at_least("optim.patience", self.patience, 1)
        if not 0 < self.decay_factor < 1:
            raise UsageError(f"optim.decay_factor must be above 0 and below 1, got {self.decay_factor}")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"optim.label_smoothing must be 0 or more and below 1, got {self.label_smoothing}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UsageError(f"optim.ema_decay must be above 0 and below 1, got {self.ema_decay}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UsageError(f"optim.clip_norm must be above 0, got {self.clip_norm}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Fine-tune a pretrained VGG16 on a folder of images.

    tlearn train photos/ --output runs/a
    """

    data: str
    """Folder (or URI) with train/ and perhaps val/ and test/, each with one folder per class; or with these folders."""
    output: str
    """Folder (or URI) in which the run is left: model, metrics, report."""
    recipe: Suppress[Fixed[str]] = "frozen"
    """The recipe that these settings started from."""
    weights: str = "imagenet"
    """imagenet, a path or URI to .safetensors or .pth, or none (nothing pretrained)."""
    arch: Arch = "vgg16"
    """Which VGG network; bn: with batch normalisation, on its pretrained statistics."""
    frozen_blocks: int = 5
    """How many of the five convolution blocks stay as they were pretrained."""
    augment: Literal["none", "flip", "full"] = "flip"
    """none: the image as it is. flip: the image and its mirror image. full: in every epoch another crop, side and
    colour of it, for which the frozen layers run in every step."""
    balance: bool = False
    """Weigh every class alike in the loss, however many images it has."""
    shuffle: bool = True
    """A new order of the training images in every epoch."""
    val_fraction: float = 0.2
    """Share of train/ that is held out, class by class, where there is no val/."""
    seed: int = 0
    """Of the head's first weights, the order of samples, dropout and the split."""
    workers: int | str | None = None
    """Training workers, N or (as the cluster has room) MIN:MAX; the GPUs of the cluster, or 1, unless told."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """What a training worker has; auto takes GPUs where the cluster has any."""
    resume: Literal["auto", "never", "require"] = "auto"
    """Whether a run that was stopped goes on: if there is one, never, or only then."""
    max_failures: int = 3
    """How often a lost worker is replaced before the run fails."""
    checkpoint_every_seconds: float | None = None
    """Write a checkpoint within an epoch too, when so much time has passed since the last one."""
    max_error_rate: float = 0.05
    """Share of unreadable images above which nothing is trained."""
    cache: str = field(default_factory=default_cache)
    """Folder (or URI) for weights and features; safe to share, safe to delete."""
    engine: EngineChoice = "auto"
    """What computes the frozen layers; auto takes openvino on processors if it is installed."""
    precision: PrecisionChoice = "auto"
    """Their arithmetic; auto takes int8 (openvino) or bf16 where the processor or GPU has it, and int8 only if the
    predictions for the validation images stay the same."""
    decode: DecodeChoice = "here"
    """Where pictures are decoded: by the actor that computes (here), or by tasks on any free CPUs of the cluster
    (pool), for GPU nodes with few cores."""
    wait_seconds: float = 1800.0
    """How long to wait where the cluster has no CPU free: nodes that are to come, other jobs that are to end."""
    json: bool = False
    """Print a summary as JSON in the last line."""
    quiet: bool = False
    """Show nothing but warnings and the result."""
    verbose: bool = False
    """Show what Ray says too."""
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        _check_types(self)
        if not 0 <= self.frozen_blocks <= 5:
            raise UsageError(f"frozen_blocks must be from 0 to 5, got {self.frozen_blocks}")
        if self.optim.head_epochs and self.frozen_blocks == 5 and self.recipe != "auto":
            raise UsageError(
                f"expected optim.head_epochs with frozen_blocks below 5, got {self.optim.head_epochs}: where all are "
                "frozen only the head learns anyway, for optim.num_epochs"
            )
        if not 0 < self.val_fraction < 1:
            raise UsageError(f"val_fraction must be above 0 and below 1, got {self.val_fraction}")
        if not 0 <= self.max_error_rate <= 1:
            raise UsageError(f"max_error_rate must be from 0 to 1, got {self.max_error_rate}")
        _workers(self.workers)
        if self.checkpoint_every_seconds is not None and not self.checkpoint_every_seconds > 0:
            raise UsageError(f"checkpoint_every_seconds must be above 0, got {self.checkpoint_every_seconds}")
        _at_least("max_failures", self.max_failures, 0)
        _at_least("seed", self.seed, 0)
        _at_least("wait_seconds", self.wait_seconds, 0)

    @property
    def num_workers(self) -> tuple[int, int] | None:
        """The fewest and the most that are wanted."""
        return _workers(self.workers)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """Score a folder of images into Parquet.

    tlearn score --model runs/a/model --input inbox/ --output scores.parquet
    """

    model: str
    """Model folder of a run: RUN/model."""
    input: Annotated[str | tuple[str, ...], arg(metavar="PATH [PATH ...]")]
    """Folder (or URI) of images, flat or nested; or several paths, of pictures too. Paths in the table are relative to
    the folder, or to the innermost that holds all that is given."""
    output: str
    """NAME.parquet: one file, replaced atomically. DIR/: a growing table, to which only what is new is added."""
    abstain_below: float | None = None
    """Rows whose probability is lower get the status uncertain; the prediction stays. --rescore applies it to rows
    that are there."""
    rescore: bool = False
    """Score everything again, beside the old rows of DIR/."""
    workers: int | str | None = None
    """Scoring actors, N or (some of them wait for nodes to come) MIN:MAX; one per GPU, or one per CPU, unless told."""
    batch_size: int | None = None
    """Images that go through the network together; 8 on processors and 64 on GPUs, unless told."""
    max_error_rate: float = 0.05
    """Share of files without a score above which the exit code is 4; the rows are written all the same."""
    engine: EngineChoice = "auto"
    """What computes the convolutions; auto takes openvino on processors if it is installed."""
    precision: PrecisionChoice = "auto"
    """Their arithmetic; auto takes the training's where this machine has it, else bf16 or fp32."""
    decode: DecodeChoice = "here"
    """Where pictures are decoded: by the actor that computes (here), or by tasks on any free CPUs of the cluster
    (pool), for GPU nodes with few cores."""
    cache: str = field(default_factory=default_cache)
    """Folder for the index of what is scored; safe to delete."""
    wait_seconds: float = 1800.0
    """How long to wait where the cluster has no CPU free: nodes that are to come, other jobs that are to end."""
    json: bool = False
    """Print a summary as JSON in the last line."""
    quiet: bool = False
    """Show nothing but warnings and the result."""
    verbose: bool = False
    """Show what Ray says too."""

    def __post_init__(self) -> None:
        _check_types(self)
        if self.input == ():
            raise UsageError("expected --input PATH [PATH ...], got no path")
        if self.abstain_below is not None and not 0 <= self.abstain_below <= 1:
            raise UsageError(f"abstain_below must be from 0 to 1, got {self.abstain_below}")
        if self.batch_size is not None:
            _at_least("batch_size", self.batch_size, 1)
        _at_least("wait_seconds", self.wait_seconds, 0)
        _workers(self.workers)
        if not 0 <= self.max_error_rate <= 1:
            raise UsageError(f"max_error_rate must be from 0 to 1, got {self.max_error_rate}")

    @property
    def num_workers(self) -> tuple[int, int] | None:
        """The fewest and the most that are wanted."""
        return _workers(self.workers)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Say how good a model is on pictures whose classes are known.

    tlearn evaluate runs/a/model photos/val
    """

    model: str
    """Model folder of a run: RUN/model."""
    data: str
    """Folder (or URI) of pictures: one folder per class, or test/ or val/ with such folders."""
    labels: str | None = None
    """CSV or TSV instead of class folders: a column of paths or names (with suffix or without), a column of classes."""
    output: str | None = None
    """NAME.parquet: keep the rows there."""
    workers: int | str | None = None
    """Scoring actors, N or MIN:MAX; one per GPU, or one per CPU, unless told."""
    max_error_rate: float = 0.05
    """Share of files without a score above which the exit code is 4; the figures are printed all the same."""
    engine: EngineChoice = "auto"
    """What computes the convolutions; auto takes openvino on processors if it is installed."""
    precision: PrecisionChoice = "auto"
    """Their arithmetic; auto takes the training's where this machine has it, else bf16 or fp32."""
    cache: str = field(default_factory=default_cache)
    """Folder for the rows while they are needed; safe to delete."""
    json: bool = False
    """Print the figures as JSON in the last line."""
    quiet: bool = False
    """Show nothing but warnings and the result."""
    verbose: bool = False
    """Show what Ray says too."""

    def __post_init__(self) -> None:
        _check_types(self)
        _workers(self.workers)
        _between("max_error_rate", self.max_error_rate, 0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig:
    """Say what is in a data folder and what is wrong with it.

    tlearn check photos/
    """

    data: str
    """Folder (or URI) with train/ and perhaps val/ and test/, each with one folder per class; or with these folders."""
    json: bool = False
    """Print a summary as JSON in the last line."""
    quiet: bool = False
    """Show nothing but warnings and the result."""

    def __post_init__(self) -> None:
        _check_types(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoresConfig:
    """Show the newest row of every path of a table of scores.

    tlearn scores scores/
    """

    table: str
    """Folder (or URI) of the table."""
    output: str | None = None
    """NAME.parquet: write them there instead."""
    num_rows: int = 20
    """How many to show."""

    def __post_init__(self) -> None:
        _check_types(self)
        _at_least("num_rows", self.num_rows, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyConfig:
    """Compare a table of scores with its ledger.

    tlearn verify scores/
    """

    table: str
    """Folder (or URI) of the table."""
    repair: bool = False
    """First make records of the ledger that are gone, empty or cut anew, from the files of the table."""

    def __post_init__(self) -> None:
        _check_types(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Write report.html of a run again.

    tlearn report runs/a
    """

    run: str
    """Folder (or URI) of a finished run."""

    def __post_init__(self) -> None:
        _check_types(self)


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
        _check_types(self)


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
        _check_types(self)
        _between("num_classes", self.num_classes, 2, 3)
        _at_least("num_train", self.num_train, 20)  # one picture is broken on purpose, which is many of fewer
        _at_least("num_val", self.num_val, self.num_classes)
        _at_least("num_test", self.num_test, 1)
        _at_least("seed", self.seed, 0)


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
        _check_types(self)
        _at_least("num_images", self.num_images, 32)


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
        _check_types(self)
        if self.submission_id is not None and not re.fullmatch(r"[\w.-]+", self.submission_id):
            raise UsageError(f"submission_id must be letters, digits, '.', '_' and '-', got {self.submission_id!r}")
        for name, amount in [("num_cpus", self.entrypoint_num_cpus), *self.entrypoint_resources.items()]:
            _at_least(f"entrypoint_{name}", amount, 0)
        _at_least("max_attempts", self.max_attempts, 1)
        _at_least("retry_seconds", self.retry_seconds, 0)


def digest(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of a dataclass or of anything JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
