"""All that is looked for, in the order in which a person should read it."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor

from tlearn.config import TrainConfig
from tlearn.data.findings import Finding, Kind
from tlearn.data.manifest import File, Listing
from tlearn.doctor import copies, labels, leaks, listed, looks, seen, twins
from tlearn.doctor.listed import merged
from tlearn.doctor.seen import Seen
from tlearn.doctor.twins import Pair

MAX_COMPARED = 50_000
"""Pictures of which each is compared with all others, drawn from more: minutes on two cores."""
_HARDLY_SEEN: tuple[Kind, ...] = ("blank", "dark", "bright", "blurred")
_ORDER: tuple[Kind, ...] = (
    "unreadable", "class_only_in_one_split", "look_alike_names", "group_in_two_splits", "exact_duplicates",
    "near_duplicates", "wrong_label", "gives_label_away",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the pictures of a folder, as far as it was looked at."""

    listing: Listing
    """As it was read."""
    files: Sequence[File]
    """All of them, with their splits and what became of them."""
    seen: Mapping[int, Seen]
    """What was decoded, by the number of the file."""
    featured: Sequence[int] = ()
    """The numbers of the files whose features are there."""
    points: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    """(len(featured), channels), see probe.points."""


def examine(known: Known, config: TrainConfig) -> tuple[Finding, ...]:
    """Everything that is found. Where features propose a copy that was not decoded, it is decoded now."""
    files, names = known.files, merged(known.listing.classes.names)
    found = [*listed.find(known.listing, files), *looks.find(list(known.seen.values()))]
    hidden = {suspect.path for finding in found if finding.kind in _HARDLY_SEEN for suspect in finding.suspects}
    compared = _drawn(len(files))
    pairs = _pairs(known, compared, config)
    found += copies.find(files, pairs)
    groups = copies.groups(files, pairs)
    labelled = [one for number, one in known.seen.items() if groups[number] == number and one.file.label in names]
    found += leaks.find(labelled, [names[one.file.label] for one in labelled])
    rows = [
        row
        for row, number in enumerate(known.featured)
        if number in compared and files[number].label in names and files[number].path not in hidden
    ]
    if rows:
        numbers = [known.featured[row] for row in rows]
        found += labels.find([files[n] for n in numbers], known.points[rows], [groups[n] for n in numbers])
    kinds = [*_ORDER, *(kind for kind in get_args(Kind) if kind not in _ORDER)]
    return tuple(sorted(found, key=lambda finding: kinds.index(finding.kind)))


def _drawn(count: int) -> set[int]:
    """The numbers of the files that are compared with each other."""
    numbers = range(count)
    return set(numbers if count <= MAX_COMPARED else random.Random(0).sample(numbers, MAX_COMPARED))


def _pairs(known: Known, compared: set[int], config: TrainConfig) -> list[Pair]:
    """The numbers of files that are one picture, but not byte for byte."""
    numbers = [number for number in known.seen if number in compared]
    proposed = [(numbers[i], numbers[j]) for i, j in twins.by_grey([known.seen[number] for number in numbers])]
    rows = [row for row, number in enumerate(known.featured) if number in compared]
    featured = [known.featured[row] for row in rows]
    proposed += [(featured[i], featured[j]) for i, j in twins.by_features(known.points[rows])]
    different = [(i, j) for i, j in dict.fromkeys(proposed) if known.files[i].sha256 != known.files[j].sha256]

    def look(wanted: Sequence[int]) -> Mapping[int, Seen]:
        missing = [number for number in wanted if number not in known.seen]
        again = seen.again(config.data, [known.files[number] for number in missing], config.preprocess)
        found = {number: one for number, one in zip(missing, again, strict=True) if one is not None}
        return {**known.seen, **found}

    return twins.verified(different, look)
