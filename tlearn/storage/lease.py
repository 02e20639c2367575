"""Who may write an output: a lease, held by one run at a time, that outlives no dead run for long."""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tlearn import console, storage
from tlearn.errors import LockedError, StorageError
from tlearn.storage import clock

LEASE_SECONDS = 60.0
"""A lease that was not renewed for so long is taken over; it is renewed four times as often."""

_TRIES = 10
_DYING_SECONDS = 2.0
"""A process that was killed may take so long to be gone."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lease: the content of lease.json."""

    owner: str
    """A name of this one lease."""
    host: str
    boot: str
    pid: int
    started: str | None
    renewals: int = 0

    @classmethod
    def of_this_process(cls, owner: str, renewals: int = 0) -> "Holder":
        pid = os.getpid()
        return cls(owner, socket.gethostname(), _boot_id(), pid, _process_start(pid), renewals)

    @classmethod
    def from_json(cls, data: bytes) -> "Holder | None":
        """None where the file does not say who holds it."""
        try:
            holder = cls(**json.loads(data))
        except (ValueError, TypeError, RecursionError):
            return None
        texts = (holder.owner, holder.host, holder.boot, holder.started or "")
        return holder if isinstance(holder.pid, int) and all(isinstance(text, str) for text in texts) else None

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

    The file is created where there is none, replaced while it is as it was last seen, and in no other way: at most one
    run holds it. A store that writes without a look at such conditions is found out and warned of: there two runs could
    both hold it, if one of them stood still for seconds between its look and its write.

    A run of this machine that is dead is noticed by its process id; one of another machine, or one of which the file
    says nothing, by the age of its lease, measured by the storage's clock and not by ours.
    """

    def __init__(self, folder: str, seconds: float = LEASE_SECONDS):
        self.folder = folder
        self.location = storage.join(folder, "lease.json")
        self.seconds = seconds
        self.owner = uuid.uuid4().hex
        self._renewing = threading.Lock()
        self._version = ""
        self._num_renewals = 0
        self._renewed = 0.0  # by the monotonic clock
        self._loss: str | None = None
        self._thread = contextlib.ExitStack()

    def __enter__(self) -> "Lease":
        try:
            if not storage.is_conditional(self.folder):
                console.warn(
                    f"WARNING: {self.folder} is on a store that ignores If-None-Match: "
                    "let no two runs write it at the same time"
                )
            if not self._put(storage.create):
                self._take_over()
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(f"could not write {self.location}: {error}; choose another place") from error
        self._thread.enter_context(clock.every(self.seconds / 4, self._renew))
        return self

    def _put(self, put: Callable[..., str], *seen: str) -> bool:
        """Put a lease of ours into its place; False where another one is there."""
        now = clock.monotonic()
        self._num_renewals += 1  # no two versions have the same bytes
        holder = Holder.of_this_process(self.owner, self._num_renewals)
        try:
            self._version = put(self.location, holder.to_json(), *seen)
        except storage.Taken:
            return False
        self._renewed = now
        return True

    def _take_over(self) -> None:
        try:
            dead = storage.read(self.location)  # one that cannot be read may be held
        except FileNotFoundError:
            is_ours = self._put(storage.create)
        else:
            self._require_dead(dead)
            is_ours = self._put(storage.swap, dead.version)
        if not is_ours:
            raise LockedError(f"expected {self.folder} to be free, another run just took it: wait for it")

    def _require_dead(self, lease: storage.Content) -> None:
        holder = Holder.from_json(lease.data)
        if self._is_alive(holder, lease.modified):
            who = f"run {holder.owner[:8]} (process {holder.pid} on {holder.host})" if holder else "an unknown run"
            raise LockedError(f"expected {self.folder} to be free, {who} holds it: wait for it or end it")

    def _is_alive(self, holder: Holder | None, modified: int) -> bool:
        if holder is not None and holder.is_of_this_machine:
            deadline = clock.monotonic() + (_DYING_SECONDS if holder.pid != os.getpid() else 0.0)
            while holder.is_running and clock.monotonic() < deadline:
                clock.sleep(0.05)
            return holder.is_running
        probe = storage.join(self.folder, f".{self.owner}.clock")
        storage.create(probe, b"")
        try:
            return storage.read(probe).modified - modified < self.seconds * 1e6
        finally:
            storage.remove(probe)

    def _renew(self) -> None:
        """Renew once. A renewal that fails is tried again by the next call, until the lease is too old to be ours."""
        with self._renewing:
            now = clock.monotonic()
            try:
                for _ in range(_TRIES):
                    if self._put(storage.swap, self._version):
                        return
                    if not self._is_ours():
                        self._loss = "another run took it over: this one stood still for too long"
                        return
                raise OSError("another process has it open")
            except OSError as error:
                if now - self._renewed > self.seconds:
                    self._loss = f"its lease could not be renewed for {now - self._renewed:.0f} seconds: {error}"

    def _is_ours(self) -> bool:
        """Also where the answer to a renewal was lost, or somebody has touched the file."""
        try:
            there = storage.read(self.location)
        except FileNotFoundError:
            return False
        self._version = there.version
        holder = Holder.from_json(there.data)
        return holder is not None and holder.owner == self.owner

    def check(self) -> None:
        """Raise LockedError if another run may hold the folder by now; call it before anything becomes visible."""
        if self._loss is None:
            self._renew()
        if self._loss is not None:
            raise LockedError(f"expected to hold {self.folder}, {self._loss}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.close()
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
