"""Who may write an output: a lease, held by one run at a time, that outlives no dead run for long."""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tlearn import storage
from tlearn.errors import LockedError, StorageError

LEASE_SECONDS = 60.0
"""A lease that was not renewed for so long is taken over; it is renewed four times as often."""

SETTLE_SECONDS = 2.0
"""How long a run on an object store waits before it looks whether the lease is still its own."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lease: the content of lease.json."""

    owner: str = ""
    """A name of this one lease."""
    host: str = ""
    boot: str = ""
    pid: int = 0
    started: str | None = None

    @classmethod
    def of_this_process(cls, owner: str) -> "Holder":
        pid = os.getpid()
        return cls(owner, socket.gethostname(), _boot_id(), pid, _process_start(pid))

    @classmethod
    def from_json(cls, data: bytes) -> "Holder | None":
        """None where the file is damaged; what it lacks stays empty."""
        try:
            facts = json.loads(data)
        except ValueError:
            return None
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: facts[name] for name in names & facts.keys()}) if isinstance(facts, dict) else None

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @property
    def is_of_this_machine(self) -> bool:
        return (self.host, self.boot) == (socket.gethostname(), _boot_id())

    @property
    def is_running(self) -> bool:
        """Asked on the holder's machine: the start time tells it from another process that was given its id."""
        return _process_start(self.pid) == str(self.started)


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
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._renewed = 0.0  # by the monotonic clock
        self._loss: str | None = None

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

    def _create(self) -> bool:
        self._renewed = time.monotonic()
        facts = Holder.of_this_process(self.owner).to_json()
        if storage.is_remote(self.folder):
            if storage.exists(self.location):
                return False
            storage.write_bytes(self.location, facts)
            time.sleep(SETTLE_SECONDS)
            return self._is_ours()
        path = storage.local(self.location)
        temporary = path.with_name(f".{self.owner}.tmp")
        temporary.write_bytes(facts)
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
                f"expected {self.folder} to be free, run {holder.owner[:8]} (process {holder.pid} "
                f"on {holder.host}) holds it: wait for it or end it"
            )
        if storage.is_remote(self.folder):
            storage.remove(self.location)
        else:
            self._move_aside(holder)
        if not self._create():
            raise LockedError(f"expected {self.folder} to be free, another run just took it: wait for it")

    def _move_aside(self, holder: Holder | None) -> None:
        """Take a dead lease away; one that another run has put in its place meanwhile is put back."""
        path = storage.local(self.location)
        aside = path.with_name(f".{self.owner}.stale")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        taken = Holder.from_json(aside.read_bytes())
        if taken is not None and (holder is None or taken.owner != holder.owner):
            os.link(aside, path)
        aside.unlink()

    def _read(self) -> Holder | None:
        """None where there is no lease, or a damaged one. Raises OSError: a lease that cannot be read may be held."""
        try:
            return Holder.from_json(storage.read(self.location).data)
        except FileNotFoundError:
            return None

    def _is_ours(self) -> bool:
        holder = self._read()
        return holder is not None and holder.owner == self.owner

    def _is_alive(self, holder: Holder) -> bool:
        if holder.is_of_this_machine:
            return holder.is_running
        clock = storage.join(self.folder, f".{self.owner}.clock")
        storage.write_bytes(clock, b"")
        try:
            now = storage.read(clock).modified
            return now - storage.read(self.location).modified < self.seconds * 1e6
        except FileNotFoundError:
            return True
        finally:
            storage.remove(clock)

    def _keep(self) -> None:
        while self._loss is None and not self._stop.wait(self.seconds / 4):
            self._renew()

    def _renew(self) -> None:
        """Renew once. A renewal that fails is tried again by the next call, until the lease is too old to be ours."""
        now = time.monotonic()
        try:
            if not self._is_ours():
                self._loss = "another run took it over: this one stood still for too long"
                return
            if storage.is_remote(self.folder):
                storage.write_bytes(self.location, Holder.of_this_process(self.owner).to_json())
            else:
                os.utime(storage.local(self.location))
            self._renewed = now
        except OSError as error:
            if now - self._renewed > self.seconds:
                self._loss = f"its lease could not be renewed for {now - self._renewed:.0f} seconds: {error}"

    def check(self) -> None:
        """Raise LockedError if another run may hold the folder by now; call it before anything becomes visible."""
        if self._loss is None:
            self._renew()
        if self._loss is not None:
            raise LockedError(f"expected to hold {self.folder}, {self._loss}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # a lease that stays grows old, and the run ends as it did
            if self._is_ours():
                storage.remove(self.location)


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
