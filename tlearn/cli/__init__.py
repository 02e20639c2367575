"""The command line: parse, call, say how it ended, exit code.

Nothing heavy is imported before it is used.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

from tlearn import __version__, console, errors
from tlearn.cli.commands import RUN
from tlearn.cli.ending import failed, printed, say, stopped, unread
from tlearn.cli.parsing import Command, given, parse
from tlearn.cli.paths import check_paths
from tlearn.distributed import guard
from tlearn.errors import Stopped, TlearnError, UsageError

__all__ = ["given", "main", "parse"]

_UNGUARDED = ("submit",)
"""It waits for the end of a job that was told to stop, which may take its time, and knows nothing of Ray's C++."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code. Without `arguments` this process is the command's own, and takes its words.

    Such a process may come back from here twice, parent and child (guard.py): it ends with what is returned.
    """
    is_process = arguments is None
    if is_process:
        console.prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["--version"], ["-V"]):
        print(f"tlearn {__version__}")
        return errors.DONE
    try:
        command = parse(words)
    except UsageError as error:
        return failed(error)
    except SystemExit as ended:  # tyro has printed help, or what is wrong with the flags
        return ended.code if isinstance(ended.code, int) else errors.DONE
    except BrokenPipeError:
        return unread()
    quiet, verbose = getattr(command.config, "quiet", False), getattr(command.config, "verbose", False)
    started, result = time.monotonic(), None
    console.event("started", command=command.name)
    try:
        with console.shown(quiet=quiet, verbose=verbose):
            result = printed((_guarded if is_process and command.name not in _UNGUARDED else _run)(command))
    finally:
        if not guard.is_child():
            console.event("ended", code=result, seconds=round(time.monotonic() - started, 2))
    return result


def _guarded(command: Command) -> int:
    """The exit code of the process that runs the command, or that of what ended it."""
    keep_stderr = console.is_verbose() or "TLEARN_DEBUG" in os.environ
    try:
        return guard.run(lambda: _run(command), keep_stderr=keep_stderr)
    except Stopped as stop:
        return stopped(stop)
    except TlearnError as error:
        return failed(error)


def _run(command: Command) -> int:
    """The command's exit code, or that of what stopped it."""
    try:
        check_paths(command.config)
        with _stopped_by_signals(), errors.of_the_machine():
            return RUN[command.name](command)
    except Stopped as stop:
        return stopped(stop)
    except BrokenPipeError:
        return unread()
    except TlearnError as error:
        return failed(error)
    except Exception as error:
        code = say(
            f"this is a fault of tlearn, not of yours ({type(error).__name__}): please report it with the lines below, "
            f"tlearn {__version__}",
            errors.FAULT,
        )
        traceback.print_exc()
        return code


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Within, a signal raises Stopped; in a process of our own only the first. The handlers of a host are put back."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1 or not guard.is_child():
            raise KeyboardInterrupt  # the one exception that ends what waits in ray.get, which raises a new one

    before = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
        # What is ignored stays so: nohup, and the background of a script.
        before = {number: signal.getsignal(number) for number in Stopped.WORDS}
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        raise Stopped(signal.Signals(received[0]) if received else signal.SIGINT) from error
    finally:
        for number, handler in before.items():  # a process of our own is ending: nothing may come in between
            signal.signal(number, signal.SIG_IGN if guard.is_child() else handler)
