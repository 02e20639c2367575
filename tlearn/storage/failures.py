"""What a disk or a store answers, as an error of ours."""

import contextlib
from collections.abc import Iterator

from tlearn.errors import StorageError, TlearnError


@contextlib.contextmanager
def reached(location: str) -> Iterator[None]:
    """Turn every OSError within (no rights, no room, no connection) into a StorageError."""
    try:
        yield
    except TlearnError:  # some of them are OSErrors too
        raise
    except OSError as error:
        raise StorageError(f"could not work with {location}: {error}; check its rights and the connection") from error
