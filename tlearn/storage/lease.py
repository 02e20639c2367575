"""Who may write an output: a lease, held by one run at a time, that outlives no dead run for long."""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tlearn import storage
from tlearn.errors import LockedError, StorageError

LEASE_SECONDS = 60.0
"""A lease that was not renewed for so long is taken over; it is renewed four times as often."""

SETTLE_SECONDS = 2.0
"""How long a run on an object store waits before it looks whether the lease is still its own."""

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

    @classmethod
    def of_this_process(cls, owner: str) -> "Holder":
        pid = os.getpid()
        return cls(owner, socket.gethostname(), _boot_id(), pid, _process_start(pid))

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

    On local and NFS file systems the file is created by a hard link, which fails where there is one, and that of a dead
    run is replaced by the run that locks it: at most one run holds it. Object stores have no such step here: a run
    writes the object, waits, and holds the lease if the object is still its own; two runs could both hold it only if
    one of them stood still for SETTLE_SECONDS between its look and its write.

    A run of this machine that is dead is noticed by its process id; one of another machine, or one of which the file
    says nothing, by the age of its lease, measured by the storage's clock and not by ours.
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
        if not storage.is_remote(self.folder):
            return self._write(os.link)
        if storage.exists(self.location):
            return False
        self._renewed = time.monotonic()
        storage.write_bytes(self.location, Holder.of_this_process(self.owner).to_json())
        time.sleep(SETTLE_SECONDS)
        return self._is_ours()

    def _write(self, put: Callable[[Path, Path], None]) -> bool:
        """Put a lease of ours into its place; False where `put` finds one there."""
        self._renewed = time.monotonic()
        path = storage.local(self.location)
        temporary = path.with_name(f".{self.owner}.tmp")
        temporary.write_bytes(Holder.of_this_process(self.owner).to_json())
        try:
            put(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _take_over(self) -> None:
        data = self._read()
        holder = None if data is None else Holder.from_json(data)
        if data is not None and self._is_alive(holder):
            who = f"run {holder.owner[:8]} (process {holder.pid} on {holder.host})" if holder else "an unknown run"
            raise LockedError(f"expected {self.folder} to be free, {who} holds it: wait for it or end it")
        if data is not None and storage.is_remote(self.folder):
            storage.remove(self.location)
        if not (self._create() or (data is not None and self._replace(data))):
            raise LockedError(f"expected {self.folder} to be free, another run just took it: wait for it")

    def _replace(self, dead: bytes) -> bool:
        """Put a lease of ours in the place of a dead one; False where another run does, or did."""
        path = storage.local(self.location)
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _opened(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who waited for the lock may have the file of the dead run open after it was replaced.
            if os.path.samestat(os.fstat(file), path.stat()) and path.read_bytes() == dead:
                return self._write(os.replace)
        return False

    def _read(self) -> bytes | None:
        """None where there is no lease. Raises OSError: a lease that cannot be read may be held."""
        try:
            return storage.read(self.location).data
        except FileNotFoundError:
            return None

    def _is_ours(self) -> bool:
        data = self._read()
        holder = None if data is None else Holder.from_json(data)
        return holder is not None and holder.owner == self.owner

    def _is_alive(self, holder: Holder | None) -> bool:
        if holder is not None and holder.is_of_this_machine:
            deadline = time.monotonic() + (_DYING_SECONDS if holder.pid != os.getpid() else 0.0)
            while holder.is_running and time.monotonic() < deadline:
                time.sleep(0.05)
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


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """To be locked. NFS locks only what is open for writing; another user's file may only be open for reading."""
    descriptor = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


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
