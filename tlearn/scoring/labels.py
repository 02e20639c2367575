"""Of which class the pictures of a folder are: by the folders that they lie in, or by a file of labels."""

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tlearn import storage
from tlearn.classes import Classes
from tlearn.data.listing import pictures
from tlearn.data.names import Ignored, is_entered
from tlearn.data.splits import split_of
from tlearn.errors import InputError, some

_HEADERS = ("label", "labels", "class", "category", "target")
"""Of the column of classes, in any case of letters."""


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
        labels, remarks = _of_file(file, folder, paths, classes)
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


def _of_file(file: str, folder: str, paths: Sequence[str], classes: Classes) -> tuple[dict[str, str], list[str]]:
    """Labels from a table with any columns and with a header or none; and remarks on them."""
    rows, index, remarks = _rows(file), _index(paths), []

    def meant(cell: str) -> str | None:
        """A path that begins elsewhere (test/1.jpg, test\\1.jpg) is known by its name."""
        return index.get(cell) or index.get(re.split(r"[/\\]", cell)[-1])

    named = [number for number, cell in enumerate(rows[0]) if cell.lower() in _HEADERS]
    of_path = _path_column(rows, meant, named)
    names, of_label = _label_column(rows, of_path, named, classes)
    if names.keys() != set(classes.names):
        remarks.append(f"labels are numbers: {some([f'{number} is {name}' for number, name in names.items()])}")
    lines = [(meant(row[of_path]), names.get(row[of_label].removesuffix(".0"), row[of_label])) for row in rows]
    is_header = bool(named) or (lines[0][0] is None and lines[0][1] not in classes.names)
    lines = lines[is_header:]
    labels: dict[str, str] = {}
    for path, label in lines:
        if path is not None and labels.setdefault(path, label) != label:
            raise InputError(f"expected one class of {path} in {file}, found {labels[path]} and {label}: remove one")
    if not set(labels.values()) & set(classes.names):
        raise InputError(
            f"expected names of pictures of {folder} and their classes ({some(classes.names)}) in {file}, found no "
            f"line with both, as line {1 + is_header}: {','.join(rows[is_header]) if lines else 'none'}"
        )
    if num_strange := sum(path is None for path, _ in lines):
        remarks.append(f"not pictures of {folder}: {num_strange:,} lines of {file}")
    return labels, remarks


def _path_column(rows: Sequence[Sequence[str]], meant: Callable[[str], str | None], but: Sequence[int]) -> int:
    """The column with the most names of pictures."""
    columns = [number for number in range(len(rows[0])) if number not in but]
    return max(columns or but, key=lambda number: sum(meant(row[number]) is not None for row in rows))


def _label_column(
    rows: Sequence[Sequence[str]], but: int, named: Sequence[int], classes: Classes
) -> tuple[dict[str, str], int]:
    """The column of classes, and which class a cell stands for. Raises InputError where several could be it."""
    by_name = {name: name for name in classes.names}
    by_number = {str(number): name for number, name in enumerate(classes.names)}
    columns = [number for number in named or range(len(rows[0])) if number != but]
    for names in (by_name, by_number):
        found = [column for column in columns if any(row[column].removesuffix(".0") in names for row in rows)]
        if len(found) > 1:
            raise InputError(
                f"expected one column of classes, found {len(found)} "
                f"(columns {some([str(column + 1) for column in found])}): name the true one label in the first line"
            )
        if found:
            return names, found[0]
    return by_name, columns[0] if columns else but


def _rows(file: str) -> list[list[str]]:
    """The lines of a CSV or TSV file, all of the same length. Raises InputError for anything else."""
    try:
        text = storage.read(file).data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"expected CSV or TSV in UTF-8 in {file}, found another encoding: save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"expected CSV or TSV in {file}, could not read it: {error.strerror or error}") from None
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    except csv.Error as error:
        raise InputError(f"expected CSV or TSV in {file}, could not read it: {error}") from None
    if not rows:
        raise InputError(f"expected lines with the name of a picture and its class in {file}, found none")
    num_columns = max(len(rows[0]), 2)
    for number, row in enumerate(rows, 1):
        if len(row) != num_columns:
            raise InputError(
                f"expected {num_columns} columns, with the name of a picture and its class, in each line of {file}, "
                f"found {len(row)} in line {number}"
            )
    return rows


def _index(paths: Iterable[str]) -> dict[str, str]:
    """The picture that is meant by a path or a name, with its suffix or without; none where several could be."""
    found: dict[str, set[str]] = {}
    for path in paths:
        name = path.rpartition("/")[2]
        for key in {path, name, path.rpartition(".")[0], name.rpartition(".")[0]} - {""}:
            found.setdefault(key, set()).add(path)
    return {key: meant.pop() for key, meant in found.items() if len(meant) == 1}
