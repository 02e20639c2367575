"""A folder is listed: every picture of it, or, of training data, every picture of its splits with its class."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

from tlearn import storage
from tlearn.classes import Classes
from tlearn.data import splits
from tlearn.data.manifest import File, Listing
from tlearn.data.names import Ignored, is_entered, is_picture
from tlearn.errors import InputError, printable, some
from tlearn.storage import Entry

_NO_CLASS = (".", "..")
"""Parts of keys of object stores; no names of folders elsewhere."""
_OWN = ": put the images of each class into a folder of its own"


def pictures(location: str, ignored: Ignored | None = None, prefix: str = "") -> Iterator[Entry]:
    """Every picture under a folder, in any order; `ignored` takes up the rest, with `prefix` before its paths."""
    ignored = Ignored() if ignored is None else ignored
    for entry in storage.stream(location, is_entered):
        if entry.kind in ("file", "dead link") and is_picture(entry.path, needs_suffix=entry.kind == "dead link"):
            yield entry
        else:
            ignored.add(entry, prefix)


def read(data: str, *, lenient: bool = False) -> Listing:
    """List train/, val/ and test/ of a data folder, each file with its class: the outermost folder in its split.

    Raises InputError for what cannot be trained on: a missing folder, fewer than two classes, a class folder of train/
    without a picture, a class in val/ that train/ lacks. With `lenient`, what is in such a class is unlabelled instead.
    """
    layout = splits.find(data)
    ignored = Ignored(unused=layout.others)
    files = {split: _files(data, split, folder, ignored) for split, folder in layout.folders.items()}
    if ignored.closed:
        raise InputError(f"expected folders that can be read in {data}{ignored.hint()}")
    train = [file for file in files["train"] if file.label]
    classes = _classes(data, layout.folders["train"], files["train"], ignored)
    remarks = [*layout.remarks, *_remarks_on_train(train, layout.folders["train"], classes)]
    val = [file for file in files.get("val", []) if file.label]
    if "val" in layout.folders:
        labels = _labels(data, layout.folders["val"], files["val"], ignored)
        if not lenient:
            classes.require(labels, "val/", ignored.hint())
        if lacking := sorted(set(classes.names).difference(labels)):
            remarks.append(f"val/ has no images of {some(lacking)}: its figures say nothing of them")
    else:
        splits.require_two(Counter(file.label for file in train))
    known = set(classes.names)
    test = [file for file in files.get("test", []) if file.label in known]
    unlabelled = [file for file in [*val, *files.get("test", [])] if file.label not in known]
    val = [file for file in val if file.label in known]
    if strangers := sorted({file.label for file in unlabelled if file.split == "test"} - {""}):
        remarks.append(f"folders of test/ that are no class of train/: {classes.beside(strangers)}")
    for split in ("train", "val"):
        if num_loose := sum(not file.label for file in files.get(split, [])):
            ignored.loose[layout.folders[split] or "."] = num_loose
    return Listing([*train, *val, *test], classes, ignored, [*remarks, *ignored.remarks()], unlabelled)


def hold_out(listing: Listing, fraction: float, seed: int) -> Listing:
    """Without val/, with a seeded share of each class of train/ in its place. Copies are known by their sha256."""
    if listing.of("val"):
        return listing
    train = listing.of("train")
    val = splits.held_out(train, fraction, seed)
    paths = {file.path for file in val}
    left = [file for file in train if file.path not in paths]
    remark = f"no val/: {len(val)} of {len(train)} images of train/ are held out"
    files = [*left, *val, *listing.of("test")]
    return dataclasses.replace(listing, files=files, remarks=[remark, *listing.remarks])


def _files(data: str, split: str, folder: str, ignored: Ignored) -> list[File]:
    """The pictures of a split in the order of their paths; the label is "" where one lies in no class folder."""
    prefix = f"{folder}/" if folder else ""
    files = []
    for entry in storage.in_order(pictures(_location(data, folder), ignored, prefix)):
        label, _, rest = entry.path.partition("/")
        label = label if rest and label not in _NO_CLASS else ""
        files.append(File(split, prefix + entry.path, label, entry.size, entry.modified))
    return files


def _location(data: str, folder: str) -> str:
    return storage.join(data, folder) if folder else data


def _classes(data: str, folder: str, files: Sequence[File], ignored: Ignored) -> Classes:
    """Those of train/. Raises InputError where a class has no picture, or where there are not two."""
    location, filled = _location(data, folder), {file.label for file in files}
    empty = [name for name in storage.folders(location) if is_entered(name) and name not in filled.union(_NO_CLASS)]
    if empty:
        raise InputError(
            f"expected images in every class folder of {location}, found none in {some(empty)}: "
            f"add some or remove the folder{ignored.hint()}"
        )
    labels = _labels(data, folder, files, ignored)
    if len(labels) == 1:
        inner = sorted(_inner_folders(files, folder)[labels[0]])
        advice = "move them up" if folder else f"give --data {storage.join(data, labels[0])}"
        inside = f", which holds {some(inner)}: if these are the classes, {advice}" if inner else _OWN
        found = f"found 1 ({printable(labels[0])}) in {location}{inside}{ignored.hint()}"
        raise InputError(f"expected at least two class folders, {found}")
    return Classes.of(labels)


def _labels(data: str, folder: str, files: Sequence[File], ignored: Ignored) -> list[str]:
    """The class folders of a split with pictures. Raises InputError where there is none, or where they are splits."""
    location = _location(data, folder)
    wanted = "class folders with images" if folder else "a folder train/, or class folders with images,"
    labels = sorted({file.label for file in files} - {""})
    if not labels:
        loose = f"{len(files):,} pictures that lie loose{_OWN}" if files else "none"
        raise InputError(f"expected {wanted} in {location}, found {loose}{ignored.hint()}")
    inner = list(map(splits.split_of, labels))
    if all(inner):
        advice = f"give --data {location}" if "train" in inner else "move up what is in it"
        raise InputError(f"expected {wanted} in {location}, found {some(labels)}: {advice}")
    return labels


def _remarks_on_train(files: Sequence[File], folder: str, classes: Classes) -> list[str]:
    remarks = [f"class names that look alike: {alike}" for alike in classes.look_alikes()]
    inner = list(_inner_folders(files, folder).values())
    if len(inner[0]) > 1 and all(names == inner[0] for names in inner):
        remarks.append(
            f"every class holds the folders {some(sorted(inner[0]))}: if these are the classes, move them up; "
            "the class is the outermost folder"
        )
    counts = Counter(file.label for file in files)
    if max(counts.values()) > 3 * min(counts.values()):
        remarks.append(f"the classes differ much in size: {classes.counted(counts)}")
    return remarks


def _inner_folders(files: Sequence[File], folder: str) -> dict[str, set[str]]:
    """The names of the folders directly in each class folder; none for a class that holds pictures too."""
    names: dict[str, set[str]] = {}
    for file in files:
        within = file.path[len(f"{folder}/" if folder else "") + len(file.label) + 1 :]
        name, slash, _ = within.partition("/")
        names.setdefault(file.label, set()).add(name if slash else "")
    return {label: set() if "" in inner else inner for label, inner in names.items()}
