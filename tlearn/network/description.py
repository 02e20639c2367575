"""What model.json says, and whether the model folder is whole; known without loading torch."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import Arch, HeadConfig, PreprocessConfig
from tlearn.errors import InputError, IntegrityError
from tlearn.network.arithmetic import Arithmetic

_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """What training knows of a model, without which its weights are numbers."""

    classes: Classes
    frozen_blocks: int
    preprocess: PreprocessConfig
    head: HeadConfig
    arithmetic: Arithmetic
    """Of the frozen layers, when the features were computed that the rest was trained on."""
    training: dict[str, Any]
    """The config of the run, and what it was trained on."""
    metrics: dict[str, float]
    reference: dict[str, Any]
    """Histograms of the validation set, for drift; empty where there was nothing to compute them from."""
    arch: Arch = "vgg16"
    temperature: float = 1.0
    """By which logits are divided, so that probabilities are calibrated on the validation set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description(Draft):
    """What model.json says."""

    weights_sha256: str
    digest: str
    """Names the model: SHA-256 over all the above, 16 hex digits."""


def to_json(draft: Draft, weights_sha256: str) -> dict[str, Any]:
    """model.json of a model with these weights."""
    values = dataclasses.asdict(draft)

    def part(*names: str) -> dict[str, Any]:
        return {name: values[name] for name in names}

    content = {
        "format": _FORMAT,
        "architecture": draft.arch,
        "classes": list(draft.classes.names),
        **part("frozen_blocks", "preprocess", "head", "arithmetic"),
        "weights_sha256": weights_sha256,
        **part("training", "metrics", "reference", "temperature"),
    }
    return {**content, "digest": _content_digest(content)}


def arithmetic_of(values: dict[str, Any]) -> Arithmetic:
    """What dataclasses.asdict and JSON made of one."""
    return Arithmetic(values["engine"], values["precision"], tuple(values["ranges"]))


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
        arithmetic=arithmetic_of(values["arithmetic"]),
        weights_sha256=values["weights_sha256"],
        training=values["training"],
        metrics=values["metrics"],
        reference=values["reference"],
        arch=values["architecture"],
        temperature=values.get("temperature", 1.0),
        digest=stated,
    )


def verified(location: str) -> tuple[Description, bytes]:
    """The description and the bytes of model.safetensors, checked. Raises as `describe` does."""
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
    return verified(location)[0]


def _read(location: str, name: str) -> bytes:
    try:
        return storage.read(storage.join(location, name)).data
    except OSError:
        raise InputError(
            f"expected a model folder with {name} at {location}, found none: give --model RUN/model of a finished run"
        ) from None
