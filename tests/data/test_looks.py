"""Numbers of decoded pixels: what they are of plain pictures, and what they do not depend on."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from tlearn.data import looks


def plain(colour: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 20, 30)


@pytest.mark.parametrize(("colour", "expected"), [((0, 0, 0), 0), ((255, 255, 255), 1), ((255, 0, 0), 0.299)])
def test_one_colour_has_its_grey_and_neither_contrast_nor_edges(colour: tuple[int, int, int], expected: float) -> None:
    pixels = plain(colour)
    assert looks.brightness(pixels) == pytest.approx(expected, abs=1e-6)
    assert looks.contrast(pixels) == pytest.approx(0, abs=1e-6) and looks.sharpness(pixels) == 0


def test_arrays_and_tensors_give_the_same() -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 40, 50), np.uint8)
    for function in (looks.brightness, looks.contrast, looks.sharpness):
        assert function(array) == function(torch.from_numpy(array)) > 0


def test_half_black_and_half_white_has_the_most_contrast() -> None:
    pixels = np.zeros((3, 10, 10), np.uint8)
    pixels[:, :5] = 255
    assert looks.contrast(pixels) == pytest.approx(0.5)


def test_sharpness_falls_with_blur_and_not_with_light() -> None:
    texture = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    picture = Image.fromarray(texture).resize((240, 240), Image.Resampling.NEAREST)

    def sharpness(picture: Image.Image) -> float:
        return looks.sharpness(np.asarray(picture).transpose(2, 0, 1))

    values = [sharpness(picture.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 3, 8)]
    assert values == sorted(values, reverse=True) and values[0] > 1 and values[-1] < 0.25
    dim = picture.point(lambda value: value // 4)
    assert sharpness(dim) == pytest.approx(values[0], rel=0.05)
