"""A file or a folder of an object store; what `files` does with it."""

import contextlib
import io
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlearn.errors import InputError, StorageError, TlearnError, Unanswered
from tlearn.storage import clock
from tlearn.storage.entries import Content, Entry, PathKind, decode_name, encode_name
from tlearn.storage.failures import Taken
from tlearn.storage.keys import Keys, modified
from tlearn.storage.stores import OddName, answered, filesystem, store

SETTLE_SECONDS = 2.0
"""Without conditional writes: how long it takes until whoever saw the place free has written too."""

_PART_BYTES = 8 * 2**20
_READ_BYTES = 2**20
_TRIES = 3

_conditional: dict[str, bool] = {}
"""What `is_conditional` has found, of each bucket."""


@dataclass(frozen=True, slots=True)
class Remote:
    location: str

    def require_folder(self) -> None:
        if not self._is_folder():
            raise InputError(f"expected a folder at {self.location}, found {self.nothing()}: check the URI")

    def stream(self, enters: Callable[[str], bool]) -> Iterator[Entry]:
        self.require_folder()
        not_entered = set()
        for entry in Keys(self.location).entries():
            parts = entry.path.split("/")
            depth = next((depth for depth, part in enumerate(parts[:-1], 1) if not enters(part)), None)
            folder = "/".join(parts[:depth])
            if depth is None:
                yield entry
            elif folder not in not_entered:
                not_entered.add(folder)
                yield Entry(folder, -1, 0, "folder")

    def folders(self) -> list[str]:
        return Keys(self.location).level("common_prefixes")

    def links(self) -> list[str]:
        return []

    def names(self) -> list[str]:
        return Keys(self.location).level("objects")

    def exists(self) -> bool:
        return self.kind() is not None

    def kind(self) -> PathKind | None:
        with contextlib.suppress(FileNotFoundError):
            self._meta()
            return "file"
        return "folder" if self._is_folder() else None

    def _is_folder(self) -> bool:
        try:
            return Keys(self.location).is_any() or not store(self.location)[1]
        except FileNotFoundError:
            return False

    def nothing(self) -> str:
        """What there is where `kind` finds nothing: the bucket may be what is missing."""
        return "nothing" if Remote(self._bucket).exists() else f"no bucket {self._bucket}"

    @property
    def _bucket(self) -> str:
        return "/".join(self.location.split("/")[:3])

    def look(self) -> Entry:
        meta = self._meta()
        name = encode_name(meta["path"].rpartition("/")[2].encode())
        return Entry(name, meta["size"], modified(meta), etag=meta["e_tag"])

    def _meta(self) -> Any:
        client, key = store(self.location)
        with answered():
            return client.head(_whole(key))

    def read(self, path: str, limit: int | None) -> Content:
        client, root = store(self.location)
        with answered():
            key = decode_name(path).decode()
            return self._content(client.get(_whole(f"{root}/{key}" if root else key)), limit)

    def _content(self, answer: Any, limit: int | None) -> Content:
        size = answer.meta["size"]
        if limit is None or size <= limit:
            data = bytes(answer.bytes())
        else:
            data = next(answer.stream(min_chunk_size=limit))[:limit]
        return Content(data, size, modified(answer.meta), self._version(answer.meta))

    @property
    def _compared(self) -> str:
        """By what a store knows a version: Google by the generation, the others by the e-tag."""
        return "version" if self.location.startswith("gs://") else "e_tag"

    def _version(self, meta: Any) -> str:
        return str(meta[self._compared])

    def open_input(self) -> io.BufferedReader:
        client, _ = store(self.location)
        return io.BufferedReader(_Reader(client, self._meta()), _READ_BYTES)

    def write(self, write_to: Callable[[Any], object]) -> None:
        with self._storing(), tempfile.SpooledTemporaryFile(_PART_BYTES) as whole:
            write_to(whole)
            whole.seek(0)
            self._put(whole)

    def publish(self, file: Path, *, replace: bool) -> None:
        with self._storing():
            if replace:
                self._put(file)
            else:
                self._put_if(None, file.read_bytes())

    def create(self, data: bytes) -> str:
        with self._storing():
            return self._put_if(None, data)

    def swap(self, data: bytes, version: str) -> str:
        with self._storing():
            return self._put_if(version, data)

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except (TlearnError, Taken):
            raise
        except OSError as error:
            raise StorageError(f"could not write {self.location}: {error}") from error

    def _put(self, whole: Any, **options: Any) -> Any:
        client, key = store(self.location)
        try:
            with answered():
                return client.put(_whole(key), whole, chunk_size=_PART_BYTES, max_concurrency=4, **options)
        except FileNotFoundError:
            raise OSError(f"there is no bucket {self._bucket}: make it, or check the name") from None

    def _put_if(self, seen: str | None, data: bytes) -> str:
        """Write where there is still the version that was seen, or none; the version of what was written.

        After a refusal or a time-out the file itself says what has happened. With these bytes it is ours: the answer
        was lost. With another version it is another's: Taken. As it was before, it is tried again.
        """
        put = self._put_at_once if self.is_conditional() else self._put_and_look
        for _ in range(_TRIES):
            try:
                return put(seen, data)
            except Unanswered:
                raise
            except OSError as error:
                failure = error
            there = self._there()
            if there is not None and there.data == data:
                return there.version
            if (there and there.version) != seen:
                raise Taken(f"another run has written {self.location}")
        raise failure

    def _put_at_once(self, seen: str | None, data: bytes) -> str:
        mode = "create" if seen is None else {self._compared: seen}
        return self._version(self._put(data, mode=mode, use_multipart=False))

    def _put_and_look(self, seen: str | None, data: bytes) -> str:
        """Without conditional writes: two may both have written only if one stood still before its put."""
        there = self._there()
        if (there and there.version) == seen:
            self._put(data)
            if seen is None:
                clock.sleep(SETTLE_SECONDS)
            there = self._there()
        if there is None or there.data != data:
            raise FileExistsError
        return there.version

    def _there(self) -> Content | None:
        client, key = store(self.location)
        with contextlib.suppress(FileNotFoundError), answered():
            return self._content(client.get(_whole(key)), None)
        return None

    def is_conditional(self) -> bool:
        """Whether the store refuses to create what there is: tried once in a process, beside the file."""
        if self._bucket not in _conditional:
            probe = Remote(f"{self.location}.{uuid.uuid4().hex[:12]}.tmp")
            with self._storing():
                probe._put(b"")
                try:
                    _conditional[self._bucket] = probe._is_refused()
                finally:
                    probe.remove()
        return _conditional[self._bucket]

    def _is_refused(self) -> bool:
        for tries_left in reversed(range(_TRIES)):
            try:
                self._put(b"", mode="create", use_multipart=False)
                break
            except FileExistsError:
                return True
            except Unanswered:
                raise
            except OSError as error:
                if "implemented" in str(error).lower():
                    break
                if not tries_left:
                    raise
        return False

    def settle(self) -> None:
        """Nothing: what a store shows it keeps."""

    def require_writable(self) -> None:
        """Nothing: a store tells at the first write."""

    def remove(self) -> None:
        client, key = store(self.location)
        with contextlib.suppress(FileNotFoundError), answered():
            client.delete(_whole(key))

    def remove_folder(self) -> None:
        client, root = store(self.location)
        with contextlib.suppress(FileNotFoundError, OddName), answered():
            for page in client.list(root or None, chunk_size=1000):
                client.delete([meta["path"] for meta in page])
        if self._is_folder():
            # obstore refuses some names, and those of the folders that the client of Ray Train makes end with a slash.
            system, path = filesystem(self.location)
            system.delete_dir(path)

    def copy_folder(self, target: str) -> None:
        from pyarrow import fs

        (source_system, source), (system, path) = filesystem(self.location), filesystem(target)
        fs.copy_files(source, path, source_filesystem=source_system, destination_filesystem=system)

    def version(self) -> str:
        """Of a file, as `read` gives it. Raises OSError."""
        return self._version(self._meta())


class _Reader(io.RawIOBase):
    """One version of an object, of which each read is a request."""

    def __init__(self, client: Any, meta: Any):
        self._client, self._meta, self._at = client, meta, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max((0, self._at, self._meta["size"])[whence] + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._next(self._meta["size"])

    def _next(self, num_bytes: int) -> bytes:
        end = min(self._at + num_bytes, self._meta["size"])
        if end <= self._at:
            return b""
        options = {"range": (self._at, end)}
        if self._meta["e_tag"]:
            options["if_match"] = self._meta["e_tag"]
        with answered():
            data = bytes(self._client.get(self._meta["path"], options=options).bytes())
        self._at += len(data)
        return data


def _whole(key: str) -> str:
    """The key of a file. obstore drops a slash at either end, and reads another object."""
    if not key:
        raise FileNotFoundError("expected a file, got a bucket")
    if key != key.strip("/"):
        raise OSError(f"expected a name that begins and ends with a letter, got {key!r}")
    return key
