"""The trainable layers after the cut, with float32 weights.

features (batch, channels, height, width) -> blocks frozen_blocks+1..5, head -> logits (batch, 1) or (batch, classes)
float16, or uint8 images                                                         float32
"""

import torch
from torch import Generator, Tensor, nn

from tlearn.config import Arch, HeadConfig, PreprocessConfig
from tlearn.network.columns import Columns
from tlearn.network.layers import channels
from tlearn.network.vgg import convolutions, normalize


class SlicedDropout(nn.Module):
    """Dropout whose mask is drawn for the global batch and sliced for this worker.

    One worker and four workers therefore drop the same units, and a resumed run drops what it would have dropped.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def draw(self, generator: Generator, global_batch_size: int, rows: slice, num_units: int) -> Tensor | None:
        """(rows, num_units) bool: the units that stay in one training step; None where all do."""
        if not self.rate:
            return None
        return (torch.rand(global_batch_size, num_units, generator=generator) >= self.rate)[rows]

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """(batch, units); `keep` is what `draw` gave for this training step."""
        if not self.training or not self.rate:
            return x
        assert keep is not None and keep.shape == x.shape, "every training step draws a mask of its own"
        return x * keep.to(x.device) / (1 - self.rate)


class Head(nn.Module):
    """Feature map to logits: pool, unit length, scale, hidden layers, one last layer.

    Weights are Glorot-uniform and biases zero, as Keras initialises a Dense layer.
    """

    def __init__(self, config: HeadConfig, channels: int, side: int, num_logits: int):
        super().__init__()
        self.config = config
        self.channels = channels
        units = channels if config.averages else channels * side * side
        self.register_buffer("scale", torch.ones(()))  # divides what comes in
        self.scale: Tensor
        self.hidden = nn.ModuleList()
        for _ in range(config.num_hidden):
            self.hidden.append(nn.Linear(units, config.width))
            units = config.width
        self.dropout = SlicedDropout(config.dropout if config.num_hidden else 0.0)
        self.last = nn.Linear(units, num_logits)

    def initialize(self, generator: Generator) -> None:
        for layer in (*self.hidden, self.last):
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)

    @property
    def first(self) -> nn.Linear:
        """The first hidden layer, by far the largest of a dense head."""
        layer = self.hidden[0]
        assert isinstance(layer, nn.Linear)
        return layer

    def pool(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same, or (batch, channels, 1, 1) where the average is taken."""
        return x.mean((2, 3), keepdim=True) if self.config.averages and x.shape[2:] != (1, 1) else x

    def inputs(self, x: Tensor) -> Tensor:
        """The same -> (batch, units): what the scale divides."""
        x = self.pool(x).flatten(1)
        return nn.functional.normalize(x) if self.config.averages and self.config.unit_length else x

    def forward(self, x: Tensor, keep: Tensor | None = None, columns: Columns | None = None) -> Tensor:
        """As `Trainable.forward` says."""
        x = self.inputs(x) / self.scale
        for position, layer in enumerate(self.hidden):
            first = position == 0
            x = torch.relu(columns(x) if columns and first and self.training else layer(x))
            if first:
                x = self.dropout(x, keep)
        logits = self.last(x)
        assert isinstance(logits, Tensor)
        return logits


class Trainable(nn.Module):
    """The layers after the cut."""

    def __init__(
        self,
        frozen_blocks: int,
        preprocess: PreprocessConfig,
        head: HeadConfig,
        num_logits: int,
        arch: Arch = "vgg16",
        *,
        convolves_in_bf16: bool = False,
    ):
        super().__init__()
        self.preprocess = preprocess
        self.convolves_in_bf16 = convolves_in_bf16
        self.layers = convolutions(frozen_blocks + 1, 5, arch)
        self.head = Head(head, channels(arch)[-1], preprocess.image_size // 32, num_logits)

    def maps(self, features: Tensor) -> Tensor:
        """The last feature maps, (batch, channels, height, width) float32."""
        x = self.inputs(features)
        if len(self.layers):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.convolves_in_bf16):
                x = self.layers(x.contiguous(memory_format=torch.channels_last)).float()
        return x

    def trunk(self, features: Tensor) -> Tensor:
        """What the head's first dense layer sees, before its scale: the part without parameters when all is frozen."""
        return self.head.pool(self.maps(features))

    def inputs(self, features: Tensor) -> Tensor:
        """What the first trainable layer sees, float32; what is float32 already stays as it is."""
        return normalize(features, self.preprocess) if features.dtype == torch.uint8 else features.float()

    def forward(self, features: Tensor, keep: Tensor | None = None, columns: Columns | None = None) -> Tensor:
        """Features at the cut (or after `trunk`, when all blocks are frozen) -> (batch, logits) float32.

        A training step takes what the dropout drew, and the columns where workers share the head's first layer.
        """
        logits = self.head(self.trunk(features), keep, columns)
        assert isinstance(logits, Tensor)
        return logits
