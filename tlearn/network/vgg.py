"""A VGG in torch: its convolutions, and what the first of them is fed.

Pretrained tensors expect RGB pixels less IMAGENET_MEAN.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlearn.config import Arch, HeadConfig, PreprocessConfig
from tlearn.network.layers import channels, operations

# torchvision's VGG16_Weights.IMAGENET1K_FEATURES, times 255.
IMAGENET_MEAN = (0.48235 * 255, 0.45882 * 255, 0.40784 * 255)


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
    # A GPU may still be at work; torch.tensor(..., device=) would wait for it.
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1).to(batch.device, non_blocking=True)
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
