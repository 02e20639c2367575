"""What model.json says, and whether the model folder is whole; known without loading torch."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import safetensors.numpy

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import Arch, HeadConfig, PreprocessConfig
from tlearn.errors import InputError, IntegrityError, TlearnError
from tlearn.network import layers
from tlearn.network.arithmetic import Arithmetic

_FORMAT = 1
POINTS, CASCADE, CASCADE_POINTS = "novelty.points", "cascade.", "cascade.novelty.points"
"""Of model.safetensors: features of training images in float16, and what the small network has for itself."""
_MAX_SHOWN = 5
"""Classes."""
# What held before there was such a setting. Only a setting that is new since model.json was written may lack there.
_BEFORE = {"preprocess": {"jpeg_scaling": False}, "head": {"unit_length": False}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Novelty:
    """How far pictures are from what was trained on, as one network sees them."""

    num_points: int
    """Training images whose features the model keeps."""
    distances: tuple[float, ...]
    """Of validation images to these, sorted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cascade:
    """The small network before the large one: the same convolutions on smaller pictures, with a linear head."""

    preprocess: PreprocessConfig
    arithmetic: Arithmetic
    """Of the frozen layers, when the features were computed that the head was fitted to."""
    limit: float
    """Margin (the largest calibrated logit less the second; of one logit its size) from which it answers."""
    novelty: Novelty
    max_novelty: float
    """Percentile up to which it answers."""
    reference: dict[str, Any]
    """As that of the model, of what both networks say together and of the small one's features."""
    figures: dict[str, float]
    """What it does to the answers for the validation images."""


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
    novelty: Novelty | None = None
    cascade: Cascade | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.frozen_blocks <= 5 or not self.temperature > 0:
            raise ValueError(f"frozen_blocks is {self.frozen_blocks}, temperature {self.temperature}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Description(Draft):
    """What model.json says."""

    weights_sha256: str
    digest: str
    """Names the model: SHA-256 over all the above, 16 hex digits."""

    def reference_of(self, network: str) -> dict[str, Any]:
        """What the histograms are compared with that were counted by `large`, or by `small` of the cascade."""
        return self.reference if self.cascade is None or network == "large" else self.cascade.reference

    def __repr__(self) -> str:
        names = self.classes.names
        more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
        return f"{self.arch} for {', '.join(map(repr, names[:_MAX_SHOWN]))}{more}, digest {self.digest}"


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
        **part("training", "metrics", "reference", "temperature", "novelty", "cascade"),
    }
    return {**content, "digest": _content_digest(content)}


def arithmetic_of(values: dict[str, Any]) -> Arithmetic:
    """What dataclasses.asdict and JSON made of one."""
    return Arithmetic(values["engine"], values["precision"], tuple(values["ranges"]))


def _content_digest(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def describe(location: str) -> Description:
    """Read and verify model.json. Raises InputError where there is none.

    Raises IntegrityError where it is damaged, or of a version that this one does not know.
    """
    content, where = _read(location, "model.json"), storage.join(location, "model.json")
    try:
        values = json.loads(content)
        stated, actual = values["digest"], _content_digest(values)
        file_format = values["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"expected a model.json of tlearn in {location}, could not read it: {error}") from None
    if stated != actual:
        raise IntegrityError(f"expected digest {stated} of {where}, got {actual}: it was changed or damaged")
    if file_format != _FORMAT:
        raise IntegrityError(f"expected model format {_FORMAT} in {location}, got {file_format}: train it again")
    try:
        return _typed(_current(values), Description, "")  # type: ignore[no-any-return]
    except (TlearnError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"expected {where} as this tlearn or an earlier one writes it, but {error}: "
            "score with the tlearn that wrote it, or train it again"
        ) from None


def _current(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Description. What an earlier version did not write yet has the value that held then."""
    fields: dict[str, Any] = {"temperature": 1.0, "reference": {}, "novelty": None, "cascade": None} | values
    for name, before in _BEFORE.items():
        if isinstance(values[name], dict):
            fields[name] = before | values[name]
    if "pool" in fields["head"]:
        fields["head"]["kind"] = {"average": "pooled", "flatten": "dense"}[fields["head"].pop("pool")]
    if "precision" in fields:
        fields["arithmetic"] = {"engine": "torch", "precision": fields.pop("precision"), "ranges": []}
    del fields["format"]
    return fields | {"classes": {"names": fields["classes"]}, "arch": fields.pop("architecture")}


def _typed(value: Any, kind: Any, name: str) -> Any:
    """What JSON holds as a value of this type. Raises TypeError that names what is missing, more, or of another type.

    Defaults fill nothing in: they are those of this version.
    """
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
        kinds = get_type_hints(kind)
        for odd in sorted(kinds.keys() ^ value.keys()):
            raise TypeError(f"{name}{odd} is {'missing' if odd in kinds else 'unknown'}")
        return kind(**{field: _typed(value[field], kinds[field], f"{name}{field}.") for field in kinds})
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is UnionType:
        (some,) = (argument for argument in arguments if argument is not NoneType)
        return None if value is None else _typed(value, some, name)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(item, arguments[0], name) for item in value)
    if origin is Literal:
        fits = value in arguments
    elif origin is float:
        fits = type(value) in (int, float) and math.isfinite(value)
    else:
        fits = type(value) is origin
    if not fits:
        raise TypeError(f"{name.rstrip('.')} is {str(value)[:40]!r}")
    return value


def verified(location: str) -> tuple[Description, bytes]:
    """The description and the bytes of model.safetensors, checked. Raises as `describe` does."""
    description = describe(location)
    data, where = _read(location, "model.safetensors"), storage.join(location, "model.safetensors")
    actual = hashlib.sha256(data).hexdigest()
    if actual != description.weights_sha256:
        raise IntegrityError(
            f"expected sha256 {description.weights_sha256[:16]} of {where}, got {actual[:16]}: "
            "it was changed or damaged"
        )
    _check_tensors(data, tensor_shapes(description), where)
    return description, data


def verify(location: str) -> Description:
    """Check every file of a model without building it. Raises as `describe` does."""
    return verified(location)[0]


def tensor_shapes(draft: Draft) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of model.safetensors."""
    result: dict[str, tuple[int, ...]] = {}
    for name, shape in layers.shapes(draft.arch).items():
        is_frozen = int(name[len("block")]) <= draft.frozen_blocks
        result[f"frozen.{name}" if is_frozen else f"trainable.layers.{name}"] = shape
    head, side = draft.head, draft.preprocess.image_size // 32
    units = layers.channels(draft.arch)[-1] * (1 if head.averages else side * side)
    hidden = [(f"hidden.{number}", head.width) for number in range(head.num_hidden)]
    for name, width in [*hidden, ("last", draft.classes.num_logits)]:
        result[f"trainable.head.{name}.weight"], result[f"trainable.head.{name}.bias"] = (width, units), (width,)
        units = width
    result["trainable.head.scale"] = ()
    width = layers.channels(draft.arch)[-1]
    if draft.novelty is not None:
        result[POINTS] = (draft.novelty.num_points, width)
    if draft.cascade is not None:
        result[CASCADE_POINTS] = (draft.cascade.novelty.num_points, width)
        result[f"{CASCADE}last.weight"] = (draft.classes.num_logits, width)
        result[f"{CASCADE}last.bias"] = (draft.classes.num_logits,)
    return result


def _check_tensors(data: bytes, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise IntegrityError unless these are safetensors of just these names, types and shapes, and finite."""
    try:
        tensors = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise IntegrityError(f"expected safetensors in {where}, could not read it: {error}; train it again") from None
    halves = (POINTS, CASCADE_POINTS)
    wanted = {name: f"{'float16' if name in halves else 'float32'} {shape}" for name, shape in shapes.items()}
    found = {name: f"{tensor.dtype} {tensor.shape}" for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise IntegrityError(
                f"expected {wanted.get(name, 'nothing')} for {name} in {where}, got {found.get(name, 'nothing')}: "
                "the weights are not those of model.json; train it again"
            )
        if not np.isfinite(tensors[name]).all():
            raise IntegrityError(f"expected finite numbers in {name} of {where}, got NaN or infinity: train it again")


def _read(location: str, name: str) -> bytes:
    try:
        return storage.read(storage.join(location, name)).data
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise InputError(
            f"expected a model folder with {name} at {location}, found none: give --model RUN/model of a finished run"
        ) from None
    except OSError:
        with storage.reached():
            raise
