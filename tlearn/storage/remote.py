"""A file or a folder of a URI that pyarrow's filesystems know; what `files` does with it."""

import contextlib
import functools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tlearn.errors import InputError, StorageError
from tlearn.storage.entries import Content, Entry, PathKind, decode_name, encode_name, microseconds

Result = TypeVar("Result")

_COPY_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Remote:
    location: str

    def require_folder(self) -> None:
        from pyarrow import fs

        system, root = filesystem(self.location)
        if system.get_file_info(root).type != fs.FileType.Directory:
            raise InputError(f"expected a folder at {self.location}, found none: check the URI")

    def stream(self, enters: Callable[[str], bool]) -> Iterator[Entry]:
        from pyarrow import fs

        self.require_folder()
        system, root = filesystem(self.location)
        not_entered = set()
        for info in system.get_file_info(fs.FileSelector(root, recursive=True)):
            if info.type != fs.FileType.File:
                continue
            path = encode_name(info.path[len(root.rstrip("/")) + 1 :].encode())
            parts = path.split("/")
            depth = next((depth for depth, part in enumerate(parts[:-1], 1) if not enters(part)), None)
            folder = "/".join(parts[:depth])
            if depth is None:
                yield Entry(path, info.size, _modified(info))
            elif folder not in not_entered:
                not_entered.add(folder)
                yield Entry(folder, -1, 0, "folder")

    def folders(self) -> list[str]:
        from pyarrow import fs

        return self._names(fs.FileType.Directory)

    def links(self) -> list[str]:
        return []

    def names(self) -> list[str]:
        from pyarrow import fs

        return self._names(fs.FileType.File)

    def _names(self, kind: Any) -> list[str]:
        from pyarrow import fs

        system, root = filesystem(self.location)
        infos = system.get_file_info(fs.FileSelector(root, allow_not_found=True))
        # Of a key that begins with "//" the store's client makes a folder in itself.
        return [info.base_name for info in infos if info.type == kind and info.path.rstrip("/") != root.rstrip("/")]

    def exists(self) -> bool:
        from pyarrow import fs

        system, path = filesystem(self.location)
        return bool(system.get_file_info(path).type != fs.FileType.NotFound)

    def kind(self) -> PathKind | None:
        from pyarrow import fs

        system, path = filesystem(self.location)
        found = system.get_file_info(path).type
        return "file" if found == fs.FileType.File else "folder" if found == fs.FileType.Directory else None

    def look(self) -> Entry:
        system, path = filesystem(self.location)
        info = system.get_file_info(path)
        return Entry(encode_name(info.base_name.encode()), info.size, _modified(info))

    def read(self, path: str, limit: int | None) -> Content:
        from pyarrow import ArrowInvalid

        def request() -> Content:
            system, root = filesystem(self.location)
            name = f"{root}/{decode_name(path).decode()}"
            info = system.get_file_info(name)
            with system.open_input_file(name) as file:
                data = file.read(limit)
            return Content(data, info.size, _modified(info))

        try:
            return tried(request)
        except ArrowInvalid as error:  # a name that a store may have and its client refuses: "a//b"
            raise OSError(str(error)) from None

    def open_input(self) -> Any:
        system, path = filesystem(self.location)
        return system.open_input_file(path)

    def write(self, write_to: Callable[[Any], object]) -> None:
        # pyarrow completes an upload that an exception ends: it begins when all of it is there.
        with self._storing(), tempfile.SpooledTemporaryFile(_COPY_BYTES) as whole:
            write_to(whole)
            self._upload(whole)

    def publish(self, file: Path, *, replace: bool) -> None:
        with self._storing(), file.open("rb") as whole:
            self._upload(whole)

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"could not write {self.location}: {error}") from error

    def _upload(self, whole: Any) -> None:
        def request() -> None:
            whole.seek(0)
            system, path = filesystem(self.location)
            with system.open_output_stream(path) as sink:
                shutil.copyfileobj(whole, sink, _COPY_BYTES)

        tried(request)

    def require_writable(self) -> None:
        """Nothing: a store tells at the first write."""

    def remove(self) -> None:
        system, path = filesystem(self.location)
        with contextlib.suppress(FileNotFoundError):
            system.delete_file(path)

    def remove_folder(self) -> None:
        system, path = filesystem(self.location)
        with contextlib.suppress(FileNotFoundError):
            system.delete_dir(path)

    def copy_folder(self, target: str) -> None:
        from pyarrow import fs

        (source_system, source), (system, path) = filesystem(self.location), filesystem(target)
        fs.copy_files(source, path, source_filesystem=source_system, destination_filesystem=system)

    def version(self) -> tuple[int, int | None]:
        """Size in bytes and time of change in nanoseconds of a file. Raises OSError."""
        system, path = filesystem(self.location)
        info = tried(lambda: system.get_file_info(path))
        if not info.is_file:
            raise FileNotFoundError(f"found no file at {self.location}")
        return info.size, info.mtime_ns

    def download(self, sink: Any) -> None:
        system, path = filesystem(self.location)
        with system.open_input_stream(path) as source:
            shutil.copyfileobj(source, sink, _COPY_BYTES)


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


def tried(request: Callable[[], Result]) -> Result:
    """The result of a request to a store; a few more tries for what pyarrow does not try again itself."""
    for seconds in (0.2, 1.0):
        try:
            return request()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(seconds)
    return request()


def _modified(info: Any) -> int:
    """Microseconds; 0 where the store does not say."""
    return microseconds(info.mtime_ns) if info.mtime_ns is not None else 0
