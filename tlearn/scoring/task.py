"""What every scoring actor is built from; known without torch and Ray."""

from dataclasses import dataclass, field

from tlearn import storage
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
    """The same for every actor and chunk of a command."""

    model: str
    """Folder."""
    model_digest: str
    """What is expected there."""
    arithmetic: Arithmetic
    input: str
    """Folder of the listed files."""
    runs: str
    """Folder of the runs. The id of a chunk is that of its run, a slash and its number in the plan."""
    batch_size: int | None
    """None: what the device is fastest with."""
    limits: Limits = field(default_factory=Limits)
    cascade: bool = True
    """Whether the small network of a model that has one answers first."""

    def place(self, chunk: str) -> tuple[str, int]:
        """The folder of a chunk's run, where the plan is and the parts go, and its number."""
        run, _, number = chunk.rpartition("/")
        return storage.join(self.runs, run), int(number)
