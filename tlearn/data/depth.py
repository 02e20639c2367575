"""Samples of more than 8 bits to 8.

What a file says of its range holds: MaxSampleValue or SMaxSampleValue of a TIFF, sBIT of a PNG, the maximum of a PGM.
Else the values tell it. Integers have the least of 8, 10, 12, 14 and so on bits that holds the largest; with negative
ones they are counted from the smallest, and the number of bits may be odd. Fractions go from 0 to 1, with negative ones
from -1 to 1; larger ones as far as 8, 10, 12, 14 or 16 bits, and else from the smallest (at most 0) to the largest.
"""

import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

Samples = np.ndarray[Any, np.dtype[Any]]
Shown = np.ndarray[Any, np.dtype[np.uint8]]

_PHOTOMETRIC, _MAX_SAMPLE, _FORMAT, _SMAX_SAMPLE = 262, 281, 339, 341
"""Tags of a TIFF."""
_OVERSHOOT = 0.1
"""Share of the largest by which fractions may go beyond their range: enlarged pictures do."""
# To Pillow the lower byte of a sample is the higher one in the other order.
_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B"}


def to_8_bits(values: Samples, declared: float = 0) -> Shown:
    """Scale samples of any type and shape; `declared` is the largest one that the file speaks of, 0 if of none."""
    if values.dtype.kind == "f":
        if not np.isfinite(values).any():
            raise ValueError("no sample is a number")
        return _of_fractions(np.where(np.isfinite(values), values, 0).astype(np.float32), declared)
    lowest = min(int(values.min()), 0)
    if lowest:
        values, declared = values.astype(np.int64) - lowest, max(declared - lowest, 0)
    peak = int(values.max())
    num_bits = range(8, 33, 1 if lowest else 2)
    top = declared if declared >= peak else next((2**bits - 1 for bits in num_bits if peak < 2**bits), peak)
    if top == 2 ** int(top).bit_length() - 1 >= 255:
        return np.asarray(values >> (int(top).bit_length() - 8), np.uint8)
    return _scaled(values.astype(np.float32), 0, top)


def _of_fractions(values: np.ndarray[Any, np.dtype[np.float32]], declared: float) -> Shown:
    lowest, peak = float(values.min()), float(values.max())
    if lowest < -_OVERSHOOT * peak or peak < 0:
        return _scaled(values, -1, 1) if lowest >= -1 and peak <= 1 else _scaled(values, lowest, max(peak, 0))
    if declared >= peak:
        return _scaled(values, 0, declared)
    tops = [1.0, *(2.0**bits - 1 for bits in range(8, 17, 2))]
    return _scaled(values, 0, next((top for top in tops if peak <= (1 + _OVERSHOOT) * top), peak))


def _scaled(values: np.ndarray[Any, np.dtype[np.float32]], low: float, top: float) -> Shown:
    scaled = (np.clip(values, low, top) - low) * (255 / ((top - low) or 1)) + 0.5
    return np.asarray(scaled, np.uint8)


def declared(tags: Mapping[int, Any]) -> float:
    """The largest sample that a TIFF speaks of, 0 if of none."""
    return max(float(np.nan_to_num(np.max(tags.get(tag, 0)), posinf=0)) for tag in (_MAX_SAMPLE, _SMAX_SAMPLE))


def grey(image: Image.Image, data: bytes) -> Shown:
    """(height, width) of a loaded picture of Pillow's modes I, F or I;16."""
    values, tags = np.array(image), _tags(image)
    if values.dtype == np.int32 and tags.get(_FORMAT, (1,))[0] == 1:
        values = values.view(np.uint32)
    shown = to_8_bits(values, _declared(image, data))
    # Pillow inverts white-is-zero TIFFs up to 8 bits only.
    if tags.get(_PHOTOMETRIC) == 0:
        shown = 255 - shown
    if "transparency" in image.info:
        shown[values == image.info["transparency"]] = 255
    return shown


def is_halved(image: Image.Image) -> bool:
    """Whether Pillow will leave out the lower byte of each colour of a picture that is not loaded yet."""
    tiles = image.tile if isinstance(image, ImageFile) and image.mode in ("RGB", "RGBA") else []
    return any(_raw_mode(tile)[1] in _OTHER_BYTE for tile in tiles)


def colours(image: Image.Image, data: bytes) -> Image.Image:
    """A loaded picture, halved by Pillow: as it is, or brighter where that has left it no more than 14 bits."""
    high = np.array(image)
    if high[..., :3].max(initial=0) >= 64:
        return image
    with Image.open(io.BytesIO(data), formats=[image.format or ""]) as other:
        other.tile = [_of_lower_byte(tile) for tile in other.tile]
        values = high.astype(np.uint16) << 8 | np.array(other)
    high[..., :3] = to_8_bits(values[..., :3], _declared(image, data))
    return Image.fromarray(high)


def _raw_mode(tile: Any) -> tuple[str, str]:
    """What a tile holds: the colours, and how their samples are stored."""
    colours, _, samples = str(tile.args[0] if isinstance(tile.args, tuple) else tile.args).partition(";")
    return colours, samples


def _of_lower_byte(tile: Any) -> Any:
    colours, samples = _raw_mode(tile)
    mode = f"{colours};{_OTHER_BYTE[samples]}"
    return tile._replace(args=(mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode)


def _declared(image: Image.Image, data: bytes) -> float:
    if image.format == "PPM":  # Pillow has scaled it
        return 65535
    bits = re.search(rb"sBIT(.)", data[: data.find(b"IDAT")], re.DOTALL) if image.format == "PNG" else None
    return float(2 ** bits[1][0] - 1) if bits else declared(_tags(image))


def _tags(image: Image.Image) -> Mapping[int, Any]:
    return image.tag_v2 if isinstance(image, TiffImageFile) else {}
