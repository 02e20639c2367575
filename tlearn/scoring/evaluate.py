"""How good a model is on pictures whose classes are known.

They are scored into a table as ever, and its rows measured as training measures its validation set.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tlearn import console, storage
from tlearn.classes import Classes
from tlearn.config import EvaluateConfig, ScoreConfig, digest
from tlearn.data.status import SCORED
from tlearn.errors import InputError, UsageError
from tlearn.evaluation import quality
from tlearn.evaluation.interval import accuracy_interval
from tlearn.evaluation.quality import Quality
from tlearn.network import description
from tlearn.scoring import job, labels
from tlearn.scoring.labels import Labelled
from tlearn.scoring.summary import Scored
from tlearn.scoring.table import FILES

_LEAST = 2.0**-25
"""Half of the last digit of a float32 below 1. A probability of 0 is less than that and more than nothing."""
_MAX_CONFUSION = 12
"""Classes of which a terminal shows who is taken for whom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What `tlearn evaluate --json` prints."""

    folder: str
    """That was taken: the one that was named, or a split in it."""
    num_images: int
    """With a label and a prediction; the figures are of these."""
    accuracy: float
    interval: tuple[float, float]
    """In which the accuracy lies with 95% certainty (Wilson)."""
    quality: Quality
    """As training reports it of the validation set."""
    confusion: dict[str, dict[str, int]]
    """Of each true class the number of each prediction, where it is not 0."""
    remarks: tuple[str, ...]
    scored: Scored
    """Of all files, those without a label too."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def lines(self) -> Iterator[str]:
        """For a person."""
        low, high = self.interval
        figures = self.quality
        failed = f", {self.scored.failed} could not be scored" if self.scored.failed else ""
        yield f"accuracy {self.accuracy:.4f} of {self.num_images:,} pictures in {self.folder}{failed}"
        yield f"95% sure: {low:.3f} to {high:.3f}"
        yield f"log-loss {_fixed(figures.log_loss)}, calibration error {_fixed(figures.calibration_error)}"
        yield ""
        rows = [
            (name, f"{of.count:,}", *(_fixed(value) for value in (of.precision, of.recall, of.f1)))
            for name, of in figures.per_class.items()
        ]
        yield console.table(("class", "pictures", "precision", "recall", "F1"), rows)
        if len(rows) <= _MAX_CONFUSION:
            yield ""
            counts = [
                (name, *(str(of.get(other, 0)) for other in figures.per_class)) for name, of in self.confusion.items()
            ]
            yield console.table(("true class, as what", *figures.per_class), counts)
        yield from (f"note: {remark}" for remark in self.remarks)


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """What a model says of pictures whose classes are known."""

    labelled: Labelled
    classes: Classes
    scored: Scored
    rows: list[dict[str, Any]]
    """Path, prediction, probability, probabilities and sha256 of each picture that has a label and a score."""


def evaluate(config: EvaluateConfig) -> Evaluated:
    """Score the pictures, compare with their labels. Raises TlearnError as `score` does, and for other classes."""
    return _measured(labelled_rows(config))


def labelled_rows(config: EvaluateConfig) -> LabelledRows:
    """Score the pictures. Raises TlearnError as `evaluate` does."""
    model = description.describe(config.model)
    labelled = labels.find(config.data, config.labels, model.classes)
    with _table(config, model.digest, labelled.folder) as output:
        scored, table = job.scored_rows(
            ScoreConfig(
                model=config.model,
                input=labelled.folder,
                output=output,
                workers=config.workers,
                engine=config.engine,
                precision=config.precision,
                cascade=config.cascade,
                cache=config.cache,
                quiet=config.quiet,
                verbose=config.verbose,
                report=config.report,
            ),
            labelled.labels,
        )
    columns = ["path", "status", "prediction", "probability", "probabilities", "sha256"]
    rows = table.select(columns).to_pylist()
    usable = [row for row in rows if row["path"] in labelled.labels and row["status"] in SCORED]
    if not usable:
        raise InputError(
            f"expected pictures that can be scored in {labelled.folder}, found none: tlearn check says why"
        )
    return LabelledRows(labelled, model.classes, scored, usable)


@contextlib.contextmanager
def _table(config: EvaluateConfig, model_digest: str, folder: str) -> Iterator[str]:
    """Where the rows go: where they were asked for, or into the cache, which all nodes see, for this evaluation."""
    if config.output is not None:
        if not config.output.endswith(FILES):
            raise UsageError(
                f"expected --output NAME.parquet or NAME.csv, got {config.output}: an evaluation is a single file"
            )
        yield config.output
        return
    name = digest([model_digest, storage.absolute(folder), config.cascade])  # the same one goes on where it was stopped
    location = storage.join(storage.absolute(config.cache), "evaluations", f"{name}.parquet")
    try:
        yield location
    finally:
        storage.remove(location)


def _measured(found: LabelledRows) -> Evaluated:
    rows, labelled, classes = found.rows, found.labelled, found.classes
    truth = [labelled.labels[row["path"]] for row in rows]
    probabilities = [dict(row["probabilities"]) for row in rows]
    logs = torch.tensor([[of[name] for name in classes.names] for of in probabilities]).double().clamp(_LEAST).log()
    logits = logs if classes.num_logits > 1 else logs[:, 1:] - logs[:, :1]
    figures = quality.measure(logits, torch.tensor([classes.indices[label] for label in truth]), classes)
    pairs = Counter(zip(truth, (row["prediction"] for row in rows), strict=True))
    return Evaluated(
        folder=labelled.folder,
        num_images=len(rows),
        accuracy=figures.accuracy,
        interval=accuracy_interval(figures.accuracy, len(rows)),
        quality=figures,
        confusion={
            name: {other: pairs[name, other] for other in classes.names if pairs[name, other]} for name in classes.names
        },
        remarks=labelled.remarks,
        scored=found.scored,
    )


def _fixed(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
