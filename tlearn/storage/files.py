"""Files by local path or URI: list them, read them, write them in one atomic step.

Local files are handled as bytes paths, because a name need not be UTF-8; everything else goes through
pyarrow's filesystems.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from tlearn.config import default_cache
from tlearn.errors import InputError, StorageError

Result = TypeVar("Result")

_COPY_BYTES = 8 * 2**20

# A byte that is no UTF-8 is written %XX. So that this can be undone, a "%" of the name itself is written %25
# where (and only where) it would otherwise be read as such a byte.
_LOOKS_ENCODED = re.compile(r"%(?=(?:25)*[89A-Fa-f][0-9A-Fa-f])")
_ENCODED = re.compile(r"%((?:25)*)([89A-Fa-f][0-9A-Fa-f])")


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed file: path relative to the listed folder, size in bytes, time of change in microseconds."""

    path: str
    size: int
    modified: int


@dataclass(frozen=True, slots=True)
class Content:
    """What a file held when it was read, with the facts that were true at that moment."""

    data: bytes
    size: int
    modified: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def encode_name(name: bytes) -> str:
    """Make a name text, without loss: `decode_name` gives the same bytes back."""
    text = name.decode("utf-8", "surrogateescape")
    text = _LOOKS_ENCODED.sub("%25", text)
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)


def decode_name(path: str) -> bytes:
    def one(match: re.Match[str]) -> str:
        escaped, digits = match.groups()
        return f"%{escaped[2:]}{digits}" if escaped else chr(0xDC00 + int(digits, 16))

    return _ENCODED.sub(one, path).encode("utf-8", "surrogateescape")


def is_remote(location: str) -> bool:
    return "://" in location and not location.startswith("file://")


def local(location: str) -> Path:
    """The local path of a path or of a file:// URI, made absolute because Ray's workers change directory."""
    path = unquote(location.removeprefix("file://")) if location.startswith("file://") else location
    return Path(path).expanduser().absolute()


def absolute(location: str) -> str:
    return location if is_remote(location) else str(local(location))


def join(location: str, *names: str) -> str:
    return "/".join([location.rstrip("/"), *names])


def filesystem(location: str) -> tuple[Any, str]:
    """pyarrow's filesystem of a URI, and the path in it."""
    bucket = re.match(r"(s3|gs)://([^/?]+)/?", location)
    if bucket is None:
        return _filesystem(location)
    # One client a bucket; and what follows may hold characters that a URI gives a meaning.
    system, root = _filesystem(bucket[0].rstrip("/"))
    return system, f"{root}/{location[bucket.end() :]}".rstrip("/")


@functools.lru_cache(maxsize=64)
def _filesystem(uri: str) -> tuple[Any, str]:
    from pyarrow import fs

    # pyarrow does not know the variables by which other clients of S3 are sent to another store.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if uri.startswith("s3://") and endpoint and "?" not in uri:
        scheme, _, host = endpoint.partition("://")
        uri = f"{uri}?scheme={scheme}&endpoint_override={host}"
    try:
        return fs.FileSystem.from_uri(uri)  # type: ignore[no-any-return]
    except Exception as error:
        raise InputError(f"expected a path or a URI that pyarrow can open, got {uri}: {error}") from None


def walk(location: str) -> Iterator[Entry]:
    """List every file under a folder in the order of the bytes of its path.

    Symbolic links to folders are not followed, those to files are; one that leads nowhere is listed with size -1.
    Pipes, sockets and devices are left out, and so are folders whose name starts with a dot.
    Raises ValueError where there is no such folder.
    """
    if is_remote(location):
        yield from _walk_remote(location)
    else:
        yield from _walk_local(_root(location), b"")


def stream(location: str) -> Iterator[Entry]:
    """List what `walk` lists, in any order, without holding the names of a folder in memory."""
    if is_remote(location):
        yield from _walk_remote(location)
        return
    root, waiting = _root(location), [b""]
    while waiting:
        prefix = waiting.pop()
        with _scan(root, prefix) as scan:
            for entry in scan:
                if not entry.is_dir(follow_symlinks=False):
                    yield from _listed(entry, prefix)
                elif not entry.name.startswith(b"."):
                    waiting.append(prefix + entry.name + b"/")


def _root(location: str) -> bytes:
    root = local(location)
    if not root.is_dir():
        came = "found a file" if root.exists() else "found nothing"
        raise InputError(f"expected a folder at {root}, {came}: check the path")
    return os.fsencode(root)


@contextlib.contextmanager
def _scan(root: bytes, prefix: bytes) -> Iterator[Iterator[os.DirEntry[bytes]]]:
    try:
        scan = os.scandir(os.path.join(root, prefix) if prefix else root)
    except OSError as error:
        raise InputError(f"expected a readable folder at {encode_name(error.filename)}: {error.strerror}") from None
    with scan:
        yield scan


def _listed(entry: os.DirEntry[bytes], prefix: bytes) -> Iterator[Entry]:
    path = encode_name(prefix + entry.name)
    try:
        status = entry.stat()
    except OSError:
        yield Entry(path, -1, 0)
        return
    if stat.S_ISREG(status.st_mode):
        yield Entry(path, status.st_size, status.st_mtime_ns // 1000)


def _walk_local(root: bytes, prefix: bytes) -> Iterator[Entry]:
    with _scan(root, prefix) as scan:
        entries = list(scan)
    # A folder sorts as if its name ended in "/", which is how its files' paths go on.
    is_folder = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    for entry in sorted(entries, key=lambda e: e.name + b"/" if is_folder[e.name] else e.name):
        if not is_folder[entry.name]:
            yield from _listed(entry, prefix)
        elif not entry.name.startswith(b"."):
            yield from _walk_local(root, prefix + entry.name + b"/")


def _walk_remote(location: str) -> Iterator[Entry]:
    from pyarrow import fs

    system, root = filesystem(location)
    if system.get_file_info(root).type != fs.FileType.Directory:
        raise InputError(f"expected a folder at {location}, found none: check the URI")
    infos = system.get_file_info(fs.FileSelector(root, recursive=True))
    for info in sorted(infos, key=lambda info: info.path.encode()):
        path = info.path[len(root.rstrip("/")) + 1 :]
        hidden = any(part.startswith(".") for part in path.split("/")[:-1])
        if info.type == fs.FileType.File and not hidden:
            modified = info.mtime_ns // 1000 if info.mtime_ns is not None else 0
            yield Entry(encode_name(path.encode()), info.size, modified)


def folders(location: str) -> list[str]:
    """Names of the folders directly in a folder, sorted; those that start with a dot are left out."""
    if is_remote(location):
        from pyarrow import fs

        system, root = filesystem(location)
        infos = system.get_file_info(fs.FileSelector(root, allow_not_found=True))
        names = [info.base_name for info in infos if info.type == fs.FileType.Directory]
    else:
        root_path = local(location)
        if not root_path.is_dir():
            return []
        with os.scandir(os.fsencode(root_path)) as scan:
            names = [encode_name(entry.name) for entry in scan if entry.is_dir(follow_symlinks=False)]
    return sorted(name for name in names if not name.startswith("."))


def read(location: str) -> Content:
    """Read a whole file. Raises OSError."""
    folder, _, name = absolute(location).rpartition("/")
    return read_listed(folder, encode_name(os.fsencode(name)))


def read_json(location: str) -> Any:
    """What a JSON file holds. Raises OSError, ValueError where it is no JSON."""
    return json.loads(read(location).data)


def read_listed(folder: str, path: str, max_bytes: int | None = None) -> Content:
    """Read a file by its listed path, at most `max_bytes` + 1 bytes of it. Raises OSError; never waits for a pipe."""
    limit = -1 if max_bytes is None else max_bytes + 1
    if is_remote(folder):
        return _tried(lambda: _read_remote(folder, path, None if limit < 0 else limit))
    name_bytes = os.path.join(os.fsencode(local(folder)), decode_name(path))
    descriptor = os.open(name_bytes, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"expected a regular file, found another kind: {path}")
        return Content(file.read(limit), status.st_size, status.st_mtime_ns // 1000)


def _read_remote(folder: str, path: str, limit: int | None) -> Content:
    system, root = filesystem(folder)
    name = f"{root}/{decode_name(path).decode()}"
    info = system.get_file_info(name)
    with system.open_input_file(name) as file:
        data = file.read(limit)
    return Content(data, info.size, info.mtime_ns // 1000 if info.mtime_ns is not None else 0)


def _tried(function: Callable[[], Result]) -> Result:
    """The result of a request to a remote store; a few more tries for what pyarrow does not try again itself."""
    for seconds in (0.2, 1.0):
        try:
            return function()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(seconds)
    return function()


def exists(location: str) -> bool:
    if is_remote(location):
        from pyarrow import fs

        system, path = filesystem(location)
        return bool(system.get_file_info(path).type != fs.FileType.NotFound)
    return local(location).exists()


def write(location: str, write_to: Callable[[Any], object]) -> None:
    """Let `write_to` fill a binary file that appears under its name in one step, whole and on disk.

    Local: temporary name in the same folder, fsync, rename, fsync of the folder. Object stores show an object
    only when its upload is complete. Raises StorageError.
    """
    if is_remote(location):
        try:
            _tried(lambda: _write_remote(location, write_to))
        except OSError as error:
            raise StorageError(f"could not write {location}: {error}") from error
        return
    target = local(location)
    # Not in the target's name pattern, so that no reader of *.parquet or *.arrow sees it.
    temporary = target.parent / f".{target.name[:100]}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write_to(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"could not write {target}: {error.strerror or error}; free some space or choose another place"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_remote(location: str, write_to: Callable[[Any], object]) -> None:
    system, path = filesystem(location)
    with system.open_output_stream(path) as file:
        write_to(file)


def write_bytes(location: str, data: bytes) -> None:
    write(location, lambda file: file.write(data))


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_writable(folder: str) -> None:
    """Raise StorageError now rather than after an hour of computing."""
    if is_remote(folder):
        return
    path = local(folder)
    probe = path / f".{uuid.uuid4().hex[:12]}.tmp"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"expected a folder that can be written at {path}: {error.strerror}; choose another place"
        ) from error


def sha256_file(location: str | Path) -> str:
    with open_input(str(location)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names(folder: str) -> list[str]:
    """Names of the files directly in a folder, sorted, without temporary ones; none where there is no folder."""
    if is_remote(folder):
        from pyarrow import fs

        system, root = filesystem(folder)
        infos = system.get_file_info(fs.FileSelector(root, allow_not_found=True))
        found = [info.base_name for info in infos if info.type == fs.FileType.File]
    else:
        try:
            with os.scandir(local(folder)) as scan:
                found = [entry.name for entry in scan if entry.is_file()]
        except FileNotFoundError:
            found = []
    return sorted(name for name in found if not name.startswith("."))


def remove(location: str) -> None:
    """Remove a file of ours; one that is gone already is no error."""
    if is_remote(location):
        system, path = filesystem(location)
        with contextlib.suppress(FileNotFoundError):
            system.delete_file(path)
    else:
        local(location).unlink(missing_ok=True)


def remove_folder(location: str) -> None:
    """Remove a folder of ours with all that is in it; one that is gone already is no error."""
    if is_remote(location):
        system, path = filesystem(location)
        with contextlib.suppress(FileNotFoundError):
            system.delete_dir(path)
    else:
        shutil.rmtree(local(location), ignore_errors=True)


def copy_folder(source: str, target: str) -> None:
    """Copy the files of a folder to another of the same kind of storage. Raises OSError."""
    if is_remote(source):
        from pyarrow import fs

        (source_system, source_path), (system, path) = filesystem(source), filesystem(target)
        fs.copy_files(source_path, path, source_filesystem=source_system, destination_filesystem=system)
    else:
        shutil.copytree(local(source), local(target))


def open_input(location: str) -> Any:
    """A seekable binary file, a context manager. Raises FileNotFoundError."""
    if is_remote(location):
        system, path = filesystem(location)
        return system.open_input_file(path)
    return local(location).open("rb")


def publish(file: Path, location: str, *, replace: bool) -> None:
    """Give a whole local file, on disk, its final name in one step.

    Local: a hard link, which fails where there is a file of that name, or with `replace` a rename; `file` must be on
    the same file system. Object stores: one PUT. Raises StorageError.
    """
    if is_remote(location):
        write(location, lambda sink: _copy(file, sink))
        return
    target = local(location)
    try:
        if replace:
            file.replace(target)
        else:
            os.link(file, target)
        sync_folder(target.parent)
    except OSError as error:
        raise StorageError(f"could not write {target}: {error.strerror or error}; choose another place") from error


def _copy(file: Path, sink: Any) -> None:
    with file.open("rb") as source:
        shutil.copyfileobj(source, sink, _COPY_BYTES)


def disk(location: str) -> Path:
    """The folder of this machine in which a folder is, or lie the copies of what is used of it."""
    return Path(default_cache()) / "copies" if is_remote(location) else local(location)


def at_hand(location: str) -> Path:
    """A local file with these bytes: the file itself, or a copy that all processes of a machine fetch once.

    What has another size or time has another copy. Raises OSError.
    """
    if not is_remote(location):
        return local(location)
    system, path = filesystem(location)
    info = _tried(lambda: system.get_file_info(path))
    if not info.is_file:
        raise FileNotFoundError(f"found no file at {location}")
    key = hashlib.sha256(f"{location} {info.size} {info.mtime_ns}".encode()).hexdigest()[:32]
    copy = disk(location) / key
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.exists():
                _tried(lambda: write(str(copy), lambda sink: _download(system, path, sink)))
    return copy


def _download(system: Any, path: str, sink: Any) -> None:
    with system.open_input_stream(path) as source:
        shutil.copyfileobj(source, sink, _COPY_BYTES)


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where the files of a folder are written: in the folder, or in a temporary one from which they are uploaded."""

    location: str
    path: Path
    _uploaded: dict[Path, int] = field(default_factory=dict)

    def upload(self, last: str = "") -> None:
        """Let readers of a remote folder see what was written since the last time, the file of name `last` last."""
        if not is_remote(self.location):
            return
        for file in sorted(self.path.rglob("*"), key=lambda file: file.name == last):
            written = file.stat().st_mtime_ns
            if file.is_file() and self._uploaded.get(file) != written:
                publish(file, join(self.location, *file.relative_to(self.path).parts), replace=True)
                self._uploaded[file] = written


@contextlib.contextmanager
def workplace(location: str) -> Iterator[Workplace]:
    if not is_remote(location):
        yield Workplace(location, local(location))
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Workplace(location, Path(folder))
