"""The model folder: the whole network as safetensors, what it is as JSON, a card. Nothing in it can run code.

model.safetensors   frozen.* and trainable.*, float32
model.json          architecture, classes in order, preprocessing, digests, training config, metrics
README.md           the model card
"""

import dataclasses
import hashlib
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from tlearn import network, storage
from tlearn.classes import Classes
from tlearn.config import HeadConfig, PreprocessConfig
from tlearn.errors import IntegrityError, StorageError
from tlearn.network import Frozen, Precision, Trainable

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Description:
    """What model.json says, without which the weights are numbers."""

    classes: Classes
    frozen_blocks: int
    preprocess: PreprocessConfig
    head: HeadConfig
    precision: Precision
    """Of the frozen layers, when the features were computed that the rest was trained on."""
    weights_sha256: str
    training: dict[str, Any]
    """The config of the run, and what it was trained on."""
    metrics: dict[str, float]
    digest: str = ""
    """Names the model: SHA-256 over all the above, 16 hex digits."""


@dataclass(frozen=True, slots=True)
class Model:
    description: Description
    frozen: Frozen
    trainable: Trainable

    def logits(self, images: Tensor) -> Tensor:
        """(batch, 3, size, size) uint8 -> (batch, num_logits) float32, by way of float16 features as in training."""
        with torch.inference_mode():
            logits = self.trainable(self.frozen(images))
        assert isinstance(logits, Tensor)
        return logits


def save(folder: Path, frozen_tensors: dict[str, Tensor], trainable: Trainable, description: Description) -> str:
    """Write the folder beside its place and move it there in one step; returns the model's digest."""
    tensors = {f"frozen.{name}": tensor for name, tensor in frozen_tensors.items()}
    tensors |= {f"trainable.{name}": tensor.cpu() for name, tensor in trainable.state_dict().items()}
    data = save_safetensors({name: tensor.float().contiguous() for name, tensor in tensors.items()})
    description = dataclasses.replace(description, weights_sha256=hashlib.sha256(data).hexdigest())
    content = _to_json(description)
    content["digest"] = _content_digest(content)
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:12]}.tmp"
    replaced = temporary.with_suffix(".old")
    try:
        storage.write_bytes(str(temporary / "model.safetensors"), data)
        storage.write_bytes(str(temporary / "model.json"), (json.dumps(content, indent=2) + "\n").encode())
        storage.write_bytes(str(temporary / "README.md"), _card(content).encode())
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


def _to_json(description: Description) -> dict[str, Any]:
    content = dataclasses.asdict(description)
    content["classes"] = list(description.classes.names)
    del content["digest"]
    return {"format": _FORMAT, "architecture": "vgg16", **content}


def _content_digest(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def describe(location: str) -> Description:
    """Read and verify model.json. Raises ValueError where there is none, IntegrityError where it is damaged."""
    content = _read(location, "model.json")
    try:
        values = json.loads(content)
        stated, actual = values["digest"], _content_digest(values)
        file_format = values["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"expected a model.json of tlearn in {location}, could not read it: {error}") from None
    if stated != actual:
        raise IntegrityError(
            f"expected digest {stated} of {location}/model.json, got {actual}: it was changed or damaged"
        )
    if file_format != _FORMAT:
        raise IntegrityError(f"expected model format {_FORMAT} in {location}, got {file_format}: train it again")
    return Description(
        classes=Classes(tuple(values["classes"])),
        frozen_blocks=values["frozen_blocks"],
        preprocess=PreprocessConfig(**values["preprocess"]),
        head=HeadConfig(**values["head"]),
        precision=values["precision"],
        weights_sha256=values["weights_sha256"],
        training=values["training"],
        metrics=values["metrics"],
        digest=stated,
    )


def _verified(location: str) -> tuple[Description, bytes]:
    description = describe(location)
    data = _read(location, "model.safetensors")
    actual = hashlib.sha256(data).hexdigest()
    if actual != description.weights_sha256:
        raise IntegrityError(
            f"expected sha256 {description.weights_sha256[:16]} of {location}/model.safetensors, got {actual[:16]}: "
            "it was changed or damaged"
        )
    return description, data


def verify(location: str) -> Description:
    """Check every file of a model without building it. Raises as `describe` does."""
    return _verified(location)[0]


def load(location: str, precision: Precision | None = None) -> Model:
    """Read, verify and build a model, on the CPU. Raises as `describe` does."""
    description, data = _verified(location)
    tensors = load_safetensors(data)
    frozen, trainable = network.build(
        description.frozen_blocks,
        description.preprocess,
        description.head,
        description.classes.num_logits,
        precision=precision or description.precision,
    )
    frozen.layers.load_state_dict(_part(tensors, "frozen."))
    trainable.load_state_dict(_part(tensors, "trainable."))
    return Model(description, frozen, trainable.eval().requires_grad_(False))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _read(location: str, name: str) -> bytes:
    try:
        return storage.read(storage.absolute(location), name).data
    except OSError:
        raise ValueError(
            f"expected a model folder with {name} at {location}, found none: give --model RUN/model of a finished run"
        ) from None


def _card(content: dict[str, Any]) -> str:
    metrics, training, seen = content["metrics"], content["training"], content["preprocess"]
    classes = ", ".join(content["classes"])
    frozen = content["frozen_blocks"]
    return f"""# VGG16 fine-tuned to tell {classes}

ImageNet-pretrained VGG16; {frozen} of its 5 convolution blocks are as they were pretrained, the rest was trained by
tlearn, recipe `{training["recipe"]}`, on {training["num_train"]:,} images.

| | |
|---|---|
| validation accuracy | {metrics["val_accuracy"]:.4f} of {training["num_val"]:,} images |
| validation log-loss | {metrics["val_loss"]:.4f} |
| input | {seen["image_size"]}x{seen["image_size"]} pixels, resized by `{seen["resize"]}` |
| digest | `{content["digest"]}` |

It knows these classes and no other: a picture of anything else is given one of them all the same, with a probability
that says little. The figures hold for pictures like those it was validated on.

    tlearn score --model THIS_FOLDER --input IMAGES --output scores.parquet
"""
