"""What scoring is, and what reads its tables."""

from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import arg

from tlearn.config.values import (
    CascadeChoice,
    DecodeChoice,
    EngineChoice,
    LakeChoice,
    PrecisionChoice,
    as_workers,
    at_least,
    between,
    check_types,
)
from tlearn.errors import UsageError
from tlearn.storage import default_cache


def _check_report(report: str | None) -> None:
    if report is not None and not report.endswith(".html"):
        raise UsageError(f"expected --report NAME.html, got {report or 'nothing'}: a report is one page")


def _check_top_k(top_k: int | None) -> None:
    if top_k is not None:
        between("top_k", top_k, 1, 1000)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """Score a folder of images into Parquet, or CSV.

    tlearn score --model runs/a/model --input inbox/ --output scores.parquet
    """

    model: str
    """Model folder of a run: RUN/model."""
    input: Annotated[str | tuple[str, ...], arg(metavar="PATH [PATH ...]")]
    """Folder (or URI) of images, flat or nested; or several paths, of pictures too. Paths in the table are relative to
    the folder, or to the innermost that holds all that is given."""
    output: str
    """NAME.parquet, NAME.csv: one file, replaced atomically. DIR/: a growing table, to which only what is new is
    added."""
    input_list: Annotated[str | tuple[str, ...] | None, arg(metavar="FILE [FILE ...]")] = None
    """Which files --input holds, in the place of a listing: Parquet or CSV with a column path (and size, modified, etag
    where they are known), text with a path in each line, a folder of such files, or the manifest.json of an inventory
    of S3. Paths are relative to --input, or absolute below it."""
    top_k: int | None = None
    """In NAME.csv: the columns top_1, probability_1 and so on for the K most probable classes, in the place of a column
    for each class."""
    report: str | None = None
    """NAME.html: show the pictures that got rows, or, with nothing new, all, on one page without a network."""
    publish: LakeChoice | None = None
    """delta: at the end bring the log of DIR/ up to date, as tlearn publish does."""
    abstain_below: float | None = None
    """Rows whose probability is lower get the status uncertain; the prediction stays. --rescore applies it to rows
    that are there."""
    unknown_rate: float = 0.01
    """Rows that look stranger than all but this share of the validation images get the status unknown; the prediction
    stays. 0 calls none so. --rescore applies it to rows that are there."""
    cascade: CascadeChoice = "auto"
    """auto: where the model has a small network that may answer first, it does, about twice as fast (not on GPUs). off:
    the large one answers for every picture. --rescore applies it to rows that are there."""
    rescore: bool = False
    """Score everything again, beside the old rows of DIR/."""
    workers: int | str | None = None
    """Scoring actors, N or (some of them wait for nodes to come) MIN:MAX, each with a GPU where there are any; one per
    CPU, or up to eight that share a GPU, unless told."""
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
        check_types(self)
        if self.input == ():
            raise UsageError("expected --input PATH [PATH ...], got no path")
        if self.input_list == ():
            raise UsageError("expected --input-list FILE [FILE ...], got no file")
        _check_report(self.report)
        _check_top_k(self.top_k)
        if self.top_k is not None and not self.output.endswith(".csv"):
            raise UsageError(
                f"expected --output NAME.csv with --top-k, got {self.output}: as Parquet a table has all classes, and "
                "tlearn scores TABLE --top-k K shows the first of them"
            )
        if self.publish is not None and self.output.endswith((".parquet", ".csv")):
            raise UsageError(f"expected --output DIR/ with --publish {self.publish}, got {self.output}")
        if self.abstain_below is not None and not 0 <= self.abstain_below <= 1:
            raise UsageError(f"abstain_below must be from 0 to 1, got {self.abstain_below}")
        between("unknown_rate", self.unknown_rate, 0, 1)
        if self.batch_size is not None:
            at_least("batch_size", self.batch_size, 1)
        at_least("wait_seconds", self.wait_seconds, 0)
        as_workers(self.workers)
        if not 0 <= self.max_error_rate <= 1:
            raise UsageError(f"max_error_rate must be from 0 to 1, got {self.max_error_rate}")

    @property
    def num_workers(self) -> tuple[int, int] | None:
        """The fewest and the most that are wanted."""
        return as_workers(self.workers)


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
    """CSV, TSV or Parquet instead of class folders: a column of paths or names (with suffix or without), a column of
    classes."""
    output: str | None = None
    """NAME.parquet or NAME.csv: keep the rows there."""
    report: str | None = None
    """NAME.html: show the pictures and the figures, on one page without a network."""
    workers: int | str | None = None
    """Scoring actors, N or MIN:MAX, as of tlearn score."""
    max_error_rate: float = 0.05
    """Share of files without a score above which the exit code is 4; the figures are printed all the same."""
    engine: EngineChoice = "auto"
    """What computes the convolutions; auto takes openvino on processors if it is installed."""
    precision: PrecisionChoice = "auto"
    """Their arithmetic; auto takes the training's where this machine has it, else bf16 or fp32."""
    cascade: CascadeChoice = "off"
    """off: the figures of the model. auto: those of tlearn score, where a small network answers first."""
    cache: str = field(default_factory=default_cache)
    """Folder for the rows while they are needed; safe to delete."""
    json: bool = False
    """Print the figures as JSON in the last line."""
    quiet: bool = False
    """Show nothing but warnings and the result."""
    verbose: bool = False
    """Show what Ray says too."""

    def __post_init__(self) -> None:
        check_types(self)
        as_workers(self.workers)
        between("max_error_rate", self.max_error_rate, 0, 1)
        _check_report(self.report)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig:
    """Say whether one model is better than another, on the same pictures, and how sure that is.

    tlearn compare runs/a runs/b
    """

    a: str
    """Run, which is compared on its validation images; with --data a model folder or a run; or a table of scores."""
    b: str
    """The one to compare with it, in the same way."""
    data: str | None = None
    """Folder (or URI) of pictures to run both models on, as tlearn evaluate does."""
    labels: str | None = None
    """CSV or TSV instead of class folders in --data, as tlearn evaluate takes it."""
    no_worse_than: float | None = None
    """End with 8 unless it is 95% sure that the accuracy of B is below that of A by no more than this."""
    output: str | None = None
    """NAME.csv: write the pictures there of which the two say different things."""
    workers: int | str | None = None
    """With --data: scoring actors, N or MIN:MAX, as of tlearn score."""
    max_error_rate: float = 0.05
    """With --data: share of files without a score above which nothing is compared."""
    engine: EngineChoice = "auto"
    """With --data: what computes the convolutions; auto takes openvino on processors if it is installed."""
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
        check_types(self)
        as_workers(self.workers)
        between("max_error_rate", self.max_error_rate, 0, 1)
        if self.no_worse_than is not None:
            between("no_worse_than", self.no_worse_than, 0, 1)
        if self.labels is not None and self.data is None:
            raise UsageError(f"expected --data DIR beside --labels {self.labels}, got none")
        if self.output is not None and not self.output.endswith(".csv"):
            raise UsageError(f"expected --output NAME.csv, got {self.output}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoresConfig:
    """Show the newest row of every path of a table of scores.

    tlearn scores scores/
    """

    table: str
    """Folder (or URI) of the table."""
    output: str | None = None
    """NAME.parquet or NAME.csv: write them there too."""
    top_k: int | None = None
    """The K most probable classes of each path and their probabilities; in --output the columns top_1, probability_1
    and so on, which in NAME.csv take the place of a column for each class."""
    num_rows: int = 20
    """How many to show."""

    def __post_init__(self) -> None:
        check_types(self)
        at_least("num_rows", self.num_rows, 0)
        _check_top_k(self.top_k)


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
        check_types(self)
