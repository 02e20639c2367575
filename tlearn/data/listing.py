"""A folder is listed: every picture of it, or, of training data, every picture of its splits with class and group."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tlearn import storage
from tlearn.classes import Classes
from tlearn.data import exclude as exclusion
from tlearn.data import groups as grouping
from tlearn.data import labels as labelling
from tlearn.data import splits
from tlearn.data.exclude import Decided
from tlearn.data.manifest import File, Listing
from tlearn.data.names import Ignored, is_entered, is_picture
from tlearn.data.splits import Layout
from tlearn.errors import InputError, printable, some
from tlearn.storage import Entry

_NO_CLASS = (".", "..")
"""Parts of keys of object stores; no names of folders elsewhere."""
_OWN = ": put the images of each class into a folder of its own"


def pictures(location: str, ignored: Ignored | None = None, prefix: str = "") -> Iterator[Entry]:
    """Every picture under a folder, in any order; `ignored` takes up the rest, with `prefix` before its paths."""
    return picked(storage.stream(location, is_entered), Ignored() if ignored is None else ignored, prefix)


def picked(entries: Iterable[Entry], ignored: Ignored, prefix: str = "") -> Iterator[Entry]:
    """Of what a listing gives the pictures, as `pictures`."""
    for entry in entries:
        if entry.kind in ("file", "dead link") and is_picture(entry.path, needs_suffix=entry.kind == "dead link"):
            yield entry
        else:
            ignored.add(entry, prefix)


def read(
    data: str,
    *,
    labels: str | None = None,
    groups: str | None = None,
    exclude: str | None = None,
    lenient: bool = False,
) -> Listing:
    """List train/, val/ and test/ of a data folder, each file with its class: the outermost folder in its split.

    Or with the class, and perhaps the split, that the file `labels` says; with its group, by a regular expression or a
    file; without what the file `exclude` leaves out, and with the classes that it corrects.

    Raises InputError for what cannot be trained on: a missing folder, fewer than two classes, a class folder of train/
    without a picture, a class in val/ that train/ lacks; and for files that say nothing of these pictures. With
    `lenient`, what is in a class that train/ lacks is unlabelled instead.
    """
    layout = splits.find(data, labels)
    ignored, remarks = Ignored(unused=layout.others), [*layout.remarks]
    files = [file for split, folder in layout.folders.items() for file in _files(data, split, folder, ignored)]
    if ignored.closed:
        raise InputError(f"expected folders that can be read in {data}{ignored.hint()}")
    if labels is None:
        _require_filled(data, layout.folders["train"], files, ignored)
    else:
        files, said = _labelled(data, labels, files)
        remarks += said
    decided = Decided(files) if exclude is None else exclusion.applied(exclude, files, data)
    files = decided.files
    remarks += decided.remarks
    if groups is not None:
        files, said = grouping.applied(groups, files)
        remarks += said
    sorted_out = _sorted_out(data, layout, files, labels, ignored, lenient=lenient)
    return dataclasses.replace(
        sorted_out,
        remarks=[*remarks, *sorted_out.remarks, *ignored.remarks()],
        excluded=decided.excluded,
        relabelled=decided.relabelled,
    )


def _labelled(data: str, labels: str, files: Sequence[File]) -> tuple[list[File], list[str]]:
    """The files with the class and the split that a table says; "" and the outermost folder's where it says none."""
    given = labelling.given(labels, data, [file.path for file in files])

    def split(path: str) -> str:
        return given.splits.get(path) or splits.split_of(path.partition("/")[0]) or "train"

    files = [dataclasses.replace(file, label=given.labels.get(file.path, ""), split=split(file.path)) for file in files]
    remarks = []
    if without := [file.path for file in files if not file.label and file.split != "test"]:
        remarks.append(f"{len(without):,} pictures have no class in {labels} and are not used: {some(without, 3)}")
    if given.strangers:
        remarks.append(
            f"not pictures of {data}: {len(given.strangers):,} lines of {labels} ({some(given.strangers, 3)})"
        )
    return files, remarks


def _sorted_out(
    data: str, layout: Layout, files: Sequence[File], labels: str | None, ignored: Ignored, *, lenient: bool
) -> Listing:
    """Which files are trained on, validated, tested, and as which classes; remarks on these."""
    of = {split: [file for file in files if file.split == split] for split in ("train", "val", "test")}
    train, val = ([file for file in of[split] if file.label] for split in ("train", "val"))
    folder = layout.folders["train"]
    classes = _classes(data, folder, of["train"], ignored) if labels is None else _classes_in(labels, train)
    remarks = _remarks_on_train(train, None if labels else folder, classes)
    if "val" in layout.folders or val:
        if labels is None:
            _labels(data, layout.folders["val"], of["val"], ignored)
        elif not val:
            raise InputError(
                f"expected pictures of val/ with a class in {labels}, found none: add some, or remove val/"
            )
        named = sorted({file.label for file in val})
        if not lenient:
            classes.require(named, "val/", ignored.hint())
        if lacking := sorted(set(classes.names).difference(named)):
            remarks.append(f"val/ has no images of {some(lacking)}: its figures say nothing of them")
    elif not lenient:
        splits.require_two(Counter(file.label for file in train))
    known = set(classes.names)
    test = [file for file in of["test"] if file.label in known]
    unlabelled = [file for file in [*val, *of["test"]] if file.label not in known]
    val = [file for file in val if file.label in known]
    if strangers := sorted({file.label for file in unlabelled if file.split == "test"} - {""}):
        what = "labels" if labels else "folders"
        remarks.append(f"{what} of test/ that are no class of train/: {classes.beside(strangers)}")
    for split in ("train", "val") if labels is None else ():
        if num_loose := sum(not file.label for file in of[split]):
            ignored.loose[layout.folders[split] or "."] = num_loose
    return Listing([*train, *val, *test], classes, ignored, remarks, unlabelled)


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


def _require_filled(data: str, folder: str, files: Sequence[File], ignored: Ignored) -> None:
    """Raise InputError for a class folder of train/ without a picture."""
    location, filled = _location(data, folder), {file.label for file in files if file.split == "train"}
    empty = [name for name in storage.folders(location) if is_entered(name) and name not in filled.union(_NO_CLASS)]
    if empty:
        raise InputError(
            f"expected images in every class folder of {location}, found none in {some(empty)}: "
            f"add some or remove the folder{ignored.hint()}"
        )


def _classes(data: str, folder: str, files: Sequence[File], ignored: Ignored) -> Classes:
    """Those of train/. Raises InputError where there are not two."""
    location = _location(data, folder)
    labels = _labels(data, folder, files, ignored)
    if len(labels) == 1:
        inner = sorted(_inner_folders(files, folder)[labels[0]])
        advice = "move them up" if folder else f"give --data {storage.join(data, labels[0])}"
        inside = f", which holds {some(inner)}: if these are the classes, {advice}" if inner else _OWN
        found = f"found 1 ({printable(labels[0])}) in {location}{inside}{ignored.hint()}"
        raise InputError(f"expected at least two class folders, {found}")
    return Classes.of(labels)


def _classes_in(labels: str, files: Sequence[File]) -> Classes:
    """Those of train/, by a file. Raises InputError where there are not two."""
    names = sorted({file.label for file in files})
    if len(names) < 2:
        raise InputError(
            f"expected at least two classes of pictures to train on in {labels}, found {len(names)} "
            f"({some(names) or 'none'}): add pictures of another one"
        )
    return Classes.of(names)


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


def _remarks_on_train(files: Sequence[File], folder: str | None, classes: Classes) -> list[str]:
    """`folder` holds the class folders, where there are any."""
    remarks = [f"class names that look alike: {alike}" for alike in classes.look_alikes()]
    inner = [set[str]()] if folder is None else list(_inner_folders(files, folder).values())
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
        label, _, within = file.path[len(f"{folder}/" if folder else "") :].partition("/")
        name, slash, _ = within.partition("/")
        names.setdefault(label, set()).add(name if slash else "")
    return {label: set() if "" in inner else inner for label, inner in names.items()}
