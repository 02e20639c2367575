"""What every scoring actor is built from; known without loading torch."""

from dataclasses import dataclass

from tlearn.network.arithmetic import Arithmetic


@dataclass(frozen=True, slots=True)
class Task:
    """One run of one model over one folder."""

    model_folder: str
    model_digest: str
    arithmetic: Arithmetic
    folder: str
    """Of the images."""
    run_folder: str
    """Of the plan and the parts."""
    run: str
    batch_size: int | None = None
    """Of the network; what suits the device unless told."""
    num_images: int = 0
    """That each actor has to score, about: whether it pays to compile."""
    abstain_below: float | None = None
