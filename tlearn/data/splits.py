"""Which folders of a data folder are train, val and test; the share that is held out where there is no val/."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tlearn import storage
from tlearn.data.manifest import File
from tlearn.data.names import Ignored, is_entered, is_picture
from tlearn.errors import InputError, printable, some
from tlearn.storage import Entry

_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_SPLITS = {name: split for split, names in _NAMES.items() for name in names}

_FEW = 5
"""So many folders are looked into for a train/ that lies too deep."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the splits of a data folder lie."""

    folders: dict[str, str]
    """By split, relative to the data folder; "" where the folders of the classes lie in the data folder itself."""
    remarks: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    """Folders beside train/ that are no split."""


def split_of(folder: str) -> str | None:
    """What a folder of this name is taken as, in any case of letters."""
    return _SPLITS.get(folder.lower())


def find(data: str, labels: str | None = None) -> Layout:
    """Look for the splits. They may be links, as what a person names may be. Raises InputError.

    Where a file has the labels, the pictures need no folder: without train/ all of them are train.
    """
    storage.require_folder(data)
    present = _folders(data)
    found: dict[str, str] = {}
    for name in present:
        split = split_of(name)
        if split in found:
            raise InputError(
                f"expected one folder for {split}/ in {data}, found {found[split]}/ and {name}/: rename or remove one"
            )
        if split is not None:
            found[split] = name
            storage.require_folder(storage.join(data, name))  # a link may lead nowhere
    if "train" in found:
        remarks = [f"{name}/ is taken as {split}/" for split, name in found.items() if name != split]
        return Layout(found, tuple(remarks), tuple(name for name in present if split_of(name) is None))
    if labels is not None:
        return Layout({"train": ""}, (f"no train/: all pictures in {data} are taken, with the classes of {labels}",))
    for name in present if len(present) <= _FEW else ():
        if any(split_of(inner) == "train" for inner in _folders(storage.join(data, name))):
            inner = printable(storage.join(data, name))
            raise InputError(f"expected a folder train/ in {data}, found one in {inner}: give --data {inner}")
    if found or not any(map(is_entered, storage.folders(data))):
        raise InputError(_no_train(data, present))
    return Layout({"train": ""}, (f"no train/: the folders in {data} are taken as the classes",))


def _folders(location: str) -> list[str]:
    """Links to folders too."""
    return [name for name in sorted([*storage.folders(location), *storage.links(location)]) if is_entered(name)]


def _no_train(data: str, present: list[str]) -> str:
    found, ignored = [f"{name}/" for name in present], Ignored()
    num_loose = 0
    for name in storage.names(data):
        if is_picture(name):
            num_loose += 1
        else:
            ignored.add(Entry(name, -1, 0))
    if num_loose:
        found.append(f"{num_loose:,} pictures that lie loose")
    return (
        f"expected a folder train/ in {data}, found {some(found) or 'no folder'}: "
        f"put the images into train/<class>/ and perhaps val/<class>/{ignored.hint()}"
    )


def held_out(files: Iterable[File], fraction: float, seed: int) -> list[File]:
    """A share of each class, as val: the pictures whose hash of seed and path is smallest.

    So a new file moves at most one other. Copies of one picture (the same sha256) and the pictures of a group stay
    together; of groups those are taken, in the order of these hashes, that bring the classes nearer to their shares.
    Raises InputError where a class has one picture, or one group, only.
    """
    units = _in_order(_units(files), seed)
    has_groups = _have_groups(units)
    require_two(_num_units(units), "groups" if has_groups else "different images")
    share = _Share(units, fraction)
    for unit in units:
        if share.leaves_some(unit) and share.gain(unit) > 0 if has_groups else share.has_room(unit):
            share.take(unit)
    if has_groups:
        share.complete(units)
    held = [file for unit in share.taken for file in unit]
    return [dataclasses.replace(file, split="val") for file in sorted(held, key=lambda file: file.path)]


def folds(files: Iterable[File], num_folds: int, seed: int) -> dict[str, int]:
    """The fold of each file by its path, from 0: every class in each alike, as far as copies and groups stay together.

    Raises InputError where there is too little to fill so many folds, or to train on every class without one of them.
    """
    units = _in_order(_units(files), seed)
    what = "groups" if _have_groups(units) else "different images"
    if len(units) < num_folds:
        raise InputError(
            f"expected at least {num_folds} {what} for {num_folds} folds, found {len(units)}: lower --folds"
        )
    totals = _count(file for unit in units for file in unit)
    counts: list[Counter[str]] = [Counter() for _ in range(num_folds)]
    found: dict[str, int] = {}
    for unit in sorted(units, key=len, reverse=True):
        of = _count(unit)

        def crowd(fold: int, of: Counter[str] = of) -> tuple[float, int]:
            there = counts[fold]
            return sum(there[label] * count / totals[label] ** 2 for label, count in of.items()), there.total()

        fold = min(range(num_folds), key=crowd)
        counts[fold] += of
        found |= dict.fromkeys((file.path for file in unit), fold)
    for label in sorted(totals):
        if any(of[label] == totals[label] for of in counts):
            raise InputError(
                f"expected two or more {what} of class {printable(label)} to cross-validate, found all in one fold: "
                "leave out --folds, or give groups that part the class"
            )
    return found


class _Share:
    """What of each class is held out so far."""

    def __init__(self, units: Sequence[Sequence[File]], fraction: float):
        self.fraction, self.totals = fraction, _count(file for unit in units for file in unit)
        self.taken: list[Sequence[File]] = []
        self.held: Counter[str] = Counter()
        least: dict[str, tuple[int, int]] = {}  # of each class: of how many classes the purest unit is, how much of it
        for of in map(_count, units):
            for label, count in of.items():
                least[label] = min(least.get(label, (len(of), count)), (len(of), count))
        self.room = {
            label: min(max(round(total * fraction), least[label][1]), total - 1) for label, total in self.totals.items()
        }

    def take(self, unit: Sequence[File]) -> None:
        self.taken.append(unit)
        self.held += _count(unit)

    def has_room(self, unit: Sequence[File]) -> bool:
        return all(self.held[label] + count <= self.room[label] for label, count in _count(unit).items())

    def leaves_some(self, unit: Sequence[File]) -> bool:
        return all(self.held[label] + count < self.totals[label] for label, count in _count(unit).items())

    def gain(self, unit: Sequence[File]) -> float:
        """How much nearer the classes of a unit come to their shares with it, as squares of shares."""

        def distance(label: str, more: int) -> float:
            return ((self.held[label] + more) / self.totals[label] - self.fraction) ** 2

        return sum(distance(label, 0) - distance(label, count) for label, count in _count(unit).items())

    def complete(self, units: Sequence[Sequence[File]]) -> None:
        """Take something of every class. Raises InputError where nothing of another one would be left."""
        for label in sorted(self.totals):
            if self.held[label]:
                continue
            having = [unit for unit in units if any(file.label == label for file in unit) and self.leaves_some(unit)]
            if not having:
                raise InputError(
                    f"expected groups that can be parted with every class on both sides, found none for class "
                    f"{printable(label)}: add images, or a folder val/"
                )
            self.take(max(having, key=self.gain))


def _units(files: Iterable[File]) -> list[list[File]]:
    """What stays together: the pictures of a group, copies of one picture, and what hangs together by both."""
    parents: dict[tuple[str, str], tuple[str, str]] = {}

    def root(key: tuple[str, str]) -> tuple[str, str]:
        while parents.setdefault(key, key) != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    files = list(files)
    contents = [("sha256", file.sha256) if file.sha256 else ("path", file.path) for file in files]
    for file, content in zip(files, contents, strict=True):
        if file.group is not None:
            parents[root(("group", file.group))] = root(content)
    units: dict[tuple[str, str], list[File]] = {}
    for file, content in zip(files, contents, strict=True):
        units.setdefault(root(content), []).append(file)
    return [*units.values()]


def _in_order(units: list[list[File]], seed: int) -> list[list[File]]:
    """By the smallest hash of seed and path."""
    return sorted(units, key=lambda unit: min(_draw(seed, file) for file in unit))


def _have_groups(units: Iterable[Iterable[File]]) -> bool:
    return any(file.group is not None for unit in units for file in unit)


def _count(files: Iterable[File]) -> Counter[str]:
    """The files of each class."""
    return Counter(file.label for file in files)


def _num_units(units: Iterable[Iterable[File]]) -> Counter[str]:
    """Of each class, in how many units it is."""
    return Counter(label for unit in units for label in _count(unit))


def require_two(counts: Mapping[str, int], what: str = "different images") -> None:
    """Raise InputError for a class of which nothing would be left if one picture, or group, is held out."""
    for label in sorted(counts):
        if counts[label] < 2:
            raise InputError(
                f"expected two or more {what} of class {printable(label)} to hold one out, "
                f"found {counts[label]}: add images, or a folder val/"
            )


def _draw(seed: int, file: File) -> bytes:
    return hashlib.sha256(f"{seed}/{file.path}".encode()).digest()
