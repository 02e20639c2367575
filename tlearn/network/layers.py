"""What a VGG is: its layers, and the shapes of its tensors; known without loading torch.

Layers are named as in Keras (block1_conv1).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tlearn.config import Arch

_PUBLISHED = (64, 128, 256, 512, 512)
# Of each of the five blocks: its convolutions, and their output channels.
_BLOCKS = {
    "vgg11": ((1, 1, 2, 2, 2), _PUBLISHED),
    "vgg13": ((2, 2, 2, 2, 2), _PUBLISHED),
    "vgg16": ((2, 2, 3, 3, 3), _PUBLISHED),
    "vgg19": ((2, 2, 4, 4, 4), _PUBLISHED),
    # For tests of what is around a network.
    "vgg_tiny": ((1, 1, 1, 1, 1), (4, 8, 8, 16, 16)),
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One layer of a VGG before its head."""

    name: str
    kind: Literal["conv", "bn", "relu", "pool"]
    block: int
    """From 1."""
    channels_in: int
    channels: int


def channels(arch: Arch = "vgg16") -> tuple[int, ...]:
    """Output channels of each of the five blocks."""
    return _BLOCKS[arch.removesuffix("_bn")][1]


def operations(arch: Arch = "vgg16") -> Iterator[Operation]:
    """Every layer of the five blocks, in order; its position is its name in torchvision's `features`."""
    channels_in = 3
    counts, widths = _BLOCKS[arch.removesuffix("_bn")]
    for block, (count, channels) in enumerate(zip(counts, widths, strict=True), 1):
        for number in range(1, count + 1):
            yield Operation(f"block{block}_conv{number}", "conv", block, channels_in, channels)
            if arch.endswith("_bn"):
                yield Operation(f"block{block}_bn{number}", "bn", block, channels, channels)
            yield Operation(f"block{block}_relu{number}", "relu", block, channels, channels)
            channels_in = channels
        yield Operation(f"block{block}_pool", "pool", block, channels, channels)


def shapes(arch: Arch = "vgg16") -> dict[str, tuple[int, ...]]:
    """Shape of every tensor: kernels (out_channels, in_channels, 3, 3), all others (out_channels,)."""
    result: dict[str, tuple[int, ...]] = {}
    for operation in operations(arch):
        if operation.kind == "conv":
            result[f"{operation.name}.weight"] = (operation.channels, operation.channels_in, 3, 3)
            result[f"{operation.name}.bias"] = (operation.channels,)
        elif operation.kind == "bn":
            for name in ("weight", "bias", "running_mean", "running_var"):
                result[f"{operation.name}.{name}"] = (operation.channels,)
    return result
