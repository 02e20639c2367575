"""What a person has decided of single pictures: left out, or of another class. `tlearn check --output` writes it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from tlearn.data import tables
from tlearn.data.manifest import File
from tlearn.data.tables import Pictures
from tlearn.errors import InputError, printable, some

_RELABEL = "relabel:"
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
    """Do with the pictures what a table says: column `path`, and `suggestion` (exclude, relabel:CLASS, or nothing).

    Without a column `suggestion` every picture in the table is left out. Raises InputError for a class that there is
    none of.
    """
    rows = tables.rows(file, _WHAT)
    meant = Pictures(file.path for file in files).named
    of_path = tables.column(rows, ["path"])
    of_path = tables.path_column(rows, meant) if of_path is None else of_path
    of_suggestion = tables.column(rows, ["suggestion"])
    lines = rows[meant(rows[0][of_path]) is None :]  # without the header
    decisions, strangers = {}, []
    for row in lines:
        path = meant(row[of_path])
        if path is None:
            strangers.append(row[of_path])
        else:
            decisions[path] = "exclude" if of_suggestion is None else row[of_suggestion]
    classes = {path: said.removeprefix(_RELABEL) for path, said in decisions.items() if said.startswith(_RELABEL)}
    _require_known(classes, files, file)
    left = [each for each in files if decisions.get(each.path) != "exclude"]
    changed = [dataclasses.replace(each, label=classes.get(each.path, each.label)) for each in left]
    num_changed = sum(new.label != old.label for new, old in zip(changed, left, strict=True))
    remarks = [f"{len(files) - len(left):,} pictures are left out, {num_changed:,} have another class, as {file} says"]
    if strangers:
        remarks.append(f"not pictures of {data}: {len(strangers):,} lines of {file} ({some(strangers, 3)})")
    return Decided(changed, len(files) - len(left), num_changed, tuple(remarks))


def _require_known(classes: dict[str, str], files: Sequence[File], where: str) -> None:
    known = {file.label for file in files if file.split == "train"} - {""}
    for path, label in classes.items():
        if label not in known:
            raise InputError(
                f"expected a class of train/ ({some(sorted(known))}) after {_RELABEL} in {where}, found "
                f"{printable(label)} for {printable(path)}: correct it"
            )
