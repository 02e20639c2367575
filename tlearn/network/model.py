"""The model folder: the whole network as safetensors, what it is as JSON, a card. Nothing in it can run code.

model.safetensors   frozen.* and trainable.*, float32
model.json          architecture, classes in order, preprocessing, digests, training config, metrics
README.md           the model card
"""

import copy
import hashlib
import json
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from tlearn import storage
from tlearn.errors import StorageError
from tlearn.network import card
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Description, Draft, to_json, verified
from tlearn.network.frozen import Extractor, Frozen
from tlearn.network.layers import channels
from tlearn.network.trainable import Head, Trainable


@dataclass(frozen=True, slots=True)
class Classifier:
    """A model that runs."""

    description: Description
    extract: Extractor = field(repr=False)
    head: Head = field(repr=False)

    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 3, size, size) uint8 -> logits (batch, num_logits) and pooled features (batch, channels), float32.

        By way of float16 features, as in training; whether it held them, `require_finite` of the pooled ones tells.
        The logits are divided by the temperature.
        """
        with torch.inference_mode():
            features = self.extract(images).float()
            return self.head(features) / self.description.temperature, features.mean((2, 3))


@dataclass(frozen=True, slots=True)
class Model:
    """A model as its folder has it."""

    description: Description
    convolutions: Frozen = field(repr=False)
    """All of them, those that were trained too."""
    head: Head = field(repr=False)

    def prepare(self, device: str = "cpu", compile_for: int | None = None) -> Classifier:
        """Make it run; the arguments are those of `Frozen.prepare`."""
        extract = self.convolutions.prepare(device, compile_for)
        return Classifier(self.description, extract, copy.deepcopy(self.head).to(device))


def save(folder: Path, frozen_tensors: dict[str, Tensor], trainable: Trainable, draft: Draft) -> str:
    """Write the folder beside its place and move it there in one step; returns the model's digest."""
    tensors = {f"frozen.{name}": tensor for name, tensor in frozen_tensors.items()}
    tensors |= {f"trainable.{name}": tensor.cpu() for name, tensor in trainable.state_dict().items()}
    data = save_safetensors({name: tensor.float().contiguous() for name, tensor in tensors.items()})
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
    """Read, verify and build a model, on the CPU. Raises as `describe` does."""
    description, data = verified(location)
    tensors = load_safetensors(data)
    preprocess = description.preprocess
    blocks = _part(tensors, "frozen.") | _part(tensors, "trainable.layers.")
    convolutions = Frozen(5, preprocess, arithmetic or description.arithmetic, description.arch, blocks)
    width, side = channels(description.arch)[-1], preprocess.image_size // 32
    head = Head(description.head, width, side, description.classes.num_logits)
    head.load_state_dict(_part(tensors, "trainable.head."))
    return Model(description, convolutions, head.eval().requires_grad_(False))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
