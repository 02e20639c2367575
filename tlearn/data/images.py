"""Encoded bytes to uint8 pixels to network input; training and scoring share every step.

Pillow reads every header and decodes every kind but JPEG, of which `jpeg` sees the damage. TIFF that it does not know
is read by `tiff`; more than 8 bits become 8 by the rule of `depth`.
"""

import functools
import io
import logging
import re
import textwrap
import threading
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor
from torch.nn.functional import interpolate

from tlearn.config import PreprocessConfig
from tlearn.data import depth, jpeg, kinds, tiff
from tlearn.data.tiff import Tiff

_PILLOW_WARNINGS: Any = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
# EXIF orientation: from 5 on rows and columns change places first, then these axes are reversed.
_FLIPS = {2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}
# A picture longer than so many times its shorter side is trimmed before a centre crop, which sees one square.
_LONGEST = 16

_setting_up = threading.Lock()


class ImageError(ValueError):
    """A file that gives no picture; width and height in pixels where its header could be read."""

    def __init__(
        self,
        message: str,
        *,
        status: Literal["unreadable", "too_large"] = "unreadable",
        width: int | None = None,
        height: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.width = width
        self.height = height


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture."""

    pixels: Tensor
    """(3, height, width) uint8 RGB, upright."""
    width: int
    height: int
    """Both in pixels as stored in the file, before EXIF rotation."""


def decode(data: bytes, *, max_pixels: int, least: int | None = None) -> Picture:
    """Decode the first frame of a file, over white where it is transparent; raise nothing but ImageError.

    With `least`, a large JPEG may come at a half, a quarter or an eighth of its size, its shorter side at least so
    long: libjpeg leaves out the frequencies that this takes.
    """
    _silence_pillow()
    width = height = None
    try:
        image = _opened(data)
        width, height = _stored_size(image)
        if width * height > max_pixels:
            message = f"expected {max_pixels} pixels or less, got {width} x {height}: scale it down"
            raise ImageError(message, status="too_large", width=width, height=height)
        return Picture(_pixels(image, data, least), width, height)
    except ImageError:
        raise
    except Exception as error:
        if "MAX_TEXT" in str(error):
            return decode(_without_texts(data), max_pixels=max_pixels, least=least)
        raise ImageError(_reason(data, error), width=width, height=height) from error


def _opened(data: bytes) -> Image.Image | Tiff:
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError:
        if kinds.of(data).name != "TIFF":
            raise
        return Tiff.open(data)
    # Pillow mistakes 16 bits for 8 where each colour is a plane of its own.
    is_mistaken = (
        isinstance(image, TiffImageFile) and image.tag_v2.get(284) == 2 and max(image.tag_v2.get(258, (1,))) > 8
    )
    return Tiff.open(data) if is_mistaken else image


def _stored_size(image: Image.Image | Tiff) -> tuple[int, int]:
    """Width and height in pixels, not yet upright."""
    # A TIFF's tags, because Pillow has turned the size already.
    return (image.tag_v2[256], image.tag_v2[257]) if isinstance(image, TiffImageFile) else image.size


def _pixels(image: Image.Image | Tiff, data: bytes, least: int | None) -> Tensor:
    """(3, height, width) uint8, upright."""
    if isinstance(image, Tiff):
        return _upright(torch.from_numpy(image.pixels()).permute(2, 0, 1), image.orientation)
    pixels = jpeg.decode(image, data, least)
    if pixels is None:
        pixels = _decode_with_pillow(image, data)
    return _upright(pixels, _orientation(image))


def resize(pixels: Tensor, config: PreprocessConfig) -> Tensor:
    """Resize (3, height, width) uint8 to (3, image_size, image_size) uint8, antialiased bilinear."""
    if config.resize == "squash":
        pixels = _scale(pixels, config.image_size, config.image_size)
    else:
        for axis in (1, 2):
            # An even number of pixels goes, half on each side, so that the centre stays where it is.
            spare = max(0, pixels.shape[axis] - _LONGEST * min(pixels.shape[1:])) // 2
            pixels = pixels.narrow(axis, spare, pixels.shape[axis] - 2 * spare)
        height, width = pixels.shape[1:]
        shorter = min(height, width)
        pixels = _scale(pixels, config.short_side * height // shorter, config.short_side * width // shorter)
        for axis in (1, 2):
            start = round((pixels.shape[axis] - config.image_size) / 2)
            pixels = pixels.narrow(axis, start, config.image_size)
    # No view, which would keep the whole resized picture in memory.
    return pixels.contiguous()


def _scale(pixels: Tensor, height: int, width: int) -> Tensor:
    if pixels.shape[1:] == (height, width):
        return pixels
    # A decoded picture is stored with its colours last; in front of them [None] would have torch copy it first.
    batch = pixels.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return interpolate(batch, (height, width), mode="bilinear", antialias=True)[0]


def load(data: bytes, config: PreprocessConfig) -> tuple[Tensor, int, int]:
    """Decode and resize to (3, image_size, image_size) uint8, with the stored width and height in pixels.

    Raises nothing but ImageError.
    """
    picture = decoded(data, config)
    try:
        return resize(picture.pixels, config), picture.width, picture.height
    except Exception as error:  # for want of memory
        raise ImageError(_reason(data, error), width=picture.width, height=picture.height) from error


def decoded(data: bytes, config: PreprocessConfig) -> Picture:
    """Decode, as large as it is needed, what is within the limits; raise nothing but ImageError."""
    if len(data) > config.max_bytes:
        message = f"expected {config.max_bytes} bytes or less, got more: scale it down"
        raise ImageError(message, status="too_large")
    needed = config.short_side if config.resize == "crop" else config.image_size
    return decode(data, max_pixels=config.max_pixels, least=2 * needed if config.jpeg_scaling else None)


def _decode_with_pillow(image: Image.Image, data: bytes) -> Tensor:
    """(3, height, width) uint8, upright only if TIFF."""
    if image.format == "PNG":
        # Decoding does not look at the checksums.
        Image.open(io.BytesIO(data), formats=("PNG",)).verify()
    is_halved = depth.is_halved(image)
    image.load()
    if is_halved:
        image = depth.colours(image, data)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(depth.grey(image, data))
    elif image.has_transparency_data:
        overlay = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(overlay, mask=overlay)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _without_texts(data: bytes) -> bytes:
    """A PNG without texts and colour profile, which may be huge when they are unpacked, and are not looked at."""
    parts, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            parts.append(data[at:end])
        at = end
    return b"".join(parts)


def _orientation(image: Image.Image) -> int:
    """Of a decoded picture: PNG may have EXIF behind the pixels; TIFF is turned by now, its tag removed."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:
        # Damaged EXIF is no reason to lose the picture.
        return 1


def _upright(pixels: Tensor, orientation: int) -> Tensor:
    """Turn (3, height, width) as the EXIF orientation says."""
    if orientation not in _FLIPS:
        return pixels
    return (pixels.transpose(1, 2) if orientation >= 5 else pixels).flip(_FLIPS[orientation])


def _reason(data: bytes, error: Exception) -> str:
    """One line that says why `data` gave no picture."""
    if not data:
        return "not an image that can be read: the file is empty"
    kind = kinds.of(data)
    # Without object addresses and line breaks.
    said = re.sub(r"<[^>]*>|[^ -~]+", " ", str(error))
    if kind.advice or kind.name.upper() not in _formats():
        reason = f"{kind.name} is not supported: {kind.advice or 'convert it'}"
    elif kinds.was_sent_as_text(data):
        reason = f"{kind.name} that was sent as text, every line feed made CR LF: fetch it again"
    elif isinstance(error, MemoryError):
        reason = f"{kind.name} that does not fit into memory"
    elif "truncated" in said.lower():
        reason = f"truncated {kind.name}"
    elif isinstance(error, tiff.Unsupported):
        reason = f"{said} is not supported: convert it to JPEG or PNG"
    elif isinstance(error, UnidentifiedImageError):
        reason = f"damaged or truncated {kind.name}"
    else:
        reason = f"damaged {kind.name} ({said.strip() or type(error).__name__})"
    return textwrap.shorten(f"not an image that can be read: {reason}", 200, placeholder=" ...")


def _formats() -> tuple[str, ...]:
    """The kinds that are read, by Pillow's names."""
    with _setting_up:  # or several decoding threads load the plugins at once
        return _set_up_pillow()


@functools.cache
def _set_up_pillow() -> tuple[str, ...]:
    # Pillow's own limit on pixels; max_pixels is checked before anything is allocated.
    Image.MAX_IMAGE_PIXELS = None
    # Else what it says of odd files is printed, without their names.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    Image.init()
    # AVIF is not in every Pillow; MPO is opened as JPEG.
    return ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", *["AVIF"] * ("AVIF" in Image.OPEN))


def _silence_pillow() -> None:
    """Ignore for good what Pillow says about odd files; catch_warnings would change the other threads."""
    # Asked each time because a catch_warnings elsewhere may have put older filters back.
    if warnings.filters[:1] != [_PILLOW_WARNINGS]:
        warnings.filterwarnings("ignore", module=r"PIL\.")
