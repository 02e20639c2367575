"""Who may write an output: a lease, held by one run at a time, that outlives no dead run for long."""

import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from tlearn import storage
from tlearn.errors import LockedError, StorageError

LEASE_SECONDS = 60.0
"""A lease that was not renewed for so long is taken over; it is renewed four times as often."""


SETTLE_SECONDS = 2.0
"""How long a run on an object store waits before it looks whether the lease is still its own."""


class Lease:
    """Hold `folder`/lease.json while the block runs. Raises LockedError where a living run holds it.

    On local and NFS file systems the file is created by a hard link, which fails where there is one: at most one run
    holds it. Object stores have no such step here: a run writes the object, waits, and holds the lease if the object
    is still its own; two runs could both hold it only if one of them stood still for SETTLE_SECONDS between its look
    and its write.

    A run of this machine that is dead is noticed by its process id; one of another machine by the age of its lease,
    measured by the storage's clock and not by ours.
    """

    def __init__(self, folder: str, seconds: float = LEASE_SECONDS):
        self.folder = folder
        self.location = storage.join(folder, "lease.json")
        self.seconds = seconds
        self.owner = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._is_lost = False

    def __enter__(self) -> "Lease":
        try:
            if not storage.is_remote(self.folder):
                storage.local(self.folder).mkdir(parents=True, exist_ok=True)
            if not self._create():
                self._take_over()
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"could not write {self.location}: {error}; choose another place") from error
        self._thread.start()
        return self

    def _facts(self) -> bytes:
        process = os.getpid()
        facts = {"owner": self.owner, "host": socket.gethostname(), "boot": _boot_id(), "pid": process}
        return json.dumps({**facts, "started": _process_start(process)}).encode()

    def _create(self) -> bool:
        if storage.is_remote(self.folder):
            if storage.exists(self.location):
                return False
            storage.write_bytes(self.location, self._facts())
            time.sleep(SETTLE_SECONDS)
            return self._is_ours()
        path = storage.local(self.location)
        temporary = path.with_name(f".{self.owner}.tmp")
        temporary.write_bytes(self._facts())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def _take_over(self) -> None:
        holder = self._read()
        if holder is not None and self._is_alive(holder):
            raise LockedError(
                f"expected {self.folder} to be free, run {str(holder.get('owner'))[:8]} (process {holder.get('pid')} "
                f"on {holder.get('host')}) holds it: wait for it or end it"
            )
        if storage.is_remote(self.folder):
            storage.remove(self.location)
        else:
            self._move_aside(holder)
        if not self._create():
            raise LockedError(f"expected {self.folder} to be free, another run just took it: wait for it")

    def _move_aside(self, holder: dict[str, Any] | None) -> None:
        """Take a dead lease away; one that another run has put in its place meanwhile is put back."""
        path = storage.local(self.location)
        aside = path.with_name(f".{self.owner}.stale")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        taken = _parse(aside.read_bytes())
        if taken is not None and (holder is None or taken.get("owner") != holder.get("owner")):
            os.link(aside, path)
        aside.unlink()

    def _read(self) -> dict[str, Any] | None:
        try:
            return _parse(storage.read(self.location).data)
        except OSError:
            return None

    def _is_ours(self) -> bool:
        holder = self._read()
        return holder is not None and holder.get("owner") == self.owner

    def _is_alive(self, holder: dict[str, Any]) -> bool:
        if holder.get("host") == socket.gethostname() and holder.get("boot") == _boot_id():
            # The start time tells a living holder from another process that was given its id.
            return _process_start(int(holder["pid"])) == str(holder["started"])
        clock = storage.join(self.folder, f".{self.owner}.clock")
        storage.write_bytes(clock, b"")
        try:
            now = storage.read(clock).modified
            return now - storage.read(self.location).modified < self.seconds * 1e6
        except FileNotFoundError:
            return True
        finally:
            storage.remove(clock)

    def _renew(self) -> None:
        while not self._stop.wait(self.seconds / 4):
            if not self._is_ours():
                self._is_lost = True
                return
            if storage.is_remote(self.folder):
                storage.write_bytes(self.location, self._facts())
            else:
                storage.local(self.location).touch()

    def check(self) -> None:
        """Raise LockedError if another run has taken this lease over; call it before anything becomes visible."""
        if self._is_lost or not self._is_ours():
            raise LockedError(
                f"expected to hold {self.folder}, another run took it over: this one stood still for too long"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._is_ours():
            storage.remove(self.location)


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        facts = json.loads(data)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None where there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        pass
    try:  # no /proc here: alive is all that can be told
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return "" if not Path("/proc/self/stat").exists() else None
