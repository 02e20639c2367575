"""What is learned from: features with labels, and what an epoch sees of each picture."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from tlearn.config import PreprocessConfig
from tlearn.training.streams import Stream, generator

_LEAST_AREA = 0.5
_LONGEST_ASPECT = 4 / 3
_COLOUR = 0.2


@dataclass(frozen=True, slots=True)
class Samples:
    """Features with labels. `gather` takes row numbers, (n,) int64, and gives (n, channels, height, width)."""

    gather: Callable[[Tensor], Tensor]
    labels: Tensor  # (N,) int64
    weights: Tensor | None = None  # (N,) float32: of each sample in the loss; ones where there are none
    augment: Callable[[Tensor, Tensor, int], Tensor] | None = None
    """From what was gathered, row numbers and epoch to what this epoch sees of it; on the CPU, ahead of the step."""
    frozen: Callable[[Tensor], Tensor] | None = None
    """Frozen layers that every step has to run, because what it sees is new."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor, epoch: int | None = None) -> Tensor:
        gathered = self.gather(rows)
        return gathered if self.augment is None or epoch is None else self.augment(gathered, rows, epoch)


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """(N,) float32: of each sample, so that every class has the same sum and the mean is 1."""
    counts = torch.bincount(labels, minlength=num_classes)
    return (len(labels) / (num_classes * counts.clamp(min=1)))[labels].float()


class Augment:
    """Crops of at least half the area and an aspect ratio from 3:4 to 4:3, half of them mirrored, colours varied.

    What is drawn for a picture depends on seed, epoch and row only, so one worker and several see the same.
    """

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

        draws = torch.rand(8, generator=generator(self.seed, Stream.AUGMENT, epoch, row))
        area, aspect, top, left, side, *colour = draws.tolist()
        full = picture.shape[1]
        aspect = _LONGEST_ASPECT ** (2 * aspect - 1)
        scale = math.sqrt(_LEAST_AREA + (1 - _LEAST_AREA) * area)
        height, width = (min(round(full * scale * root), full) for root in (aspect**-0.5, aspect**0.5))
        corner = (round((full - height) * top), round((full - width) * left))
        view: Tensor = functional.resized_crop(picture, *corner, height, width, [self.size, self.size], antialias=True)
        if side < 0.5:
            view = view.flip(2)
        adjust = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
        for function, strength in zip(adjust, colour, strict=True):
            view = function(view, 1 + _COLOUR * (2 * strength - 1))
        return view
