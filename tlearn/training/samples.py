"""What an epoch sees of each picture: another crop, side and colour, by lot.

The lot of a picture depends on seed, epoch and row only, so that one worker and several see the same.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from tlearn.config import PreprocessConfig
from tlearn.training.loop import generator

_LEAST_AREA = 0.5
_LONGEST_ASPECT = 4 / 3
_COLOUR = 0.2


class Augment:
    """Crops of at least half the area and an aspect ratio from 3:4 to 4:3, half of them mirrored, colours varied."""

    def __init__(self, preprocess: PreprocessConfig, seed: int, num_threads: int):
        self.size, self.seed = preprocess.image_size, seed
        self.threads = ThreadPoolExecutor(num_threads)

    def __call__(self, pixels: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """(n, 3, side, side) uint8 and their row numbers -> (n, 3, image_size, image_size) uint8."""
        if not len(pixels):
            return pixels
        return torch.stack(list(self.threads.map(self._view, pixels, rows.tolist(), [epoch] * len(pixels))))

    def _view(self, picture: Tensor, row: int, epoch: int) -> Tensor:
        from torchvision.transforms.v2 import functional

        area, aspect, top, left, side, *colour = torch.rand(8, generator=generator(self.seed, 5, epoch, row)).tolist()
        full = picture.shape[1]
        aspect = _LONGEST_ASPECT ** (2 * aspect - 1)
        scale = math.sqrt(_LEAST_AREA + (1 - _LEAST_AREA) * area)
        height, width = (min(round(full * scale * root), full) for root in (aspect**-0.5, aspect**0.5))
        corner = (round((full - height) * top), round((full - width) * left))
        view: Tensor = functional.resized_crop(picture, *corner, height, width, [self.size, self.size], antialias=True)
        if side < 0.5:
            view = view.flip(2)
        adjust = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
        for function, lot in zip(adjust, colour, strict=True):
            view = function(view, 1 + _COLOUR * (2 * lot - 1))
        return view
