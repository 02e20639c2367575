"""A small process before the one that works: whatever becomes of Ray, a command ends with a line and a code of ours.

Ray's C++ ends its driver where raylet or GCS are lost, and hears no signal where they stand still; Arrow's now and then
aborts a process that has done its work. So a command is two processes. The child works, and says here with which code
it ended. The parent passes signals on, ends what stands still, and leaves no process behind: as a subreaper it becomes
the parent of all that the child leaves. Where the parent is killed itself, a third process ends what is left, which
does nothing else. It costs a few milliseconds. Linux only; elsewhere, and in a program that
imports tlearn, the work is done in the process itself.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tlearn import errors
from tlearn.errors import Stopped, StorageError

END_SECONDS = 30.0
"""How long a command may take to end after a signal, or after its work is done."""
_STILL_SECONDS = 60.0
"""How long a process may be stopped (SIGSTOP) before it is ended, and Ray goes on without it."""
_SILENT_SECONDS = 120.0
"""How long a cluster may give no answer."""
_LEFT_SECONDS = 1.0
"""How long processes may outlive the command that started them."""
_LOOK_SECONDS = 2.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_BEAT = 255
_MARK = "TLEARN_COMMAND"
"""In the environment of all that a command starts."""
_writing: int | None = None
"""In the child: what is written there the parent reads."""


def is_child() -> bool:
    """Whether this process works under the eyes of another."""
    return _writing is not None


def beat() -> None:
    """Say that the cluster answers. After the first time, silence ends the command."""
    if _writing is not None:
        os.write(_writing, bytes([_BEAT]))


def run(work: Callable[[], int], *, keep_stderr: bool = False) -> int:
    """Do the work in a child process; return its exit code, or that of what ended it. The child returns here too.

    Raises StorageError where the child died without a word, Stopped where it had to be killed after a signal. With
    `keep_stderr`, what C++ writes there is seen.
    """
    if sys.platform != "linux":
        return work()
    heard = {number for number in Stopped.WORDS if signal.getsignal(number) is not signal.SIG_IGN}
    reading, writing = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*heard, signal.SIGCHLD})
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    parent, mark = os.getpid(), uuid.uuid4().hex
    sweeper = _sweeper(mark)
    child = os.fork()
    if child:
        os.close(writing)
        os.set_blocking(reading, False)
        return _Guard(child, sweeper, reading, heard).wait()
    global _writing
    _writing = writing
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(errors.FAULT)
    os.close(reading)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.environ[_MARK] = mark
    if not keep_stderr:
        _keep_for_python()
    code = errors.FAULT
    try:
        code = work()
    finally:
        os.write(writing, bytes([code]))
    return code


def _keep_for_python() -> None:
    """Let nobody write to stderr but Python: Ray's C++ has pages to say when it ends a process."""
    own = os.dup(2)
    sys.stderr = open(own, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")  # noqa: SIM115
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@dataclass(slots=True)
class _Guard:
    """The parent."""

    child: int
    sweeper: int
    reading: int
    """The child's exit code comes here."""
    heard: set[signal.Signals]
    stop: signal.Signals | None = None
    """The signal that ends the command."""
    code: int | None = None
    """What the child has said."""
    deadline: float = float("inf")
    silent: float | None = None
    """For how many seconds the cluster has given no answer; None until its first."""
    stopped: dict[int, float] = field(default_factory=dict)
    """Processes that are stopped, and for how many seconds they have been seen so."""

    def wait(self) -> int:
        status = None
        while status is None:
            received = signal.sigtimedwait({*self.heard, signal.SIGCHLD}, _LOOK_SECONDS)
            if received is not None and received.si_signo in self.heard:
                self._pass_on(signal.Signals(received.si_signo), is_of_terminal=received.si_code > 0)
            elif received is None:
                self._look()
            self._listen()
            if time.monotonic() > self.deadline or (self.silent or 0.0) > _SILENT_SECONDS:
                os.kill(self.child, signal.SIGKILL)
            status = self._ended()
        self._listen()
        self._clear()
        _kill(self.sweeper)
        return self._verdict(status)

    def _pass_on(self, number: signal.Signals, *, is_of_terminal: bool) -> None:
        if self.stop is None:
            self.stop, self.deadline = number, time.monotonic() + END_SECONDS
        if not is_of_terminal:  # which sends it to both
            os.kill(self.child, number)

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for said in os.read(self.reading, 1000):
                if said == _BEAT:
                    self.silent = 0.0
                else:
                    self.code, self.deadline = said, time.monotonic() + END_SECONDS

    def _ended(self) -> int | None:
        """The child's wait status once it has ended. Reaps whatever else has."""
        ended = None
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self.child:
                    ended = found[1]
        return ended

    def _look(self) -> None:
        """Called every two seconds; those in which the guard was stopped too, by Ctrl-Z, do not count."""
        if self.silent is not None and self.code is None:
            self.silent += _LOOK_SECONDS
        now = [process for process, state in self._running() if state == "T"]
        self.stopped = {process: self.stopped.get(process, 0.0) + _LOOK_SECONDS for process in now}
        for process, seconds in self.stopped.items():
            if seconds >= _STILL_SECONDS:
                _kill(process)

    def _running(self) -> Iterator[tuple[int, str]]:
        return (found for found in _descendants(os.getpid()) if found[0] != self.sweeper)

    def _clear(self) -> None:
        """End what the child has left running."""
        started, waited = time.monotonic(), 0.0
        while waited < END_SECONDS:
            left, waited = [*self._running()], time.monotonic() - started
            if not left:
                return
            for process, _ in left if waited > _LEFT_SECONDS else ():
                _kill(process)
            time.sleep(0.05)
            self._ended()

    def _verdict(self, status: int) -> int:
        if self.code is not None:
            return self.code
        if self.stop is not None:
            raise Stopped(self.stop)
        if (self.silent or 0.0) > _SILENT_SECONDS:
            raise StorageError(
                f"expected answers of Ray, got none for {_SILENT_SECONDS:.0f} s: look after its head; the same "
                "command goes on from here"
            )
        how = (
            f"exit code {os.WEXITSTATUS(status)}" if os.WIFEXITED(status) else signal.Signals(os.WTERMSIG(status)).name
        )
        raise StorageError(
            f"expected Ray to run as long as the command, it or this process was lost ({how}): look for a lack of "
            "memory; the same command goes on from here"
        )


def _sweeper(mark: str) -> int:
    """Start a process that ends, when this one is killed, all that has the mark; returns its id."""
    parent = os.getpid()
    if process := os.fork():
        return process
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.setsid()
    for number in range(3):  # who reads what the command prints would wait for this process too
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
    if os.getppid() == parent:
        signal.sigwait({signal.SIGUSR1})
    deadline = time.monotonic() + END_SECONDS
    time.sleep(_LEFT_SECONDS)
    while (left := _marked(mark)) and time.monotonic() < deadline:
        for process in left:
            _kill(process)
        time.sleep(0.05)
    os._exit(0)


def _marked(mark: str) -> list[int]:
    """Processes that were started with this mark in their environment."""
    found, wanted = [], f"{_MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _descendants(process: int) -> Iterator[tuple[int, str]]:
    """Process id and state, as "T" for stopped, of all that live."""
    children: dict[int, list[tuple[int, str]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append((int(folder.name), state))
    waiting = [process]
    while waiting:
        found = children.get(waiting.pop(), [])
        yield from found
        waiting += [child for child, _ in found]


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
