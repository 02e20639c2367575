"""Whether what is scored looks like what the model was validated on: population stability index of several histograms.

The first histogram is of probabilities, the others of a few fixed projections of the pooled features. Edges are the
deciles of the validation set, so every bin holds a tenth of it. PSI = sum over bins (p - q) ln(p / q), with what
chance alone gives, (bins - 1) (1/n + 1/m), taken off (Yurdakul, Statistical properties of population stability
index, 2018).
"""

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from tlearn.errors import IntegrityError

NUM_BINS = 10
NUM_PROJECTIONS = 8
USUAL = 0.1
"""Below it there is no drift to speak of."""
MIN_IMAGES = 30
"""Fewer say too little."""

Counts = list[list[int]]
"""Images in each bin of each series."""
Histograms = dict[str, Counts]
"""By the network whose features they are of: the small one of a cascade sees all images, the large one some."""


def projections(num_channels: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(num_channels, NUM_PROJECTIONS) of -1 and 1: bits of SHA-256, so the same for ever."""
    bits = b"".join(
        hashlib.sha256(f"tlearn {i}".encode()).digest() for i in range(num_channels * NUM_PROJECTIONS // 256 + 1)
    )
    ones = np.unpackbits(np.frombuffer(bits, np.uint8))[: num_channels * NUM_PROJECTIONS].astype(np.float64)
    return (2 * ones - 1).reshape(num_channels, NUM_PROJECTIONS)


def series(probabilities: np.ndarray[Any, Any], pooled: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(1 + NUM_PROJECTIONS, images) from probabilities (images, classes) and pooled features (images, channels).

    Of two classes the probability of the second is taken, of more that of the prediction.
    """
    of_class = probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities.max(1)
    return np.concatenate(
        [of_class[None].astype(np.float64), (pooled.astype(np.float64) @ projections(pooled.shape[1])).T]
    )


@dataclass(frozen=True, slots=True)
class Reference:
    """What the model folder carries of its validation set."""

    edges: list[list[float]]
    """Of the bins of each series, without the outermost."""
    counts: Counts
    num_images: int

    @classmethod
    def of(cls, values: np.ndarray[Any, Any]) -> "Reference":
        """Of series (series, images): edges at their deciles."""
        quantiles = np.linspace(0, 1, NUM_BINS + 1)[1:-1]
        edges = [np.unique(np.quantile(row, quantiles)).tolist() for row in values]
        return cls(edges, _histograms(edges, values), values.shape[1])

    def count(self, values: np.ndarray[Any, Any]) -> Counts:
        """Images of series (series, images) in each bin of each series."""
        return _histograms(self.edges, values)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Reference | None":
        """None for a model without a reference: there was nothing to compute it from.

        Raises IntegrityError for one that no version has written.
        """
        if not values:
            return None
        try:
            found = cls(**values)
            found._check()
        except (TypeError, ValueError):
            raise IntegrityError(
                "expected histograms in the reference of model.json, found others: train it again"
            ) from None
        return found

    def _check(self) -> None:
        """Raise TypeError or ValueError for what `of` does not make."""
        pairs = list(zip(self.edges, self.counts, strict=True))
        has_bins = len(pairs) == 1 + NUM_PROJECTIONS and all(len(counts) == len(inner) + 1 for inner, counts in pairs)
        if not has_bins or not all(map(math.isfinite, chain(*self.edges, *self.counts))):
            raise ValueError("other histograms")


def _histograms(edges: list[list[float]], values: np.ndarray[Any, Any]) -> Counts:
    return [
        np.bincount(np.searchsorted(inner, row, side="right"), minlength=len(inner) + 1).tolist()
        for inner, row in zip(edges, values, strict=True)
    ]


def add(left: Histograms | None, right: Histograms) -> Histograms:
    found = dict(left or {})
    for network, counts in right.items():
        pairs = zip(found[network], counts, strict=True) if network in found else None
        found[network] = [[a + b for a, b in zip(*pair, strict=True)] for pair in pairs] if pairs else counts
    return found


def chief(histograms: Histograms | None) -> tuple[str, Counts]:
    """The network that most images were counted by, and their counts; ("large", []) where there are none.

    A run that was stopped may have been begun without a cascade.
    """
    return max((histograms or {"large": []}).items(), key=lambda item: sum(item[1][0]) if item[1] else 0)


def psi(expected: list[int], actual: list[int]) -> float:
    """The index of one histogram against another, without what chance gives; 0.0 or more."""
    m, n, num_bins = sum(expected), sum(actual), len(expected)
    index = sum((p - q) * math.log(p / q) for p, q in _parts(expected, actual))
    return max(index - (num_bins - 1) * (1 / n + 1 / m), 0.0)


def _parts(expected: list[int], actual: list[int]) -> list[tuple[float, float]]:
    """Of each bin its share in the actual and in the expected histogram, none of them 0."""
    m, n, num_bins = sum(expected), sum(actual), len(expected)
    shares = ((count + 0.5) / (n + 0.5 * num_bins) for count in actual)
    return [(p, (count + 0.5) / (m + 0.5 * num_bins)) for p, count in zip(shares, expected, strict=True)]


def shares(reference: Reference, counts: Counts, values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(images,): how much each image of series (series, images) adds to the drift of the histograms `counts`.

    The share of its bin in the index, where the bin holds more than it should, divided by the images in that bin;
    the probabilities count as much as all projections together.
    """
    found = np.zeros(values.shape[1])
    for number, (expected, actual) in enumerate(zip(reference.counts, counts, strict=True)):
        excess = [max(p - q, 0) * math.log(p / q) for p, q in _parts(expected, actual)]
        of_image = np.array(excess) / np.maximum(actual, 1) * (NUM_PROJECTIONS if number == 0 else 1)
        found += of_image[np.searchsorted(reference.edges[number], values[number], side="right")]
    return found


def judge(reference: Reference | None, counts: Counts) -> tuple[float | None, str]:
    """One number and one sentence. Below 0.1 is usual, above 0.25 calls for a look (the index's usual limits)."""
    num_images = sum(counts[0]) if counts else 0
    if reference is None or num_images < MIN_IMAGES:
        return None, f"{num_images} new images are too few to tell drift"
    indices = [psi(expected, actual) for expected, actual in zip(reference.counts, counts, strict=True)]
    of_probabilities, of_features = indices[0], sum(indices[1:]) / len(indices[1:])
    value = max(of_probabilities, of_features)
    where = "probabilities" if of_probabilities > of_features else "features"
    if value < USUAL:
        return value, "the images look like those the model was validated on"
    if value < 0.25:
        return value, f"the images differ somewhat from those the model was validated on, in their {where}"
    return value, f"the images differ from those the model was validated on, in their {where}: look at them"
