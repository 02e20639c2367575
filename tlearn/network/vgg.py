"""What a VGG is: its layers, the shapes of its tensors, what its first convolution is fed.

Layers are named as in Keras (block1_conv1). Pretrained tensors expect RGB pixels less IMAGENET_MEAN.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlearn.config import Arch, HeadConfig, PreprocessConfig

# torchvision's VGG16_Weights.IMAGENET1K_FEATURES, times 255.
IMAGENET_MEAN = (0.48235 * 255, 0.45882 * 255, 0.40784 * 255)

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


class FixedNorm(nn.BatchNorm2d):
    """Batch norm on its pretrained statistics, while training too; only weight and bias are trained.

    The statistics of a batch would depend on how many workers share it: one and several would make other updates.
    """

    def __init__(self, channels: int):
        super().__init__(channels, track_running_stats=False)
        self.running_mean, self.running_var = torch.zeros(channels), torch.ones(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def convolutions(first_block: int, last_block: int, arch: Arch = "vgg16") -> nn.Sequential:
    """Blocks first..last (from 1, both included) with Keras's layer names; empty where last < first."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for operation in operations(arch):
        if not first_block <= operation.block <= last_block:
            continue
        if operation.kind == "conv":
            layers[operation.name] = nn.Conv2d(operation.channels_in, operation.channels, 3, padding=1)
        elif operation.kind == "bn":
            layers[operation.name] = FixedNorm(operation.channels)
        elif operation.kind == "relu":
            layers[operation.name] = nn.ReLU(inplace=True)
        else:
            layers[operation.name] = nn.MaxPool2d(2)
    return nn.Sequential(layers)


def load_pretrained(layers: nn.Sequential, tensors: Mapping[str, Tensor]) -> None:
    """Fill these layers from the tensors of all blocks; none of theirs may be missing."""
    layers.load_state_dict({name: tensors[name] for name in layers.state_dict()})


def feature_shape(frozen_blocks: int, image_size: int, arch: Arch = "vgg16") -> tuple[int, int, int]:
    """(channels, height, width) at the cut."""
    side = image_size // 2**frozen_blocks
    return (channels(arch)[frozen_blocks - 1] if frozen_blocks else 3, side, side)


def normalize(batch: Tensor, config: PreprocessConfig, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn (batch, 3, height, width) uint8 into what the first convolution expects, memory format kept."""
    assert batch.dtype == torch.uint8, f"normalize once, after resize; got {batch.dtype}"
    if config.normalization == "rescaled_bgr":
        # The notebook feeds RGB to filters that expect BGR; ours are in RGB order, so the input is reversed.
        return batch.flip(1).to(torch.float32).div_(255).to(dtype)
    mean = torch.tensor(IMAGENET_MEAN, device=batch.device).view(3, 1, 1)
    # Subtracted in float32: pixels near the mean would lose their last bits in bfloat16.
    return batch.to(torch.float32).sub_(mean).to(dtype)


@dataclass(frozen=True, slots=True)
class Layer:
    """One line of the table that Keras's model.summary() prints."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    num_parameters: int
    trained: bool


def summary(
    frozen_blocks: int, preprocess: PreprocessConfig, head: HeadConfig, num_logits: int, arch: Arch = "vgg16"
) -> Iterator[Layer]:
    """Every layer in order with its output shape (height, width, channels) or (units,)."""
    size = preprocess.image_size
    yield Layer("input", "InputLayer", (size, size, 3), 0, False)
    for operation in operations(arch):
        trained, outputs = operation.block > frozen_blocks, operation.channels
        if operation.kind == "conv":
            num_parameters = operation.channels_in * outputs * 9 + outputs
            yield Layer(operation.name, "Conv2D", (size, size, outputs), num_parameters, trained)
        elif operation.kind == "bn":
            yield Layer(operation.name, "BatchNormalization", (size, size, outputs), 2 * outputs, trained)
        elif operation.kind == "pool":
            size //= 2
            yield Layer(operation.name, "MaxPooling2D", (size, size, outputs), 0, trained)
    units = channels(arch)[-1] * (1 if head.averages else size * size)
    name, kind = ("average", "GlobalAveragePooling2D") if head.averages else ("flatten", "Flatten")
    yield Layer(name, kind, (units,), 0, True)
    for number in range(1, head.num_hidden + 1):
        yield Layer(f"dense_{number}", "Dense", (head.width,), units * head.width + head.width, True)
        units = head.width
        if number == 1 and head.dropout:
            yield Layer("dropout", "Dropout", (units,), 0, True)
    yield Layer(f"dense_{head.num_hidden + 1}", "Dense", (num_logits,), units * num_logits + num_logits, True)
