"""One listed file to pixels, or to the reason why not; never an exception. Both jobs read pictures through it."""

from dataclasses import dataclass

from torch import Tensor

from tlearn import storage
from tlearn.config import PreprocessConfig
from tlearn.data import images
from tlearn.data.status import Status, why_missing


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file as it was when it was read."""

    status: Status = "ok"
    error: str | None = None
    pixels: Tensor | None = None
    """(3, image_size, image_size) uint8; None unless the status is ok."""
    width: int | None = None
    height: int | None = None
    size: int | None = None
    """Bytes; None where the file could not be read."""
    modified: int | None = None
    """Microseconds since 1970."""
    sha256: str | None = None
    """None where the file could not be read, or has more than max_bytes."""


def fetch(folder: str, path: str, config: PreprocessConfig) -> Fetched:
    try:
        content = storage.read_listed(folder, path, config.max_bytes)
    except FileNotFoundError as error:
        return Fetched(status="missing", error=why_missing(error))
    except OSError as error:
        return Fetched(status="io_error", error=" ".join((error.strerror or str(error)).split()))
    is_whole = len(content.data) <= config.max_bytes  # what is longer is read in part
    facts = (content.size, content.modified, content.sha256 if is_whole else None)
    try:
        pixels, width, height = images.load(content.data, config)
    except images.ImageError as error:
        return Fetched(error.status, str(error), None, error.width, error.height, *facts)
    return Fetched("ok", None, pixels, width, height, *facts)
