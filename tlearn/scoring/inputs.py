"""What is scored: a folder, or files and folders by their paths."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from tlearn import storage
from tlearn.data.listing import pictures
from tlearn.data.names import Ignored
from tlearn.errors import InputError, UsageError
from tlearn.storage import Entry


@dataclass(frozen=True, slots=True)
class Input:
    """Where the listed files are. Their paths in the table are relative to `folder`."""

    folder: str
    """A path or URI, absolute: what was given, or, of several or of files, the innermost that holds them all."""
    folders: tuple[str, ...]
    """What is listed below it; "" is all of it."""
    files: tuple[Entry, ...]
    """What is listed beside these, whatever its name: a person has asked for it."""

    @classmethod
    def of(cls, given: str | Sequence[str]) -> "Input":
        """Raises InputError for a path where there is nothing, UsageError for paths that no folder holds."""
        paths = list(dict.fromkeys(_absolute(path) for path in ([given] if isinstance(given, str) else given)))
        folders = [path for path in paths if _is_folder(path)]
        if paths == folders and len(paths) == 1:
            return cls(paths[0], ("",), ())
        common = _common([path.rpartition("/")[0] for path in paths])
        names = {path: path[len(common) :].lstrip("/") for path in paths if not _is_below(path, folders)}
        files = (dataclasses.replace(storage.look(path), path=_encoded(names[path])) for path in names.keys() - folders)
        return cls(common or "/", tuple(names[path] for path in folders if path in names), tuple(files))

    def entries(self, ignored: Ignored) -> Iterator[Entry]:
        """Every file, in any order; in folders, what is no picture by name goes to `ignored`."""
        yield from self.files
        for name in self.folders:
            entries = pictures(self._place(name), ignored, f"{name}/" if name else "")
            yield from (_below(name, entry) for entry in entries) if name else entries

    def require_readable(self) -> None:
        """Raise InputError before anything is written."""
        for name in self.folders:
            next(iter(storage.stream(self._place(name))), None)

    def _place(self, name: str) -> str:
        return storage.join(self.folder, name) if name else self.folder


def _absolute(path: str) -> str:
    return storage.absolute(path).rstrip("/") or "/"


def _is_folder(path: str) -> bool:
    kind = storage.kind(path)
    if kind not in ("file", "folder"):
        came = "nothing" if kind is None else "a pipe or a device"
        raise InputError(f"expected a folder or a picture at {path}, found {came}: check the path")
    return kind == "folder"


def _is_below(path: str, folders: Sequence[str]) -> bool:
    return any(path.startswith(f"{folder}/") for folder in folders)


def _common(folders: Sequence[str]) -> str:
    parts = zip(*(folder.split("/") for folder in folders), strict=False)
    common = "/".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, parts))
    if storage.is_remote(folders[0]) != storage.is_remote(common):
        raise UsageError(f"expected inputs below one folder, got {' and '.join(folders[:2])}: score them one by one")
    return common


def _below(folder: str, entry: Entry) -> Entry:
    return dataclasses.replace(entry, path=f"{_encoded(folder)}/{entry.path}")


def _encoded(path: str) -> str:
    return storage.encode_name(os.fsencode(path))
