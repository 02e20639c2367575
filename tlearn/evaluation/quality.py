"""How far probabilities can be trusted: the temperature that calibrates them, and figures of their quality."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tlearn.classes import Classes
from tlearn.evaluation import metrics

MIN_IMAGES = 20
"""Fewer say too little for a temperature."""

_PRIOR_DEVIATION = 0.5
_NUM_BINS = 15


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The number above 0 by which logits (images, num_logits) are divided for the lowest log-loss of labels (images,).

    Guo et al., On calibration of modern neural networks, 2017; here its logarithm has a normal prior around 0, without
    which images that are all predicted rightly would ask for a temperature of 0. It never raises the log-loss. 1.0 for
    fewer than MIN_IMAGES, and for logits that are no finite numbers.
    """
    if len(labels) < MIN_IMAGES or not logits.isfinite().all():
        return 1.0
    logits = logits.double()

    def loss(log_temperature: float) -> float:
        losses = metrics.sample_losses(logits / math.exp(log_temperature), labels)
        return losses.sum().item() + (log_temperature / _PRIOR_DEVIATION) ** 2 / 2

    # A search, because any of torch's optimisers would first import its compiler, for two seconds.
    best, step = 0.0, 0.6
    while step > 1e-6:
        best = min((best + step * place for place in range(-20, 21)), key=loss)
        step /= 10
    return math.exp(best)


@dataclass(frozen=True, slots=True)
class ClassQuality:
    """Figures of one class; None where one is not defined."""

    precision: float | None
    recall: float | None
    count: int

    @property
    def f1(self) -> float | None:
        """The harmonic mean of both."""
        if self.precision is None or self.recall is None:
            return None
        return 2 * self.precision * self.recall / (self.precision + self.recall or 1)


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of a model on a set of images; None where one is not defined."""

    accuracy: float
    log_loss: float | None
    brier: float | None
    """Squared distance to the truth, over all classes."""
    calibration_error: float | None
    """Of the probability of the prediction, in 15 bins."""
    roc_auc: float | None
    """The mean of each class against the rest, of those that there are images of."""
    per_class: dict[str, ClassQuality]

    @property
    def num_images(self) -> int:
        return sum(of.count for of in self.per_class.values())

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Quality":
        per_class = {name: ClassQuality(**figures) for name, figures in values["per_class"].items()}
        return cls(**{**values, "per_class": per_class})


def measure(logits: Tensor, labels: Tensor, classes: Classes) -> Quality:
    """Figures of logits (images, num_logits) against labels (images,), one image at least."""
    logits = logits.double()
    num_classes = len(classes.names)
    probabilities, predictions = metrics.probabilities(logits), metrics.predictions(logits)
    is_right = predictions == labels
    counts, predicted, right = (
        group.bincount(minlength=num_classes).double() for group in (labels, predictions, labels[is_right])
    )
    truth = torch.nn.functional.one_hot(labels, num_classes)
    calibration_error = area = torch.tensor(math.nan)
    if probabilities.isfinite().all():  # else comparing would make figures that look like any other
        calibration_error = _calibration_error(probabilities.amax(1), is_right)
        areas = [roc_area(probabilities[:, label], labels == label) for label in range(num_classes)]
        area = torch.stack(areas).nanmean()  # of two classes both have the same
    figures = zip(right / predicted, right / counts, counts, strict=True)
    per_class = [ClassQuality(_number(precision), _number(recall), int(count)) for precision, recall, count in figures]
    return Quality(
        accuracy=(right.sum() / counts.sum()).item(),
        log_loss=_number(metrics.sample_losses(logits, labels).mean()),
        brier=_number((probabilities - truth).square().sum(1).mean()),
        calibration_error=_number(calibration_error),
        roc_auc=_number(area),
        per_class=dict(zip(classes.names, per_class, strict=True)),
    )


def _calibration_error(confidences: Tensor, is_right: Tensor) -> Tensor:
    """How far the mean confidence of each bin is from the share that is right; the mean over all (images,)."""
    bins = (confidences * _NUM_BINS).ceil().long().clamp(min=1) - 1  # each with its upper edge
    gaps = torch.zeros(_NUM_BINS, dtype=torch.float64).index_add(0, bins, is_right.double() - confidences)
    return gaps.abs().sum() / len(confidences)


def roc_area(scores: Tensor, is_positive: Tensor) -> Tensor:
    """Of how many pairs of a positive and a negative the positive has the higher score; ties count as half of one.

    That is the area under the receiver operating characteristic (Mann and Whitney, 1947); NaN without both.
    """
    positive, negative = scores[is_positive], scores[~is_positive].sort().values
    below = torch.searchsorted(negative, positive) + torch.searchsorted(negative, positive, right=True)
    return below.sum() / (2 * len(positive) * len(negative) or math.nan)


def _number(value: Tensor) -> float | None:
    return value.item() if value.isfinite() else None
