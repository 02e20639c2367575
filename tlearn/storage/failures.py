"""What a disk or a store answers, as an error of ours."""

import contextlib
from collections.abc import Iterator

from tlearn.errors import StorageError, TlearnError


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Turn every OSError within (no rights, no room, no connection) into a StorageError."""
    try:
        yield
    except TlearnError:  # some of them are OSErrors too
        raise
    except OSError as error:
        raise StorageError(
            f"expected storage that answers, got {error}: check the path, its rights and the connection"
        ) from error
