"""A function in a process of its own on this machine, without Ray: the process may die, and this one goes on.

The child is a fresh Python, and not a fork, which would inherit locks that threads hold. It hears no signal: whoever
started it decides what becomes of it, and it ends with that process, however that ends.
"""

import atexit
import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tlearn.errors import TlearnError

_CODE = "from tlearn.distributed.child import main; main()"
_LOOK_SECONDS = 0.5
_FIRST_TO_GO = "1000"
"""For the kernel, where memory runs out: a child can be started again."""


_warm: "subprocess.Popen[bytes] | None" = None


def warm(module: str) -> None:
    """Start the process of the next Child, which imports a module meanwhile: torch alone takes seconds."""
    global _warm
    _warm = _started(module)
    atexit.register(_warm.kill)  # where nobody took it


def _started(module: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )


class Died(Exception):
    """The child ended without a word."""


class Child:
    """A context manager: within, a process runs `function(argument)`, whose function it imports from its module."""

    def __init__(self, function: Callable[[Any], Iterable[Any]], argument: Any):
        self._module, self._request = function.__module__, pickle.dumps((function, argument))

    def __enter__(self) -> "Child":
        global _warm
        self._process, _warm = _warm or _started(self._module), None
        assert self._process.stdin is not None and self._process.stdout is not None
        self._hearing = Connection(os.dup(self._process.stdout.fileno()), writable=False)
        with contextlib.suppress(BrokenPipeError):  # it has died; its results say so
            self._process.stdin.write(self._request)
            self._process.stdin.flush()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._process.wait()
        self._hearing.close()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what it was not told
                assert pipe is not None
                pipe.close()

    def kill(self) -> None:
        self._process.kill()

    def results(self) -> Iterator[Any]:
        """What the function yields, as it comes. Raises what the function raises, and Died."""
        while (said := self._next())[0] == "result":
            yield said[1]
        if said[0] == "error":
            raise said[1]

    def _next(self) -> tuple[str, Any]:
        while not self._hearing.poll(_LOOK_SECONDS):  # what the child has forked may keep the pipe open
            if self._process.poll() is not None and not self._hearing.poll(0):
                raise self._death()
        try:
            said: tuple[str, Any] = self._hearing.recv()
        except (EOFError, OSError):
            raise self._death() from None
        return said

    def _death(self) -> Died:
        code = self._process.wait()
        return Died(f"exit code {code}" if code >= 0 else signal.Signals(-code).name)


def main() -> None:
    """In the child."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    saying, hearing = Connection(os.dup(1), readable=False), os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)  # whatever else prints, or reads
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    importlib.import_module(sys.argv[1])
    try:
        function, argument = pickle.load(hearing)
    except EOFError:  # it is not needed
        return
    threading.Thread(target=_end_with_parent, args=(hearing.fileno(),), daemon=True).start()
    try:
        for result in function(argument):
            saying.send(("result", result))
        saying.send(("end", None))
    except BaseException as error:
        if "TLEARN_DEBUG" in os.environ:
            traceback.print_exc()
        saying.send(("error", _portable(error)))


def _end_with_parent(hearing: int) -> None:
    os.read(hearing, 1)  # holds no lock that a fork would inherit
    os._exit(1)


def _portable(error: BaseException) -> BaseException:
    """The same, or where it could not be read elsewhere what it says."""
    is_plain = isinstance(error, OSError) and all(isinstance(each, int | str | None) for each in error.args)
    return error if isinstance(error, TlearnError) or is_plain else RuntimeError(f"{type(error).__name__}: {error}")
