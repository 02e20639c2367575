"""Encoded bytes to uint8 pixels to network input; training and scoring share every step.

Pillow reads every header and decodes every kind; ordinary JPEG goes through `jpeg`, which is faster.
"""

import functools
import io
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
from tlearn.data import jpeg

# Only names what could not be read; what can be read is for Pillow to find out.
_KINDS = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG", "PNG"),
    (rb"GIF8", "GIF"),
    (rb"BM", "BMP"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"....ftyp(he|mif1|msf1)", "HEIC"),
    (rb"....ftyp", "video"),
    (rb"%PDF", "PDF"),
    (rb"(\xef\xbb\xbf)?\s*<(!doctype )?html", "HTML"),
    (rb"(\xef\xbb\xbf)?\s*<.*\bsvg\b", "SVG"),
    (rb"[^\0-\x08\x0e-\x1f]+\Z", "text"),
)
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
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):
                # The tags, because Pillow has turned the size already.
                width, height = image.tag_v2[256], image.tag_v2[257]
            if width * height > max_pixels:
                message = f"expected {max_pixels} pixels or less, got {width} x {height}: raise max_pixels"
                raise ImageError(message, status="too_large", width=width, height=height)
            pixels = None if least and jpeg.scale_down(image, least) else jpeg.decode(image, data)
            if pixels is None:
                pixels = _decode_with_pillow(image, data)
            return Picture(_upright(pixels, image), width, height)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(_reason(data, error), width=width, height=height) from error


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
    """Decode and resize to (3, image_size, image_size) uint8, with the stored width and height in pixels."""
    if len(data) > config.max_bytes:
        message = f"expected {config.max_bytes} bytes or less, got {len(data)}: raise max_bytes"
        raise ImageError(message, status="too_large")
    needed = config.short_side if config.resize == "crop" else config.image_size
    picture = decode(data, max_pixels=config.max_pixels, least=2 * needed if config.jpeg_scaling else None)
    return resize(picture.pixels, config), picture.width, picture.height


def _decode_with_pillow(image: Image.Image, data: bytes) -> Tensor:
    """(3, height, width) uint8, upright only if TIFF."""
    if image.format == "PNG":
        # Decoding does not look at the checksums.
        Image.open(io.BytesIO(data), formats=("PNG",)).verify()
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_grey(image))
    elif image.has_transparency_data:
        overlay = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(overlay, mask=overlay)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _grey(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Scale more than 8 bits to 8, where Pillow clips: (height, width)."""
    values = np.array(image)
    if image.mode.startswith("I;16"):
        # Pillow inverts white-is-zero TIFFs up to 8 bits only.
        if isinstance(image, TiffImageFile) and image.tag_v2.get(262) == 0:
            values = 65535 - values
        if "transparency" in image.info:
            values[values == image.info["transparency"]] = 65535
        return np.asarray(values >> 8, np.uint8)
    values = np.where(np.isfinite(values), values, 0).astype(np.float32)
    peak = float(values.max())
    # The range is not in the file. Floats from 0 to 1 may overshoot a little.
    top = next(top for top in (255.0, 65535.0, peak) if peak <= top)
    if image.mode == "F" and peak < 2:
        top = 1.0
    return np.asarray(np.clip(values, 0, top) * (255 / top) + 0.5).astype(np.uint8)


def _upright(pixels: Tensor, image: Image.Image) -> Tensor:
    """Turn (3, height, width) as the EXIF orientation says."""
    try:
        # Asked after decoding: PNG may have EXIF behind the pixels; TIFF is turned by now, its tag removed.
        orientation = int(image.getexif().get(0x0112, 1))
    except Exception:
        # Damaged EXIF is no reason to lose the picture.
        orientation = 1
    if orientation not in _FLIPS:
        return pixels
    return (pixels.transpose(1, 2) if orientation >= 5 else pixels).flip(_FLIPS[orientation])


def _reason(data: bytes, error: Exception) -> str:
    """One line that says why `data` gave no picture."""
    kind = next((kind for magic, kind in _KINDS if re.match(magic, data[:512], re.DOTALL | re.I)), "")
    # Without object addresses and line breaks.
    said = re.sub(r"<[^>]*>|[^ -~]+", " ", str(error))
    if not data:
        reason = "the file is empty"
    elif kind.upper() not in _formats():
        reason = f"expected {', '.join(_formats())}, got {kind or 'unknown bytes'}: convert or remove it"
    elif isinstance(error, MemoryError):
        reason = f"{kind} that does not fit into memory"
    elif "truncated" in said.lower():
        reason = f"truncated {kind}"
    elif isinstance(error, UnidentifiedImageError):
        reason = f"damaged or truncated {kind}"
    else:
        reason = f"damaged {kind} ({said})"
    return textwrap.shorten(f"not an image that can be read: {reason}", 200, placeholder=" ...")


def _formats() -> tuple[str, ...]:
    """The kinds that are read, by Pillow's names."""
    with _setting_up:  # or several decoding threads load the plugins at once
        return _set_up_pillow()


@functools.cache
def _set_up_pillow() -> tuple[str, ...]:
    # Pillow's own limit on pixels; max_pixels is checked before anything is allocated.
    Image.MAX_IMAGE_PIXELS = None
    Image.init()
    # AVIF is not in every Pillow; MPO is opened as JPEG.
    return ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *["AVIF"] * ("AVIF" in Image.OPEN))


def _silence_pillow() -> None:
    """Ignore for good what Pillow says about odd files; catch_warnings would change the other threads."""
    # Asked each time because a catch_warnings elsewhere may have put older filters back.
    if warnings.filters[:1] != [_PILLOW_WARNINGS]:
        warnings.filterwarnings("ignore", module=r"PIL\.")
