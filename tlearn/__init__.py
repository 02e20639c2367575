"""Fine-tune an ImageNet-pretrained VGG16 on a folder of images, and score folders of images into Parquet.

    import tlearn

    run = tlearn.train("photos/", "runs/a")                       # photos/train/<class>/, photos/val/<class>/
    print(run.val_accuracy, run.report)
    model = tlearn.load(run.model)                                # no Ray
    for row in model.predict(["a.jpg", "b.jpg"]):
        print(row.path, row.status, row.prediction, row.probability)
    scored = tlearn.score(run.model, "inbox/", "scores/")         # a table that grows
    log = tlearn.publish("scores/")                               # of Delta Lake, over the same files
    good = tlearn.evaluate(run.model, "photos/")                  # accuracy, how sure, confusion
    both = tlearn.compare("runs/a", "runs/b", no_worse_than=0.01) # is one better, and how sure is that
    checked = tlearn.check("photos/")                             # what is in the folder, what is wrong with it

Every path may be a URI (s3://, gs://, az://). What a user can cause is raised as a TlearnError: one line that says what
was expected, what came and what to do. Ray starts when `train` or `score` have something to compute, and stays.

The wings, in the order in which an image goes through them: `data` lists and decodes it, `network` holds the two parts
of a VGG, `features` keeps what the frozen part makes of it, `training` trains the other part, `scoring` makes a row of
it, `evaluation` says how good that is; `storage` and `distributed` are below, `demo` above them all.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlearn.config import CascadeChoice, EngineChoice, PrecisionChoice
    from tlearn.config import ScoreConfig as ScoreConfig
    from tlearn.config import TrainConfig as TrainConfig
    from tlearn.doctor.check import Findings as Findings
    from tlearn.errors import TlearnError as TlearnError
    from tlearn.recipes import RECIPES as RECIPES
    from tlearn.scoring.compare import Comparison as Comparison
    from tlearn.scoring.evaluate import Evaluated as Evaluated
    from tlearn.scoring.export import Exported as Exported
    from tlearn.scoring.predict import Predictor as Predictor
    from tlearn.scoring.publish import Published as Published
    from tlearn.scoring.summary import Scored as Scored
    from tlearn.scoring.table import Row as Row
    from tlearn.training.run import Run as Run

__version__ = "0.1.0"
__all__ = [
    "RECIPES",
    "Comparison",
    "Evaluated",
    "Exported",
    "Findings",
    "Predictor",
    "Published",
    "Row",
    "Run",
    "ScoreConfig",
    "Scored",
    "TlearnError",
    "TrainConfig",
    "check",
    "compare",
    "evaluate",
    "export",
    "load",
    "publish",
    "score",
    "train",
]

# Imported when they are asked for: `import tlearn` loads neither Ray nor torch nor pyarrow.
_HOMES = {
    "RECIPES": "tlearn.recipes",
    "Comparison": "tlearn.scoring.compare",
    "Evaluated": "tlearn.scoring.evaluate",
    "Exported": "tlearn.scoring.export",
    "Findings": "tlearn.doctor.check",
    "Predictor": "tlearn.scoring.predict",
    "Published": "tlearn.scoring.publish",
    "Row": "tlearn.scoring.table",
    "Run": "tlearn.training.run",
    "ScoreConfig": "tlearn.config",
    "Scored": "tlearn.scoring.summary",
    "TlearnError": "tlearn.errors",
    "TrainConfig": "tlearn.config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tlearn' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


def train(
    data: "str | PathLike[str] | TrainConfig",
    output: str | PathLike[str] | None = None,
    *,
    recipe: str = "frozen",
    **settings: Any,
) -> "Run":
    """Fine-tune on `data`, a folder with train/ and perhaps val/; leave the run in `output`; return it.

    `settings` are those of TrainConfig, as `tlearn train --help` lists them; a group may be a mapping:
    tlearn.train("photos/", "runs/b", recipe="finetune", seed=1, optim={"lr": 2e-5}). A TrainConfig may stand for all.
    The same call on a run that was stopped goes on with it, on a finished one it returns it.

    Raises UsageError, InputError, TooManyBadFiles, TrainingError, IntegrityError, StorageError or LockedError, all of
    them TlearnErrors.
    """
    from tlearn import console, recipes
    from tlearn.config import TrainConfig
    from tlearn.errors import UsageError, of_the_machine
    from tlearn.training import job

    if isinstance(data, TrainConfig):
        if output is not None or settings:
            raise UsageError("expected a TrainConfig alone, got settings beside it: use dataclasses.replace")
        config = data
    elif output is None:
        raise UsageError("expected a folder for the run, got none: tlearn.train(data, output)")
    else:
        config = recipes.configured(recipe, _path(data, "data"), _path(output, "output"), settings)
    with console.shown(quiet=config.quiet, verbose=config.verbose), of_the_machine():
        return job.train(config, _dotted(settings))


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> frozenset[str]:
    names: set[str] = set()
    for name, value in settings.items():
        group = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
        names |= _dotted(group, f"{prefix}{name}.") if isinstance(group, Mapping) else {f"{prefix}{name}"}
    return frozenset(names)


def load(
    model: str | PathLike[str],
    *,
    engine: "EngineChoice" = "auto",
    precision: "PrecisionChoice" = "auto",
    cascade: "CascadeChoice" = "auto",
    abstain_below: float = 0.0,
    unknown_rate: float = 0.01,
) -> "Predictor":
    """Load and verify a model folder, RUN/model; its `predict` makes the rows of a table without Ray.

    The settings are those of `tlearn score`: without them it computes as this machine is fastest.

    Raises InputError where there is none, IntegrityError where it is damaged.
    """
    from tlearn.scoring import predict
    from tlearn.scoring.task import Limits

    return predict.load(_path(model, "model"), engine, precision, cascade, Limits(abstain_below, unknown_rate))


def _path(path: Any, name: str) -> str:
    from tlearn.errors import UsageError

    if not isinstance(path, str | PathLike) or not fspath(path):
        raise UsageError(f"{name} must be a path, got {path!r}")
    return str(fspath(path))


def score(
    model: str | PathLike[str],
    input: "str | PathLike[str] | Sequence[str | PathLike[str]]",
    output: str | PathLike[str],
    **settings: Any,
) -> "Scored":
    """Score every image of the folder `input` into `output`: NAME.parquet, NAME.csv, or DIR/, to which only what is new
    is added.

    `input` may be a picture too, or a list of pictures and folders; paths in the table are then relative to the
    innermost folder that holds them all. Beside a folder, input_list="FILE" names its files, in the place of a listing.

    `settings` are those of ScoreConfig, as `tlearn score --help` lists them. A file that cannot be read is a row with
    the reason; how many of them are too many is the caller's to decide: scored.failed, scored.scored.

    Raises UsageError, InputError, IntegrityError, StorageError or LockedError, all of them TlearnErrors.
    """
    from tlearn import console, recipes
    from tlearn.config import ScoreConfig
    from tlearn.errors import of_the_machine
    from tlearn.scoring import job

    given = tuple(_path(path, "input") for path in input) if isinstance(input, list | tuple) else _path(input, "input")
    paths = {"model": _path(model, "model"), "input": given, "output": _path(output, "output")}
    config = recipes.replaced(ScoreConfig(model="", input="", output=""), {**paths, **settings})
    with console.shown(quiet=config.quiet, verbose=config.verbose), of_the_machine():
        return job.score(config)


def publish(table: str | PathLike[str]) -> "Published":
    """Bring the log of Delta Lake of a table that grows up to its files; score(..., publish="delta") does it too.

    Raises UsageError without the extra lake, InputError where there is no such table, IntegrityError, StorageError or
    LockedError, all of them TlearnErrors.
    """
    from tlearn import storage
    from tlearn.errors import of_the_machine
    from tlearn.scoring import publish as publishing

    with storage.reached(), of_the_machine():
        return publishing.publish(_path(table, "table"))


def evaluate(model: str | PathLike[str], data: str | PathLike[str], **settings: Any) -> "Evaluated":
    """Say how good a model is on `data`: pictures in class folders, or with labels="FILE" of paths and classes.

    `settings` are those of EvaluateConfig, as `tlearn evaluate --help` lists them.

    Raises UsageError, InputError, IntegrityError, StorageError or LockedError, all of them TlearnErrors.
    """
    from tlearn import console, recipes
    from tlearn.config import EvaluateConfig
    from tlearn.errors import of_the_machine
    from tlearn.scoring import evaluate as evaluating

    paths = {"model": _path(model, "model"), "data": _path(data, "data")}
    config = recipes.replaced(EvaluateConfig(model="", data=""), {**paths, **settings})
    with console.shown(quiet=config.quiet, verbose=config.verbose), of_the_machine():
        return evaluating.evaluate(config)


def compare(a: str | PathLike[str], b: str | PathLike[str], **settings: Any) -> "Comparison":
    """Say whether one of two models is better: two runs, on the validation images that both have; or, with data="DIR",
    two models, or runs, on a folder as `evaluate` takes it; or two tables of scores with labels.

    `settings` are those of CompareConfig, as `tlearn compare --help` lists them. With no_worse_than=MARGIN what comes
    back says whether it `is_good_enough`.

    Raises UsageError, InputError, TooManyBadFiles, IntegrityError, StorageError or LockedError, all of them
    TlearnErrors.
    """
    from tlearn import console, recipes
    from tlearn.config import CompareConfig
    from tlearn.errors import of_the_machine
    from tlearn.scoring import compare as comparing

    config = recipes.replaced(CompareConfig(a="", b=""), {"a": _path(a, "a"), "b": _path(b, "b"), **settings})
    with console.shown(quiet=config.quiet, verbose=config.verbose), of_the_machine():
        return comparing.compare(config)


def export(
    model: str | PathLike[str], to: str, output: str | PathLike[str] | None = None, **settings: Any
) -> "Exported":
    """Write a model for other programs: `to` is "onnx", "torch" or "torchvision"; `output` lies beside it unless told.

    `settings` are those of ExportConfig, as `tlearn export --help` lists them. It is compared with the model first.

    Raises UsageError for what the model cannot become, InputError, IntegrityError where it would say something else,
    StorageError: all of them TlearnErrors.
    """
    from tlearn import recipes
    from tlearn.config import ExportConfig
    from tlearn.errors import of_the_machine
    from tlearn.scoring import export as exporting

    paths = {"model": _path(model, "model"), "output": None if output is None else _path(output, "output")}
    config = recipes.replaced(ExportConfig(model="", to="onnx"), {**paths, "to": to, **settings})
    with of_the_machine():
        return exporting.export(config)


def check(data: str | PathLike[str], **settings: Any) -> "Findings":
    """Decode every image of a data folder, compare them by their features; say what is in it and what is wrong with it.

    `settings` are those of CheckConfig, as `tlearn check --help` lists them; quick=True starts no Ray and needs no
    weights. With output="NAME.csv" the files that are named are written there, else nothing but features into the
    cache. How much is too much is the caller's to decide: found.findings, found.to_change.

    Raises InputError, StorageError or UsageError, all of them TlearnErrors.
    """
    from tlearn import console, recipes, storage
    from tlearn.config import CheckConfig
    from tlearn.doctor import check as checking
    from tlearn.errors import of_the_machine

    config = recipes.replaced(CheckConfig(data=""), {"data": _path(data, "data"), **settings})
    with console.shown(quiet=config.quiet, verbose=config.verbose), of_the_machine():
        found = checking.check(recipes.checked_as(config), quick=config.quick)
        if config.output is not None:
            storage.write_bytes(config.output, found.to_csv())
        return found
