"""The ways a command can end; each has an exit code of its own."""

DONE = 0
USAGE = 2
INPUT_INVALID = 3  # any ValueError that is none of the classes below
TOO_MANY_BAD_FILES = 4
INTERRUPTED = 130
TERMINATED = 143


class UsageError(ValueError):
    """Flags that do not fit each other or do not fit what is already there."""

    code = USAGE


class TooManyBadFiles(ValueError):
    """More bad files than --max-error-rate allows."""

    code = TOO_MANY_BAD_FILES


class TrainingError(RuntimeError):
    """Training ended without a model."""

    code = 5


class IntegrityError(ValueError):
    """A checksum or a model does not match."""

    code = 6


class StorageError(OSError):
    """Something could not be written or read for want of space, rights or a connection."""

    code = 7


class LockedError(RuntimeError):
    """Another run holds the output."""

    code = 75
