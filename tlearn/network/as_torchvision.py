"""A model as the state of torchvision's network of the same name, where its head can be one of three linear layers.

torchvision's classifier sees the last feature map averaged to 7 x 7, and has two hidden layers of 4096 units: narrower
ones are filled up with zeros, an average and a layer that lacks are written as linear layers.
"""

import json
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.transforms import v2

from tlearn.config import PreprocessConfig
from tlearn.errors import UsageError
from tlearn.network.description import Description
from tlearn.network.engine import fused
from tlearn.network.export import Made, facts
from tlearn.network.layers import operations
from tlearn.network.model import Classifier, Model
from tlearn.network.trainable import Head
from tlearn.network.vgg import IMAGENET_MEAN, normalize

_SIDE, _WIDTH, _NUM_LAYERS = 7, 4096, 3


def to_torchvision(model: Model) -> Made:
    """safetensors with torchvision's names. Raises UsageError for what its network cannot compute."""
    description = model.description
    _require_expressible(description)
    state = {**_features(model), **_classifier(model.large.head, description)}
    normalization = _normalization(description.preprocess)
    data = save_safetensors(state, facts(description) | {"normalization": json.dumps(normalization)})
    with torch.device("meta"):
        network = get_model(
            description.arch, weights=None, init_weights=False, num_classes=len(state["classifier.6.bias"])
        )
    network.load_state_dict(load_safetensors(data), strict=True, assign=True)
    network.eval().requires_grad_(False)
    seen = v2.Compose(
        [*_resize(description.preprocess), v2.ToDtype(torch.float32, scale=True), v2.Normalize(**normalization)]
    )
    layers = fused(model.large.convolutions.layers)
    # As everywhere but for the rounding of the features to float16, which torchvision's network does not do.
    preprocess = description.preprocess
    original = Classifier(
        preprocess, lambda pixels: layers(normalize(pixels, preprocess)), model.large.head, description.temperature
    )
    return Made(data, lambda images: network(seen(images)).softmax(1), original)


def _require_expressible(description: Description) -> None:
    head, arch = description.head, description.arch
    if arch == "vgg_tiny":
        raise UsageError("expected a network that torchvision has, got vgg_tiny: use --to onnx or --to torch")
    if head.averages and head.unit_length:
        raise UsageError(
            "expected a head of linear layers, got one that divides the average by its length (--head.unit-length), "
            "which torchvision's classifier cannot: use --to onnx or torch, or train with --head.no-unit-length"
        )
    if head.num_hidden >= _NUM_LAYERS or (head.num_hidden and head.width > _WIDTH):
        raise UsageError(
            f"expected at most {_NUM_LAYERS - 1} hidden layers of at most {_WIDTH} units, as torchvision's classifier "
            f"has, got {head.num_hidden} of {head.width}: use --to onnx or --to torch"
        )


def _features(model: Model) -> dict[str, Tensor]:
    names = {operation.name: f"features.{place}" for place, operation in enumerate(operations(model.description.arch))}
    state = {}
    for name, tensor in model.large.convolutions.layers.state_dict().items():
        layer, _, kind = name.rpartition(".")
        state[f"{names[layer]}.{kind}"] = tensor
        if kind == "running_var":
            state[f"{names[layer]}.num_batches_tracked"] = torch.tensor(0)
    if model.description.preprocess.normalization == "rescaled_bgr":
        state["features.0.weight"] = state["features.0.weight"].flip(1)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _classifier(head: Head, description: Description) -> dict[str, Tensor]:
    """classifier.0, .3 and .6, between them a ReLU each; what comes in is at least 0, so it leaves an identity one."""
    layers = [layer for layer in (*head.hidden, head.last) if isinstance(layer, nn.Linear)]
    steps = [(layer.weight.double(), layer.bias.double()) for layer in layers]
    units = head.last.in_features
    while len(steps) < _NUM_LAYERS:
        steps.insert(-1, (torch.eye(units).double(), torch.zeros(units).double()))
    (first, first_bias), middle, (last, last_bias) = steps
    if description.classes.num_logits == 1:  # softmax of 0 and the one logit
        last, last_bias = F.pad(last, (0, 0, 1, 0)), F.pad(last_bias, (1, 0))
    first = _on_torchvisions_grid(first / head.scale, head, description.preprocess.image_size // 32)
    steps = [(first, first_bias), middle, (last / description.temperature, last_bias / description.temperature)]
    state, units = {}, first.shape[1]
    for place, width, (weight, bias) in zip((0, 3, 6), (_WIDTH, _WIDTH, len(last)), steps, strict=True):
        state[f"classifier.{place}.weight"] = F.pad(
            weight.float(), (0, units - weight.shape[1], 0, width - len(weight))
        )
        state[f"classifier.{place}.bias"] = F.pad(bias.float(), (0, width - len(bias)))
        units = width
    return state


def _on_torchvisions_grid(weight: Tensor, head: Head, side: int) -> Tensor:
    """(units, inputs of the head) -> (units, channels * 7 * 7): the same of a feature map that is averaged to 7 x 7."""
    grid = weight.view(len(weight), head.channels, *([1, 1] if head.config.averages else [side, side]))
    if head.config.averages:
        grid = grid.expand(-1, -1, side, side) / side**2
    pooled = F.adaptive_avg_pool1d(torch.eye(side).double(), _SIDE)  # (side, 7)
    back: Tensor = torch.linalg.pinv(pooled)
    found = back @ grid @ back.T
    if not torch.allclose(pooled @ found @ pooled.T, grid):
        raise UsageError(
            f"expected a last feature map of at most {_SIDE} x {_SIDE}, which is what torchvision's classifier sees, "
            f"got {side} x {side}: use --to onnx or --to torch, or train with --preprocess.image-size 224"
        )
    return found.view(len(weight), -1)


def _resize(preprocess: PreprocessConfig) -> list[nn.Module]:
    if preprocess.resize == "squash":
        return [v2.Resize((preprocess.image_size, preprocess.image_size))]
    return [v2.Resize(preprocess.short_side), v2.CenterCrop(preprocess.image_size)]


def _normalization(preprocess: PreprocessConfig) -> dict[str, Any]:
    """mean and std for torchvision's preprocessing of pixels from 0 to 1: those for which a border of zeros is ours."""
    if preprocess.normalization == "rescaled_bgr":
        return {"mean": [0.0] * 3, "std": [1.0] * 3}
    return {"mean": [value / 255 for value in IMAGENET_MEAN], "std": [1 / 255] * 3}
