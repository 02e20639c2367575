"""Thumbnails are as large as their share allows, whatever is in the picture."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tlearn.data.thumbnails import encoded, thumbnail

NOISE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 240, 240)).astype(np.uint8))
PLAIN = torch.full((3, 240, 240), 200, dtype=torch.uint8)


def side(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "WEBP" and image.width == image.height
        return image.width


@pytest.mark.parametrize("max_bytes", [100, 500, 3000, 10**6])
@pytest.mark.parametrize("pixels", [NOISE, PLAIN, NOISE[:, :20, :20]])
def test_no_thumbnail_takes_more_than_its_share(pixels: torch.Tensor, max_bytes: int) -> None:
    data = thumbnail(pixels, max_bytes)
    assert data is None or (len(data) <= max_bytes and side(data) <= min(128, pixels.shape[1]))
    assert data is not None or (pixels is not PLAIN and max_bytes < 3000)


def test_more_room_makes_it_larger_and_colours_stay() -> None:
    sides = [side(thumbnail(PLAIN, room) or b"") for room in (100, 1000, 10_000)]
    assert sides == sorted(set(sides))
    red = torch.zeros(3, 64, 64, dtype=torch.uint8)
    red[0] = 255
    with Image.open(io.BytesIO(encoded(red, 32))) as image:
        assert image.getpixel((16, 16))[0] > 240 and max(image.getpixel((16, 16))[1:]) < 20  # type: ignore[index]
