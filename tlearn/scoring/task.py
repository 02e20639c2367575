"""What the driver tells an actor and what an actor answers; known without torch and Ray."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from tlearn.network.arithmetic import Arithmetic


@dataclass(frozen=True, slots=True)
class Task:
    """The same for every actor and chunk of a run."""

    model: str
    """Folder."""
    model_digest: str
    """What is expected there."""
    arithmetic: Arithmetic
    input: str
    """Folder of the listed files."""
    run: str
    run_folder: str
    """The plan is there, and the parts go there."""
    batch_size: int | None
    """None: what the device is fastest with."""
    abstain_below: float | None = None
    num_images: int = 0
    """About how many each actor will see."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Of an actor to a chunk."""

    chunk: str
    num_images: int
    num_failed: int

    def to_json(self) -> dict[str, Any]:
        """As it travels through Ray Data."""
        return dataclasses.asdict(self)
