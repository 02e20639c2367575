"""Folder names and label indices: one order everywhere."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tlearn.errors import InputError


@dataclass(frozen=True, slots=True)
class Classes:
    """The class names of a run; a label is a position in this tuple."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise InputError(
                f"expected at least two class folders, found {len(self.names)} ({', '.join(self.names) or 'none'}): "
                "put the images of each class into a folder of its own"
            )
        if len(set(self.names)) != len(self.names):
            raise InputError(f"expected every class name once, got {', '.join(self.names)}: rename one folder")

    @classmethod
    def of(cls, names: Iterable[str]) -> "Classes":
        """Sort by code point, as Keras and torchvision sort folder names."""
        return cls(tuple(sorted(set(names))))

    @property
    def num_logits(self) -> int:
        """Two classes share one logit (sigmoid); more have one each (softmax)."""
        return 1 if len(self.names) == 2 else len(self.names)

    @property
    def indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def require(self, names: Sequence[str], where: str) -> None:
        """Raise ValueError for a class in `where` that training did not see."""
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise InputError(
                f"expected the classes {', '.join(self.names)} in {where}, found also {', '.join(unknown)}: "
                "add these to train/ or remove them"
            )
