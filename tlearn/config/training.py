"""What training is: preprocessing, head, optimisation, and all of a run."""

from dataclasses import dataclass, field
from typing import Literal

from tyro.conf import Fixed, Suppress

from tlearn.config.values import (
    Arch,
    DecodeChoice,
    EngineChoice,
    PrecisionChoice,
    as_workers,
    at_least,
    between,
    check_groups,
    check_types,
)
from tlearn.errors import UsageError
from tlearn.storage import default_cache


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
        check_types(self)
        between("image_size", self.image_size, 32, 4096)
        at_least("max_pixels", self.max_pixels, 1)
        at_least("max_bytes", self.max_bytes, 1)
        if self.resize == "crop":
            at_least("short_side", self.short_side, self.image_size)


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
        check_types(self)
        between("depth", self.depth, 1, 100)
        at_least("width", self.width, 1)
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
        check_types(self)
        rates = [self.lr, self.pretrained_lr, *([] if self.head_lr is None else [self.head_lr])]
        if not all(rate > 0 for rate in rates):
            raise UsageError(f"learning rates must be above 0, got {' and '.join(map(str, rates))}")
        at_least("optim.weight_decay", self.weight_decay, 0)
        at_least("optim.decay_epochs", self.decay_epochs, 1)
        at_least("optim.warmup_epochs", self.warmup_epochs, 0)
        at_least("optim.head_epochs", self.head_epochs, 0)
        at_least("optim.num_epochs", self.num_epochs, 1)
        at_least("optim.global_batch_size", self.global_batch_size, 1)
        at_least("optim.accumulation_steps", self.accumulation_steps, 1)
        at_least("optim.mixup", self.mixup, 0)
        if not 0 <= self.momentum < 1:
            raise UsageError(f"optim.momentum must be 0 or more and below 1, got {self.momentum}")
        shortest = min(self.num_epochs, self.head_epochs or self.num_epochs)
        if self.warmup_epochs > shortest:
            raise UsageError(
                f"optim.warmup_epochs must be at most the {shortest} epochs of training (of the head, where "
                f"optim.head_epochs are fewer), got {self.warmup_epochs}: lower it, or train for more epochs"
            )
        if self.patience is not None:
            at_least("optim.patience", self.patience, 1)
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
    labels: str | None = None
    """CSV, TSV or Parquet file (or URI) with names of pictures, their classes, and perhaps a column split (train, val,
    test); then no class folders are needed."""
    groups: str | None = None
    """Which pictures are never parted, in the split and in folds: a regular expression, whose first parenthesis (or all
    of it) finds the group in a path, or NAME.csv, .tsv or .parquet with columns path and group."""
    exclude: str | None = None
    """Table of pictures to leave out, column path; where it has a column suggestion, the rows that say exclude, and
    those that say relabel:CLASS give a picture that class."""
    folds: int | None = None
    """Cross-validate too, in so many parts of train/ and val/ together: figures of pictures that a head has not seen,
    with their spread. The model is the same without."""
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
    track: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """What follows the run: tensorboard (in the run folder), mlflow (where MLFLOW_TRACKING_URI says), wandb (as wandb
    login or WANDB_MODE=offline says). One that fails is a warning."""
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
        check_types(self)
        if not 0 <= self.frozen_blocks <= 5:
            raise UsageError(f"frozen_blocks must be from 0 to 5, got {self.frozen_blocks}")
        if self.optim.head_epochs and self.frozen_blocks == 5 and self.recipe != "auto":
            raise UsageError(
                f"expected optim.head_epochs with frozen_blocks below 5, got {self.optim.head_epochs}: where all are "
                "frozen only the head learns anyway, for optim.num_epochs"
            )
        if not 0 < self.val_fraction < 1:
            raise UsageError(f"val_fraction must be above 0 and below 1, got {self.val_fraction}")
        if self.folds is not None:
            between("folds", self.folds, 2, 100)
        check_groups(self.groups)
        if not 0 <= self.max_error_rate <= 1:
            raise UsageError(f"max_error_rate must be from 0 to 1, got {self.max_error_rate}")
        as_workers(self.workers)
        if self.checkpoint_every_seconds is not None and not self.checkpoint_every_seconds > 0:
            raise UsageError(f"checkpoint_every_seconds must be above 0, got {self.checkpoint_every_seconds}")
        at_least("max_failures", self.max_failures, 0)
        at_least("seed", self.seed, 0)
        at_least("wait_seconds", self.wait_seconds, 0)

    @property
    def num_workers(self) -> tuple[int, int] | None:
        """The fewest and the most that are wanted."""
        return as_workers(self.workers)
