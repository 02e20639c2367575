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


def find(data: str) -> Layout:
    """Look for the splits. They may be links, as what a person names may be. Raises InputError."""
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

    So a new file moves at most one other. Copies of one picture (the same sha256) stay together. Raises InputError
    where a class has one picture only.
    """
    groups: dict[str, list[File]] = {}
    for file in files:
        groups.setdefault(file.sha256 or file.path, []).append(file)
    sizes = {key: Counter(file.label for file in copies) for key, copies in groups.items()}
    of_class: dict[str, list[tuple[int, int]]] = {}  # of each picture: in how many classes it is, how often in this one
    for counts in sizes.values():
        for label, count in counts.items():
            of_class.setdefault(label, []).append((len(counts), count))
    require_two({label: len(pictures) for label, pictures in of_class.items()})
    room = {label: _room([count for _, count in pairs], fraction, min(pairs)[1]) for label, pairs in of_class.items()}
    held: list[File] = []
    for key in sorted(groups, key=lambda key: min(_draw(seed, file) for file in groups[key])):
        if all(count <= room[label] for label, count in sizes[key].items()):
            held += groups[key]
            for label, count in sizes[key].items():
                room[label] -= count
    return [dataclasses.replace(file, split="val") for file in sorted(held, key=lambda file: file.path)]


def _room(counts: Sequence[int], fraction: float, least: int) -> int:
    """How many files of a class may be held out: its share, but one picture at least, and never all."""
    return min(max(round(sum(counts) * fraction), least), sum(counts) - 1)


def require_two(counts: Mapping[str, int]) -> None:
    """Raise InputError for a class of which nothing would be left if one picture is held out."""
    for label in sorted(counts):
        if counts[label] < 2:
            raise InputError(
                f"expected two or more different images of class {printable(label)} to hold one out, "
                f"found {counts[label]}: add images, or a folder val/"
            )


def _draw(seed: int, file: File) -> bytes:
    return hashlib.sha256(f"{seed}/{file.path}".encode()).digest()
