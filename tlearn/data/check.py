"""What is in a data folder and what is wrong with it, found by decoding every picture; nothing is written."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tlearn import storage
from tlearn.config import PreprocessConfig
from tlearn.console import Progress
from tlearn.data import manifest
from tlearn.data.fetch import fetch
from tlearn.data.status import Status

_MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class BadFile:
    path: str
    status: Status
    error: str | None


@dataclass(frozen=True, slots=True)
class Findings:
    """What `tlearn check --json` prints."""

    classes: tuple[str, ...]
    train: dict[str, int]
    """Images of each class."""
    val: dict[str, int]
    test: int
    ignored: int
    """Files that are no images by name, or in no class folder."""
    remarks: tuple[str, ...]
    bad: tuple[BadFile, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def check(data: str) -> Findings:
    """Decode every picture of train/, val/ and test/. Raises InputError as training would."""
    listing = manifest.read(data, val_fraction=0.2, seed=0)
    has_test = "test" in storage.folders(data)
    test = storage.in_order(manifest.pictures(f"{data}/test")) if has_test else []
    paths = [file.path for file in listing.files] + [f"test/{entry.path}" for entry in test]
    hashes, bad = _decode(data, paths)
    files = [dataclasses.replace(file, sha256=hashes[file.path]) for file in listing.files]
    return Findings(
        classes=listing.classes.names,
        train=dict(Counter(file.label for file in listing.of("train"))),
        val=dict(Counter(file.label for file in listing.of("val"))),
        test=len(test),
        ignored=listing.num_ignored,
        remarks=(*listing.remarks, *manifest.leaks(files)),
        bad=tuple(bad),
    )


def _decode(data: str, paths: list[str]) -> tuple[dict[str, str | None], list[BadFile]]:
    """The sha256 of every path, and the files that give no picture."""
    preprocess = PreprocessConfig()
    hashes: dict[str, str | None] = {}
    bad = []
    with ThreadPoolExecutor(os.cpu_count()) as threads, Progress("checked", len(paths)) as progress:
        pictures = threads.map(lambda path: fetch(data, path, preprocess), paths)
        for path, fetched in zip(paths, pictures, strict=True):
            progress.advance(1)
            if fetched.status != "ok":
                bad.append(BadFile(path, fetched.status, fetched.error))
            hashes[path] = fetched.sha256
    return hashes, bad


def lines(findings: Findings) -> Iterator[str]:
    """The findings for a person."""
    for split, counts in (("train", findings.train), ("val", findings.val)):
        of_classes = ", ".join(f"{name} {counts.get(name, 0):,}" for name in findings.classes)
        yield f"{split}: {sum(counts.values()):,} images ({of_classes})"
    yield f"test: {findings.test:,} images"
    yield from (f"note: {remark}" for remark in findings.remarks)
    yield from (f"{file.path}: {file.status}: {file.error}" for file in findings.bad[:_MAX_LISTED])
    if len(findings.bad) > _MAX_LISTED:
        yield f"and {len(findings.bad) - _MAX_LISTED:,} more: --json lists them all"
    yield f"{len(findings.bad):,} of them cannot be used" if findings.bad else "every image can be used"
