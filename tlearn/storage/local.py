"""A file or a folder on the disks of this machine; what `files` does with it.

Names are bytes here, because a name need not be UTF-8.
"""

import contextlib
import errno
import fcntl
import filecmp
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from tlearn.errors import InputError, StorageError, TlearnError, UsageError
from tlearn.storage.entries import Content, DeadLink, Entry, PathKind, decode_name, encode_name, microseconds
from tlearn.storage.failures import Taken


@dataclass(frozen=True, slots=True)
class Local:
    path: Path
    """Absolute."""

    def require_folder(self) -> None:
        if not self.path.is_dir():
            none = "a link that leads nowhere" if self.path.is_symlink() else "nothing"
            came = "a file" if self.path.exists() else none
            raise InputError(f"expected a folder at {self.path}, found {came}: check the path")

    def stream(self, enters: Callable[[str], bool]) -> Iterator[Entry]:
        self.require_folder()
        root, waiting = os.fsencode(self.path), [b""]
        while waiting:
            prefix = waiting.pop()
            try:
                scan = os.scandir(os.path.join(root, prefix))
            except FileNotFoundError:  # gone since its parent was listed
                continue
            except OSError as error:
                if not prefix:
                    raise InputError(f"expected a readable folder at {self.path}: {error.strerror}") from None
                yield Entry(encode_name(prefix[:-1]), -1, 0, "closed folder")
                continue
            with scan:
                for entry in scan:
                    if not entry.is_dir(follow_symlinks=False):
                        yield from _listed(entry, prefix)
                    elif enters(encode_name(entry.name)):
                        waiting.append(prefix + entry.name + b"/")
                    else:
                        yield Entry(encode_name(prefix + entry.name), -1, 0, "folder")

    def folders(self) -> list[str]:
        return self._named(lambda entry: entry.is_dir(follow_symlinks=False))

    def links(self) -> list[str]:
        return self._named(lambda entry: entry.is_symlink() and not os.path.isfile(entry.path))

    def _named(self, is_wanted: Callable[[os.DirEntry[bytes]], bool]) -> list[str]:
        if not self.path.is_dir():
            return []
        with os.scandir(os.fsencode(self.path)) as scan:
            return [encode_name(entry.name) for entry in scan if is_wanted(entry)]

    def names(self) -> list[str]:
        try:
            with os.scandir(self.path) as scan:
                return [entry.name for entry in scan if entry.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def exists(self) -> bool:
        return self.path.exists()

    def kind(self) -> PathKind | None:
        if self.path.is_dir():
            return "folder"
        return "file" if self.path.is_file() else "other" if self.path.exists() else None

    def look(self) -> Entry:
        status = self.path.stat()
        return Entry(encode_name(os.fsencode(self.path.name)), status.st_size, microseconds(status.st_mtime_ns))

    def read(self, path: str, limit: int | None) -> Content:
        name = os.path.join(os.fsencode(self.path), decode_name(path))
        with _opened(name) as file:
            status = os.fstat(file.fileno())
            return Content(file.read(limit), status.st_size, microseconds(status.st_mtime_ns), _version(status))

    def open_input(self) -> BinaryIO:
        return _opened(self.path)

    def write(self, write_to: Callable[[BinaryIO], object]) -> None:
        with self._storing(), self._written(write_to) as temporary:
            temporary.replace(self.path)

    def publish(self, file: Path, *, replace: bool) -> None:
        with self._storing():
            if replace:
                file.replace(self.path)
            else:
                self._link(file)
            sync_folder(self.path.parent)

    def create(self, data: bytes) -> str:
        with self._storing(), self._written(lambda file: file.write(data)) as temporary:
            return self._link(temporary)

    def _link(self, file: Path) -> str:
        """Raises Taken."""
        try:
            os.link(file, self.path)
            return _version(file.stat())
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):  # removed since
                if filecmp.cmp(file, self.path, shallow=False):
                    return _version(self.path.stat())
        raise Taken(f"another run has written {self.path}")

    def swap(self, data: bytes, version: str) -> str:
        with self._storing(), self._written(lambda file: file.write(data)) as temporary:
            try:
                with _locked(self.path) as seen:
                    # Who waited for the file may have it open after it was replaced.
                    if _version(seen) == version == _version(self.path.stat()):
                        replaced = _version(temporary.stat())
                        temporary.replace(self.path)
                        return replaced
            except (BlockingIOError, FileNotFoundError):  # another run is about to replace it, or has removed it
                pass
            raise Taken(f"another run has written {self.path}")

    def is_conditional(self) -> bool:
        return True

    @contextlib.contextmanager
    def _written(self, write_to: Callable[[BinaryIO], object]) -> Iterator[Path]:
        """A whole file on disk under a temporary name, which the block gives its own."""
        # Not in the target's name pattern, so that no reader of *.parquet or *.arrow sees it.
        temporary = self.path.parent / f".{self.path.name[:100]}.{uuid.uuid4().hex[:12]}.tmp"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                write_to(file)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
            sync_folder(self.path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except (TlearnError, Taken):
            raise
        except OSError as error:
            advice = "free some space or choose" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose"
            raise StorageError(
                f"could not write {self.path}: {error.strerror or error}; {advice} another place"
            ) from error

    def settle(self) -> None:
        with self._storing():
            sync_folder(self.path)

    def require_writable(self) -> None:
        probe = self.path / f".{uuid.uuid4().hex[:12]}.tmp"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StorageError(
                f"expected a folder that can be written at {self.path}: {error.strerror}; choose another place"
            ) from error

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def remove_folder(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def copy_folder(self, target: str) -> None:
        shutil.copytree(self.path, local(target))


def local(location: str) -> Path:
    """The local path of a path or of a file:// URI, made absolute because Ray's workers change directory.

    Raises UsageError for an empty text: as a path it would be the working directory, and nobody has said so.
    """
    if not location:
        raise UsageError("expected a path, got nothing")
    path = unquote(location.removeprefix("file://")) if location.startswith("file://") else location
    return Path(path).expanduser().absolute()


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _opened(name: bytes | Path) -> BufferedReader:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK)  # a pipe is not waited for
    except FileNotFoundError as error:
        if os.path.islink(name):
            raise DeadLink(error.errno, "a link that leads nowhere", encode_name(os.fsencode(name))) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"expected a regular file, found another kind: {encode_name(os.fsencode(name))}")
    return os.fdopen(descriptor, "rb")


def _listed(entry: os.DirEntry[bytes], prefix: bytes) -> Iterator[Entry]:
    path = encode_name(prefix + entry.name)
    try:
        status = entry.stat()
    except OSError:
        yield Entry(path, -1, 0, "dead link" if entry.is_symlink() else "file")
        return
    if stat.S_ISREG(status.st_mode):
        yield Entry(path, status.st_size, microseconds(status.st_mtime_ns))
    else:
        yield Entry(path, -1, 0, "link" if stat.S_ISDIR(status.st_mode) else "other")


def _version(status: os.stat_result) -> str:
    return f"{status.st_ino} {status.st_mtime_ns} {status.st_size}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[os.stat_result]:
    """What is known of a file that nobody else has locked. Raises BlockingIOError.

    NFS locks only what is open for writing; another user's file may only be open for reading.
    """
    descriptor = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(descriptor)
    finally:
        os.close(descriptor)
