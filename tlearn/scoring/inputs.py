"""What is scored: a folder, or files and folders by their paths, or what lists say of a folder."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from typing import TypeVar

import pyarrow as pa

from tlearn import storage
from tlearn.data.listing import picked
from tlearn.data.names import Ignored, is_entered
from tlearn.errors import InputError, UsageError
from tlearn.scoring import lists
from tlearn.scoring.columns import SCHEMA
from tlearn.storage import Entry

Item = TypeVar("Item")

_BATCH_SIZE = 4096
_MAX_STREAMS = 32
"""Folders of a store that are listed at the same time."""


@dataclass(frozen=True, slots=True)
class Input:
    """Where the listed files are. Their paths in the table are relative to `folder`."""

    folder: str
    """A path or URI, absolute: what was given, or, of several or of files, the innermost that holds them all."""
    folders: tuple[str, ...]
    """What is listed below it; "" is all of it."""
    files: tuple[Entry, ...]
    """What is listed beside these, whatever its name: a person has asked for it."""
    listed: tuple[lists.ListFile, ...] = ()
    """What says which files there are, in the place of a listing."""

    @classmethod
    def of(cls, given: str | Sequence[str], listed: str | Sequence[str] = ()) -> "Input":
        """What is given, or, of a folder, what these lists say of it.

        Raises InputError for a path where there is nothing, and for a list that cannot be read; UsageError for paths
        that no folder holds, and for lists beside anything but a folder.
        """
        paths = list(dict.fromkeys(map(_absolute, _several(given))))
        folders = [path for path in paths if _is_folder(path)]
        if listed:
            if len(paths) > 1 or not folders:
                raise UsageError(f"expected one folder as --input beside --input-list, got {' '.join(paths)}")
            return cls(paths[0], (), (), lists.of(_several(listed), paths[0]))
        if paths == folders and len(paths) == 1:
            return cls(paths[0], ("",), ())
        common = _common([path.rpartition("/")[0] for path in paths])
        names = {path: path[len(common) :].lstrip("/") for path in paths if not _is_below(path, folders)}
        files = (dataclasses.replace(storage.look(path), path=_encoded(names[path])) for path in names.keys() - folders)
        return cls(common or "/", tuple(names[path] for path in folders if path in names), tuple(files))

    @property
    def parts(self) -> tuple["Input", ...]:
        """What can be listed by itself: each folder, each list, the files."""
        nothing = dataclasses.replace(self, folders=(), files=(), listed=())
        folders = [dataclasses.replace(nothing, folders=(name,)) for name in self.folders]
        listed = [dataclasses.replace(nothing, listed=(one,)) for one in self.listed]
        files = [dataclasses.replace(nothing, files=self.files)] if self.files else []
        return (*folders, *listed, *files)

    def batches(self, ignored: Ignored) -> Iterator[pa.Table]:
        """Every file, in any order, some thousand at once, in SCHEMA; what is no picture by name goes to `ignored`."""
        yield from lists.batches(self.listed, self.folder, ignored)
        if self.files:
            yield _table(self.files)
        streams = [self._chunks(name) for name in self.folders]
        is_wide = storage.is_remote(self.folder) and len(streams) > 1
        for name, entries in side_by_side(streams) if is_wide else chain.from_iterable(streams):
            prefix = f"{name}/" if name else ""
            if found := list(picked(entries, ignored, prefix)):
                yield _table(found, _encoded(prefix))

    def require_readable(self) -> None:
        """Raise InputError before anything is written."""
        for name in self.folders:
            next(iter(storage.stream(self._place(name))), None)

    def _chunks(self, name: str) -> Iterator[tuple[str, list[Entry]]]:
        """What is listed below a folder, with its name."""
        entries = storage.stream(self._place(name), is_entered)
        while chunk := list(islice(entries, _BATCH_SIZE)):
            yield name, chunk

    def _place(self, name: str) -> str:
        return storage.join(self.folder, name) if name else self.folder


def _several(given: str | Sequence[str]) -> Sequence[str]:
    return [given] if isinstance(given, str) else given


def _absolute(path: str) -> str:
    return storage.absolute(path).rstrip("/") or "/"


def _is_folder(path: str) -> bool:
    kind = storage.kind(path)
    if kind not in ("file", "folder"):
        came = storage.nothing(path) if kind is None else "a pipe or a device"
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


def side_by_side(streams: Sequence[Iterator[Item]]) -> Iterator[Item]:
    """What several streams give, as it comes: of each the next item is fetched while the last one is used."""
    with ThreadPoolExecutor(_MAX_STREAMS) as threads:
        waiting = {threads.submit(next, stream, None): stream for stream in streams}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                stream, item = waiting.pop(future), future.result()
                if item is not None:
                    waiting[threads.submit(next, stream, None)] = stream
                    yield item


def _table(entries: Sequence[Entry], prefix: str = "") -> pa.Table:
    columns = [
        [prefix + entry.path for entry in entries],
        [entry.size for entry in entries],
        [entry.modified for entry in entries],
        [entry.etag for entry in entries],
    ]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA)


def _encoded(path: str) -> str:
    return storage.encode_name(os.fsencode(path))
