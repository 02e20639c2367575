"""One run at a time; a dead run's lease is taken over, a living one's never."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tlearn import storage
from tlearn.errors import LockedError, StorageError
from tlearn.storage import clock
from tlearn.storage.lease import Holder, Lease

HOLD = """
import sys, time
from tlearn.storage.lease import Lease
with Lease(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_living_run_keeps_its_lease_and_a_killed_one_loses_it(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        with pytest.raises(LockedError, match=str(process.pid)) as raised, Lease(str(tmp_path)):
            pass
        assert raised.value.code == 75
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with Lease(str(tmp_path)) as lease:
        lease.check()
    assert list(tmp_path.iterdir()) == []


def test_a_lease_of_another_machine_is_respected_while_it_is_young(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.write_text(json.dumps({"owner": "other", "host": "elsewhere", "boot": "x", "pid": 1, "started": "1"}))
    with pytest.raises(LockedError, match="elsewhere"), Lease(str(tmp_path)):
        pass
    os.utime(path, (time.time() - 100, time.time() - 100))
    with Lease(str(tmp_path)) as lease:
        lease.check()
        path.write_text(json.dumps({"owner": "third"}))
        with pytest.raises(LockedError, match="took it over"):
            lease.check()
    assert json.loads(path.read_text()) == {"owner": "third"}


class Broken:
    """A disk that can be neither read nor written: what becomes of `storage`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.is_broken = False
        for name in ("read", "create", "swap"):
            monkeypatch.setattr(storage, name, self._breaking(getattr(storage, name)))

    def _breaking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if self.is_broken:
                raise OSError(errno.EIO, "Input/output error")
            return function(*arguments)

        return call


def test_a_renewal_that_failed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, path = Broken(monkeypatch), tmp_path / "lease.json"
    with Lease(str(tmp_path)) as lease:
        os.utime(path, (0, 0))
        disk.is_broken = True
        lease.check()  # still young: nobody can have taken it
        assert path.stat().st_mtime == 0
        disk.is_broken = False
        lease.check()
        assert path.stat().st_mtime > 0
    assert not path.exists()


def test_the_thread_that_renews_survives_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, path = Broken(monkeypatch), tmp_path / "lease.json"
    failed, renewed = threading.Event(), threading.Event()
    renew = Lease._renew

    def watched(lease: Lease) -> None:
        renew(lease)
        (failed if disk.is_broken else renewed).set()

    monkeypatch.setattr(Lease, "_renew", watched)
    with Lease(str(tmp_path), seconds=0.4):
        with monkeypatch.context() as patch:
            patch.setattr(clock, "monotonic", lambda: 0.0)  # the lease does not age
            disk.is_broken = True
            assert failed.wait(20)
            disk.is_broken = False
        os.utime(path, (0, 0))
        for _ in range(2):  # the first may have been under way
            renewed.clear()
            assert renewed.wait(20)
        assert path.stat().st_mtime > 0


def test_a_lease_that_could_not_be_renewed_for_its_seconds_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Broken(monkeypatch)
    with Lease(str(tmp_path), seconds=60) as lease:
        now = time.monotonic()
        disk.is_broken = True
        with monkeypatch.context() as patch:
            patch.setattr(clock, "monotonic", lambda: now + 59)
            lease.check()
            patch.setattr(clock, "monotonic", lambda: now + 61)
            with pytest.raises(LockedError, match="could not be renewed for 61 seconds"):
                lease.check()
        disk.is_broken = False
        with pytest.raises(LockedError, match="could not be renewed"):
            lease.check()  # another run may have come and gone


def test_a_lease_that_another_process_keeps_open_grows_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that stands still while it takes the lease over."""
    with Lease(str(tmp_path), seconds=60) as lease, (tmp_path / "lease.json").open("r+") as file:
        now = time.monotonic()
        fcntl.flock(file, fcntl.LOCK_EX)
        lease.check()
        with monkeypatch.context() as patch, pytest.raises(LockedError, match="could not be renewed for 61 seconds"):
            patch.setattr(clock, "monotonic", lambda: now + 61)
            lease.check()


def test_a_run_that_stood_still_goes_on_if_nobody_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lease(str(tmp_path), seconds=60) as lease:
        now = time.monotonic()
        monkeypatch.setattr(clock, "monotonic", lambda: now + 1000)
        lease.check()


def test_a_lease_that_cannot_be_read_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lease(str(tmp_path)) as lease:
        with monkeypatch.context() as patch:
            Broken(patch).is_broken = True
            with pytest.raises(StorageError, match="Input/output error"), Lease(str(tmp_path)):
                pass
        lease.check()


def test_a_lease_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Lease(str(tmp_path)):
        raise KeyError
    assert not (tmp_path / "lease.json").exists()


@pytest.mark.parametrize("data", ["{", "", "{}", "[]", '{"owner": 7}', "[" * 100_000, "\x00"])
def test_a_lease_that_says_nothing_is_judged_by_its_age(tmp_path: Path, data: str) -> None:
    path = tmp_path / "lease.json"
    path.write_text(data)
    with pytest.raises(LockedError, match="an unknown run holds it"), Lease(str(tmp_path)):
        pass
    os.utime(path, (time.time() - 100, time.time() - 100))
    with Lease(str(tmp_path)) as lease:
        lease.check()


def test_a_byte_flipped_in_a_dead_lease_locks_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    with Lease(str(tmp_path)):
        whole = path.read_bytes()
    dead = whole.replace(json.dumps(os.getpid()).encode(), b"%d" % 2**22)
    for place in range(len(dead)):
        path.write_bytes(dead[:place] + bytes([dead[place] ^ 4]) + dead[place + 1 :])
        os.utime(path, (time.time() - 100, time.time() - 100))
        with Lease(str(tmp_path)) as lease:
            lease.check()


def test_of_threads_that_want_a_dead_lease_one_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_alive, judged = Lease._is_alive, threading.Barrier(8)

    def judge(lease: Lease, holder: Holder | None, modified: int) -> bool:
        result = is_alive(lease, holder, modified)
        judged.wait(20)  # all of them have found it dead
        return result

    monkeypatch.setattr(Lease, "_is_alive", judge)
    dead = json.dumps({"owner": "d", "host": "elsewhere", "boot": "x", "pid": 1, "started": "1"})
    for round_ in range(20):
        folder = tmp_path / str(round_)
        folder.mkdir()
        (folder / "lease.json").write_text(dead)
        os.utime(folder / "lease.json", (time.time() - 100, time.time() - 100))
        outcomes = contend(str(folder), 8)
        assert sorted(outcomes) == ["lost"] * 7 + ["won"]


def contend(folder: str, num_threads: int) -> list[str]:
    start, end = threading.Barrier(num_threads), threading.Barrier(num_threads)

    def attempt(_: int) -> str:
        start.wait(20)
        try:
            with Lease(folder) as lease:
                end.wait(20)  # nobody gives it back before everybody has tried
                lease.check()
                return "won"
        except LockedError:
            end.wait(20)
            return "lost"

    with ThreadPoolExecutor(num_threads) as threads:
        return list(threads.map(attempt, range(num_threads)))


@pytest.mark.slow
def test_of_many_that_want_a_dead_lease_one_gets_it(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.kill()
    process.communicate()
    code = (
        "import sys, time, os; from tlearn.errors import LockedError; from tlearn.storage.lease import Lease\n"
        "while not os.path.exists(sys.argv[2]): time.sleep(0.001)\n"
        "try:\n with Lease(sys.argv[1]) as lease:\n  time.sleep(5); lease.check(); print('won')\n"
        "except LockedError: print('lost')"
    )
    go = tmp_path / "go"
    command = [sys.executable, "-c", code, str(tmp_path), str(go)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    time.sleep(1)
    go.touch()
    assert sorted(racer.communicate()[0].strip() for racer in racers) == ["lost"] * 5 + ["won"]


def test_a_holder_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    """As one that was killed, and whose memory the kernel still gives back."""
    holds = "import sys, time; from tlearn.storage.lease import Lease; Lease(sys.argv[1]).__enter__()"
    code = f"{holds}; print(1, flush=True); time.sleep(1); import os; os._exit(0)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        with Lease(str(tmp_path)):
            pass
