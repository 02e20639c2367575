"""Predictions beside the truth, in figures with intervals, and where they are weakest; known without torch.

n is the number of images, k that of classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlearn.evaluation.interval import accuracy_interval

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of `count` images with its interval of 95% (Wilson); None where there are no images."""

    value: float | None
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, share: float, count: int) -> "Rate":
        if count <= 0 or not math.isfinite(share):
            return cls(None, 0.0, 1.0, 0)
        return cls(share, *accuracy_interval(share, count), count)


@dataclass(frozen=True, slots=True)
class Judged:
    """Predictions of labelled images."""

    classes: tuple[str, ...]
    labels: Ints
    """(n,)"""
    predictions: Ints
    """(n,)"""
    probabilities: Floats
    """(n, k); NaN of a model that diverged."""

    @property
    def is_right(self) -> Bools:
        return np.equal(self.labels, self.predictions)

    @property
    def confidences(self) -> Floats:
        """(n,) probabilities of the predictions, 0.0 instead of NaN."""
        return np.nan_to_num(self.probabilities[np.arange(len(self.labels)), self.predictions])

    def confusion(self) -> Ints:
        """(k, k) counts: rows are true classes, columns predictions."""
        matrix = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        np.add.at(matrix, (self.labels, self.predictions), 1)
        return matrix


@dataclass(frozen=True, slots=True)
class ClassFigures:
    name: str
    count: int
    precision: Rate
    recall: Rate
    f1: Rate


def per_class(classes: Sequence[str], confusion: Ints) -> list[ClassFigures]:
    """Figures of every class from confusion (k, k)."""
    counted = zip(classes, confusion.sum(1), confusion.sum(0), confusion.diagonal(), strict=True)
    return [class_figures(name, int(count), int(predicted), int(right)) for name, count, predicted, right in counted]


def class_figures(name: str, count: int, predicted: int, right: int) -> ClassFigures:
    """Of a class with `count` images that was predicted so often, and rightly so often.

    F1 = 2 J / (1 + J) for the share J = right / (count + predicted - right), so its interval is that of J (Hand et
    al., F*: an interpretable transformation of the F-measure, 2021).
    """
    either = count + predicted - right
    share = Rate.of(right / max(either, 1), either)
    f1 = [2 * x / (1 + x) for x in (share.value or 0.0, share.low, share.high)]
    return ClassFigures(
        name=name,
        count=count,
        precision=Rate.of(right / max(predicted, 1), predicted),
        recall=Rate.of(right / max(count, 1), count),
        f1=Rate(f1[0], f1[1], f1[2], either) if either else share,
    )


@dataclass(frozen=True, slots=True)
class Curves:
    """One class against all others."""

    name: str
    false_positives: Floats
    """Rates (m,), rising from 0 to 1, of every threshold between two probabilities; `true_positives` beside them."""
    true_positives: Floats
    precisions: Floats
    """(m,), beside `true_positives`, which are the recalls; the first is 1 by definition."""
    roc_area: float
    average_precision: float


def curves(judged: Judged) -> list[Curves]:
    """Of every class that has images and is not the only one; of two classes the second alone says all."""
    if not np.isfinite(judged.probabilities).all():
        return []
    wanted = [1] if len(judged.classes) == 2 else range(len(judged.classes))
    pairs = [(index, judged.labels == index) for index in wanted]
    return [
        _curves(judged.classes[index], judged.probabilities[:, index], is_it)
        for index, is_it in pairs
        if is_it.any() and not is_it.all()
    ]


def _curves(name: str, scores: Floats, is_it: Bools) -> Curves:
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # equal scores fall together
    hits = np.cumsum(is_it[order])[ends]
    taken = ends + 1
    recalls = np.append(0.0, hits / hits[-1])
    false = np.append(0.0, (taken - hits) / (len(scores) - hits[-1]))
    precisions = np.append(1.0, hits / taken)
    return Curves(
        name=name,
        false_positives=false,
        true_positives=recalls,
        precisions=precisions,
        roc_area=float(np.trapezoid(recalls, false)),
        average_precision=float(np.sum(np.diff(recalls) * precisions[1:])),
    )


@dataclass(frozen=True, slots=True)
class Bin:
    """Images whose prediction has a probability in one tenth."""

    confidence: float
    """Mean probability of the prediction."""
    accuracy: Rate


def reliability(confidences: Floats, is_right: Bools, num_bins: int = 10) -> list[Bin]:
    """Of the bins that have images, from confidences (n,); each bin includes its upper edge."""
    places = np.searchsorted(np.linspace(0, 1, num_bins + 1)[1:-1], confidences)
    groups = [places == place for place in np.unique(places)]
    return [Bin(float(confidences[of].mean()), Rate.of(float(is_right[of].mean()), int(of.sum()))) for of in groups]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance of confidence and accuracy over the images of the bins."""
    total = sum(of.accuracy.count for of in bins)
    return sum(abs(of.confidence - (of.accuracy.value or 0.0)) * of.accuracy.count for of in bins) / max(total, 1)


def before_calibration(probabilities: Floats, temperature: float) -> Floats:
    """Probabilities (n, k) as they were before their logits were divided by the temperature.

    With p = softmax(z / T), p ** T is proportional to exp(z).
    """
    raised: Floats = probabilities**temperature
    raised /= raised.sum(1, keepdims=True)
    return raised


@dataclass(frozen=True, slots=True)
class Kept:
    """What is left where predictions below a threshold are given to a person."""

    threshold: float
    count: int
    right: int


def thresholds(num_classes: int) -> list[float]:
    """In steps of 0.01, of 0.001 beyond 0.99; no prediction is below 1 / num_classes."""
    first = math.floor(100 / max(num_classes, 1))
    return [step / 100 for step in range(first, 100)] + [step / 1000 for step in range(991, 1000)] + [0.9999]


def abstaining(confidences: Floats, is_right: Bools | None, num_classes: int) -> list[Kept]:
    """Counts at every threshold; `right` is 0 where no truth is known."""
    right = np.zeros(len(confidences), bool) if is_right is None else is_right
    masks = [(at, confidences >= at) for at in thresholds(num_classes)]
    return [Kept(at, int(mask.sum()), int(right[mask].sum())) for at, mask in masks]


@dataclass(frozen=True, slots=True)
class Slice:
    """Images that have something in common, on which the model is worse than on the others."""

    name: str
    accuracy: Rate
    chance: float
    """Of so many mistakes, or more, if they fell anywhere; times the number of slices that were looked at."""


def weakest(is_right: Bools, groups: Mapping[str, Bools], most: int = 8) -> list[Slice]:
    """Those of the groups (n,) that have more mistakes than chance explains, the surest first.

    Fisher's exact test of each against the rest, with Bonferroni's correction, at 5%.
    """
    total, wrong = len(is_right), int((~is_right).sum())
    found = []
    for name, of in groups.items():
        size, mistakes = int(of.sum()), int((~is_right[of]).sum())
        chance = _at_least(mistakes, size, wrong, total) * len(groups)
        if chance < 0.05:
            found.append(Slice(name, Rate.of(1 - mistakes / size, size), chance))
    return sorted(found, key=lambda each: (each.chance, each.name))[:most]


def _at_least(mistakes: int, size: int, wrong: int, total: int) -> float:
    """Chance of so many mistakes or more among `size` of `total` images of which so many are wrong."""

    def ways(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    counts = range(max(mistakes, size + wrong - total), min(size, wrong) + 1)
    all_ways = ways(total, size)
    return min(1.0, sum(math.exp(ways(wrong, x) + ways(total - wrong, size - x) - all_ways) for x in counts))
