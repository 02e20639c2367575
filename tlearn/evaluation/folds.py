"""Cross-validation: figures of images by heads that have not seen them, fold by fold and together."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tlearn.classes import Classes
from tlearn.evaluation import quality
from tlearn.evaluation.interval import accuracy_interval


@dataclass(frozen=True, slots=True)
class Fold:
    """Figures of the images of one fold, by the head that was trained on the others."""

    num_images: int
    accuracy: float
    log_loss: float


@dataclass(frozen=True, slots=True)
class Folds:
    """What cross-validation has found. The deviations are those of a sample: over folds, divided by their number - 1.

    The accuracy of all images together has an interval, as each is predicted once; the deviation says how much a head
    depends on what it is trained on and judged by.
    """

    num_folds: int
    accuracy_mean: float
    accuracy_std: float
    log_loss_mean: float
    log_loss_std: float
    per_fold: tuple[Fold, ...]
    groups: str | None
    """As they were given; None where pictures stand for themselves."""
    accuracy: float
    """Of all images, each by the head that has not seen it."""
    accuracy_interval: tuple[float, float]
    """In which it lies with 95% certainty (Wilson), as if the images were drawn one by one, not in groups."""
    seconds: float

    @property
    def num_images(self) -> int:
        return sum(fold.num_images for fold in self.per_fold)

    def lines(self) -> list[str]:
        """For a person."""
        low, high = self.accuracy_interval
        return [
            f"{self.num_folds} folds: accuracy {self.accuracy_mean:.3f} ± {self.accuracy_std:.3f} (standard deviation "
            f"over folds), log-loss {self.log_loss_mean:.3f} ± {self.log_loss_std:.3f} calibrated; "
            f"{self.accuracy:.4f} of {self.num_images:,} images together (95% sure: {low:.3f} to {high:.3f})"
        ]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Folds":
        low, high = values["accuracy_interval"]
        per_fold = tuple(Fold(**each) for each in values["per_fold"])
        return cls(**{**values, "per_fold": per_fold, "accuracy_interval": (low, high)})


def calibrated(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> list[Tensor]:
    """The logits of each fold, (images, num_logits), divided by the temperature that suits the other folds.

    A fold's own temperature would flatter it.
    """
    temperatures = []
    for fold in range(len(logits)):
        others = [other for other in range(len(logits)) if other != fold]
        temperatures.append(
            quality.fit_temperature(torch.cat([logits[i] for i in others]), torch.cat([labels[i] for i in others]))
        )
    return [of / temperature for of, temperature in zip(logits, temperatures, strict=True)]


def measure(
    logits: Sequence[Tensor], labels: Sequence[Tensor], classes: Classes, groups: str | None, seconds: float
) -> Folds:
    """Figures of two folds or more: calibrated logits (images, num_logits) and labels (images,) of each."""
    per_fold = []
    for of, targets in zip(logits, labels, strict=True):
        figures = quality.measure(of, targets, classes)
        assert figures.log_loss is not None, "training ends at a loss that is no number"
        per_fold.append(Fold(len(targets), figures.accuracy, figures.log_loss))
    accuracies, losses = [fold.accuracy for fold in per_fold], [fold.log_loss for fold in per_fold]
    together = quality.measure(torch.cat(list(logits)), torch.cat(list(labels)), classes)
    return Folds(
        num_folds=len(per_fold),
        accuracy_mean=statistics.fmean(accuracies),
        accuracy_std=statistics.stdev(accuracies),
        log_loss_mean=statistics.fmean(losses),
        log_loss_std=statistics.stdev(losses),
        per_fold=tuple(per_fold),
        groups=groups,
        accuracy=together.accuracy,
        accuracy_interval=accuracy_interval(together.accuracy, together.num_images),
        seconds=seconds,
    )
