"""Small pictures for a page: WebP, whose header takes 30 bytes where that of JPEG takes 600."""

import io
import math

from PIL import Image
from torch import Tensor

_MAX_SIDE = 128
_MIN_SIDE = 16
_BYTES_PER_PIXEL = 0.15
"""Of a photograph at the first quality, about."""
_QUALITIES = (70, 40, 10)


def encoded(pixels: Tensor, side: int, quality: int = _QUALITIES[0]) -> bytes:
    """(3, size, size) uint8 as WebP of so many pixels a side."""
    image, data = Image.fromarray(pixels.permute(1, 2, 0).numpy()), io.BytesIO()
    image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0).save(
        data, "WEBP", quality=quality, method=1
    )
    return data.getvalue()


def thumbnail(pixels: Tensor, max_bytes: int) -> bytes | None:
    """(3, size, size) uint8 as large as `max_bytes` allow, but at most 128 pixels a side; None if they are too few."""
    side = min(max(round(math.sqrt(max_bytes / _BYTES_PER_PIXEL)), _MIN_SIDE), _MAX_SIDE, pixels.shape[1])
    while side >= _MIN_SIDE:
        for quality in _QUALITIES:  # noise takes more bytes than a photograph
            data = encoded(pixels, side, quality)
            if len(data) <= max_bytes:
                return data
        side //= 2
    return None
