"""Files of the same bytes where there should be none: in two splits, or under two classes."""

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tlearn.data.manifest import File

_FLATTERED = {"train": "training", "val": "val_accuracy", "test": "the accuracy on test/"}


@dataclass(frozen=True, slots=True)
class Copies:
    """The files of one content."""

    paths: tuple[str, ...]
    splits: tuple[str, ...]
    """In which they lie: of train, val and test, in this order."""
    classes: tuple[str, ...]


def find(files: Iterable[File]) -> list[Copies]:
    """The contents that are in two splits or under two classes, in the order of their first files.

    Only of files that can be read: empty ones are all alike.
    """
    groups: dict[str, list[File]] = {}
    for file in files:
        if file.sha256 and file.status == "ok":
            groups.setdefault(file.sha256, []).append(file)
    found = []
    for copies in groups.values():
        present = {file.split for file in copies}
        splits = tuple(split for split in _FLATTERED if split in present)
        classes = tuple(sorted({file.label for file in copies} - {""}))
        if len(splits) > 1 or len(classes) > 1:
            found.append(Copies(tuple(file.path for file in copies), splits, classes))
    return found


def remarks(found: Iterable[Copies]) -> list[str]:
    """How many there are of each kind, one line each."""
    pairs: Counter[tuple[str, str]] = Counter()
    num_two = 0
    for copies in found:
        pairs.update(itertools.combinations(copies.splits, 2))
        num_two += len(copies.classes) > 1
    lines = [
        f"{count} images are in {one} and in {other}, byte for byte: {_FLATTERED[other]} flatters"
        for (one, other), count in pairs.items()
    ]
    return [*lines, f"{num_two} images are in two classes, byte for byte"] if num_two else lines
