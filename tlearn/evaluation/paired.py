"""Two models on the same pictures: how much better one of them is, how sure that is, and how many pictures it takes.

Pictures that both have right, or both wrong, say nothing of the difference: all follows from those that only one has
right, and from how many pictures there are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_Z = 1.959963984540054
"""Of 95%."""
_MOST_IMAGES = 10**9


@dataclass(frozen=True, slots=True)
class Counts:
    """Of pictures that both models have said something of; at least one."""

    num_images: int
    only_a: int
    """That A has right and B wrong."""
    only_b: int
    """That B has right and A wrong."""

    @property
    def difference(self) -> float:
        """The accuracy of B less that of A."""
        return (self.only_b - self.only_a) / self.num_images

    def interval(self) -> tuple[float, float]:
        """In which the difference lies with 95% certainty, by Tango's score (Statistics in Medicine 17, 1998, 891-908).

        Unlike Wald's it has a width where no picture, or few, tell the models apart.
        """
        only_a, only_b = (share / self.num_images for share in (self.only_a, self.only_b))
        return _lower(only_a, only_b, self.num_images), -_lower(only_b, only_a, self.num_images)

    def mcnemar(self) -> float:
        """The exact p-value, of both sides, of McNemar's test: that both models are right equally often.

        That is a binomial test of whether each of the two has half of the pictures that only one has right.
        """
        total, fewest = self.only_a + self.only_b, min(self.only_a, self.only_b)
        logs = (
            math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1) - total * math.log(2)
            for count in range(fewest + 1)
        )
        return min(1.0, 2 * math.fsum(map(math.exp, logs)))

    def images_needed(self, margin: float) -> int | None:
        """From how many pictures on the interval would lie above -margin, if the shares were as in these.

        None where B is worse by the margin or more: there more pictures would say so the more surely.
        """
        if self.difference <= -margin:
            return None
        only_a, only_b = (share / self.num_images for share in (self.only_a, self.only_b))
        few, many = 0, 1
        while _lower(only_a, only_b, many) < -margin:
            few, many = many, 2 * many
            if many > _MOST_IMAGES:
                return None
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (middle, many) if _lower(only_a, only_b, middle) < -margin else (few, middle)
        return many


def _lower(only_a: float, only_b: float, num_images: int) -> float:
    """The lower end of the interval, of shares of so many pictures."""
    estimate = only_b - only_a

    def is_too_low(difference: float) -> bool:
        """Whether the score says that the shares do not fit this difference of the accuracies."""
        # The likeliest share of pictures that only A has right, were this the difference.
        half = (only_a + only_b - (2 - estimate) * difference) / 4
        share = half + math.sqrt(max(half**2 + only_a * difference * (1 - difference) / 2, 0.0))
        variance = 2 * share + difference * (1 - difference)
        return (estimate - difference) * math.sqrt(num_images) > _Z * math.sqrt(max(variance, 0.0))

    return _edge(is_too_low, -1.0, estimate)


def _edge(is_below: Callable[[float], bool], low: float, high: float) -> float:
    """Up to where it is so, between two numbers; halved until they are neighbours."""
    if not is_below(low):
        return low
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return low


def mean_interval(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float] | None:
    """In which the mean of (images,) differences lies with 95% certainty, by their spread; None for a single one.

    By the central limit theorem: of few pictures it is narrower than it should be.
    """
    if len(values) < 2:
        return None
    mean, half = float(values.mean()), _Z * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half
