"""The model folder: the whole network as safetensors, what it is as JSON, a card. Nothing in it can run code.

model.safetensors   frozen.* and trainable.*, float32; cascade.* of the small network; novelty.points, float16
model.json          architecture, classes in order, preprocessing, digests, training config, metrics
README.md           the model card
"""

import copy
import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from tlearn import storage
from tlearn.config import HeadConfig, PreprocessConfig
from tlearn.errors import StorageError
from tlearn.network import card
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import CASCADE, CASCADE_POINTS, POINTS, Description, Draft, to_json, verified
from tlearn.network.frozen import Extractor, Frozen
from tlearn.network.layers import channels
from tlearn.network.trainable import Head, Trainable


@dataclass(frozen=True, slots=True)
class Classifier:
    """A network that runs."""

    preprocess: PreprocessConfig
    extract: Extractor = field(repr=False)
    head: Head = field(repr=False)
    temperature: float = 1.0

    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 3, size, size) uint8 -> logits (batch, num_logits) and pooled features (batch, channels), float32.

        By way of float16 features, as in training; whether it held them, `require_finite` of the pooled ones tells.
        The logits are divided by the temperature.
        """
        with torch.inference_mode():
            features = self.extract(images).float()
            return self.head(features) / self.temperature, features.mean((2, 3))


@dataclass(frozen=True, slots=True)
class Network:
    """A network as the model folder has it."""

    convolutions: Frozen = field(repr=False)
    """All of them, those that were trained too."""
    head: Head = field(repr=False)
    temperature: float
    points: Tensor | None = field(repr=False)
    """(num_points, channels) float16: features of training images, of unit length."""

    def prepare(self, device: str = "cpu") -> Classifier:
        """Make it run."""
        extract = self.convolutions.prepare(device)
        return Classifier(self.convolutions.preprocess, extract, copy.deepcopy(self.head).to(device), self.temperature)


@dataclass(frozen=True, slots=True)
class Model:
    """A model as its folder has it."""

    description: Description
    large: Network
    small: Network | None
    """Which may answer first, where there is a cascade."""


def save(
    folder: Path,
    frozen_tensors: dict[str, Tensor],
    trainable: Trainable,
    draft: Draft,
    beside: Mapping[str, Tensor] = MappingProxyType({}),
) -> str:
    """Write the folder beside its place and move it there in one step; returns the model's digest.

    `beside` are the tensors of novelty and cascade, as `description.tensor_shapes` of the draft has them.
    """
    tensors = {f"frozen.{name}": tensor.float() for name, tensor in frozen_tensors.items()}
    tensors |= {f"trainable.{name}": tensor.float().cpu() for name, tensor in trainable.state_dict().items()}
    data = save_safetensors({name: tensor.contiguous() for name, tensor in (tensors | dict(beside)).items()})
    content = to_json(draft, hashlib.sha256(data).hexdigest())
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:12]}.tmp"
    replaced = temporary.with_suffix(".old")
    try:
        storage.write_bytes(str(temporary / "model.safetensors"), data)
        storage.write_bytes(str(temporary / "model.json"), (json.dumps(content, indent=2) + "\n").encode())
        storage.write_bytes(str(temporary / "README.md"), card.text(content).encode())
        if folder.exists():
            folder.replace(replaced)
        temporary.replace(folder)
        storage.sync_folder(folder.parent)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"could not write {folder}: {error.strerror}; free some space") from error
    finally:
        if replaced.exists() and not folder.exists():
            replaced.replace(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return str(content["digest"])


def load(location: str, arithmetic: Arithmetic | None = None) -> Model:
    """Read, verify and build a model, on the CPU. Raises as `describe` does.

    In `arithmetic`, else in that of training; the small network in its own, where that is int8.
    """
    description, data = verified(location)
    tensors = load_safetensors(data)
    blocks = _part(tensors, "frozen.") | _part(tensors, "trainable.layers.")
    width, num_logits = channels(description.arch)[-1], description.classes.num_logits
    arithmetic = arithmetic or description.arithmetic

    def convolutions(preprocess: PreprocessConfig, arithmetic: Arithmetic) -> Frozen:
        return Frozen(5, preprocess, arithmetic, description.arch, blocks)

    head = Head(description.head, width, description.preprocess.image_size // 32, num_logits)
    head.load_state_dict(_part(tensors, "trainable.head."))
    head.eval().requires_grad_(False)
    layers = convolutions(description.preprocess, arithmetic)
    large = Network(layers, head, description.temperature, tensors.get(POINTS))
    cascade = description.cascade
    if cascade is None:
        return Model(description, large, None)
    small_head = Head(HeadConfig(kind="linear"), width, 1, num_logits)
    small_head.last.load_state_dict(_part(tensors, f"{CASCADE}last."))
    layers = convolutions(cascade.preprocess, cascade.arithmetic if arithmetic.ranges else arithmetic)
    small = Network(layers, small_head.eval().requires_grad_(False), 1.0, tensors[CASCADE_POINTS])
    return Model(description, large, small)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
