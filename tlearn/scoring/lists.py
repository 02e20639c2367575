"""Lists in the place of a listing: what an inventory, a database or a queue knows of the files of a folder.

Parquet, CSV, or text with a path in each line; read as a stream, so that memory does not grow with the list.
"""

import contextlib
import csv
import gzip
import json
import os
import posixpath
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.data import paths as names
from tlearn.data.names import Ignored, is_picture
from tlearn.errors import InputError, printable, some
from tlearn.scoring import columns
from tlearn.scoring.columns import SCHEMA, Place
from tlearn.storage import UNKNOWN, decode_name, encode_name

HEADERS: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "key", "file", "filename", "name", "uri", "url"),
    "size": ("size", "bytes"),
    "modified": ("modified", "mtime", "lastmodified", "lastmodifieddate", "updated"),
    "etag": ("etag",),
    "bucket": ("bucket",),
    "is_latest": ("islatest",),
    "is_deleted": ("isdeletemarker",),
}
"""Which columns are read, by what a header has in small letters without signs; of several the first of these."""
_IN_ORDER = ("path", "size", "modified", "etag")
"""The first columns of a CSV without a header; where a bucket comes before the path, behind that."""

_LISTS = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz")
"""What counts in a folder of lists."""
_URI = re.compile("[a-z][a-z0-9+.-]*://")
_OTHERS = {
    "JSON": re.compile(rb"""\A(\xef\xbb\xbf)?\s*[\[{]\s*(["\[{\]}]|\Z)"""),
    "XML or HTML": re.compile(rb"(?i)\A(\xef\xbb\xbf)?\s*<(\?xml|!doctype|html)\b"),
    "UTF-16": re.compile(rb"\A(\xff\xfe|\xfe\xff)"),
    "no text, it holds NUL bytes": re.compile(rb"\0"),
}
"""Kinds of files that are no lists, by what they begin with or hold: their bytes would make strange paths."""
_NUM_ROWS = 65_536
_NUM_BYTES = 2**20
_HEAD_BYTES = 2**16
_MAX_OPEN = 16
_IN_NO_PATH = "\x01"
"""What parts the columns of a text that has one."""


@dataclass(frozen=True, slots=True)
class ListFile:
    """One file with paths."""

    location: str
    header: tuple[str, ...] | None = None
    """Names of the columns of a CSV, where a manifest gives them."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """Its content, unpacked."""
        with self.understood(), contextlib.ExitStack() as stack:
            file = stack.enter_context(storage.open_input(self.location))
            yield stack.enter_context(gzip.open(file)) if self.location.lower().endswith(".gz") else file

    @contextlib.contextmanager
    def understood(self) -> Iterator[None]:
        """Within, what says that it is no such file is an InputError."""
        try:
            yield
        except (pa.ArrowException, csv.Error, UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            reason = str(error).partition("\n")[0]
            raise self.unreadable(f"{reason}; write it again, as Parquet, CSV or a path in each line") from None
        except FileNotFoundError:
            raise self.unreadable("it is not there") from None

    def unreadable(self, reason: str) -> InputError:
        return InputError(f"expected a list of files in {self.location}, could not read it: {printable(reason)}")


def of(given: Sequence[str], folder: str) -> tuple[ListFile, ...]:
    """The files of lists: as they are, those in folders, those that the manifest.json of an inventory names.

    Raises InputError where there is none, and for one without a column of paths.
    """
    found = [each for location in given for each in _files(storage.absolute(location.rstrip("/")))]
    with ThreadPoolExecutor(_MAX_OPEN) as threads:
        list(threads.map(lambda each: next(_rows(each, folder), None), found))
    return tuple(found)


def _files(location: str) -> list[ListFile]:
    if location.endswith("/manifest.json"):
        return _of_manifest(ListFile(location))
    kind = storage.kind(location)
    if kind == "other" or (kind is None and location == storage.absolute("-")):
        raise InputError(
            f"expected a file as --input-list, found a pipe or a device ({location}): write it into a file first"
        )
    if kind != "folder":
        return [ListFile(location)]
    entries = storage.stream(location, lambda name: not name.startswith((".", "_")))
    paths = sorted(entry.path for entry in entries if entry.path.lower().endswith(_LISTS))
    if not paths:
        raise InputError(f"expected lists ({some(_LISTS)}) in {location}, found none: check --input-list")
    return [ListFile(storage.join(location, os.fsdecode(decode_name(path)))) for path in paths]


def _of_manifest(manifest: ListFile) -> list[ListFile]:
    """Of an inventory of S3: its files lie in data/ beside the folder of the manifest."""
    with manifest.opened() as file:
        data = file.read()
    try:
        content = json.loads(data)
        kind, keys = content["fileFormat"], [entry["key"] for entry in content["files"]]
        header = tuple(content["fileSchema"].split(",")) if kind == "CSV" else None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise manifest.unreadable("it is no manifest of an inventory of S3") from None
    if kind not in ("CSV", "Parquet"):
        raise manifest.unreadable(f"the inventory is in {kind}; have it made in Parquet or CSV")
    folder = storage.join(manifest.location.rsplit("/", 2)[0], "data")
    return [ListFile(storage.join(folder, key.rpartition("/")[2]), header) for key in keys]


def batches(lists: Sequence[ListFile], folder: str, ignored: Ignored) -> Iterator[pa.Table]:
    """The pictures of a folder that lists name, in their order, in SCHEMA; what is no picture goes to `ignored`.

    Raises InputError, which names the line, for a path outside of the folder, and for what is no size or no time.
    """
    listing = _Listing(folder, ignored)
    for each in lists:
        for place, rows in _rows(each, folder):
            with each.understood():
                found = listing.table(rows, place)
            if found.num_rows:
                yield found


Rows = Iterator[tuple[Place, pa.RecordBatch]]
"""The columns that are read, by the keys of HEADERS; a path that is written as in a URL is `quoted`."""


def _rows(each: ListFile, folder: str) -> Rows:
    with each.opened() as file:
        head = file.read(_HEAD_BYTES)
        file.seek(0)
        if head.startswith(b"PAR1"):
            yield from _of_parquet(each, file)
        else:
            _require_text(each, head)
            yield from _of_text(each, folder, file, head)


def _require_text(each: ListFile, head: bytes) -> None:
    """Raise InputError for one of _OTHERS."""
    if kind := next((kind for kind, pattern in _OTHERS.items() if pattern.search(head)), None):
        raise each.unreadable(f"it is {kind}; write it as Parquet, CSV or a path in each line, in UTF-8")


def _of_parquet(each: ListFile, file: Any) -> Rows:
    parquet, first = pq.ParquetFile(file, buffer_size=_NUM_BYTES, pre_buffer=False), 1
    header = parquet.schema_arrow.names
    roles = {role: header[number] for role, number in _named(each, header).items()}
    for batch in parquet.iter_batches(_NUM_ROWS, columns=list(roles.values()), use_threads=False):
        yield Place(each.location, first, "row"), _renamed(batch, roles)
        first += batch.num_rows


def _of_text(each: ListFile, folder: str, file: Any, head: bytes) -> Rows:
    line, _, rest = head.decode("utf-8-sig", errors="replace").partition("\n")
    delimiter, cells, numbers, is_headed = _layout(each, line, folder)
    if not (rest.strip() if is_headed else head):
        return
    roles, is_table = {role: str(number) for role, number in numbers.items()}, delimiter != _IN_NO_PATH
    reader = pa_csv.open_csv(
        file,
        pa_csv.ReadOptions(
            block_size=_NUM_BYTES, skip_rows=int(is_headed), column_names=[str(number) for number in range(len(cells))]
        ),
        pa_csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if is_table else False,
            newlines_in_values=is_table,
            ignore_empty_lines=is_table,
        ),
        pa_csv.ConvertOptions(
            include_columns=list(roles.values()),
            column_types={
                name: pa.binary() if role in ("path", "quoted") else pa.string() for role, name in roles.items()
            },
        ),
    )
    first = 1 + is_headed
    for batch in reader:
        yield Place(each.location, first), _renamed(batch, roles)
        first += batch.num_rows


def _layout(each: ListFile, line: str, folder: str) -> tuple[str, Sequence[str], dict[str, int], bool]:
    """Of a text by its first line: what parts the columns, that line's cells, what they are, whether it is a header."""
    delimiter = max(",;\t", key=line.count)
    if each.header is None and not each.location.lower().removesuffix(".gz").endswith((".csv", ".tsv")):
        if _is_of_table(line, line.split(delimiter)):
            raise each.unreadable(f"its first line is of a CSV ({line.strip()}); give it a name that ends in .csv")
        return _IN_NO_PATH, [line], {"path": 0}, False
    cells = next(csv.reader([line], delimiter=delimiter), [""])
    if each.header is not None or _number(cells, "path") is not None:
        header = each.header or cells
        numbers = _named(each, header)
        if "bucket" in numbers and _plain(header[numbers["path"]]) == "key":
            numbers["quoted"] = numbers.pop("path")
        return delimiter, cells, numbers, each.header is None
    if len(cells) > 1 and not (_is_named(cells[0]) or cells[0] == _bucket(folder) or columns.is_size(cells[1])):
        _named(each, cells)
    order = ("bucket", "quoted", *_IN_ORDER[1:]) if len(cells) > 1 and cells[0] == _bucket(folder) else _IN_ORDER
    return delimiter, cells, dict(zip(order, range(len(cells)), strict=False)), False


def _is_of_table(line: str, cells: Sequence[str]) -> bool:
    """Whether a line has a header, or a path and more, and is no path itself."""
    is_headed = _number(cells, "path") is not None
    return len(cells) > 1 and not _is_named(line) and (is_headed or _is_named(cells[0]))


def _is_named(path: str) -> bool:
    """Whether it ends as a picture."""
    return is_picture(path.strip('" \r'), needs_suffix=True)


def _named(each: ListFile, header: Sequence[str]) -> dict[str, int]:
    """The numbers of the columns, by the keys of HEADERS. Raises InputError where none has paths."""
    found = {role: number for role in HEADERS if (number := _number(header, role)) is not None}
    if "path" not in found:
        raise InputError(
            f"expected a column of paths ({some(HEADERS['path'])}) in {each.location}, found {some(header)}: "
            "name it path"
        )
    return found


def _number(header: Sequence[str], role: str) -> int | None:
    plain = [_plain(name) for name in header]
    return next((plain.index(word) for word in HEADERS[role] if word in plain), None)


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _renamed(batch: pa.RecordBatch, roles: Mapping[str, str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([batch[name] for name in roles.values()], list(roles))


def _bucket(folder: str) -> str | None:
    """Of a folder on an object store."""
    return folder.partition("://")[2].partition("/")[0] if storage.is_remote(folder) else None


class _Listing:
    """The files of one folder, table after table."""

    def __init__(self, folder: str, ignored: Ignored):
        self._folder, self._bucket, self._ignored = folder, _bucket(folder), ignored
        self._prefix = encode_name(os.fsencode(f"{folder.rstrip('/')}/"))
        self._pictures = names.Pictures(ignored)

    def table(self, rows: pa.RecordBatch, place: Place) -> pa.Table:
        """Those of some rows that are pictures, in SCHEMA."""
        there = set(rows.schema.names)
        if "is_latest" in there:
            rows = rows.filter(pc.invert(columns.say(rows["is_latest"], "false")))
        if "is_deleted" in there:
            rows = rows.filter(pc.invert(columns.say(rows["is_deleted"], "true")))
        unknown, is_quoted = pa.repeat(UNKNOWN, rows.num_rows), "quoted" in there
        paths = columns.paths(rows["quoted" if is_quoted else "path"], is_quoted=is_quoted)
        for row in pc.indices_nonzero(pc.match_substring(paths, "\0")).to_pylist():
            raise place.error("a path", paths[row], row, "leave it out, no name has a NUL byte")
        size = columns.sizes(rows["size"], place) if "size" in there else unknown
        modified = columns.times(rows["modified"], place) if "modified" in there else unknown
        etag = columns.etags(rows["etag"]) if "etag" in there else pa.nulls(rows.num_rows, pa.string())
        if "bucket" in there and self._bucket is not None:
            paths, is_below = self._of_bucket(rows["bucket"], paths)
            is_odd = names.odd(paths)
        else:
            paths, is_odd = self._relative(paths, place)
            is_below = True
        listed = pa.table([paths, size, modified, etag], SCHEMA)
        return listed.filter(pc.and_(self._pictures.among(paths, is_odd), is_below))

    def _of_bucket(self, buckets: pa.Array, keys: pa.Array) -> tuple[pa.Array, pa.Array]:
        """The keys of an inventory below the folder, "" for others; and whether they are."""
        prefix = self._prefix.partition("://")[2]
        keys = pc.binary_join_element_wise(columns.plain(buckets), keys, "/")
        is_below = pc.starts_with(keys, prefix)
        self._ignored.outside += len(keys) - (pc.sum(is_below).as_py() or 0)
        return pc.if_else(is_below, pc.utf8_slice_codeunits(keys, len(prefix)), ""), is_below

    def _relative(self, paths: pa.Array, place: Place) -> tuple[pa.Array, pa.Array]:
        """The paths as a listing of the folder has them; and which are odd. Raises InputError for one outside."""
        below = paths
        for prefix in (self._prefix,) if self._bucket is not None else (self._prefix, "./"):
            begins = pc.starts_with(paths, prefix)
            if pc.any(begins).as_py():
                below = pc.if_else(begins, pc.utf8_slice_codeunits(paths, len(prefix)), below)
        is_odd = names.odd(below)
        if rows := pc.indices_nonzero(is_odd).to_pylist():
            plain = [self._below(paths[row].as_py(), row, place) for row in rows]
            below = pc.replace_with_mask(below, is_odd, pa.array(plain, pa.string()))
        return below, is_odd

    def _below(self, path: str, row: int, place: Place) -> str:
        plain = path
        if self._bucket is None and path:
            if path.startswith("file://"):
                plain = encode_name(os.fsencode(storage.absolute(path)))
            plain = posixpath.normpath(plain).replace("//", "/") + ("/" if path.endswith("/") else "")
        is_whole = plain.startswith(self._prefix)
        if not is_whole and (plain.startswith(("/", "../")) or _URI.match(path)):
            raise place.error(f"paths below {self._folder}", path, row, "leave it out, or choose another --input")
        return plain[len(self._prefix) :] if is_whole else plain
