"""Who may write an output: a lease, held by one run at a time, that outlives no dead run for long."""

import json
import os
import socket
import threading
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from tlearn.errors import LockedError, StorageError

LEASE_SECONDS = 60.0
"""A lease that was not renewed for so long is taken over; it is renewed four times as often."""


class Lease:
    """Hold `folder`/lease.json while the block runs. Raises LockedError where a living run holds it.

    The file is created by a hard link, which fails where there is one: a lock on every local and NFS file system.
    A run of this machine that is dead is noticed by its process id; one of another machine by the age of its lease,
    measured by the storage's clock and not by ours.
    """

    def __init__(self, folder: Path, seconds: float = LEASE_SECONDS):
        self.path = folder / "lease.json"
        self.seconds = seconds
        self.owner = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._is_lost = False

    def __enter__(self) -> "Lease":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self._create():
                self._take_over()
        except OSError as error:
            raise StorageError(f"could not write {self.path}: {error.strerror}; choose another place") from error
        self._thread.start()
        return self

    def _create(self) -> bool:
        temporary = self.path.with_name(f".{self.owner}.tmp")
        facts = {"owner": self.owner, "host": socket.gethostname(), "boot": _boot_id(), "pid": os.getpid()}
        temporary.write_text(json.dumps(facts | {"started": _process_start(os.getpid())}))
        try:
            os.link(temporary, self.path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def _take_over(self) -> None:
        holder = self._read()
        if holder is not None and self._is_alive(holder):
            raise LockedError(
                f"expected {self.path.parent} to be free, run {holder.get('owner', '?')[:8]} (process "
                f"{holder.get('pid')} on {holder.get('host')}) holds it: wait for it or end it"
            )
        # Renaming takes away exactly one file; whoever loses this race sees a fresh lease, not a stale one.
        aside = self.path.with_name(f".{self.owner}.stale")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            pass
        else:
            taken = json.loads(aside.read_text() or "{}")
            if holder is not None and taken.get("owner") != holder.get("owner"):
                os.link(aside, self.path)  # another run took it over between our look and our rename
            aside.unlink()
        if not self._create():
            raise LockedError(f"expected {self.path.parent} to be free, another run just took it: wait for it")

    def _read(self) -> dict[str, Any] | None:
        try:
            facts = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return None
        return facts if isinstance(facts, dict) else None

    def _is_alive(self, holder: dict[str, Any]) -> bool:
        if holder.get("host") == socket.gethostname() and holder.get("boot") == _boot_id():
            # The start time tells a living holder from another process that was given its id.
            return _process_start(int(holder["pid"])) == str(holder["started"])
        now = self.path.with_name(f".{self.owner}.clock")
        now.touch()
        try:
            age: float = now.stat().st_mtime - self.path.stat().st_mtime
            return age < self.seconds
        except FileNotFoundError:
            return True
        finally:
            now.unlink()

    def _renew(self) -> None:
        while not self._stop.wait(self.seconds / 4):
            holder = self._read()
            if holder is None or holder.get("owner") != self.owner:
                self._is_lost = True
                return
            self.path.touch()

    def check(self) -> None:
        """Raise LockedError if another run has taken this lease over; call it before anything becomes visible."""
        holder = self._read()
        if self._is_lost or holder is None or holder.get("owner") != self.owner:
            raise LockedError(
                f"expected to hold {self.path.parent}, another run took it over: this one stood still for too long"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        holder = self._read()
        if holder is not None and holder.get("owner") == self.owner:
            self.path.unlink(missing_ok=True)


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
