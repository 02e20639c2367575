"""One listed file to pixels, or to the reason why not; no exception but TlearnError. Both jobs read pictures by it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from tlearn.config import PreprocessConfig
from tlearn.data import images, kinds
from tlearn.data.reading import NotRead, read
from tlearn.data.status import Status


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
    kind: str | None = None
    """Of the file by its bytes (JPEG, PNG); None unless the status is ok."""


Fetch = Callable[[str, str, PreprocessConfig], Fetched]
"""What `fetch` is."""

Decoder = Callable[[Sequence[str]], Iterator[Fetched]]
"""Paths to what they hold, in their order."""


def fetch(folder: str, path: str, config: PreprocessConfig) -> Fetched:
    content = read(folder, path, config.max_bytes)
    if isinstance(content, NotRead):
        return Fetched(content.status, content.error)
    is_whole = len(content.data) <= config.max_bytes  # what is longer is read in part
    facts = (content.size, content.modified, content.sha256 if is_whole else None)
    try:
        pixels, width, height = images.load(content.data, config)
    except images.ImageError as error:
        return Fetched(error.status, str(error), None, error.width, error.height, *facts)
    return Fetched("ok", None, pixels, width, height, *facts, kinds.of(content.data).name)
