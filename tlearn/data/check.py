"""What is in a data folder and what is wrong with it, found by decoding every picture; nothing is written."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tlearn.classes import Classes
from tlearn.config import PreprocessConfig
from tlearn.console import Progress
from tlearn.data import copies, manifest
from tlearn.data import groups as grouping
from tlearn.data.copies import Copies
from tlearn.data.fetch import fetch
from tlearn.data.listing import hold_out, read
from tlearn.data.manifest import File, Listing
from tlearn.data.status import Status
from tlearn.errors import DONE, TlearnError, printable, some

_MAX_LISTED = 20
_VAL_FRACTION, _SEED, _MAX_ERROR_RATE = 0.2, 0, 0.05
"""Of `tlearn train`, unless told."""


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
    """Files that are no images by name or lie in no class folder, and folders that are not entered."""
    remarks: tuple[str, ...]
    bad: tuple[BadFile, ...]
    ignored_names: dict[str, int]
    """How many of each suffix, and of each name that systems leave behind (folders end in /)."""
    links: tuple[str, ...]
    """Folders that are links: they are not followed."""
    copies: tuple[Copies, ...]
    """The same bytes in two splits, or under two classes."""
    code: int
    """With which `tlearn train` would end on these images: 0, or that of `refusal`."""
    refusal: str | None
    """The words with which it would end."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def check(data: str, *, labels: str | None = None, groups: str | None = None, exclude: str | None = None) -> Findings:
    """Decode every picture of train/, val/ and test/. Raises InputError where training would do so before it reads."""
    listing = read(data, labels=labels, groups=groups, exclude=exclude)
    files = _decoded(data, [*listing.files, *listing.unlabelled])
    listing = hold_out(listing.with_outcomes(files), _VAL_FRACTION, _SEED)
    splits = {file.path: file for file in listing.files}  # val may have been held out
    files = [splits.get(file.path, file) for file in files]
    found = copies.find(files)
    code, refusal = _refusal(listing)
    return Findings(
        classes=listing.classes.names,
        train=dict(Counter(file.label for file in listing.of("train"))),
        val=dict(Counter(file.label for file in listing.of("val"))),
        test=sum(file.split == "test" for file in files),
        ignored=listing.ignored.total(),
        remarks=(*listing.remarks, *copies.remarks(found), *grouping.remarks(files)),
        bad=tuple(BadFile(file.path, file.status, file.error) for file in files if file.status != "ok"),
        ignored_names=dict(listing.ignored.names.most_common()),
        links=tuple(listing.ignored.links),
        copies=tuple(found),
        code=code,
        refusal=refusal,
    )


def _decoded(data: str, files: Sequence[File]) -> list[File]:
    """The files with their sha256, or the status of those that give no picture."""
    preprocess = PreprocessConfig()
    decoded = []
    with ThreadPoolExecutor(os.cpu_count()) as threads, Progress("checked", len(files)) as progress:
        pictures = threads.map(lambda file: fetch(data, file.path, preprocess), files)
        for file, fetched in zip(files, pictures, strict=True):
            progress.advance(1)
            decoded.append(dataclasses.replace(file, sha256=fetched.sha256, status=fetched.status, error=fetched.error))
    return decoded


def _refusal(listing: Listing) -> tuple[int, str | None]:
    try:
        manifest.require_enough(listing, _MAX_ERROR_RATE)
    except TlearnError as error:
        return error.code, str(error)
    return DONE, None


def lines(findings: Findings) -> Iterator[str]:
    """The findings for a person."""
    classes = Classes(findings.classes)
    for split, counts in (("train", findings.train), ("val", findings.val)):
        yield f"{split}: {sum(counts.values()):,} images of {len(classes.names):,} classes ({classes.counted(counts)})"
    yield f"test: {findings.test:,} images"
    yield from (f"note: {remark}" for remark in findings.remarks)
    yield from _first([f"same bytes: {some(copy.paths)}" for copy in findings.copies])
    yield from _first([f"{printable(file.path)}: {file.status}: {file.error}" for file in findings.bad])
    yield f"{len(findings.bad):,} of them cannot be used" if findings.bad else "every image can be used"


def _first(found: Sequence[str]) -> Iterator[str]:
    yield from found[:_MAX_LISTED]
    if len(found) > _MAX_LISTED:
        yield f"and {len(found) - _MAX_LISTED:,} more: --json lists them all"
