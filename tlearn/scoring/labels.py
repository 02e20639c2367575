"""Of which class the pictures of a folder are: by the folders that they lie in, or by a file of labels."""

from dataclasses import dataclass

from tlearn import storage
from tlearn.classes import Classes
from tlearn.data.labels import of_model
from tlearn.data.listing import pictures
from tlearn.data.names import Ignored, is_entered
from tlearn.data.splits import split_of
from tlearn.errors import InputError, some


@dataclass(frozen=True, slots=True)
class Labelled:
    """A folder of pictures and what is known of them."""

    folder: str
    labels: dict[str, str]
    """The class of each picture, by its path in the folder."""
    remarks: tuple[str, ...]
    """One line each: what a person should know of these labels."""


def find(data: str, file: str | None, classes: Classes) -> Labelled:
    """The pictures of a folder, or of its test/ or val/. Raises InputError where their classes are not the model's."""
    folder = _folder(data, classes, has_file=file is not None)
    ignored = Ignored()
    paths = [entry.path for entry in pictures(folder, ignored)]
    if file is not None:
        labels, remarks = of_model(file, folder, paths, classes)
    else:
        labels, remarks = {path: path.partition("/")[0] for path in paths if "/" in path}, []
    if unknown := sorted(set(labels.values()) - set(classes.names)):
        raise InputError(
            f"expected the classes of the model ({some(classes.names)}) in {file or folder}, found also "
            f"{some(unknown)}: rename or remove them"
        )
    if not labels:
        raise InputError(f"expected pictures in the class folders of {folder}, found none")
    if lacking := sorted(set(classes.names) - set(labels.values())):
        remarks.append(f"no picture of {some(lacking)}: the figures say nothing of that")
    if len(paths) > len(labels):
        remarks.append(f"{len(paths) - len(labels):,} pictures have no label and are left out")
    return Labelled(folder, labels, (*remarks, *ignored.remarks()))


def _folder(data: str, classes: Classes, *, has_file: bool) -> str:
    """The folder itself if it holds class folders, else the first of its splits that does."""
    present = [name for name in storage.folders(data) if is_entered(name)]
    if set(present) & set(classes.names):
        return data
    names = {split_of(name): name for name in present}
    for split in (storage.join(data, names[name]) for name in ("test", "val") if name in names):
        if has_file or set(storage.folders(split)) & set(classes.names):
            return split
    if has_file:
        return data
    raise InputError(
        f"expected a folder for each class of the model ({some(classes.names)}) in {data}, or in test/ or val/ there, "
        f"found {some(present) or 'no folder'}: or give --labels FILE"
    )
