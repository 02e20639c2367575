"""A model as other programs load it: pictures of any size in, probabilities out, in float32.

    images (batch, 3, height, width) uint8 RGB -> resize, normalise, convolutions, head, temperature
    -> probabilities (batch, classes) float32

Decoding is left out: what is fed are upright pixels. The resize is two products with matrices that are computed from
the height and the width, because no two runtimes agree on the operator for it.
"""

import dataclasses
import importlib.util
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tlearn.config import PreprocessConfig
from tlearn.errors import UsageError
from tlearn.network.description import Description
from tlearn.network.engine import fused
from tlearn.network.model import Classifier, Model
from tlearn.network.vgg import normalize

_AXES = {0: "batch", 2: "height", 3: "width"}
"""Those of the input that may vary."""
_INPUT, _OUTPUT = "images", "probabilities"
_LONGEST = 16
"""As the trim of tlearn/data/images.py."""


@dataclass(frozen=True, slots=True)
class Made:
    """A file, and what it says of pictures."""

    data: bytes
    run: Callable[[Tensor], Tensor]
    """(batch, 3, height, width) uint8 -> probabilities (batch, classes), by the bytes of the file."""
    original: Classifier
    """What it must agree with, in float32."""


class Program(nn.Module):
    """All of a model but the decoding."""

    def __init__(self, model: Model):
        super().__init__()
        self.preprocess = model.description.preprocess
        self.temperature = model.description.temperature
        self.layers, self.head = fused(model.large.convolutions.layers), model.large.head

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) uint8 -> probabilities (batch, classes)."""
        features = self.layers(normalize(resized(images, self.preprocess), self.preprocess))
        # By way of float16, as the head was trained.
        logits = self.head(features.half().float()) / self.temperature
        return each_class(logits).softmax(1)


def each_class(logits: Tensor) -> Tensor:
    """(batch, num_logits) -> (batch, classes): the one logit of two classes is that of the second."""
    return logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], 1)


def resized(images: Tensor, config: PreprocessConfig) -> Tensor:
    """What `tlearn.data.images.resize` makes of each of (batch, 3, height, width) uint8, whose size varies."""
    rows, columns = (_weights(images, axis, config) for axis in (2, 3))
    # Between the two passes torch rounds to whole numbers, too.
    x = (images.float() @ columns.T + 0.5).floor()
    return (rows @ x + 0.5).floor().to(torch.uint8)


def _weights(images: Tensor, axis: int, config: PreprocessConfig) -> Tensor:
    """(image_size, pixels of the axis): of each pixel that the network sees, the weights of those it is a mean of.

    Antialiased bilinear: a triangle around each, in whole numbers up to its division. Then 16 bits as torch has them,
    of a scale that the largest weight of all decides, which is in the first row.
    """
    trimmed, target, start = _kept(images, axis, config)
    length = images.shape[axis] - 2 * trimmed
    pixels = torch.arange(images.shape[axis]) - trimmed
    rows = torch.cat([torch.zeros(1, dtype=torch.int64), torch.arange(config.image_size) + start])[:, None]
    distances = ((2 * pixels + 1) * target - (2 * rows + 1) * length).abs() / (2 * torch.sym_max(length, target))
    weights = (1 - distances).relu() * ((pixels >= 0) & (pixels < length))
    weights = weights / weights.sum(1, keepdim=True)
    scale = torch.exp2(torch.ceil(torch.log2((2**15 - 0.5) / weights.max())) - 1)
    rounded: Tensor = (weights[1:] * scale + 0.5).floor()
    return rounded / scale


def _kept(images: Tensor, axis: int, config: PreprocessConfig) -> tuple[Any, Any, Any]:
    """How many pixels of an axis go at each end first, to how many the rest is resized, which of these is the first."""
    if config.resize == "squash":
        return 0, config.image_size, 0
    shorter = torch.sym_min(images.shape[2], images.shape[3])
    trimmed = torch.sym_max(0, images.shape[axis] - _LONGEST * shorter) // 2
    target = config.short_side * (images.shape[axis] - 2 * trimmed) // shorter
    over = target - config.image_size
    return trimmed, target, (over + over // 2 % 2) // 2  # round(over / 2), to the even one, in whole numbers


def require(*packages: str) -> None:
    """Raise UsageError for a package of the extra that is not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"expected package {missing[0]} to export, found none: install tlearn[export]")


def facts(description: Description) -> dict[str, str]:
    """What a file says of itself: JSON where it is more than a word."""
    return {
        "architecture": description.arch,
        "classes": json.dumps(description.classes.names),
        "preprocess": json.dumps(dataclasses.asdict(description.preprocess)),
        "temperature": str(description.temperature),
        "model_digest": description.digest,
    }


def program(model: Model) -> torch.export.ExportedProgram:
    """The network as a graph whose batch, height and width may vary."""
    sizes = {axis: torch.export.Dim(name) for axis, name in _AXES.items()}
    example = torch.zeros(2, 3, 300, 400, dtype=torch.uint8)
    exported = torch.export.export(Program(model).eval(), (example,), dynamic_shapes=(sizes,))
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names files of this machine
    return exported


def to_torch(model: Model) -> Made:
    """A program that torch.export.load reads."""
    file = io.BytesIO()
    extra: dict[str, Any] = {"tlearn.json": json.dumps(facts(model.description))}
    torch.export.save(program(model), file, extra_files=extra)
    # Bytes of our own: what others wrote is not loaded so, it could run code.
    loaded = torch.export.load(io.BytesIO(file.getvalue())).module()
    return Made(file.getvalue(), loaded, model.large.prepare())


def to_onnx(model: Model) -> Made:
    """An ONNX file with its weights inside."""
    require("onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    with warnings.catch_warnings(action="ignore"):
        exported = torch.onnx.export(
            program(model),
            dynamo=True,
            verbose=False,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamic_shapes=(_AXES,),
        )
    assert exported is not None
    proto = exported.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]
    for name, value in facts(model.description).items():
        proto.metadata_props.add(key=name, value=value)
    data = proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (probabilities,) = session.run([_OUTPUT], {_INPUT: images.numpy()})
        return torch.from_numpy(probabilities)

    return Made(data, run, model.large.prepare())
