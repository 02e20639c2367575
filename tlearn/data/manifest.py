"""What is in a folder: one row for every file, in the order of the bytes of its path."""

import dataclasses
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.classes import Classes
from tlearn.data import reading
from tlearn.data.status import Status
from tlearn.errors import InputError
from tlearn.storage import Entry

# A file counts as a picture by its name, so that a CSV file beside the pictures is no bad picture. What it holds
# is decided by its content. Kinds that cannot be read are listed too: whoever put them there wants to know.
SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
        ".tiff",
        ".avif",
        ".mpo",
        ".heic",
        ".heif",
        ".jp2",
        ".svg",
        ".ico",
    ]
)

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


@dataclass(frozen=True, slots=True)
class Listing:
    """The pictures of a data folder, and what is in it beside them."""

    files: list[File]
    classes: Classes
    num_ignored: int = 0
    """Files without a picture's name, or outside a class folder."""
    remarks: list[str] = field(default_factory=list)
    """One line each: what a person should know before training on this."""

    def of(self, split: str) -> list[File]:
        return [file for file in self.files if file.split == split]

    def usable(self, split: str) -> list[File]:
        """Those that can be read."""
        return [file for file in self.of(split) if file.status == "ok"]

    def with_outcomes(self, files: Iterable[File]) -> "Listing":
        """The same pictures; of these files what is known of them now."""
        known = {file.path: file for file in files}
        return dataclasses.replace(self, files=[known.get(file.path, file) for file in self.files])


def is_picture(path: str) -> bool:
    """By its suffix; a name without one counts, unless it starts with a dot."""
    name = path.rpartition("/")[2]
    suffix = os.path.splitext(name)[1].lower()
    return suffix in SUFFIXES if suffix else not name.startswith(".")


def pictures(location: str, ignored: Counter[str] | None = None) -> Iterator[Entry]:
    """Every picture under a folder, in any order; other files are counted in `ignored` by suffix."""
    for entry in storage.stream(location):
        if is_picture(entry.path):
            yield entry
        elif ignored is not None:
            ignored[os.path.splitext(entry.path)[1].lower() or "."] += 1


def read(data: str, *, val_fraction: float, seed: int) -> Listing:
    """List train/ and val/ of a data folder; without val/, hold out a seeded share of each class.

    Raises ValueError for what cannot be trained on: a missing folder, fewer than two classes, an empty class
    folder, a class in val/ that train/ lacks.
    """
    present = _require_folder(data)
    if "train" not in present:
        raise InputError(
            f"expected a folder train/ in {data}, found {', '.join(present) or 'no folder'}: "
            "put the images into train/<class>/ and perhaps val/<class>/"
        )
    train, num_ignored = _read_split(data, "train")
    classes = Classes.of({file.label for file in train})
    if "val" in present:
        val, more_ignored = _read_split(data, "val")
        num_ignored += more_ignored
        classes.require([file.label for file in val], "val/")
    else:
        val = _hold_out(train, val_fraction, seed)
        held_out = {file.path for file in val}
        train = [file for file in train if file.path not in held_out]
    remarks = []
    if "val" not in present:
        remarks.append(f"no val/: {len(val)} of {len(val) + len(train)} images of train/ are held out")
    if num_ignored:
        remarks.append(f"{num_ignored} files are no images by name, or in no class folder: ignored")
    counts = Counter(file.label for file in train)
    if max(counts.values()) > 3 * min(counts.values()):
        sizes = ", ".join(f"{name} {counts[name]}" for name in classes.names)
        remarks.append(f"the classes differ much in size: {sizes}")
    return Listing(train + val, classes, num_ignored, remarks)


def _require_folder(data: str) -> list[str]:
    if not storage.is_remote(data):
        path = storage.local(data)
        if not path.is_dir():
            came = "found a file" if path.exists() else "found nothing"
            raise InputError(f"expected a folder at {path}, {came}: check --data")
    return storage.folders(data)


def _read_split(data: str, split: str) -> tuple[list[File], int]:
    location = storage.join(data, split)
    names = storage.folders(location)
    ignored: Counter[str] = Counter()
    files = []
    num_outside = 0
    for entry in storage.in_order(pictures(location, ignored)):
        label, _, rest = entry.path.partition("/")
        if rest:
            files.append(File(split, f"{split}/{entry.path}", label, entry.size, entry.modified))
        else:
            num_outside += 1
    filled = {file.label for file in files}
    empty = [name for name in names if name not in filled]
    if empty:
        raise InputError(
            f"expected images in every class folder of {location}, found none in {', '.join(empty)}: "
            "add some or remove the folder"
        )
    if not files:
        raise InputError(f"expected class folders with images in {location}, found none")
    return files, sum(ignored.values()) + num_outside


def _hold_out(files: list[File], fraction: float, seed: int) -> list[File]:
    """The share of each class whose hash of seed and path is smallest: a new file moves no other file."""
    held_out = []
    for label in sorted({file.label for file in files}):
        of_class = [file for file in files if file.label == label]
        if len(of_class) < 2:
            raise InputError(
                f"expected two or more images of class {label} to hold one out, found {len(of_class)}: "
                "add images, or a folder val/"
            )
        count = min(max(round(len(of_class) * fraction), 1), len(of_class) - 1)
        of_class.sort(key=lambda file: hashlib.sha256(f"{seed}/{file.path}".encode()).digest())
        held_out += of_class[:count]
    return [dataclasses.replace(file, split="val") for file in sorted(held_out, key=lambda file: file.path)]


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
    storage.write(index, lambda sink: pq.write_table(table, sink))


def leaks(files: list[File]) -> list[str]:
    """Remarks on the same bytes in train and val, or under two classes."""
    labels: dict[str, set[str]] = {}
    splits: dict[str, set[str]] = {}
    for file in files:
        if file.sha256:
            labels.setdefault(file.sha256, set()).add(file.label)
            splits.setdefault(file.sha256, set()).add(file.split)
    remarks = []
    if num_both := sum(len(names) > 1 for names in splits.values()):
        remarks.append(f"{num_both} images are in train and in val, byte for byte: val_accuracy flatters")
    if num_two := sum(len(names) > 1 for names in labels.values()):
        remarks.append(f"{num_two} images are in two classes, byte for byte")
    return remarks


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
