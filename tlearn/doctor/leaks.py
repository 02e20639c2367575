"""Properties of files that give a label away: a model may learn them instead of what the pictures show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlearn.data.findings import Finding
from tlearn.doctor.seen import Seen
from tlearn.errors import printable
from tlearn.evaluation.interval import accuracy_interval

_NUM_FOLDS, _NUM_BINS, _FEW = 5, 10, 5
_LEAST_SURE = 0.8
"""Balanced accuracy, at the lower end of its interval, from which a property gives a class away; chance is 0.5. Of the
cats and dogs no property has more than 0.6."""

Values = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class _Leak:
    property: str
    label: str
    accuracy: float
    low: float


_NAMES: dict[str, Callable[[Seen], str]] = {
    "format": lambda seen: seen.format,
    "size": lambda seen: f"{seen.width}x{seen.height}",
    "camera": lambda seen: seen.camera,
    "border colour": lambda seen: " ".join(str(min(int(3 * value), 2)) for value in seen.border),
}
_NUMBERS: dict[str, Callable[[Seen], float]] = {
    "number of pixels": lambda seen: seen.width * seen.height,
    "aspect": lambda seen: seen.width / seen.height,
    "brightness": lambda seen: seen.brightness,
    "file size": lambda seen: seen.file.size,
    "sharpness": lambda seen: seen.sharpness,
}


def find(seen: Sequence[Seen], labels: Sequence[str]) -> list[Finding]:
    """The properties by which a class can be told from the others, cross-validated; of pictures and their labels."""
    if not seen:
        return []
    columns = {name: _common([value(one) for one in seen]) for name, value in _NAMES.items()}
    columns |= {name: _binned([value(one) for one in seen]) for name, value in _NUMBERS.items()}
    names, classes = np.unique(list(labels), return_inverse=True)
    leaks = []
    for property, values in columns.items():
        accuracies, lows = _told(values, classes)
        best = int(np.argmax(lows))
        if lows[best] >= _LEAST_SURE:
            leaks.append(_Leak(property, str(names[best]), accuracies[best], lows[best]))
    if not leaks:
        return []
    leaks.sort(key=lambda leak: -leak.low)
    said = "; ".join(
        f"{leak.property} ({printable(leak.label)} or not: {leak.accuracy:.0%} right, "
        f"95% sure above {leak.low:.0%}; chance is 50%)"
        for leak in leaks
    )
    advice = "Make the classes alike in it (the same format, size, camera), unless it is what is to be learned."
    return [Finding("gives_label_away", f"a class is known without its pictures, by {said}", (), advice)]


def _common(names: Sequence[str]) -> Values:
    """A number for every name; those that few pictures have share one: to be unlike all others says something too."""
    _, numbers, counts = np.unique(list(names), return_inverse=True, return_counts=True)
    return np.where(counts[numbers] < _FEW, len(counts), numbers)


def _binned(values: Sequence[float]) -> Values:
    numbers = np.array(values, float)
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, _NUM_BINS + 1)[1:-1]))
    return np.searchsorted(edges, numbers, side="right")


def _told(values: Values, classes: Values) -> tuple[list[float], list[float]]:
    """How well values (N,) tell each of classes (N,) from the rest: balanced accuracies and their lower ends.

    Cross-validated. A value says the class that it is more frequent in, by its share of each; one that is new says
    nothing, which is counted as wrong.
    """
    folds = np.random.default_rng(0).permutation(len(values)) % _NUM_FOLDS
    right = np.zeros((2, int(classes.max()) + 1))
    for fold in range(_NUM_FOLDS):
        known, held = (_counts(values, classes, chosen) for chosen in (folds != fold, folds == fold))
        others = known.sum(1, keepdims=True) - known
        share, share_of_others = (counts / np.maximum(counts.sum(0), 1) for counts in (known, others))
        right[0] += (held * (share > share_of_others)).sum(0)
        right[1] += ((held.sum(1, keepdims=True) - held) * (share < share_of_others)).sum(0)
    sizes = np.bincount(classes)
    pairs = [(inside, max(len(values) - inside, 1)) for inside in sizes.tolist()]
    rates = [(float(a / m), float(b / n)) for a, b, (m, n) in zip(*right, pairs, strict=True)]
    lows = [
        sum(accuracy_interval(rate, count)[0] for rate, count in zip(both, counts, strict=True)) / 2
        for both, counts in zip(rates, pairs, strict=True)
    ]
    return [sum(both) / 2 for both in rates], lows


def _counts(values: Values, classes: Values, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> Values:
    """(values, classes) how often each value is of each class, among those that are chosen."""
    shape = int(values.max()) + 1, int(classes.max()) + 1
    counts: Values = np.bincount((values * shape[1] + classes)[chosen], minlength=shape[0] * shape[1]).reshape(shape)
    return counts
