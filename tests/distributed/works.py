"""What pools are given to do: works that count, die, stand still; without Ray."""

import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa

from tlearn.distributed.chunks import Chunk, ChunkResult
from tlearn.distributed.nodes import Here, Threads
from tlearn.errors import IntegrityError

CHUNKS = [Chunk(f"chunk-{number}", pa.table({"path": [f"{number}.jpg"]})) for number in range(12)]


class Count:
    """Of the failed images says the number in the path, and what it was built from."""

    def __init__(self, added: int, threads: Threads):
        assert threads == Threads(2, Here(1))
        self.added = added

    def __call__(self, chunk: Chunk) -> ChunkResult:
        return ChunkResult(chunk.id, 100, self.added + int(chunk.rows["path"][0].as_py().removesuffix(".jpg")))


class DiesOnce:
    """Ends its process at chunk 5, unless it, or an earlier process, has done so already."""

    def __init__(self, canary: str, threads: Threads):
        self.canary = Path(canary)

    def __call__(self, chunk: Chunk) -> ChunkResult:
        if chunk.id == "chunk-5" and not self.canary.exists():
            self.canary.touch()
            os._exit(1)
        return ChunkResult(chunk.id, 1, 0)


class StandsStillOnce:
    """As a process does that is stopped, or reads from a mount that hangs."""

    def __init__(self, canary: str, threads: Threads):
        self.canary = Path(canary)

    def __call__(self, chunk: Chunk) -> ChunkResult:
        if chunk.id == "chunk-5" and not self.canary.exists():
            self.canary.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        return ChunkResult(chunk.id, 1, 0)


class AlwaysDies:
    def __init__(self, task: None, threads: Threads):
        pass

    def __call__(self, chunk: Chunk) -> ChunkResult:
        os._exit(1)


class CannotStart:
    def __init__(self, task: None, threads: Threads):
        raise IntegrityError("expected one thing, got another: mend it")


class Tell:
    """Leaves a file named as its process."""

    def __init__(self, folder: str, threads: Any):
        self.folder = folder

    def __call__(self, chunk: Chunk) -> ChunkResult:
        Path(self.folder, str(os.getpid())).touch()
        return ChunkResult(chunk.id, 1, 0)
