"""What a disk or a store answers, as an error of ours."""

import contextlib
from collections.abc import Iterator

from tlearn.errors import TlearnError, unreached


class Taken(FileExistsError):
    """Another writer was first: there is a file where there was none, or another version than the one that was seen."""


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Turn every OSError within (no rights, no room, no connection) but Taken into a StorageError."""
    try:
        yield
    except (TlearnError, Taken):  # some of the first are OSErrors too
        raise
    except OSError as error:
        raise unreached(error) from error
