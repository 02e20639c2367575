"""One listed file to its bytes, or to the reason why not: whatever a storage raises is that file's, never the job's."""

from dataclasses import dataclass

from tlearn import storage
from tlearn.data.status import Status
from tlearn.errors import TlearnError
from tlearn.storage import Content


@dataclass(frozen=True, slots=True)
class NotRead:
    """Why a file could not be read."""

    status: Status
    error: str
    """One line."""


def read(folder: str, path: str, max_bytes: int | None = None) -> Content | NotRead:
    """At most `max_bytes` + 1 bytes of a file. Raises TlearnError alone: for a storage that is of no use at all."""
    try:
        return storage.read_listed(folder, path, max_bytes)
    except TlearnError:
        raise
    except storage.DeadLink:
        return NotRead("missing", "a link that leads nowhere")
    except FileNotFoundError:
        return NotRead("missing", "no such file when it was read")
    except Exception as error:
        return NotRead("io_error", reason(error))


def reason(error: Exception) -> str:
    """What an exception says, in one line."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(said).split())[:200]
