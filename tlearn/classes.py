"""Folder names and label indices: one order everywhere."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tlearn.errors import InputError, printable, some

_MAX_COUNTED = 20


@dataclass(frozen=True, slots=True)
class Classes:
    """The class names of a run; a label is a position in this tuple."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise InputError(
                f"expected at least two class folders, found {len(self.names)} ({some(self.names) or 'none'}): "
                "put the images of each class into a folder of its own"
            )
        if len(set(self.names)) != len(self.names):
            raise InputError(f"expected every class name once, got {some(self.names)}: rename one folder")

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

    def require(self, names: Sequence[str], where: str, hint: str = "") -> None:
        """Raise InputError, `hint` at its end, for a class in `where` that training did not see."""
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise InputError(
                f"expected the classes {some(self.names)} in {where}, found also {self.beside(unknown)}: "
                f"add these to train/ or remove them{hint}"
            )

    def beside(self, strangers: Sequence[str]) -> str:
        """Names that are none of these, in a line; with the difference where one looks like one of these."""
        alike = {likeness(name): name for name in self.names}
        looks = {name: alike.get(likeness(name)) for name in strangers}
        return some([f"{name!a} (not the same as {look!a})" if look else name for name, look in looks.items()])

    def look_alikes(self) -> list[str]:
        """Each set of names that a person may take for one, in a line."""
        groups: dict[str, list[str]] = {}
        for name in self.names:
            groups.setdefault(likeness(name), []).append(ascii(name))
        return [" and ".join(names) for names in groups.values() if len(names) > 1]

    def counted(self, counts: Mapping[str, int]) -> str:
        """How many there are of each class, in a line; of many classes the fewest and the most."""
        if len(self.names) <= _MAX_COUNTED:
            return ", ".join(f"{printable(name)} {counts.get(name, 0):,}" for name in self.names)
        ordered = sorted(self.names, key=lambda name: counts.get(name, 0))
        fewest, most = (f"{printable(name)} {counts.get(name, 0):,}" for name in (ordered[0], ordered[-1]))
        return f"from {fewest} to {most}"


def likeness(name: str) -> str:
    """The same for names that differ in case, in blanks, or in how their characters are composed."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).split())
