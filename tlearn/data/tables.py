"""Tables that a person gives beside a folder of pictures (labels, groups, what to leave out): CSV, TSV or Parquet.

Any columns, a header or none; a picture is named by its path in the folder, by the end of it, with its suffix or
without.
"""

import csv
import io
from collections.abc import Callable, Iterable, Sequence

from tlearn import storage
from tlearn.errors import InputError

_PATHS = ("path", "file", "filename", "file_name", "image", "picture", "id", "name")
"""Headers of the column of pictures, in any case of letters, where several columns name as many."""


def rows(file: str, what: str, least_columns: int = 1) -> list[list[str]]:
    """The lines of a table, the header too where there is one, all of the same length.

    Raises InputError for anything else; `what` says what each line is expected to have.
    """
    found = _parquet(file) if file.lower().endswith(".parquet") else _text(file)
    if not found:
        raise InputError(f"expected lines with {what} in {file}, found none")
    num_columns = max(len(found[0]), least_columns)
    for number, row in enumerate(found, 1):
        if len(row) != num_columns:
            raise InputError(
                f"expected {num_columns} columns, with {what}, in each line of {file}, "
                f"found {len(row)} in line {number}"
            )
    return found


def _text(file: str) -> list[list[str]]:
    try:
        text = storage.read(file).data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"expected CSV or TSV in UTF-8 in {file}, found another encoding: save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"expected CSV or TSV in {file}, could not read it: {error.strerror or error}") from None
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        return [[cell.strip() for cell in row] for row in lines if row]
    except csv.Error as error:
        raise InputError(f"expected CSV or TSV in {file}, could not read it: {error}") from None


def _parquet(file: str) -> list[list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with storage.open_input(file) as source:
            table = pq.read_table(source)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"expected a Parquet table in {file}, could not read it: {reason}") from None
    columns = [["" if value is None else str(value).strip() for value in of.to_pylist()] for of in table.columns]
    return [list(table.column_names), *map(list, zip(*columns, strict=True))]


def column(rows: Sequence[Sequence[str]], headers: Iterable[str]) -> int | None:
    """The first column whose cell in the first line is one of these, in any case of letters."""
    named = [number for number, cell in enumerate(rows[0]) if cell.lower() in headers]
    return named[0] if named else None


def path_column(rows: Sequence[Sequence[str]], meant: Callable[[str], str | None], but: Sequence[int] = ()) -> int:
    """The column with the most names of pictures; of several the one whose header says so."""
    columns = [number for number in range(len(rows[0])) if number not in but] or but

    def worth(number: int) -> tuple[int, bool]:
        return sum(meant(row[number]) is not None for row in rows), rows[0][number].lower() in _PATHS

    return max(columns, key=worth)


class Pictures:
    """The pictures of a folder by the names that a table may have for them."""

    def __init__(self, paths: Iterable[str]):
        whole = {path: path for path in paths}
        ends: dict[str, str | None] = {}  # None where it could be several
        for path in whole:
            for end in _ends(path):
                for key in {end, _stem(end)} - {""}:
                    ends[key] = path if ends.get(key, path) == path else None
        self.known = {key: path for key, path in ends.items() if path is not None} | whole

    def named(self, cell: str) -> str | None:
        """The path of the picture that a cell names by its path or the end of it, with suffix or without."""
        return self.known.get(cell) or self.known.get(_plain(cell))

    def meant(self, cell: str) -> str | None:
        """Also by a path that begins elsewhere: test/1.jpg in test/."""
        return self.named(cell) or next((self.known[end] for end in _ends(_plain(cell)) if end in self.known), None)


def _ends(path: str) -> list[str]:
    """a/b/c, b/c, c."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _stem(path: str) -> str:
    """Without its suffix; "" where it has none."""
    folder, slash, name = path.rpartition("/")
    stem = name.rpartition(".")[0]
    return f"{folder}{slash}{stem}" if stem else ""


def _plain(cell: str) -> str:
    r"""A path as a listing has it: .\a\b is a/b."""
    return cell.replace("\\", "/").removeprefix("./")
