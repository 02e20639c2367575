"""How a command ends: its last line on stderr, and its exit code."""

import os
import sys
import traceback

from tlearn import console, errors
from tlearn.errors import Stopped, StorageError, TlearnError, printable


def stopped(stop: Stopped) -> int:
    return say(stop.line, stop.code)


def unread() -> int:
    """Whoever read what is printed has seen enough (tlearn scores TABLE | head)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return errors.DONE


def printed(code: int) -> int:
    """What is still to be printed leaves now: at its end Python would fail with words and a code of its own."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        unread()
    except OSError as error:
        unread()
        return code or failed(StorageError(f"could not print all of it: {error.strerror}"))
    return code


def failed(error: TlearnError) -> int:
    if os.environ.get("TLEARN_DEBUG"):
        traceback.print_exception(error)
    return say(str(error), error.code)


def say(text: str, code: int) -> int:
    print(f"tlearn: {printable(' '.join(text.split()))}", file=sys.stderr, flush=True)
    console.event("error", code=code, error=text)
    return code
