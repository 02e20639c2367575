"""How Ray is started and joined, with Ray's own part replaced."""

import dataclasses
import os
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import NodeDiedError

from tlearn.distributed import launch, places, pool
from tlearn.distributed.places import Address
from tlearn.errors import InputError, StorageError

PRINTING = ray._private.worker.print_to_stdstream


class Start:
    """ray.init, which ends as told, one ending a call."""

    def __init__(self, *endings: Exception | None):
        self.endings = [*endings]
        self.calls: list[dict[str, Any]] = []
        self.threads: list[threading.Thread] = []

    def __call__(self, address: str, **options: Any) -> None:
        self.calls.append({"address": address, **options})
        self.threads.append(threading.current_thread())
        ending = self.endings.pop(0)
        if ending is not None:
            raise ending


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    start = Start()
    monkeypatch.setattr(launch.ray, "init", start)
    monkeypatch.setattr(launch.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(launch.ray, "shutdown", lambda: None)
    monkeypatch.setattr(places, "cluster", lambda: None)
    monkeypatch.setattr(os, "environ", {**os.environ})
    return start


def test_a_start_that_fails_is_tried_once_more(start: Start) -> None:
    start.endings = [TimeoutError("The current node timed out during startup."), None]
    launch.start_ray()
    assert [call["address"] for call in start.calls] == ["local", "local"]


def test_a_start_that_fails_twice_is_one_line(start: Start) -> None:
    start.endings = [RuntimeError("Failed to start GCS.\nLast 0 lines"), RuntimeError("Failed to start GCS.\nLast")]
    with pytest.raises(StorageError, match=r"^expected Ray to start on this machine .*Failed to start GCS. Last$"):
        launch.start_ray()


def test_a_start_without_end_has_a_limit(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_START_SECONDS", 0.1)
    monkeypatch.setattr(launch.ray, "init", lambda *words, **options: threading.Event().wait(2))
    with pytest.raises(StorageError, match=r"within 0 s, it did not"):
        launch.start_ray()


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        (
            RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.1"),
            r"another Ray .*Ray: 2.1.*same",
        ),
        (launch.AuthenticationError("no token\nfound"), r"token .*RAY_AUTH_TOKEN"),
        (ConnectionError("Failed to connect to Ray cluster at head:1"), r"token may be missing here"),
        (ConnectionError("refused"), r"got ConnectionError: refused: RAY_ADDRESS=local"),
    ],
)
def test_a_cluster_that_does_not_take_this_process_is_named(
    ending: Exception, says: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "cluster", lambda: Address("auto", "RAY_ADDRESS"))
    start.endings = [ending]
    with pytest.raises(StorageError, match=rf"^expected a Ray at auto \(from RAY_ADDRESS\): .*{says}") as raised:
        launch.start_ray()
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity here")
def test_a_ray_has_the_cpus_that_may_be_used(start: Start) -> None:
    """As after `taskset -c 0`."""
    start.endings = [None]
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        launch.start_ray()
    finally:
        os.sched_setaffinity(0, before)
    assert start.calls[0]["num_cpus"] == 1


def test_a_ray_lives_longer_than_the_thread_that_asked_for_it(start: Start) -> None:
    start.endings = [None]
    asking = threading.Thread(target=launch.start_ray)
    asking.start()
    asking.join(10)
    assert not asking.is_alive() and start.threads[0].is_alive()


class Door:
    """A lock that says who has come to it."""

    def __init__(self) -> None:
        self.arrived, self.lock = threading.Semaphore(0), threading.Lock()

    def __enter__(self) -> None:
        self.arrived.release()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_those_who_wait_for_a_start_share_its_failure(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    door, go_on = Door(), threading.Event()
    monkeypatch.setattr(launch, "_starting", door)

    def fail(address: str, **options: Any) -> None:
        start.calls.append({})
        go_on.wait(10)
        raise RuntimeError("no")

    monkeypatch.setattr(launch.ray, "init", fail)
    errors: list[StorageError] = []

    def ask() -> None:
        with pytest.raises(StorageError) as raised:
            launch.start_ray()
        errors.append(raised.value)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert all(door.arrived.acquire(timeout=10) for _ in threads)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len({id(error) for error in errors}) == 1 and len(start.calls) == 2  # a start, and its second try


@pytest.mark.parametrize(("gib", "expected"), [([80, 24, 40], 24.0), ([8], 8.0), ([], 0.0), (None, 0.0)])
def test_the_memory_of_a_gpu_is_that_of_the_smallest(
    gib: list[int] | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count() -> int:
        if gib is None:
            raise launch.pynvml.NVMLError(launch.pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        return len(gib)

    def memory(number: int) -> SimpleNamespace:
        assert gib is not None
        return SimpleNamespace(total=gib[number] * 2**30)

    monkeypatch.setattr(launch.pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(launch.pynvml, "nvmlDeviceGetCount", count)
    monkeypatch.setattr(launch.pynvml, "nvmlDeviceGetHandleByIndex", lambda number: number)
    monkeypatch.setattr(launch.pynvml, "nvmlDeviceGetMemoryInfo", memory)
    assert launch._gib_of_gpu.__wrapped__() == expected


def test_what_ray_raises_of_itself_is_an_error_of_storage_and_ours_is_ours() -> None:
    with pytest.raises(StorageError, match=r"got: a node was lost; the same command goes on"), launch.causes():
        raise NodeDiedError("the node\nis gone")
    with pytest.raises(InputError, match=r"^ours$"), launch.causes():
        try:
            raise InputError("ours")
        except InputError as error:
            raise NodeDiedError("theirs") from error
    with pytest.raises(ZeroDivisionError), launch.causes():
        raise ZeroDivisionError


def test_a_chunk_is_waited_for_by_what_others_took() -> None:
    patience = pool._Patience()
    assert patience.seconds(is_first=True) == 900 and patience.seconds(is_first=False) == 120
    patience.learn(100, is_first=True)
    patience.learn(7, is_first=False)
    assert patience.seconds(is_first=False) == 300
    patience.learn(20, is_first=False)
    assert patience.seconds(is_first=False) == 400
    assert dataclasses.replace(patience, is_careful=True).seconds(is_first=False) == 600


def test_what_ray_says_of_lost_tasks_is_not_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray._private.worker, "print_to_stdstream", PRINTING)
    said = {"lines": ["Task failed."], "pid": "raylet", "is_err": False}
    PRINTING(dict(said), ignore_prefix=False)
    assert "Task failed." in capsys.readouterr().out
    launch._quieten()
    ray._private.worker.print_to_stdstream(dict(said), ignore_prefix=False)
    assert capsys.readouterr().out == ""
