"""What is known of training data: one row for every file, in the order of the bytes of its path."""

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.classes import Classes
from tlearn.data import reading
from tlearn.data.names import Ignored
from tlearn.data.status import Status
from tlearn.errors import InputError, TooManyBadFiles, printable, some

SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("path", pa.string()),
        ("class", pa.string()),
        ("size", pa.int64()),
        ("modified", pa.timestamp("us", "UTC")),
        ("sha256", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class File:
    """A picture of the training data; `path` is relative to the data folder."""

    split: str
    path: str
    label: str
    size: int
    modified: int
    sha256: str | None = None
    status: Status = "ok"
    error: str | None = None
    group: str | None = None
    """Of pictures that no split may part."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The pictures of a data folder, and what is in it beside them."""

    files: list[File]
    """Of train, of val, of test; of test only those in the folder of a class that is in train."""
    classes: Classes
    ignored: Ignored = field(default_factory=Ignored)
    remarks: list[str] = field(default_factory=list)
    """One line each: what a person should know before training on this."""
    unlabelled: list[File] = field(default_factory=list)
    """The other pictures of test, and of val where that is not refused; the label is that of no class."""
    excluded: int = 0
    """Pictures that a person has left out."""
    relabelled: int = 0
    """Pictures that have another class than their folder or their label says."""

    def of(self, *splits: str) -> list[File]:
        return [file for file in self.files if file.split in splits]

    def usable(self, split: str) -> list[File]:
        """Those that can be read."""
        return [file for file in self.of(split) if file.status == "ok"]

    def with_outcomes(self, files: Iterable[File]) -> "Listing":
        """The same pictures; of these files what is known of them now."""
        known = {file.path: file for file in files}
        return dataclasses.replace(self, files=[known.get(file.path, file) for file in self.files])


def require_enough(listing: Listing, max_error_rate: float) -> None:
    """Raise TooManyBadFiles or InputError where too few of the files that are trained on can be read."""
    files = listing.of("train", "val")
    bad = [file for file in files if file.status != "ok"]
    if len(bad) > max_error_rate * len(files):
        raise TooManyBadFiles(
            f"expected at most {max_error_rate:.1%} bad images, got {len(bad)} of {len(files)} "
            f"({printable(bad[0].path)}: {bad[0].error}): mend them, or raise --max-error-rate"
        )
    empty = sorted(set(listing.classes.names) - {file.label for file in listing.usable("train")})
    if empty:
        raise InputError(f"expected readable images of {some(empty)} in train/, found none")
    if not listing.usable("val"):
        raise InputError("expected readable images of any class in val/, found none")


def add_hashes(data: str, files: list[File], cache: str) -> list[File]:
    """The files with their `sha256`, or the status of those that cannot be read.

    Opens only what is new or changed since the last time.
    """
    name = hashlib.sha256(storage.absolute(data).encode()).hexdigest()[:16]
    index = storage.join(storage.absolute(cache), "hashes", f"{name}.parquet")
    known = _read_hashes(index)
    hashes = {file: known.get((file.path, file.size, file.modified)) for file in files}
    unknown = [file for file, sha256 in hashes.items() if sha256 is None]
    # A file changed in the last moments could change again within the resolution of its time stamp.
    settled = (time.time() - 2) * 1e6
    with ThreadPoolExecutor(8) as threads:
        new = dict(zip(unknown, threads.map(lambda file: _hashed(data, file), unknown), strict=True))
    files = [new.get(file) or dataclasses.replace(file, sha256=sha256) for file, sha256 in hashes.items()]
    if unknown:
        _write_hashes(index, [file for file in files if file.sha256 and file.modified < settled])
    return files


def _hashed(data: str, file: File) -> File:
    content = reading.read(data, file.path)
    if isinstance(content, reading.NotRead):
        return dataclasses.replace(file, status=content.status, error=content.error)
    return dataclasses.replace(file, sha256=content.sha256)


def _read_hashes(index: str) -> dict[tuple[str, int, int], str]:
    """The sha256 of each path, size and time of change."""
    if not storage.exists(index):
        return {}
    with storage.open_input(index) as source:
        columns = pq.read_table(source).to_pydict()
    keys = zip(columns["path"], columns["size"], columns["modified"], strict=True)
    return dict(zip(keys, columns["sha256"], strict=True))


def _write_hashes(index: str, files: list[File]) -> None:
    names = ("path", "size", "modified", "sha256")
    table = pa.table({name: [getattr(file, name) for file in files] for name in names})
    with contextlib.suppress(OSError):  # a cache that cannot be written is read, as far as it goes
        storage.write(index, lambda sink: pq.write_table(table, sink))


def table(files: list[File]) -> pa.Table:
    return pa.table(
        {
            "split": [file.split for file in files],
            "path": [file.path for file in files],
            "class": [file.label for file in files],
            "size": [file.size for file in files],
            "modified": pa.array([file.modified for file in files], pa.timestamp("us", "UTC")),
            "sha256": [file.sha256 for file in files],
            "status": [file.status for file in files],
            "error": [file.error for file in files],
        },
        schema=SCHEMA,
    )
