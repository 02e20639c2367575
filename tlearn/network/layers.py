"""A VGG, cut in two: the frozen layers that run once an image, and the trainable layers after the cut.

    images  (batch, 3, size, size) uint8
    -> Frozen     normalise, blocks 1..frozen_blocks          -> features (batch, channels, height, width) float16
    -> Trainable  blocks frozen_blocks+1..5, head             -> logits (batch, 1) or (batch, classes) float32

With frozen_blocks=0 the features are the images themselves.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from tlearn.config import Arch, HeadConfig, PreprocessConfig
from tlearn.errors import InputError
from tlearn.network import engine
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.columns import Columns
from tlearn.network.vgg import channels, convolutions, normalize
from tlearn.network.weights import tensors_digest

FP32 = Arithmetic()
BATCH_SIZES = {"cpu": 8, "cuda": 64}
"""Images that go through the frozen layers together; on processors more of them only leave its caches."""
COMPILED_FROM = 1_000_000
"""Images of one GPU from which torch.compile should pay: it takes about a minute, and spares the GPU perhaps 60
microseconds an image by writing each map once and not three times. An estimate, not measured."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def pays_to_compile(device: str, num_images: int) -> bool:
    return device == "cuda" and num_images >= COMPILED_FROM


class Frozen(nn.Module):
    """The pretrained layers before the cut; never trained, run without gradient in one arithmetic."""

    def __init__(
        self,
        frozen_blocks: int,
        preprocess: PreprocessConfig,
        arithmetic: Arithmetic = FP32,
        arch: Arch = "vgg16",
    ):
        super().__init__()
        self.preprocess = preprocess
        self.arithmetic = arithmetic
        self.layers = convolutions(1, frozen_blocks, arch)
        self._finite: Tensor | None = None
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._by_batch_size: dict[int, Callable[[Tensor], Tensor]] = {}

    def digest(self) -> str:
        """Names what the features depend on beside the image: weights, engine and precision. Ask before `prepare`."""
        return f"{tensors_digest(self.layers.state_dict())}-{self.arithmetic.name}"

    def prepare(
        self,
        device: torch.device | str = "cpu",
        compile_for: int | None = None,
        backend: str | Callable[..., Any] = "inductor",
    ) -> "Frozen":
        """Move to device, precision and memory format, or compile for torch's number of threads; returns itself.

        On torch, batches of `compile_for` images then go through torch.compile; shorter ones, which would be compiled
        each for itself, do not.
        """
        self.requires_grad_(False).eval()  # before it is compiled, because that holds for one mode only
        if self.arithmetic.engine == "torch":
            dtype = _DTYPES[self.arithmetic.precision]
            self.layers = engine.fused(self.layers)
            self.layers.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            if compile_for is not None and len(self.layers):
                size = (compile_for, 3, *[self.preprocess.image_size] * 2)
                self._try_to_compile(torch.zeros(size, dtype=torch.uint8, device=device), backend)
        elif len(self.layers):
            self._compiled = engine.load(self.layers, self.preprocess, self.arithmetic, torch.get_num_threads())
        return self

    @torch.inference_mode()
    def _try_to_compile(self, images: Tensor, backend: str | Callable[..., Any]) -> None:
        """Compile by one batch of blank images; without a compiler that works here all stays as it was."""
        # The method, because a module would become a part of this one and of its digest.
        self._by_batch_size[len(images)] = torch.compile(self.layers.forward, dynamic=False, backend=backend)
        try:
            self(images).cpu()
        except Exception as error:
            self._by_batch_size.clear()
            warnings.warn(f"torch.compile does not work here, which costs some speed: {error}", stacklevel=2)
        self._finite = None

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, size, size) uint8 -> (batch, channels, height, width) float16.

        Where nothing is frozen the images come back as they are. A feature that float16 cannot hold is noted, not
        waited for; ask `require_finite` before the features are used.
        """
        if not len(self.layers):
            return images
        if self._compiled is not None:
            features = self._compiled(images)
        else:
            x = normalize(images, self.preprocess, _DTYPES[self.arithmetic.precision])
            layers = self._by_batch_size.get(len(x), self.layers)
            features = layers(x.contiguous(memory_format=torch.channels_last)).to(torch.float16).contiguous()
        finite = torch.isfinite(features).all()
        self._finite = finite if self._finite is None else self._finite & finite
        return features

    def require_finite(self) -> None:
        """Raise ValueError if float16 could not hold a feature since the last call."""
        finite, self._finite = self._finite, None
        if finite is not None and not finite.item():
            raise InputError("expected features below 65,504, got an overflow of float16: check the weights")


class SlicedDropout(nn.Module):
    """Dropout whose mask is drawn for the global batch and sliced for this worker.

    One worker and four workers therefore drop the same units, and a resumed run drops what it would have dropped.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.keep: Tensor | None = None  # (batch, units) bool

    def draw(self, generator: Generator, global_batch_size: int, rows: slice, num_units: int) -> None:
        if not self.rate:
            return
        self.keep = (torch.rand(global_batch_size, num_units, generator=generator) >= self.rate)[rows]

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        assert self.keep is not None and self.keep.shape == x.shape, "draw() comes before every training step"
        return x * self.keep.to(x.device) / (1 - self.rate)


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
        self.columns: Columns | None = None
        """Where the first layer's units are shared out among workers."""

    def initialize(self, generator: Generator) -> None:
        for layer in (*self.hidden, self.last):
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)

    def pool(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same, or (batch, channels, 1, 1) where the average is taken."""
        return x.mean((2, 3), keepdim=True) if self.config.averages and x.shape[2:] != (1, 1) else x

    def inputs(self, x: Tensor) -> Tensor:
        """The same -> (batch, units): what the scale divides."""
        x = self.pool(x).flatten(1)
        return nn.functional.normalize(x) if self.config.averages and self.config.unit_length else x

    def forward(self, x: Tensor) -> Tensor:
        x = self.inputs(x) / self.scale
        for position, layer in enumerate(self.hidden):
            shared = self.columns if self.training and position == 0 else None
            x = torch.relu(shared(x) if shared else layer(x))
            if position == 0:
                x = self.dropout(x)
        logits = self.last(x)
        assert isinstance(logits, Tensor)
        return logits


class Trainable(nn.Module):
    """The layers after the cut, with float32 weights."""

    def __init__(
        self,
        frozen_blocks: int,
        preprocess: PreprocessConfig,
        head: HeadConfig,
        num_logits: int,
        arch: Arch = "vgg16",
    ):
        super().__init__()
        self.preprocess = preprocess
        self.convolves_in_bf16 = False
        self.layers = convolutions(frozen_blocks + 1, 5, arch)
        self.head = Head(head, channels(arch)[-1], preprocess.image_size // 32, num_logits)

    def trunk(self, features: Tensor) -> Tensor:
        """What the head's first dense layer sees, before its scale: the part without parameters when all is frozen."""
        x = self.inputs(features)
        if len(self.layers):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.convolves_in_bf16):
                x = self.layers(x.contiguous(memory_format=torch.channels_last)).float()
        return self.head.pool(x)

    def inputs(self, features: Tensor) -> Tensor:
        """What the first trainable layer sees, float32; what is float32 already stays as it is."""
        return normalize(features, self.preprocess) if features.dtype == torch.uint8 else features.float()

    def forward(self, features: Tensor) -> Tensor:
        """Features at the cut (or after `trunk`, when all blocks are frozen) -> (batch, logits) float32."""
        logits = self.head(self.trunk(features))
        assert isinstance(logits, Tensor)
        return logits


def to_device(pixels: Sequence[Tensor], device: str) -> Tensor:
    """(batch, 3, size, size) uint8; on its way to a GPU while the processor goes on."""
    batch = torch.stack(list(pixels))
    return batch.pin_memory().to(device, non_blocking=True) if device == "cuda" else batch


def load_pretrained(part: Frozen | Trainable, tensors: Mapping[str, Tensor]) -> None:
    """Fill the convolutions of this part, strictly; the head is fresh and stays as it is."""
    part.layers.load_state_dict({name: tensors[name] for name in part.layers.state_dict()})
