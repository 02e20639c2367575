"""What may be wrong with a data folder, as a person is told and a program can read it."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "exact_duplicates", "near_duplicates", "wrong_label", "unlike_its_class", "dark", "bright", "blurred", "blank",
    "tiny", "odd_aspect", "gives_label_away", "class_only_in_one_split", "look_alike_names", "unreadable", "imbalance",
    "group_in_two_splits",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Suspect:
    """A file of a finding."""

    path: str
    suggestion: str
    """exclude, look, or relabel:CLASS."""
    score: float
    """How sure, from 0 to 1."""
    beside: tuple[str, ...] = ()
    """The files that it is to be compared with: of a copy the original."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of fault: what, which files, how sure, what to do."""

    kind: Kind
    what: str
    """One sentence, with the number of files."""
    suspects: tuple[Suspect, ...]
    """The surest first."""
    advice: str
    """What to do, in one sentence."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Finding":
        suspects = (Suspect(**{**each, "beside": tuple(each["beside"])}) for each in values["suspects"])
        return cls(**{**values, "suspects": tuple(suspects)})


def many(count: int, one: str, more: str) -> str:
    """A number and what is counted: `1 file is`, `2 files are`."""
    return f"1 {one}" if count == 1 else f"{count:,} {more}"
