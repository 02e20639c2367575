"""Of which class pictures are, by a table of labels: of any classes, or of those of a model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tlearn.classes import Classes
from tlearn.data import tables
from tlearn.data.splits import split_of
from tlearn.data.tables import Pictures
from tlearn.errors import InputError, some

_HEADERS = ("label", "labels", "class", "category", "target")
"""Of the column of classes, in any case of letters."""
_SPLITS = ("split", "subset", "partition")
"""Of the column that says train, val or test."""
_WHAT = "the name of a picture and its class"


@dataclass(frozen=True, slots=True)
class Given:
    """What a file of labels says of the pictures that are to be trained on."""

    labels: dict[str, str]
    """By path."""
    splits: dict[str, str]
    """train, val or test, by path; empty where the file has no such column."""
    strangers: tuple[str, ...]
    """What the file names and is no picture."""


def given(file: str, folder: str, paths: Sequence[str]) -> Given:
    """The classes, and perhaps the splits, of the pictures of a folder by a table that may name any classes.

    Raises InputError where no line names a picture, where one has two classes, and for a split that is none.
    """
    rows, pictures = tables.rows(file, _WHAT, 2), Pictures(paths)
    named = [number for number, cell in enumerate(rows[0]) if cell.lower() in _HEADERS]
    of_path = tables.path_column(rows, pictures.meant, named)
    of_split = _split_column(rows, [of_path, *named])
    columns = [number for number in named or range(len(rows[0])) if number not in (of_path, of_split)]
    if len(columns) != 1:
        raise _several(columns)
    of_label = columns[0]
    is_first = rows[0][of_label] in {row[of_label] for row in rows[1:]}
    is_header = pictures.meant(rows[0][of_path]) is None and (bool(named) or of_split is not None or not is_first)
    rows = rows[is_header:]
    labels, strangers = _by_path(file, [(row[of_path], _name(row[of_label])) for row in rows], pictures)
    labels = {path: label for path, label in labels.items() if label}
    if not labels:
        raise InputError(
            f"expected names of pictures of {folder} and their classes in {file}, found no line with both, as line "
            f"{1 + is_header}: {','.join(rows[0]) if rows else 'none'}"
        )
    splits = {} if of_split is None else _splits(file, [(row[of_path], row[of_split]) for row in rows], pictures)
    return Given(labels, splits, tuple(strangers))


def of_model(file: str, folder: str, paths: Sequence[str], classes: Classes) -> tuple[dict[str, str], list[str]]:
    """Labels from a table of the classes of a model; and remarks on them."""
    rows, pictures, remarks = tables.rows(file, _WHAT, 2), Pictures(paths), list[str]()
    named = [number for number, cell in enumerate(rows[0]) if cell.lower() in _HEADERS]
    of_path = tables.path_column(rows, pictures.meant, named)
    names, of_label = _label_column(rows, of_path, named, classes)
    if names.keys() != set(classes.names):
        remarks.append(f"labels are numbers: {some([f'{number} is {name}' for number, name in names.items()])}")
    lines = [(row[of_path], names.get(_name(row[of_label]), row[of_label])) for row in rows]
    is_header = bool(named) or (pictures.meant(lines[0][0]) is None and lines[0][1] not in classes.names)
    labels, strangers = _by_path(file, lines[is_header:], pictures)
    if not set(labels.values()) & set(classes.names):
        raise InputError(
            f"expected names of pictures of {folder} and their classes ({some(classes.names)}) in {file}, found no "
            f"line with both, as line {1 + is_header}: {','.join(rows[is_header]) if rows[is_header:] else 'none'}"
        )
    if strangers:
        remarks.append(f"not pictures of {folder}: {len(strangers):,} lines of {file}")
    return labels, remarks


def _by_path(
    file: str, lines: Sequence[tuple[str, str]], pictures: Pictures, what: str = "class"
) -> tuple[dict[str, str], list[str]]:
    """What is said of each picture, and the cells that name none. Raises InputError for two things of one picture.

    A path that begins elsewhere names no picture that another line names by its own path.
    """
    said: dict[str, str] = {}
    strangers = []
    own = {pictures.named(cell) for cell, _ in lines}
    for cell, value in lines:
        path = pictures.meant(cell)
        if path is None or (path in own and pictures.named(cell) is None):
            strangers.append(cell)
        elif said.setdefault(path, value) != value:
            raise InputError(f"expected one {what} of {path} in {file}, found {said[path]} and {value}: remove one")
    return said, strangers


def _split_column(rows: Sequence[Sequence[str]], but: Sequence[int]) -> int | None:
    """The column that says the split: by its header, or because its cells say nothing else."""
    for number in (number for number in range(len(rows[0])) if number not in but):
        below = [row[number] for row in rows[1:]]
        if rows[0][number].lower() in _SPLITS or (len(rows[0]) > 2 and below and all(map(split_of, below))):
            return number
    return None


def _splits(file: str, lines: Sequence[tuple[str, str]], pictures: Pictures) -> dict[str, str]:
    said, _ = _by_path(file, lines, pictures, "split")
    found = {path: split_of(cell) for path, cell in said.items()}
    if strange := sorted({said[path] for path, split in found.items() if split is None}):
        raise InputError(f"expected train, val or test as split in {file}, found {some(strange)}: correct it")
    return {path: split for path, split in found.items() if split is not None}


def _name(cell: str) -> str:
    """A class that is a number and was written as 1.0 is 1."""
    return re.sub(r"^(-?\d+)\.0$", r"\1", cell)


def _several(columns: Sequence[int]) -> InputError:
    found = f"{len(columns)} (columns {some([str(column + 1) for column in columns])})" if columns else "none"
    return InputError(f"expected one column of classes, found {found}: name the true one label in the first line")


def _label_column(
    rows: Sequence[Sequence[str]], but: int, named: Sequence[int], classes: Classes
) -> tuple[dict[str, str], int]:
    """The column of classes, and which class a cell stands for. Raises InputError where several could be it."""
    by_name = {name: name for name in classes.names}
    by_number = {str(number): name for number, name in enumerate(classes.names)}
    columns = [number for number in named or range(len(rows[0])) if number != but]
    for names in (by_name, by_number):
        found = [column for column in columns if any(_name(row[column]) in names for row in rows)]
        if len(found) > 1:
            raise _several(found)
        if found:
            return names, found[0]
    return by_name, columns[0] if columns else but
