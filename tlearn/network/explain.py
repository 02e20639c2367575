"""What a network looks at: where it finds what speaks for a class, and what the channels of its blocks respond to."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from tlearn.config import Arch, PreprocessConfig
from tlearn.network.arithmetic import native_precision
from tlearn.network.engine import fused
from tlearn.network.layers import operations
from tlearn.network.trainable import Head
from tlearn.network.vgg import normalize


def attention(head: Head, maps: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al., 2017): where each picture has what speaks for a class, (batch, height, width) uint8.

    Of the last feature maps (batch, channels, height, width) and a class of each picture (batch,). Each channel counts
    by the mean gradient of the class's logit. No convolution is needed: what the head sees is these maps. 255 is the
    strongest place of each picture; all is 0 where nothing speaks for the class.
    """
    with torch.enable_grad():
        maps = maps.detach().float().clone().requires_grad_()  # of what an engine gave, no gradient can be taken
        logits = head.eval()(maps)
        if logits.shape[1] == 1:  # the second class's; what speaks against it speaks for the first
            logits = torch.cat([-logits, logits], 1)
        chosen = logits.gather(1, classes[:, None])
        (gradient,) = torch.autograd.grad(chosen.sum(), maps)
    strengths = (gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1).relu()
    peaks = strengths.amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (strengths / peaks * 255).round().to(torch.uint8)


Responses = Callable[[Tensor], list[Tensor]]
"""From images (batch, 3, size, size) uint8 to the output of each of the five blocks (batch, channels, side, side)."""


def responses(layers: nn.Sequential, preprocess: PreprocessConfig) -> Responses:
    """What the blocks of a network's convolutions give, in torch, in bf16 where the processor has it."""
    dtype = torch.bfloat16 if native_precision() == "bf16" else torch.float32
    layers = copy.deepcopy(fused(layers)).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def run(images: Tensor) -> list[Tensor]:
        x, found = normalize(images, preprocess, dtype).contiguous(memory_format=torch.channels_last), []
        for name, layer in layers.named_children():
            x = layer(x)
            if name.endswith("pool"):
                found.append(x)
        return found

    return run


@dataclass(frozen=True, slots=True)
class Field:
    """Which pixels a position in the output of a block depends on: its receptive field, a square."""

    size: int
    """Pixels of a side."""
    step: int
    """Pixels from one position to the next."""
    start: float
    """Centre of the first position's square, in pixels from that of the first pixel."""

    @classmethod
    def of(cls, arch: Arch, block: int) -> Self:
        """Of a block, from 1."""
        size, step, start = 1, 1, 0.0
        for operation in operations(arch):
            if operation.block > block:
                break
            if operation.kind == "conv":  # 3 x 3, its border padded: the centre stays
                size += 2 * step
            elif operation.kind == "pool":  # 2 x 2
                size, start, step = size + step, start + step / 2, 2 * step
        return cls(size, step, start)

    def square(self, row: int, column: int, image_size: int) -> tuple[int, int, int]:
        """Top, left and side in pixels of the square of a position, moved into the image where it exceeds it."""
        side = min(self.size, image_size)
        corners = (round(self.start + self.step * place - (self.size - 1) / 2) for place in (row, column))
        top, left = (min(max(corner, 0), image_size - side) for corner in corners)
        return top, left, side
