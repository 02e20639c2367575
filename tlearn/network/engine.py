"""Convolutions on a processor by OpenVINO: the same layers as torch's, 1.4 times as fast, in int8 2.5 times.

In int8 each convolution multiplies 8-bit weights (a scale for each output channel, from the weights themselves) by
8-bit inputs (one scale a layer). The inputs' scales are the largest values that some real images bring about:
`calibrate` finds them. The graph says so with FakeQuantize operations, and OpenVINO computes accordingly.
"""

import copy
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tlearn.config import PreprocessConfig
from tlearn.network.arithmetic import Arithmetic, native_precision
from tlearn.network.vgg import IMAGENET_MEAN, normalize

# OpenVINO tells its makers of every import, from a process that it forks, unless it finds no package to do it with.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def load(
    layers: nn.Sequential, preprocess: PreprocessConfig, arithmetic: Arithmetic, num_threads: int
) -> Callable[[Tensor], Tensor]:
    """A function from images (batch, 3, size, size) uint8 to what `layers` make of them, float16."""
    compiled = _compile(*_graph(fused(layers), preprocess, arithmetic), arithmetic, num_threads)
    return lambda images: torch.from_numpy(compiled(images.numpy()))


def fused(layers: nn.Sequential) -> nn.Sequential:
    """The same layers under the same names, each batch norm folded into the convolution before it, in float32."""
    result: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in layers.eval().named_children():
        if isinstance(layer, nn.BatchNorm2d):
            before, convolution = result.popitem()
            assert isinstance(convolution, nn.Conv2d)
            result[before] = fuse_conv_bn_eval(convolution, layer)
        else:
            result[name] = layer
    return nn.Sequential(result).eval()


def load_product(size: int, arithmetic: Arithmetic, num_threads: int) -> Callable[[np.ndarray[Any, Any]], Any]:
    """A function that multiplies (size, size) float32 by a constant matrix, in the same way as `load` convolves."""
    from openvino import opset13 as op

    left = op.parameter([size, size], np.float32)
    right: Any = op.constant(np.random.default_rng(0).uniform(-1, 1, (size, size)).astype(np.float32))
    factors = (left, right)
    if arithmetic.ranges:
        factors = (_quantized(left, 0.0, 1.0, 256), _quantized(right, -1.0, 1.0, 255))
    return _compile([op.matmul(*factors, False, False)], [left], arithmetic, num_threads)


def _compile(
    outputs: list[Any], inputs: list[Any], arithmetic: Arithmetic, num_threads: int
) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    import openvino

    hint = "bf16" if arithmetic.precision != "fp32" and native_precision() == "bf16" else "f32"
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": num_threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # several actors would be pinned to the same core
    }
    model = openvino.Model(outputs, inputs, "convolutions")
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    # A copy, because the next call writes to the same place.
    return lambda values: np.array(request.infer({0: values})[0])


def _constant(value: Any) -> Any:
    from openvino import opset13 as op

    return op.constant(np.asarray(value, np.float32))


def _quantized(x: Any, low: Any, high: Any, levels: int) -> Any:
    from openvino import opset13 as op

    bounds = (_constant(low), _constant(high))
    return op.fake_quantize(x, *bounds, *bounds, levels)


def _graph(layers: nn.Sequential, preprocess: PreprocessConfig, arithmetic: Arithmetic) -> tuple[list[Any], list[Any]]:
    """Outputs and inputs."""
    from openvino import opset13 as op

    size = preprocess.image_size
    images = op.parameter([-1, 3, size, size], np.uint8, name="images")
    x = op.convert(images, np.float32)
    if preprocess.normalization == "imagenet":
        x = op.subtract(x, _constant(np.reshape(IMAGENET_MEAN, (1, 3, 1, 1))))
    ranges = list(arithmetic.ranges)
    num_convolutions = 0
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            weight, bias = layer.weight.detach().numpy(), layer.bias
            assert bias is not None and layer.padding == (1, 1)
            if not num_convolutions and preprocess.normalization == "rescaled_bgr":
                weight = np.ascontiguousarray(weight[:, ::-1]) / np.float32(255)
            kernel: Any = _constant(weight)
            # The first one sees pixels, costs next to nothing and stays exact.
            if 0 < num_convolutions <= len(ranges):
                x = _quantized(x, 0.0, ranges[num_convolutions - 1], 256)
                peak = np.abs(weight).max((1, 2, 3), keepdims=True)
                kernel = _quantized(kernel, -peak, peak, 255)
            x = op.convolution(x, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
            x = op.add(x, _constant(bias.detach().numpy().reshape(1, -1, 1, 1)))
            num_convolutions += 1
        elif isinstance(layer, nn.ReLU):
            x = op.relu(x)
        else:
            assert isinstance(layer, nn.MaxPool2d)
            x = op.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
    return [op.convert(x, np.float16)], [images]


@torch.inference_mode()
def calibrate(layers: nn.Sequential, preprocess: PreprocessConfig, batches: Iterable[Tensor]) -> tuple[float, ...]:
    """The largest value that enters each convolution after the first, over batches of (batch, 3, size, size) uint8."""
    dtype = torch.bfloat16 if native_precision() == "bf16" else torch.float32
    layers = copy.deepcopy(fused(layers)).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    peaks: list[float] = []
    for images in batches:
        x = normalize(images, preprocess, dtype).contiguous(memory_format=torch.channels_last)
        seen = []
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                seen.append(x.max().item())
            x = layer(x)
        peaks = [max(pair) for pair in zip(peaks, seen[1:], strict=True)] if peaks else seen[1:]
    return tuple(peak or 1.0 for peak in peaks)
