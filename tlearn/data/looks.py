"""How a decoded picture looks, in numbers: of pixels (3, height, width) uint8, as a tensor or an array."""

from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Pixels: TypeAlias = Tensor | np.ndarray[Any, np.dtype[np.uint8]]


def grey(pixels: Pixels) -> Floats:
    """(height, width) float32 from 0 to 1: the luma of ITU-R BT.601, as JPEG stores it."""
    red, green, blue = np.asarray(pixels).astype(np.float32)
    shades: Floats = (0.299 * red + 0.587 * green + 0.114 * blue) / 255
    return shades


def brightness(pixels: Pixels) -> float:
    """The mean of its grey: 0 is black, 1 is white."""
    return float(grey(pixels).mean())


def contrast(pixels: Pixels) -> float:
    """The standard deviation of its grey: 0 is one colour, 0.5 is half black and half white."""
    return float(grey(pixels).std())


def sharpness(pixels: Pixels) -> float:
    """How strong its sharpest edges are: 0 is one colour, 0.25 and less is out of focus all over, 1 and more is sharp.

    The 99.9th percentile of the Laplacian as a share of the contrast: a thousandth of the picture in focus is enough,
    and a dim picture counts as sharp as a bright one. It depends on the size: compare what was resized alike.
    """
    shades = grey(pixels)
    spread = float(shades.std())
    if spread < 1e-6 or min(shades.shape) < 3:
        return 0.0
    inner = shades[1:-1, 1:-1]
    laplacian = shades[:-2, 1:-1] + shades[2:, 1:-1] + shades[1:-1, :-2] + shades[1:-1, 2:] - 4 * inner
    return float(np.percentile(np.abs(laplacian), 99.9)) / spread
