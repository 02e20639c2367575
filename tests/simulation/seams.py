"""What the scoring job finds in the place of storage, clock and pool: those of the current world."""

import contextlib
import os
import random
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import doubles
from doubles import MemoryIndex
from schedule import SECOND, Lock
from storages import EPOCH, Bucket
from worlds import ROOTS, World, models

from tlearn import storage
from tlearn.network import description
from tlearn.scoring import compute, index, job, ledger, output, parts, plan, planning, repair, table, waves
from tlearn.storage import clock, files, keys, lease, remote

_world: World | None = None


def enter(world: World) -> None:
    """Make a world the current one."""
    global _world
    _world = world


def _current() -> World:
    assert _world is not None
    return _world


def open_index() -> MemoryIndex:
    """That of the writer that runs."""
    return _current().open[_current().schedule.current]


class _Datetime(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp((EPOCH + _current().schedule.now) / SECOND, tz or UTC)


class _NoLease:
    def __init__(self, folder: str):
        self.folder = folder
        self.owner = _uuid().hex

    def __enter__(self) -> "_NoLease":
        storage.write_bytes(f"{self.folder}/no-lease", b"")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def check(self) -> None:
        pass


def _lease(folder: str) -> Any:
    return lease.Lease(folder) if _current().has_lease else _NoLease(folder)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[MemoryIndex]:
    """What a process that died had open is lost: it was not sealed."""
    world = _current()
    writer = world.schedule.current
    known = world.open[writer] = world.indexes.pop((writer.host, str(path)), None) or MemoryIndex(world.read)
    try:
        yield known
    finally:
        if not writer.is_dead:
            world.indexes[writer.host, str(path)] = known


@contextlib.contextmanager
def _ahead(make: Callable[[Callable[[], None]], Iterator[Any]]) -> Iterator[Iterator[Any]]:
    """The items of an iterator, some of them made before they are asked for."""
    yield _buffered(make(lambda: None), _current().schedule.random)


def _buffered(items: Iterator[Any], draw: random.Random) -> Iterator[Any]:
    made: deque[Any] = deque()
    for item in items:
        made.append(item)
        while made and draw.random() < 0.6:
            yield made.popleft()
    yield from made


def _client(location: str) -> tuple[Bucket, str]:
    return _current().bucket, location[len(ROOTS["bucket"]) + 1 :].rstrip("/")


def _one_by_one(next_page: Callable[[Any], tuple[Any, list[Any]]], first: Any) -> Iterator[Any]:
    """Of an object store the pages of all parts, in any order."""
    parts = [first]
    while parts:
        page, left = next_page(parts.pop(_current().schedule.random.randrange(len(parts))))
        parts += left
        yield page


class _HostPath(type(Path())):  # type: ignore[misc]
    """A path on the simulated disk of the host that runs."""

    def read_bytes(self) -> bytes:
        return storage.read(str(self)).data


def _silent(*_: object, **__: object) -> None:
    pass


class _Temporary:
    @staticmethod
    @contextlib.contextmanager
    def TemporaryDirectory() -> Iterator[str]:
        yield f"/tmp/{_current().schedule.current.pid}"


def _uuid() -> Any:
    _current().num_uuids += 1
    return SimpleNamespace(hex=f"{_current().num_uuids:016x}" * 2)


class _Pq:
    """Stands for `pyarrow.parquet`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_current().parquet, name)


class _Os:
    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def getpid(self) -> int:
        return _current().schedule.current.pid


def _process_start(pid: int) -> str | None:
    schedule = _current().schedule
    return "0" if schedule.is_running(schedule.current.host, pid) else None


_NAMES_OF_MODULES = {
    "pq": _Pq(), "datetime": _Datetime, "warn": _silent, "say": _silent, "event": _silent, "_once_above": _silent,
}  # fmt: skip
"""What takes their place in every module that has them."""


@contextlib.contextmanager
def seams() -> Iterator[None]:
    """Put the current world in the place of storage, clock and pool."""
    known = models()
    with contextlib.ExitStack() as stack:

        def put(module: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(module, name, value))

        put(files, "_at", lambda location: _current().at(location))
        for name in ("store", "filesystem"):
            for module in (remote, keys):
                put(module, name, _client)
        put(keys, "_side_by_side", _one_by_one)
        put(remote, "_conditional", {ROOTS["bucket"]: True})
        for name in ("monotonic", "sleep", "every"):
            put(clock, name, lambda *words, name=name: getattr(_current().schedule, name)(*words))
        for module in (index, job, ledger, output, parts, plan, planning, repair, table):
            for name, value in _NAMES_OF_MODULES.items():
                if hasattr(module, name):
                    put(module, name, value)
        put(description, "verify", lambda location: known[int(location[-1])])
        put(compute, "chunks", doubles.chunks)
        put(compute, "one", doubles.row_of)
        put(planning, "chunk_size", lambda count: _current().chunk_size)
        current = table.current
        put(table, "current", lambda rows: rows if rows.schema.equals(table.SCHEMA) else current(rows))
        put(job, "Lease", _lease)
        put(job, "tempfile", _Temporary)
        put(job, "Path", _HostPath)
        put(job, "ahead", _ahead)
        put(index, "opened", _opened)
        put(waves, "waves", doubles.waves)
        put(waves, "sizes", lambda: iter(_current().waves))
        put(lease, "threading", SimpleNamespace(Lock=Lock))
        put(lease, "console", SimpleNamespace(warn=lambda text: None))
        put(lease, "os", _Os())
        put(lease, "uuid", SimpleNamespace(uuid4=_uuid))
        put(lease, "socket", SimpleNamespace(gethostname=lambda: _current().schedule.current.host))
        put(lease, "_DYING_SECONDS", 0.1)
        put(lease, "_boot_id", lambda: str(_current().schedule.boots))
        put(lease, "_process_start", _process_start)
        yield
