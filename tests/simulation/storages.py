"""A disk and an object store that exist in memory: what `tlearn.storage.files` does at a path is done here.

Every operation comes to `Schedule.step` first, and one of several parts before each of its parts: there a process may
be killed, stand still, or let others go first.
"""

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError
from schedule import HOUR, SECOND, CrashedNow, Schedule

from tlearn import storage
from tlearn.errors import InputError, StorageError
from tlearn.storage.entries import Content, Entry
from tlearn.storage.failures import Taken

EPOCH = 1_700_000_000 * SECOND
"""When the simulated time begins, in microseconds since 1970."""

_PAGE = 4
"""Keys in an answer of an object store."""


@dataclass(eq=False, slots=True)
class File:
    """An inode, or an object."""

    data: bytes
    version: str
    modified: int
    """Microseconds since 1970."""
    is_synced: bool = True


class Store:
    """A simulated disk or bucket."""

    def __init__(self, schedule: Schedule):
        self.schedule = schedule
        self.on_change: Callable[[str], None] = lambda path: None
        """Called with the path of a file that became visible, vanished or has other bytes."""
        self.files: dict[str, File] = {}
        """By path: what a reader sees who asks by name."""
        self.num_versions = 0
        self._last: dict[str, int] = {}
        """By path: the time of its last version."""

    def new_file(self, data: bytes, *, is_synced: bool = True) -> File:
        self.num_versions += 1
        return File(data, f"v{self.num_versions}", EPOCH + self.schedule.now, is_synced)

    def found(self, path: str) -> File:
        if path not in self.files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self.files[path]

    def children(self, folder: str) -> Iterator[tuple[str, str, bool]]:
        """Path, name, and whether it is a file, of what is directly in a folder."""
        prefix, seen = f"{folder}/", set[str]()
        for path in self.listed():
            if path.startswith(prefix):
                name, slash, _ = path[len(prefix) :].partition("/")
                if name and name not in seen:
                    seen.add(name)
                    yield prefix + name, name, not slash

    def listed(self) -> list[str]:
        return sorted(self.files)


class Disk(Store):
    """A POSIX file system: what is not synced is lost or torn when the power is lost, and not when a process dies.

    Folders are on the disk as soon as they are made.
    """

    def __init__(self, schedule: Schedule):
        super().__init__(schedule)
        self.folders: set[str] = set()
        self.durable: dict[str, File] = {}
        """By path: the names that have been synced with their folder."""

    def at(self, path: str) -> "AtDisk":
        return AtDisk(self, path)

    def edit(self, path: str, data: bytes | None) -> None:
        """What other programs do with the input."""
        if data is None:
            self.files.pop(path, None)
        else:
            file = self.files[path] = self.new_file(data)
            # Versions of one file are told apart by time.
            file.modified = self._last[path] = max(file.modified, self._last.get(path, 0) + SECOND)
        folder = path.rpartition("/")[0]
        self.make_folder(folder)
        self.sync_folder(folder)

    def make_folder(self, folder: str) -> None:
        while folder and folder not in self.folders:
            self.folders.add(folder)
            folder = folder.rpartition("/")[0]

    def listed(self) -> list[str]:
        return sorted([*self.files, *(f"{folder}/" for folder in self.folders)])

    def sync_folder(self, folder: str) -> None:
        prefix = f"{folder}/"
        for path in [*self.durable, *self.files]:
            if path.startswith(prefix) and "/" not in path[len(prefix) :]:
                if path in self.files:
                    self.durable[path] = self.files[path]
                else:
                    self.durable.pop(path, None)

    def lose_power(self) -> None:
        """Of every name that was not synced one state or the other stays, of bytes that were not any part."""
        draw, seen = self.schedule.random, self.files
        kept = {}
        for path in sorted({*seen, *self.durable}):
            before, after = self.durable.get(path), seen.get(path)
            file = after if before is after or draw.random() < 0.5 else before
            if file is not None:
                kept[path] = file
        for file in kept.values():
            if not file.is_synced:
                size = len(file.data)
                file.data = draw.choice([b"", file.data[: int(draw.random() * size)], bytes(size), file.data])
                file.is_synced = True
        self.files, self.durable = kept, dict(kept)
        for path in sorted({*seen, *kept}):
            if seen.get(path) is not kept.get(path):
                self.on_change(path)


@dataclass(frozen=True, slots=True)
class AtDisk:
    """`tlearn.storage.local.Local` of a simulated disk."""

    disk: Disk
    path: str

    def require_folder(self) -> None:
        if not self._is_folder():
            raise InputError(f"expected a folder at {self.path}, found nothing: check the path")

    def _is_folder(self) -> bool:
        return self.path in self.disk.folders

    def stream(self, enters: Callable[[str], bool]) -> Iterator[Entry]:
        self.disk.schedule.step("list", self.path)
        self.require_folder()
        waiting = [(self.path, "")]
        while waiting:
            folder, prefix = waiting.pop()
            for path, name, is_file in list(self.disk.children(folder)):
                if is_file:
                    yield self._listed(path, prefix + name)
                elif enters(name):
                    waiting.append((path, f"{prefix}{name}/"))
                else:
                    yield Entry(prefix + name, -1, 0, "folder")

    def _listed(self, path: str, name: str) -> Entry:
        if self.disk.schedule.random.random() < 0.1:
            self.disk.schedule.step("stat", path)
        file = self.disk.files.get(path)
        return Entry(name, -1, 0) if file is None else Entry(name, len(file.data), file.modified)

    def folders(self) -> list[str]:
        self.disk.schedule.step("list folders", self.path)
        return [name for _, name, is_file in self.disk.children(self.path) if not is_file]

    def links(self) -> list[str]:
        return []

    def names(self) -> list[str]:
        self.disk.schedule.step("list names", self.path)
        return [name for _, name, is_file in self.disk.children(self.path) if is_file]

    def exists(self) -> bool:
        self.disk.schedule.step("exists", self.path)
        return self.path in self.disk.files or self._is_folder()

    def kind(self) -> str | None:
        self.disk.schedule.step("kind", self.path)
        return "file" if self.path in self.disk.files else "folder" if self._is_folder() else None

    def look(self) -> Entry:
        self.disk.schedule.step("stat", self.path)
        file = self.disk.found(self.path)
        return Entry(self.path.rpartition("/")[2], len(file.data), file.modified)

    def read(self, path: str, limit: int | None) -> Content:
        self.disk.schedule.step("read", f"{self.path}/{path}")
        file = self.disk.found(f"{self.path}/{path}")
        return Content(file.data[:limit], len(file.data), file.modified, file.version)

    def open_input(self) -> io.BytesIO:
        self.disk.schedule.step("open", self.path)
        return io.BytesIO(self.disk.found(self.path).data)

    def write(self, write_to: Callable[[Any], object]) -> None:
        sink = io.BytesIO()
        self.disk.schedule.step("write", self.path)
        try:
            write_to(sink)
        except OSError as error:
            raise StorageError(f"could not write {self.path}: {error}") from error
        self._put(self._whole(sink.getvalue(), "rename"))

    def _whole(self, data: bytes, operation: str) -> File:
        """Bytes under a temporary name and on the disk, about to get their own name."""
        folder, _, name = self.path.rpartition("/")
        self.disk.make_folder(folder)
        file = self.disk.new_file(data, is_synced=False)
        temporary = f"{folder}/.{name}.{file.version}.tmp"
        self.disk.files[temporary] = file
        self.disk.schedule.step("sync", temporary)
        file.is_synced = True
        self.disk.schedule.step(operation, f"{temporary} to {name}")
        self.disk.files.pop(temporary, None)
        return file

    def create(self, data: bytes) -> str:
        self.disk.schedule.step("create", self.path)
        return self._linked(self._whole(data, "link"))

    def swap(self, data: bytes, version: str) -> str:
        self.disk.schedule.step(f"swap {version}", self.path)
        file = self._whole(data, "rename")
        there = self.disk.files.get(self.path)
        if there is None or there.version != version:
            raise Taken(f"another run has written {self.path}")
        self._put(file)
        return file.version

    def publish(self, file: Path, *, replace: bool) -> None:
        self.disk.schedule.step("rename" if replace else "link", f"{file} to {self.path}")
        source = self.disk.found(str(file))
        if self.path.rpartition("/")[0] not in self.disk.folders:
            raise StorageError(f"could not write {self.path}: No such file or directory")
        if replace:
            del self.disk.files[str(file)]
            self._put(source)
        else:
            self._linked(source)
            self.disk.sync_folder(self.path.rpartition("/")[0])

    def _linked(self, file: File) -> str:
        there = self.disk.files.get(self.path)
        if there is None:
            self._put(file)
        elif there.data != file.data:
            raise Taken(f"another run has written {self.path}")
        if self.path not in self.disk.files:  # somebody has removed it meanwhile
            raise StorageError(f"could not write {self.path}: No such file or directory")
        return self.disk.files[self.path].version

    def _put(self, file: File) -> None:
        """Under its name; and the name on the disk."""
        self.disk.files[self.path] = file
        self.disk.on_change(self.path)
        folder = self.path.rpartition("/")[0]
        self.disk.schedule.step("sync folder", folder)
        self.disk.sync_folder(folder)

    def is_conditional(self) -> bool:
        return True

    def settle(self) -> None:
        self.disk.schedule.step("sync folder", self.path)
        self.disk.sync_folder(self.path)

    def require_writable(self) -> None:
        self.disk.schedule.step("probe", self.path)
        self.disk.make_folder(self.path)

    def remove(self) -> None:
        self.disk.schedule.step("remove", self.path)
        if self.disk.files.pop(self.path, None) is not None:
            self.disk.on_change(self.path)

    def remove_folder(self) -> None:
        self.disk.schedule.step("remove folder", self.path)
        for path in [path for path in self.disk.files if path.startswith(f"{self.path}/")]:
            if self.disk.files.pop(path, None) is not None:
                self.disk.on_change(path)
            if self.disk.schedule.random.random() < 0.3:
                self.disk.schedule.step("remove", path)
        self.disk.folders -= {folder for folder in self.disk.folders if f"{folder}/".startswith(f"{self.path}/")}


class Bucket(Store):
    """An object store, and what `obstore` is to `tlearn.storage.remote`: a client of it, which tries again.

    Objects are whole or not there, and a put may have a condition. Lists may lag. A request may fail, be answered with
    an error after it was carried out, or be given up and carried out later.
    """

    def __init__(self, schedule: Schedule, name: str):
        super().__init__(schedule)
        self.name = name
        """A URI."""
        self._listed: dict[str, File] = {}
        self._last_change: dict[str, int] = {}
        self._num_changes = 0

    def edit(self, path: str, data: bytes | None) -> None:
        self._change(path, data)

    def listed(self) -> list[str]:
        return sorted(self._listed)

    def _change(self, path: str, data: bytes | None) -> dict[str, Any]:
        """Put or delete an object; lists may say so later."""
        schedule, file = self.schedule, None
        if data is None:
            del self.files[path]
        else:
            before = self._last.get(path, 0)
            file = self.files[path] = self.new_file(data)
            file.modified = max(file.modified // SECOND * SECOND, before + SECOND)  # no two versions have the same
            self._last[path] = file.modified
        self._num_changes += 1
        change = self._num_changes

        def show() -> None:
            if change > self._last_change.get(path, 0):
                self._last_change[path] = change
                self._listed.pop(path, None)
                if file is not None:
                    self._listed[path] = file

        if schedule.random.random() < schedule.rates.lag:
            schedule.later(int(schedule.random.choice([SECOND, 30 * SECOND, HOUR]) * schedule.random.random()), show)
        else:
            show()
        self.on_change(path)
        return {"e_tag": file.version if file else None, "version": None}

    def _request(self, operation: str, key: str, effect: Callable[[], Any], *, writes: bool = False) -> Any:
        """What an answer is; tried again as a client does. Raises what it raises, GenericError in the end."""
        schedule, place = self.schedule, f"{self.name}/{key}"
        for attempt in range(3):
            try:
                step = schedule.step(operation, place)
            except CrashedNow:
                if writes:
                    self._give_up(operation, place, effect)
                raise
            fate = schedule.random.random() / schedule.rates.failure if schedule.rates.failure else 1.0
            if fate >= 1.0:
                try:
                    return effect()
                except (OSError, BaseError) as error:
                    step.outcome = type(error).__name__
                    raise
            if fate < 0.4 or not writes:
                step.outcome = "503"
            elif fate < 0.7:
                step.outcome = "500, but it is done"
                _quietly(effect)
            else:
                step.outcome = "timed out"
                self._give_up(operation, place, effect)
            schedule.sleep(0.2 * 4**attempt)
        raise GenericError(f"503 Slow Down, 3 times, at {operation} of {place}")

    def _give_up(self, operation: str, place: str, effect: Callable[[], Any]) -> None:
        """A request whose answer nobody waits for may still be carried out."""
        schedule = self.schedule
        if schedule.random.random() < 0.5:
            return

        def happen() -> None:
            schedule.note(operation, place, "carried out after it was given up", by="late")
            _quietly(effect)

        schedule.later(int(schedule.random.choice([SECOND, 60 * SECOND, HOUR]) * schedule.random.random()), happen)

    def _meta(self, path: str, file: File) -> dict[str, Any]:
        key = path[len(self.name) + 1 :]
        time = datetime.fromtimestamp(file.modified / SECOND, UTC)
        return {"path": key, "size": len(file.data), "last_modified": time, "e_tag": file.version, "version": None}

    # What obstore's stores have

    def put(self, key: str, file: Any, mode: Any = "overwrite", **_: Any) -> dict[str, Any]:
        data = _bytes_of(file)
        path = f"{self.name}/{key}"

        def effect() -> dict[str, Any]:
            there = self.files.get(path)
            if mode == "create" and there is not None:
                raise AlreadyExistsError(f"412 Precondition Failed: {key}")
            if isinstance(mode, dict) and (there is None or there.version != mode["e_tag"]):
                raise PreconditionError(f"412 Precondition Failed: {key}")
            return self._change(path, data)

        word = "put" if mode == "overwrite" else "create" if mode == "create" else f"swap {mode['e_tag']}"
        return self._request(word, key, effect, writes=True)  # type: ignore[no-any-return]

    def head(self, key: str) -> dict[str, Any]:
        path = f"{self.name}/{key}"
        return self._request("head", key, lambda: self._meta(path, self.found(path)))  # type: ignore[no-any-return]

    def get(self, key: str, options: dict[str, Any] | None = None) -> Any:
        path, options = f"{self.name}/{key}", options or {}

        def effect() -> Any:
            file = self.found(path)
            if options.get("if_match") not in (None, file.version):
                raise PreconditionError(f"412 Precondition Failed: {key}")
            data = file.data[slice(*options.get("range", (0, None)))]
            meta = self._meta(path, file)
            return SimpleNamespace(meta=meta, bytes=lambda: data, stream=lambda min_chunk_size: iter([data]))

        return self._request("get", key, effect)

    def delete(self, keys: str | list[str]) -> None:
        for key in [keys] if isinstance(keys, str) else keys:
            path = f"{self.name}/{key}"

            def effect(path: str = path) -> None:
                if path in self.files:
                    self._change(path, None)

            self._request("delete", key, effect, writes=True)

    def list(self, prefix: str | None = None, offset: str | None = None, **_: Any) -> Iterator[Any]:
        """Pages of a few keys."""
        below = f"{self.name}/{prefix}/" if prefix else f"{self.name}/"
        after = f"{self.name}/{offset or ''}"
        while page := self._request("list", f"{prefix or ''}/", functools.partial(self._page, below, after)):
            yield [self._meta(path, file) for path, file in page]
            after = page[-1][0]
            if len(page) < _PAGE:
                return

    def _page(self, below: str, after: str) -> Any:
        found = (path for path in self.listed() if path.startswith(below) and path > after)
        return [(path, self._listed[path]) for path in islice(found, _PAGE)]

    def list_with_delimiter(self, prefix: str | None = None) -> dict[str, Any]:
        below = f"{self.name}/{prefix}" if prefix else self.name
        children = self._request("list level", prefix or "", lambda: list(self.children(below)))
        return {
            "common_prefixes": [path[len(self.name) + 1 :] for path, _, is_file in children if not is_file],
            "objects": [self._meta(path, self._listed[path]) for path, _, is_file in children if is_file],
        }

    def delete_dir(self, prefix: str) -> None:
        """As pyarrow's client does: what a list shows."""
        try:
            for metas in self.list(prefix):
                self.delete([meta["path"] for meta in metas])
        except BaseError as error:
            raise OSError(str(error)) from None


def _bytes_of(file: Any) -> bytes:
    return file if isinstance(file, bytes) else storage.read(str(file)).data if isinstance(file, Path) else file.read()


def _quietly(effect: Callable[[], Any]) -> None:
    with contextlib.suppress(OSError, BaseError):
        effect()
