"""What every scoring actor is built from; known without torch and Ray."""

from dataclasses import dataclass

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
