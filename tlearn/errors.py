"""What a user can cause, each kind with the exit code of a command that it ends; all else is a fault of ours."""

import contextlib
import errno
import signal
from collections.abc import Iterator, Sequence
from typing import ClassVar

DONE = 0
TOO_MANY_BAD_FILES = 4
NOT_AS_GOOD = 8
"""A model that is not shown to be as good as was asked for."""
FAULT = 70
"""EX_SOFTWARE of sysexits.h: an exception that is none of the classes below."""
TERMINATED = 143


class Stopped(KeyboardInterrupt):
    """A signal that ends a command: it unwinds like Ctrl-C, so that temporary files and the lease go."""

    WORDS: ClassVar[dict[signal.Signals, str]] = {
        signal.SIGINT: "stopped",
        signal.SIGTERM: "terminated",
        signal.SIGHUP: "hung up",
    }

    def __init__(self, number: signal.Signals):
        super().__init__()
        self.code = 128 + number
        self.line = f"{self.WORDS[number]}; the same command goes on from here"


class TlearnError(Exception):
    """One line: what was expected, what came, what to do."""

    code: int


class UsageError(TlearnError, ValueError):
    """Flags that do not fit each other or do not fit what is already there."""

    code = 2


class InputError(TlearnError, ValueError):
    """Data, a model or a table that cannot be worked with."""

    code = 3


class TooManyBadFiles(TlearnError, ValueError):
    """More bad files than --max-error-rate allows."""

    code = TOO_MANY_BAD_FILES


class TrainingError(TlearnError, RuntimeError):
    """Training ended without a model."""

    code = 5


class IntegrityError(TlearnError, ValueError):
    """A checksum or a model does not match."""

    code = 6


class StorageError(TlearnError, OSError):
    """Something could not be written or read for want of space, rights or a connection."""

    code = 7


class LockedError(TlearnError, RuntimeError):
    """Another run holds the output."""

    code = 75


class StoreError(OSError):
    """What an object store answers that is none of Python's own errors, in one line."""


class Unanswered(StoreError):
    """Nobody is at the address, after all tries."""


def unreached(error: OSError) -> StorageError:
    """What a command says of an answer of a disk or a store."""
    return StorageError(f"expected storage that answers, got {error}: check the path, its rights and the connection")


_OF_THE_MACHINE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EIO, errno.ESTALE,
)  # fmt: skip


@contextlib.contextmanager
def of_the_machine() -> Iterator[None]:
    """Turn what a disk (rights, space, a home that is /dev/null) or a store refuses, wherever, into StorageError."""
    try:
        yield
    except StoreError as error:
        raise unreached(error) from error
    except OSError as error:
        if isinstance(error, TlearnError) or error.errno not in _OF_THE_MACHINE:
            raise
        raise StorageError(
            f"expected a place to read and write at {error.filename or 'a disk'}, got {error.strerror}: choose another "
            "(--output, --cache, TMPDIR)"
        ) from error


def printable(name: str) -> str:
    """A name in a line: what a line cannot show (a line break, a control character) as Python's escape.

    In quotes where it begins or ends with a blank, or is empty.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return shown if shown and shown == shown.strip() else f"'{shown}'"


def some(names: Sequence[str], most: int = 10) -> str:
    """Names in a line: the first ones, and how many more there are."""
    more = [f"{len(names) - most:,} more"] if len(names) > most else []
    return ", ".join([*map(printable, names[:most]), *more])
