"""Several who write one file, on a disk and on object stores: one is first, and the others are told."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from tlearn import storage
from tlearn.errors import LockedError, StorageError
from tlearn.storage import remote, stores
from tlearn.storage.lease import Lease


class Store:
    """A bucket in memory that may ignore conditions, and of which single puts fail before or after their effect."""

    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.is_conditional = True
        self.faults: list[str] = []
        """Of the next puts; an empty one is none."""
        self.puts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.memory, name)

    def put(self, path: str, file: Any, *, mode: Any = None, **options: Any) -> Any:
        self.puts.append(path)
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "before":
            raise GenericError("Generic S3 error: operation timed out\n\nDebug source:\n...")
        result = self.memory.put(path, file, mode=mode if self.is_conditional else None)
        if fault == "after":
            raise GenericError("Generic S3 error: operation timed out\n\nDebug source:\n...")
        return result


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Store:
    bucket = Store()
    monkeypatch.setattr(stores, "_store", lambda scheme, name: bucket)
    monkeypatch.setattr(remote, "_conditional", {})
    monkeypatch.setattr(remote, "SETTLE_SECONDS", 0.05)
    return bucket


@pytest.fixture(params=["disk", "store", "careless store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, bucket: Store) -> str:
    bucket.is_conditional = request.param == "store"
    return str(tmp_path / "folder") if request.param == "disk" else "s3://bucket/folder"


def counted(bucket: Store, name: str) -> int:
    return sum(path.endswith(name) for path in bucket.puts)


def test_a_file_is_created_where_there_is_none_and_replaced_as_it_was_seen(folder: str) -> None:
    file = f"{folder}/file"
    first = storage.create(file, b"one")
    assert storage.create(file, b"one") == first == storage.read(file).version
    with pytest.raises(storage.Taken):
        storage.create(file, b"other")
    second = storage.swap(file, b"two", first)
    assert storage.read(file).data == b"two" and storage.read(file).version == second != first
    for version in (first, "", "7"):
        with pytest.raises(storage.Taken):
            storage.swap(file, b"three", version)
    storage.remove(file)
    with pytest.raises(storage.Taken), storage.reached():
        storage.swap(file, b"three", second)
    assert not storage.exists(file) and storage.names(folder) == []


def test_a_file_is_published_where_there_is_none(folder: str, tmp_path: Path) -> None:
    for name, data in (("a", b"one"), ("b", b"one"), ("c", b"other")):
        (tmp_path / name).write_bytes(data)
    storage.create(f"{folder}/beside", b"")  # makes the folder
    storage.publish(tmp_path / "a", f"{folder}/file")
    storage.publish(tmp_path / "b", f"{folder}/file")
    with pytest.raises(storage.Taken):
        storage.publish(tmp_path / "c", f"{folder}/file")
    assert storage.read(f"{folder}/file").data == b"one"


@pytest.mark.parametrize("folder", ["disk", "store"], indirect=True)
def test_no_step_of_many_writers_is_lost(folder: str) -> None:
    file, winners = f"{folder}/count", []

    def count(writer: int) -> None:
        try:
            storage.create(file, b"0" * writer)
            winners.append(writer)
        except storage.Taken:
            pass
        for _ in range(10):
            while True:
                seen = storage.read(file)
                try:
                    storage.swap(file, seen.data + b"%d," % writer, seen.version)
                    break
                except storage.Taken:
                    pass

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(count, range(1, 7)))
    written = storage.read(file).data
    assert len(winners) == 1
    assert sorted(written.lstrip(b"0")) == sorted(b"".join(b"%d," % writer * 10 for writer in range(1, 7)))


def create(file: str) -> str:
    return storage.create(file, b"new")


def swap(file: str) -> str:
    return storage.swap(file, b"new", storage.read(file).version)


@pytest.mark.parametrize("write", [create, swap])
@pytest.mark.parametrize("faults", [*itertools.product(["before", "after"], repeat=2), ["before", "before", "after"]])
def test_an_answer_that_is_lost_is_found_out(bucket: Store, write: Callable[[str], str], faults: list[str]) -> None:
    file = "s3://bucket/folder/file"
    assert storage.is_conditional("s3://bucket/folder")
    if write is swap:
        storage.write_bytes(file, b"old")
    bucket.faults = list(faults)
    assert write(file) == storage.read(file).version
    assert storage.read(file).data == b"new"
    assert bucket.faults == list(faults)[faults.index("after") + 1 :] if "after" in faults else not bucket.faults


@pytest.mark.parametrize("write", [create, swap])
def test_a_store_that_takes_nothing_is_an_error_of_one_line(bucket: Store, write: Callable[[str], str]) -> None:
    assert storage.is_conditional("s3://bucket/folder")
    if write is swap:
        storage.write_bytes("s3://bucket/file", b"old")
    bucket.faults = ["before"] * 9
    with pytest.raises(
        StorageError, match=r"^could not write s3://bucket/file: Generic S3 error: operation timed out$"
    ):
        write("s3://bucket/file")


@pytest.mark.parametrize("is_conditional", [True, False])
def test_whether_a_store_looks_at_conditions_is_tried_once_and_leaves_nothing(
    bucket: Store, is_conditional: bool
) -> None:
    bucket.is_conditional = is_conditional
    for _ in range(2):
        assert storage.is_conditional("s3://bucket/folder") == is_conditional
    assert len(bucket.puts) == 2
    assert [entry.path for entry in storage.stream("s3://bucket")] == []


def test_a_store_that_ignores_conditions_is_said_when_it_is_locked(
    bucket: Store, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for is_conditional in (True, False):
        bucket.is_conditional = is_conditional
        remote._conditional.clear()
        caplog.clear()
        with Lease("s3://bucket/folder") as lease:
            lease.check()
        assert ["ignores If-None-Match" in message for message in caplog.messages] == [True] * (not is_conditional)


def test_one_lease_is_held_renewed_and_given_back(folder: str) -> None:
    with Lease(folder) as lease:
        seen = storage.read(lease.location).version
        lease.check()
        assert storage.read(lease.location).version != seen
        with pytest.raises(LockedError, match="holds it"), Lease(folder):
            pass
        lease.check()
    assert storage.names(folder) == []


def test_a_lease_that_was_taken_over_is_not_given_back(folder: str) -> None:
    elsewhere = b'{"owner": "o", "host": "elsewhere", "boot": "b", "pid": 1, "started": "1"}'
    with Lease(folder) as lease:
        storage.swap(lease.location, elsewhere, storage.read(lease.location).version)
        with pytest.raises(LockedError, match="took it over"):
            lease.check()
    assert storage.read(lease.location).data == elsewhere
    with pytest.raises(LockedError, match="elsewhere"), Lease(folder):
        pass
    with Lease(folder, seconds=0.0) as lease:
        lease.check()


@pytest.mark.parametrize("faults", [["after"], ["before"], ["before"] * 2 + ["after"], ["before"] * 3, ["after"] * 3])
def test_a_renewal_whose_answer_is_lost_loses_no_lease(bucket: Store, faults: list[str]) -> None:
    with Lease("s3://bucket/folder") as lease:
        bucket.faults = list(faults)
        for _ in range(3):
            lease.check()
        assert not bucket.faults
        with pytest.raises(LockedError), Lease("s3://bucket/folder"):
            pass


@pytest.mark.parametrize("folder", ["disk", "store"], indirect=True)
@pytest.mark.parametrize("is_dead", [False, True])
def test_of_leases_that_want_a_folder_one_gets_it(folder: str, is_dead: bool) -> None:
    ready, tried = threading.Barrier(4), threading.Barrier(4)

    def want(_: int) -> bool:
        ready.wait(20)
        try:
            with Lease(folder, seconds=30 if not is_dead else 0.0) as lease:
                tried.wait(20)
                lease.check()
                return True
        except LockedError:
            tried.wait(20)
            return False

    if is_dead:
        storage.create(f"{folder}/lease.json", b"{}")
    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(want, range(4))) == [False] * 3 + [True]
