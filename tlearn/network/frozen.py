"""The frozen layers before the cut: pretrained, never trained, run once an image and without gradient.

    images (batch, 3, size, size) uint8 -> normalise, blocks 1..frozen_blocks -> features
    (batch, channels, height, width) float16

With frozen_blocks=0 the features are the images themselves.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from tlearn.config import Arch, PreprocessConfig
from tlearn.errors import InputError
from tlearn.network import engine
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.vgg import convolutions, load_pretrained, normalize
from tlearn.network.weights import tensors_digest

FP32 = Arithmetic()
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Extractor = Callable[[Tensor], Tensor]
"""From images (batch, 3, size, size) uint8 to features (batch, channels, height, width) float16."""
Layers = Callable[[Tensor], Tensor]


class Frozen:
    """The layers before the cut with their float32 weights, and the arithmetic that they are to run in."""

    def __init__(
        self,
        frozen_blocks: int,
        preprocess: PreprocessConfig,
        arithmetic: Arithmetic = FP32,
        arch: Arch = "vgg16",
        tensors: Mapping[str, Tensor] | None = None,
    ):
        """`tensors` are pretrained ones of all blocks; without them the weights are torch's random ones."""
        self.preprocess, self.arithmetic = preprocess, arithmetic
        self.layers = convolutions(1, frozen_blocks, arch).requires_grad_(False).eval()
        if tensors is not None:
            load_pretrained(self.layers, tensors)

    def digest(self) -> str:
        """Names what the features depend on beside the image: weights, engine and precision."""
        return f"{tensors_digest(self.layers.state_dict())}-{self.arithmetic.name}"

    def prepare(self, device: str = "cpu") -> Extractor:
        """Make a function of the layers, in their arithmetic; openvino's is compiled for torch's number of threads.

        Where nothing is frozen the images come back as they are.
        """
        if not len(self.layers):
            return lambda images: images
        if self.arithmetic.engine == "openvino":
            return engine.load(self.layers, self.preprocess, self.arithmetic, torch.get_num_threads())
        return self._on_torch(device)

    def _on_torch(self, device: str) -> Extractor:
        dtype = _DTYPES[self.arithmetic.precision]
        layers = copy.deepcopy(engine.fused(self.layers))
        layers.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

        @torch.inference_mode()
        def run(layers: Layers, images: Tensor) -> Tensor:
            x = normalize(images, self.preprocess, dtype).contiguous(memory_format=torch.channels_last)
            return layers(x).to(torch.float16).contiguous()

        if device == "cpu":
            return lambda images: run(layers, images)
        blank = torch.zeros(1, 3, *[self.preprocess.image_size] * 2, dtype=torch.uint8, device=device)
        chosen = by_cudnn(layers)
        try:
            run(chosen, blank).cpu()
        except RuntimeError as error:  # AMD's GPUs, and those that cuDNN has no such convolution for
            warnings.warn(f"cuDNN adds no bias and no ReLU here, which costs some speed: {error}", stacklevel=3)
            chosen = layers
        return lambda images: run(chosen, images)


def by_cudnn(layers: nn.Sequential) -> Layers:
    """The same layers with bias and ReLU added within the convolution, where torch alone makes two more passes over
    each map: 1.6 times as fast on an H100, and as fast as with torch.compile, which needs a minute and a C compiler."""

    def run(x: Tensor) -> Tensor:
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                x = torch.cudnn_convolution_relu(x, layer.weight, layer.bias, (1, 1), (1, 1), (1, 1), 1)
            elif isinstance(layer, nn.MaxPool2d):
                x = layer(x)
        return x

    return run


def require_finite(batches: Iterable[Tensor]) -> None:
    """Raise InputError if float16 could not hold one of these features, or an average of them; waits for a GPU once."""
    finite = [torch.isfinite(features).all() for features in batches if features.is_floating_point()]
    if finite and not torch.stack(finite).all().item():
        raise InputError("expected features below 65,504, got an overflow of float16: check the weights")
