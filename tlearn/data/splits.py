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

    Where a file has the labels, the pictures need no folder: without train/ they are listed together.
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
        remark = f"no train/: the pictures in {data} that lie in no val/ or test/ are train, as {labels} says"
        return Layout({"train": ""}, (remark,))
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
        f"put the images into train/<class>/ and perhaps val/<class>/, or give their classes by --labels FILE"
        f"{ignored.hint()}"
    )


def held_out(files: Iterable[File], fraction: float, seed: int) -> list[File]:
    """A share of each class, as val: the pictures whose hash of seed and path is smallest.

    So a new file moves at most one other. Copies of one picture (the same sha256) and the pictures of a group stay
    together; of groups those are taken, in the order of these hashes, that bring the classes nearer to their shares.
    Raises InputError where a class has one picture, or one group, only.
    """
    units = _units(files, seed)
    has_groups = _have_groups(units)
    require_two(Counter(label for unit in units for label in unit.counts), _noun(units))
    share = _Share(units, fraction)
    for unit in units:
        if share.leaves_some(unit) and share.gain(unit) > 0 if has_groups else share.has_room(unit):
            share.take(unit)
    if has_groups:
        share.complete(units)
    held = [file for unit in share.taken for file in unit.files]
    return [dataclasses.replace(file, split="val") for file in sorted(held, key=lambda file: file.path)]


def folds(files: Iterable[File], num_folds: int, seed: int) -> dict[str, int]:
    """The fold of each file by its path, from 0: every class in each alike, as far as copies and groups stay together.

    Raises InputError where there is too little to fill so many folds, or to train on every class without one of them.
    """
    units = _units(files, seed)
    if len(units) < num_folds:
        raise InputError(
            f"expected at least {num_folds} {_noun(units)} for {num_folds} folds, found {len(units)}: lower --folds"
        )
    totals = _totals(units)
    counts: list[Counter[str]] = [Counter() for _ in range(num_folds)]
    found: dict[str, int] = {}
    for unit in sorted(units, key=lambda unit: len(unit.files), reverse=True):
        fold = min(range(num_folds), key=lambda fold: _crowd(unit, counts[fold], totals))
        counts[fold].update(unit.counts)
        found |= dict.fromkeys((file.path for file in unit.files), fold)
    for label in sorted(totals):
        if any(of[label] == totals[label] for of in counts):
            raise InputError(
                f"expected two or more {_noun(units)} of class {printable(label)} to cross-validate, found all in one "
                "fold: leave out --folds, or give groups that part the class"
            )
    return found


@dataclass(frozen=True, slots=True)
class _Unit:
    """What stays together: the pictures of a group, copies of one picture, and what hangs together by both."""

    files: list[File]
    counts: Counter[str]
    """Files of each class."""


class _Share:
    """What of each class is held out so far."""

    def __init__(self, units: Sequence[_Unit], fraction: float):
        self.fraction, self.totals = fraction, _totals(units)
        self.taken: list[_Unit] = []
        self.held: Counter[str] = Counter()
        least: dict[str, tuple[int, int]] = {}  # of each class: of how many classes the purest unit is, how much of it
        for unit in units:
            for label, count in unit.counts.items():
                least[label] = min(least.get(label, (len(unit.counts), count)), (len(unit.counts), count))
        self.room = {
            label: min(max(round(total * fraction), least[label][1]), total - 1) for label, total in self.totals.items()
        }

    def take(self, unit: _Unit) -> None:
        self.taken.append(unit)
        self.held.update(unit.counts)

    def has_room(self, unit: _Unit) -> bool:
        return all(self.held[label] + count <= self.room[label] for label, count in unit.counts.items())

    def leaves_some(self, unit: _Unit) -> bool:
        return all(self.held[label] + count < self.totals[label] for label, count in unit.counts.items())

    def gain(self, unit: _Unit) -> float:
        """How much nearer the classes of a unit come to their shares with it, as squares of shares."""

        def distance(label: str, more: int) -> float:
            return ((self.held[label] + more) / self.totals[label] - self.fraction) ** 2

        return sum(distance(label, 0) - distance(label, count) for label, count in unit.counts.items())

    def complete(self, units: Sequence[_Unit]) -> None:
        """Take something of every class. Raises InputError where nothing of another one would be left."""
        for label in sorted(self.totals):
            if self.held[label]:
                continue
            having = [unit for unit in units if label in unit.counts and self.leaves_some(unit)]
            if not having:
                raise InputError(
                    f"expected groups that can be parted with every class on both sides, found none for class "
                    f"{printable(label)}: add images, or a folder val/"
                )
            self.take(max(having, key=self.gain))


def _units(files: Iterable[File], seed: int) -> list[_Unit]:
    """In the order of the smallest hash of seed and path."""
    parents: dict[tuple[str, str], tuple[str, str]] = {}

    def root(key: tuple[str, str]) -> tuple[str, str]:
        while parents.setdefault(key, key) != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    contents = [(file, ("sha256", file.sha256) if file.sha256 else ("path", file.path)) for file in files]
    for file, content in contents:
        if file.group is not None:
            parents[root(("group", file.group))] = root(content)
    together: dict[tuple[str, str], list[File]] = {}
    for file, content in contents:
        together.setdefault(root(content), []).append(file)
    ordered = sorted(together.values(), key=lambda unit: min(_draw(seed, file) for file in unit))
    return [_Unit(unit, Counter([file.label for file in unit])) for unit in ordered]


def _have_groups(units: Iterable[_Unit]) -> bool:
    return any(file.group is not None for unit in units for file in unit.files)


def _noun(units: Iterable[_Unit]) -> str:
    return "groups" if _have_groups(units) else "different images"


def _totals(units: Iterable[_Unit]) -> Counter[str]:
    """All files of each class."""
    return Counter(file.label for unit in units for file in unit.files)


def _crowd(unit: _Unit, there: Counter[str], totals: Counter[str]) -> tuple[float, int]:
    """How much of the classes of a unit is in a fold already; then how much at all."""
    share = sum(there[label] * count / totals[label] ** 2 for label, count in unit.counts.items())
    return share, there.total()


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
