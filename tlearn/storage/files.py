"""Files by local path or URI: list them, read them, write them in one atomic step."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tlearn.storage.entries import Content, Entry, PathKind, encode_name, is_shown
from tlearn.storage.local import Local, local
from tlearn.storage.remote import Remote


def is_remote(location: str) -> bool:
    return "://" in location and not location.startswith("file://")


def _at(location: str) -> Local | Remote:
    return Remote(location) if is_remote(location) else Local(local(location))


def absolute(location: str) -> str:
    return location if is_remote(location) else str(local(location))


def join(location: str, *names: str) -> str:
    return "/".join([location.rstrip("/"), *names])


def stream(location: str, enters: Callable[[str], bool] = is_shown) -> Iterator[Entry]:
    """List every file under a folder, in any order, without holding the names of a local folder in memory.

    The folder itself may be called anything and may be a link. Of the folders in it those are entered whose name
    `enters`; the others, those that cannot be read, links to folders and links that lead nowhere are listed too, by
    their kind. Links to files are files. Pipes, sockets and devices are left out. Raises InputError where there is no
    such folder.
    """
    return _at(location).stream(enters)


def require_folder(location: str) -> None:
    """Raise InputError where there is no folder."""
    _at(location).require_folder()


def folders(location: str) -> list[str]:
    """Names of the folders directly in a folder, sorted, without links; none where there is no folder."""
    return sorted(_at(location).folders())


def links(location: str) -> list[str]:
    """Names of the links directly in a folder that lead to folders or nowhere, sorted; none where there is none."""
    return sorted(_at(location).links())


def names(folder: str) -> list[str]:
    """Names of the files directly in a folder, sorted, without temporary ones; none where there is no folder."""
    return sorted(name for name in _at(folder).names() if not name.startswith("."))


def exists(location: str) -> bool:
    return _at(location).exists()


def kind(location: str) -> PathKind | None:
    """What is at a path, through links; None for nothing. Raises OSError."""
    return _at(location).kind()


def nothing(location: str) -> str:
    """What a message says of a path at which there is nothing: of a URI, whether the bucket is. Raises OSError."""
    return Remote(location).nothing() if is_remote(location) else "nothing"


def look(location: str) -> Entry:
    """A file as the listing of its folder has it. Raises OSError."""
    return _at(location).look()


def read(location: str) -> Content:
    """Read a whole file. Raises OSError."""
    folder, _, name = absolute(location).rpartition("/")
    return read_listed(folder or "/", encode_name(os.fsencode(name)))


def read_json(location: str) -> Any:
    """What a JSON file holds. Raises OSError, ValueError where it is no JSON."""
    return json.loads(read(location).data)


def read_listed(folder: str, path: str, max_bytes: int | None = None) -> Content:
    """Read a file by its listed path, at most `max_bytes` + 1 bytes of it. Raises OSError; never waits for a pipe."""
    return _at(folder).read(path, None if max_bytes is None else max_bytes + 1)


def open_input(location: str) -> Any:
    """A seekable binary file, a context manager. Raises FileNotFoundError."""
    return _at(location).open_input()


def sha256_file(location: str | Path) -> str:
    with open_input(str(location)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(location: str, write_to: Callable[[Any], object]) -> None:
    """Let `write_to` fill a binary file that appears under its name in one step, whole and on disk.

    Local: temporary name in the same folder, fsync, rename, fsync of the folder. Object stores show an object
    only when its upload is complete. Raises StorageError.
    """
    _at(location).write(write_to)


def write_bytes(location: str, data: bytes) -> None:
    write(location, lambda file: file.write(data))


def publish(file: Path, location: str, *, replace: bool = False) -> None:
    """Give a whole local file, on disk, its final name in one step.

    Local: a hard link, or with `replace` a rename; `file` must be on the same file system. Object stores: one PUT.
    Raises Taken where there is a file of that name with other bytes, StorageError.
    """
    _at(location).publish(file, replace=replace)


def create(location: str, data: bytes) -> str:
    """Write a file where there is none, whole and on disk, in one step; the version that it has.

    Raises Taken where there is one with other bytes, StorageError. With the same bytes it is ours: the answer to an
    earlier try may have been lost.
    """
    return _at(location).create(data)


def swap(location: str, data: bytes, version: str) -> str:
    """Replace a file that still has the version with which it was read, in one step; the version that it has then.

    Raises Taken where it has another or is gone, StorageError. With the same bytes it is ours, as for `create`.
    """
    return _at(location).swap(data, version)


def is_conditional(folder: str) -> bool:
    """Whether `create` and `swap` are one step there. Some object stores write without a look at the condition.

    Raises StorageError. The first call for a bucket writes two empty objects, and removes them.
    """
    return _at(join(folder, ".probe")).is_conditional()


def settle(folder: str) -> None:
    """Let a power failure leave the names that are in a folder now, whoever has given them. Raises StorageError."""
    _at(folder).settle()


def require_writable(folder: str) -> None:
    """Raise StorageError now rather than after an hour of computing."""
    _at(folder).require_writable()


def remove(location: str) -> None:
    """Remove a file of ours; one that is gone already is no error."""
    _at(location).remove()


def remove_folder(location: str) -> None:
    """Remove a folder of ours with all that is in it; one that is gone already is no error."""
    _at(location).remove_folder()


def copy_folder(source: str, target: str) -> None:
    """Copy the files of a folder to another of the same kind of storage. Raises OSError."""
    _at(source).copy_folder(target)
