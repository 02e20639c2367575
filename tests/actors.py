"""Scoring actors that tests put in the place of ours."""

import os
from pathlib import Path

from processes import wait_for

from tlearn.config import PreprocessConfig
from tlearn.data.fetch import Fetched, fetch
from tlearn.distributed.chunks import Chunk, ChunkResult
from tlearn.distributed.nodes import Threads
from tlearn.scoring.actor import Score
from tlearn.scoring.task import Task


class Held(Score):
    """Stands still when as many chunks are done as the file `hold` beside the pictures' folder says, while it is there.

    Whichever they are: Ray lets an actor begin with a later one.
    """

    def __call__(self, chunk: Chunk) -> ChunkResult:
        hold, done = Path(self.task.input).with_name("hold"), Path(self.task.place(chunk.id)[0])
        wait_for(lambda: not hold.exists() or len([*done.glob("0*.parquet")]) < int(hold.read_text()))
        return super().__call__(chunk)


def poison(folder: str, path: str, preprocess: PreprocessConfig) -> Fetched:
    """Ends its process at one picture, as a decoder with a fault would."""
    if path.endswith("poison.png"):
        os.abort()
    return fetch(folder, path, preprocess)


class Poisoned(Score):
    def __init__(self, task: Task, threads: Threads):
        super().__init__(task, threads, fetch=poison)
