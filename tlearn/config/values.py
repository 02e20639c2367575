"""What a setting may be: choices, and checks of types and ranges."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from tyro import MISSING

from tlearn.errors import UsageError

Precision = Literal["fp32", "bf16", "int8"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "int8"]
EngineChoice = Literal["auto", "torch", "openvino"]
DecodeChoice = Literal["here", "pool"]
LakeChoice = Literal["delta"]
CascadeChoice = Literal["auto", "off"]
Arch = Literal["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "vgg_tiny"]


_WORDS = {NoneType: "None", bool: "True or False", int: "a whole number", float: "a finite number", str: "text"}


def check_types(config: Any) -> None:
    """Raise UsageError for a value of another type than its field, and for a number that is none (NaN, infinity)."""
    group = type(config).__name__.removesuffix("Config").lower()
    prefix = f"{group}." if group in ("preprocess", "head", "optim") else ""
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if value is not MISSING and not fits(value, each.type):
            raise UsageError(f"{prefix}{each.name} must be {described(each.type)}, got {value!r}")


def fits(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return fits(value, arguments[0])
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, arguments[1]) for item in value.values())
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and all(fits(item, arguments[0]) for item in value)
    if arguments:
        return any(fits(value, argument) for argument in arguments)
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, (int, float)) and math.isfinite(value) if kind is float else isinstance(value, kind)


def described(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return described(arguments[0])
    if origin is dict:
        return f"names, each with {described(arguments[1])}"
    if origin in (list, tuple):
        return f"several of {described(arguments[0])}"
    if arguments:
        return " or ".join(argument if origin is Literal else described(argument) for argument in arguments)
    return _WORDS.get(kind, f"settings ({getattr(kind, '__name__', kind)} or a mapping)")


def at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise UsageError(f"{name} must be at least {least}, got {value}")


def between(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UsageError(f"{name} must be from {least} to {most}, got {value}")


def as_workers(text: int | str | None) -> tuple[int, int] | None:
    """The fewest and the most of N or MIN:MAX."""
    if text is None:
        return None
    lowest, _, highest = str(text).partition(":")
    try:
        found = int(lowest), int(highest or lowest)
    except ValueError:
        found = (0, 0)
    if not 1 <= found[0] <= found[1]:
        raise UsageError(f"workers must be N or MIN:MAX with 1 <= MIN <= MAX, got {text}")
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names ("optim.lr")."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def is_table(location: str) -> bool:
    """Whether what may be a file or something else is the name of a table."""
    return location.lower().endswith((".csv", ".tsv", ".txt", ".parquet"))


def check_groups(groups: str | None) -> None:
    """Raise UsageError for what is neither a table nor a regular expression."""
    try:
        re.compile("" if groups is None or is_table(groups) else groups)
    except re.error as error:
        raise UsageError(f"groups must be a regular expression or NAME.csv, got {groups!r}: {error}") from None


def digest(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of a dataclass or of anything JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
