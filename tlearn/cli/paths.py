"""Paths of a command that lead nowhere: said in one line, before anything heavy is loaded."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tlearn import storage
from tlearn.config.values import is_table
from tlearn.errors import InputError, StorageError


def check_paths(config: Any) -> None:
    """Raise for the first path of this machine that leads nowhere: torch and Ray, which find it too, take seconds."""
    for name, check in _CHECKS.items():
        locations = getattr(config, name, None)
        for location in (locations,) if isinstance(locations, str) else locations or ():
            if location not in _NO_PATHS and not storage.is_remote(location):
                check(storage.local(location), f"--{name.replace('_', '-')}")


def _folder(path: Path, flag: str) -> None:
    if not os.path.isdir(path):
        came = "a file" if os.path.exists(path) else "nothing"
        raise InputError(f"expected a folder at {path}, found {came}: check {flag}")


def _something(path: Path, flag: str) -> None:
    if not os.path.exists(path):
        raise InputError(f"expected a file or a folder at {path}, found nothing: check {flag}")


def _list(path: Path, flag: str) -> None:
    """Of - and pipes, which are no lists, whoever reads them says so."""
    if path.name != "-":
        _something(path, flag)


def _file(path: Path, flag: str) -> None:
    if not os.path.isfile(path):
        came = "a folder" if os.path.exists(path) else "nothing"
        raise InputError(f"expected a file at {path}, found {came}: check {flag}")


def _table(path: Path, flag: str) -> None:
    """Or a regular expression, which is no path."""
    if is_table(path.name):
        _file(path, flag)


def _model(path: Path, flag: str) -> None:
    if not os.path.exists(path / "model.json"):
        inner = path / "model"
        meant = inner if os.path.exists(inner / "model.json") else "RUN/model of a finished run"
        raise InputError(f"expected a model folder with model.json at {path}, found none: give {flag} {meant}")


def _place(path: Path, flag: str) -> None:
    """Raise StorageError where nothing can be put. What is not there yet is not made."""
    if path.suffix in _FILES and path.is_dir():
        raise InputError(f"expected a file for {flag}, found a folder of that name: {path}; choose another")
    there = _nearest(path.parent if path.suffix in _FILES else path)
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        reason = "Permission denied" if os.path.isdir(there) else f"{there} is a file"
        raise StorageError(f"expected a folder that can be written at {path}: {reason}; choose another {flag}")


def _cache(path: Path, flag: str) -> None:
    """One that cannot be written may hold all that is needed."""
    if not os.path.isdir(_nearest(path)):
        raise StorageError(f"expected a folder at {path}, found a file in its place: choose another {flag}")


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next((place for place in (path, *path.parents) if os.path.exists(place)), path)


_FILES = (".parquet", ".csv", ".html", ".onnx", ".pt2", ".safetensors")
"""Suffixes of an output that is one file, not a folder."""
_NO_PATHS = ("imagenet", "none")
_CHECKS: Mapping[str, Callable[[Path, str], None]] = {
    "model": _model,
    "a": _something,
    "b": _something,
    "data": _folder,
    "input": _something,
    "input_list": _list,
    "images": _folder,
    "run": _folder,
    "table": _something,
    "labels": _file,
    "groups": _table,
    "exclude": _file,
    "weights": _file,
    "output": _place,
    "report": _place,
    "cache": _cache,
}
"""By the names of fields, which mean the same in every config."""
