"""JPEG to pixels: by torchvision's operator, which is faster, and where there is none by Pillow."""

import contextlib
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

JpegDecoder = Literal["torchvision", "pillow"]


def decoder() -> JpegDecoder:
    """What decodes an ordinary JPEG in this process; the pixels of the two differ by up to 2."""
    return "pillow" if _operator() is None else "torchvision"


def decode(image: Image.Image, data: bytes) -> Tensor | None:
    """(3, height, width) uint8 RGB, not yet upright; None where Pillow has to decide."""
    operator = _operator()
    # torchvision converts CMYK by rules of its own.
    if operator is None or not _is_ordinary(image):
        return None
    try:
        return operator(torch.frombuffer(bytearray(data), dtype=torch.uint8), 3)  # 3: ImageReadMode.RGB
    except RuntimeError:
        return None


def scale_down(image: Image.Image, least: int) -> bool:
    """Tell Pillow's decoder to scale, the shorter side at least so long, if there is something to be gained."""
    if not _is_ordinary(image) or min(image.size) < 2 * least:
        return False
    scale = min(image.size) / least
    return image.draft(image.mode, (int(image.width / scale), int(image.height / scale))) is not None


def _is_ordinary(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")


@functools.cache
def _operator() -> Callable[[Tensor, int], Tensor] | None:
    """The operator below torchvision.io.decode_jpeg, which warns at every call that it will go.

    Its library is loaded without torchvision itself, whose import takes as long as torch's. Threads that ask at once
    load it once: the second loading finds the first.
    """
    torchvision = importlib.util.find_spec("torchvision")
    for folder in (torchvision and torchvision.submodule_search_locations) or []:
        for library in Path(folder).glob("image*.so"):
            with contextlib.suppress(OSError):  # made for another torch
                torch.ops.load_library(library)
    return getattr(torch.ops.image, "decode_jpeg", None)
