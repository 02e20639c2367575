"""Slices of the wall: pictures that have a class, a look or both in common."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tlearn.report.figures import Bools
from tlearn.report.wall import Picture

_WORDS = {
    "short side": ("small", "large"),
    "aspect": ("tall", "wide"),
    "brightness": ("dark", "bright"),
    "contrast": ("pale", "rich in contrast"),
    "sharpness": ("blurred", "sharp"),
}
"""Of the lowest and the highest quarter of each property."""


_FEWEST = 5
"""Pictures of a slice: fewer say too little, and would only make the correction of all others larger."""


def groups(pictures: Sequence[Picture]) -> dict[str, Bools]:
    """Groups (n,) of labelled pictures: a class, the ends of a property, a format, a cluster, and these of a class."""
    labels = _mask_each([of.label for of in pictures])
    looks: dict[str, Bools] = {}
    for name, (low, high) in _WORDS.items():
        values = np.array([_property(of, name) for of in pictures], dtype=float)
        if np.isfinite(values).any():
            first, last = np.nanquantile(values, (0.25, 0.75))
            if first < last:
                looks |= {low: values <= first, high: values >= last}
    looks |= {f"format {name}": mask for name, mask in _mask_each([of.format for of in pictures]).items()}
    looks |= {f"cluster {name}": mask for name, mask in _mask_each([of.cluster for of in pictures]).items()}
    both = {f"{name}, {look}": of & mask for name, of in labels.items() for look, mask in looks.items()}
    return {name: mask for name, mask in (labels | looks | both).items() if _FEWEST <= mask.sum() < len(pictures)}


def _mask_each(values: Iterable[Any]) -> dict[str, Bools]:
    """Where each value is, if there are several."""
    listed = list(values)
    found = sorted({value for value in listed if value is not None})
    return {str(each): np.array([value == each for value in listed]) for each in found if len(found) > 1}


def _property(of: Picture, name: str) -> float:
    if name in ("short side", "aspect"):
        if not of.width or not of.height:
            return math.nan
        return float(min(of.width, of.height)) if name == "short side" else of.width / of.height
    value: float | None = getattr(of, name)
    return math.nan if value is None else value
