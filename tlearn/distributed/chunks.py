"""What is cut into chunks, and what is said of a chunk that is done; known without Ray."""

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Chunk:
    """An id that follows from the content, and the rows to work on."""

    id: str
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What an actor says of a chunk whose file it has written."""

    chunk: str
    num_images: int
    num_failed: int


FEW_CHUNKS, FEW_IMAGES = 16, 1024
"""Up to so many an actor or two are done with before they would have started."""


def chunk_size(num_images: int) -> int:
    """Images of one task; the same for the same plan, so that a run that goes on finds its chunks.

    64 hide Ray's cost of a task and lose little in a crash; fewer where the pool would idle, and up to 1,024 where
    the tasks would be too many for one driver, or too short for a GPU.
    """
    return max(min(-(-num_images // 16), 64), 8, min(num_images // 1024, 1024))
