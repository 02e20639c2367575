"""TIFF of samples that Pillow does not open: any integers and floats, grey or RGB, stored as they are or deflated."""

import io
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from tlearn.data import depth

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _BANDS, _COUNTS = 256, 257, 258, 259, 262, 273, 277, 279
_ORIENTATION, _PLANAR, _PREDICTOR, _TILES, _FORMAT = 274, 284, 317, 324, 339
_READ = (1, 8, 32946)
"""Compressions: none, and deflate by two numbers."""
_NAMES = {1: "uint", 2: "int", 3: "float"}


class Unsupported(ValueError):
    """A file that may be whole; the message names its kind."""


@dataclass(frozen=True, slots=True)
class Tiff:
    """The first picture of a file."""

    data: bytes
    tags: Mapping[int, Any]

    @classmethod
    def open(cls, data: bytes) -> "Tiff":
        """Raises Unsupported, and whatever Pillow raises for a damaged header."""
        header = data[: 16 if b"+" in data[2:4] else 8]
        tags, file = ImageFileDirectory_v2(header), io.BytesIO(data)
        file.seek(tags.next or 0)
        tags.load(file)
        if not {_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC} <= tags.keys():
            raise ValueError("truncated")
        tiff = cls(data, tags)
        if not tiff._is_supported:
            raise Unsupported(str(tiff))
        return tiff

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int(self.tags[_WIDTH]), int(self.tags[_HEIGHT])

    @property
    def orientation(self) -> int:
        """As in EXIF."""
        return int(self.tags.get(_ORIENTATION, 1))

    def __str__(self) -> str:
        kind = _NAMES.get(self._of_sample(_FORMAT, 1), "sample of ")
        compression = "" if self.tags.get(_COMPRESSION, 1) in _READ else ", compressed otherwise than by deflate"
        return f"TIFF of {self.tags.get(_BANDS, 1)} x {kind}{self._of_sample(_BITS, 1)} a pixel{compression}"

    def _of_sample(self, tag: int, default: int) -> int:
        return int(np.max(self.tags.get(tag, default)))

    @property
    def _is_supported(self) -> bool:
        tags = self.tags
        return (
            tags.get(_BANDS, 1) in (1, 3)
            and tags.get(_PHOTOMETRIC) in (0, 1, 2)
            and self._of_sample(_BITS, 1) in (8, 16, 32, 64)
            and len(set(np.atleast_1d(tags.get(_BITS, 1)))) == 1
            and self._of_sample(_FORMAT, 1) in _NAMES
            and tags.get(_COMPRESSION, 1) in _READ
            and tags.get(_PREDICTOR, 1) == 1
            and _TILES not in tags
        )

    def pixels(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """(height, width, 3). Raises ValueError where samples are missing."""
        (width, height), bands = self.size, self.tags.get(_BANDS, 1)
        order = "<" if self.data[:2] == b"II" else ">"
        kind = np.dtype(f"{order}{_NAMES[self._of_sample(_FORMAT, 1)][0]}{self._of_sample(_BITS, 1) // 8}")
        num_bytes = math.prod([width, height, bands, kind.itemsize])
        stored = self._stored(num_bytes)
        if len(stored) < num_bytes:
            raise ValueError("truncated")
        values = np.frombuffer(stored, kind).astype(kind.newbyteorder("="))
        if self.tags.get(_PLANAR, 1) == 2:
            values = values.reshape(bands, height, width).transpose(1, 2, 0)
        shown = depth.to_8_bits(values.reshape(height, width, bands), depth.declared(self.tags))
        if self.tags.get(_PHOTOMETRIC) == 0:
            shown = 255 - shown
        return shown.repeat(3 // bands, axis=2)

    def _stored(self, num_bytes: int) -> bytearray:
        """The strips one after the other, no more than so many bytes of them, whatever they claim to be."""
        stored = bytearray()
        for offset, count in zip(*(np.atleast_1d(self.tags[tag]).tolist() for tag in (_OFFSETS, _COUNTS)), strict=True):
            missing = num_bytes - len(stored)
            strip = self.data[offset : offset + count]
            if self.tags.get(_COMPRESSION, 1) != 1 and missing:
                strip = zlib.decompressobj().decompress(strip, missing)
            stored += strip[:missing]
        return stored
