"""What every scoring actor is built from; known without torch and Ray."""

from dataclasses import dataclass, field

from tlearn.network.arithmetic import Arithmetic


@dataclass(frozen=True, slots=True)
class Limits:
    """From when on a prediction is not to be relied on."""

    abstain_below: float = 0.0
    """A row whose probability is lower is uncertain."""
    unknown_rate: float = 0.01
    """A row whose novelty only so large a share of the validation images reaches is unknown."""

    @property
    def max_novelty(self) -> float:
        """Percentile."""
        return 100 * (1 - self.unknown_rate)

    def status(self, probability: float, novelty: float | None) -> str:
        if novelty is not None and novelty > self.max_novelty:
            return "unknown"
        return "uncertain" if probability < self.abstain_below else "scored"


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
    limits: Limits = field(default_factory=Limits)
    cascade: bool = True
    """Whether the small network of a model that has one answers first."""
    num_images: int = 0
    """About how many each actor will see."""
