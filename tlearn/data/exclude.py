"""What a person has decided of single pictures: left out, or of another class. `tlearn check --output` writes it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from tlearn import storage
from tlearn.data import tables
from tlearn.data.manifest import File
from tlearn.data.tables import Pictures
from tlearn.errors import InputError, printable, some

_WHAT = "the path of a picture"


@dataclass(frozen=True, slots=True)
class Decided:
    """The pictures as they were decided upon."""

    files: list[File]
    """Without those that are left out."""
    excluded: int = 0
    relabelled: int = 0
    remarks: tuple[str, ...] = ()


def applied(file: str, files: Sequence[File], data: str) -> Decided:
    """Do with the pictures what a table says. A `suggestion` is exclude, relabel:CLASS, look or nothing.

    A picture may have several lines: one of them is enough to leave it out. Without a column `suggestion` every picture
    in the table is left out. Raises InputError for another suggestion, for two classes of one picture, for a class that
    there is none of, and where no picture would be left.
    """
    rows, pictures = tables.rows(file, _WHAT), Pictures(each.path for each in files)
    own = storage.absolute(data).rstrip("/") + "/"

    def meant(cell: str) -> str | None:
        return pictures.named(cell.removeprefix(own))

    of_path = tables.column(rows, ["path"])
    of_path = tables.path_column(rows, meant) if of_path is None else of_path
    of_suggestion = tables.column(rows, ["suggestion"])
    lines = rows[meant(rows[0][of_path]) is None :]  # without the header
    excluded, classes, strangers = set[str](), dict[str, str](), list[str]()
    for row in lines:
        path = meant(row[of_path])
        word, _, label = ("exclude" if of_suggestion is None else row[of_suggestion]).partition(":")
        if path is None:
            strangers.append(row[of_path])
        elif (word := word.strip().lower()) == "exclude":
            excluded.add(path)
        elif word == "relabel":
            if classes.setdefault(path, label.strip()) != label.strip():
                found = f"{printable(classes[path])} and {printable(label)}"
                raise InputError(f"expected one class of {printable(path)} in {file}, found {found}: remove one")
        elif word not in ("", "look"):
            raise InputError(
                f"expected exclude, look or relabel:CLASS for {printable(path)} in {file}, found {printable(word)}"
            )
    _require_known(classes, files, file)
    left = [each for each in files if each.path not in excluded]
    if not left:
        raise InputError(f"expected pictures that {file} does not leave out, found none: correct it")
    changed = [dataclasses.replace(each, label=classes.get(each.path, each.label)) for each in left]
    num_changed = sum(new.label != old.label for new, old in zip(changed, left, strict=True))
    remarks = [f"{file} leaves out {len(files) - len(left):,} of {len(files):,} pictures, and corrects {num_changed:,}"]
    if strangers:
        remarks.append(f"not pictures of {data}: {len(strangers):,} lines of {file} ({some(strangers, 3)})")
    return Decided(changed, len(files) - len(left), num_changed, tuple(remarks))


def _require_known(classes: dict[str, str], files: Sequence[File], where: str) -> None:
    known = {file.label for file in files if file.split == "train"} - {""}
    for path, label in classes.items():
        if label not in known:
            raise InputError(
                f"expected a class of train/ ({some(sorted(known))}) after relabel: in {where}, found "
                f"{printable(label)} for {printable(path)}: correct it"
            )
