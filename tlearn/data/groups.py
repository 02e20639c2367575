"""Which pictures belong together (of one animal, patient, video, burst), so that no split may part them."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence

from tlearn.config.values import is_table
from tlearn.data import tables
from tlearn.data.findings import Finding, Suspect
from tlearn.data.manifest import File
from tlearn.data.tables import Pictures
from tlearn.errors import InputError, some

_FLATTERED = {"val": "val_accuracy", "test": "the accuracy on test/"}


def applied(groups: str, files: Sequence[File]) -> tuple[list[File], list[str]]:
    """The files with their groups, by a regular expression of paths or a table (path, group); and remarks.

    Raises InputError where no picture has a group.
    """
    group_of = _by_table(groups, [file.path for file in files]) if is_table(groups) else _by_expression(groups)
    files = [dataclasses.replace(file, group=group_of(file.path)) for file in files]
    without = [file.path for file in files if file.group is None]
    if len(without) == len(files):
        raise InputError(
            f"expected groups of the pictures by {groups}, found none, as of {some(without, 3)}: paths begin below "
            "the data folder"
        )
    if without:
        return files, [f"{len(without):,} pictures are in no group of {groups}, each stays alone: {some(without, 3)}"]
    return files, []


def _by_expression(expression: str) -> Callable[[str], str | None]:
    """What its first parenthesis, or all of it, finds in a path."""
    pattern = re.compile(expression)

    def group_of(path: str) -> str | None:
        found = pattern.search(path)
        return (found[min(pattern.groups, 1)] or None) if found else None

    return group_of


def _by_table(file: str, paths: Sequence[str]) -> Callable[[str], str | None]:
    """What the other column, or that with the header `group`, says. Raises InputError for two groups of a picture."""
    rows, meant = tables.rows(file, "the path of a picture and its group", 2), Pictures(paths).named
    named = tables.column(rows, ["group", "groups"])
    of_path = tables.path_column(rows, meant, [] if named is None else [named])
    columns = [number for number in range(len(rows[0])) if number != of_path] if named is None else [named]
    if len(columns) != 1:
        raise InputError(
            f"expected one column of groups in {file}, found {len(columns)}: name the true one group in the first line"
        )
    said: dict[str, str] = {}
    for row in rows:
        path, group = meant(row[of_path]), row[columns[0]]
        if path is not None and group and said.setdefault(path, group) != group:
            raise InputError(f"expected one group of {path} in {file}, found {said[path]} and {group}: remove one")
    return said.get


def finding(files: Iterable[File]) -> Finding | None:
    """Groups that lie in two of train/, val/ and test/ as they are given: what is measured there flatters."""
    of_group: dict[str, list[File]] = {}
    for file in files:
        if file.group is not None:
            of_group.setdefault(file.group, []).append(file)
    suspects, parted = [], []
    for group, together in of_group.items():
        first = {file.split: file.path for file in reversed(together)}
        if len(first) > 1:
            parted.append(group)
            suspects += [_suspect(file, first) for file in together if file.split != _home(first)]
    if not parted:
        return None
    splits = [split for split in _FLATTERED if any(file.split == split for file in _of(of_group, parted))]
    return Finding(
        kind="group_in_two_splits",
        what=f"{len(suspects):,} pictures of {' and '.join(f'{split}/' for split in splits)} are of groups that are in "
        f"another split too ({some(parted, 3)}): {' and '.join(_FLATTERED[split] for split in splits)} flatters",
        suspects=tuple(suspects),
        advice="Move every group into one split, or leave out val/: then what is held out parts no group.",
    )


def remarks(files: Iterable[File]) -> list[str]:
    """What a person has to know before training on them."""
    found = finding(files)
    return [] if found is None else [found.what]


def _of(of_group: dict[str, list[File]], names: Iterable[str]) -> Iterable[File]:
    return (file for name in names for file in of_group[name])


def _home(splits: Iterable[str]) -> str:
    """The split in which a group may stay."""
    return min(splits, key=("train", "val", "test").index)


def _suspect(file: File, first: dict[str, str]) -> Suspect:
    return Suspect(file.path, "look", 1.0, (first[_home(first)],))
