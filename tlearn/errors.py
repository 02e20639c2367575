"""What a user can cause, each kind with the exit code of a command that it ends; all else is a fault of ours."""

from collections.abc import Sequence

DONE = 0
TOO_MANY_BAD_FILES = 4
FAULT = 70
"""EX_SOFTWARE of sysexits.h: an exception that is none of the classes below."""
INTERRUPTED = 130
TERMINATED = 143


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


def printable(name: str) -> str:
    """A name in a line: what a line cannot show (a line break, a control character) as Python's escape.

    In quotes where it begins or ends with a blank.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return shown if shown == shown.strip() else f"'{shown}'"


def some(names: Sequence[str], most: int = 10) -> str:
    """Names in a line: the first ones, and how many more there are."""
    more = [f"{len(names) - most:,} more"] if len(names) > most else []
    return ", ".join([*map(printable, names[:most]), *more])
