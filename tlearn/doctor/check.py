"""What is in a data folder and what is wrong with it; nothing is written but features into the cache."""

import csv
import dataclasses
import io
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tlearn.classes import Classes
from tlearn.config import TrainConfig
from tlearn.data import copies, groups, manifest
from tlearn.data.copies import Copies
from tlearn.data.findings import Finding, Suspect, many
from tlearn.data.listing import hold_out, read
from tlearn.data.manifest import Listing
from tlearn.data.status import Status
from tlearn.doctor import seen
from tlearn.doctor.examine import MAX_COMPARED, Known, examine
from tlearn.errors import DONE, TlearnError, printable, some

_MAX_LISTED = 20
_MAX_SHOWN = 3
"""Files of a finding in a line."""

Depth = Literal["listing", "features"]


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
    findings: tuple[Finding, ...] = ()
    """What to look at, the most important first."""
    depth: Depth = "listing"
    """How far it was looked: at the listing and every decoded picture, or at features too."""
    seconds: float = 0.0

    @property
    def to_change(self) -> int:
        """How many files are to be excluded or to get another label."""
        suspects = (suspect for finding in self.findings for suspect in finding.suspects)
        return len({suspect.path for suspect in suspects if suspect.suggestion != "look"})

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_csv(self) -> bytes:
        """A row for each file of each finding: path, finding, suggestion, sure, beside.

        Bytes of a path that are no UTF-8 stay as they are.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("path", "finding", "suggestion", "sure", "beside"))
        for finding in self.findings:
            for suspect in finding.suspects:
                beside = "; ".join(suspect.beside)
                writer.writerow((suspect.path, finding.kind, suspect.suggestion, f"{suspect.score:.3f}", beside))
        return text.getvalue().encode(errors="surrogateescape")


def check(config: TrainConfig, *, quick: bool = False) -> Findings:
    """Decode every picture of train/, val/ and test/, look at features too unless `quick`, and say what is wrong.

    `config` is that of a training on the folder: it says which features, and where they are cached. Raises InputError
    where training would do so before it reads, but for a class that train/ lacks.
    """
    started = time.monotonic()
    read_listing = read(config.data, labels=config.labels, groups=config.groups, exclude=config.exclude, lenient=True)
    files, pictures = seen.look(config.data, [*read_listing.files, *read_listing.unlabelled], config.preprocess)
    listing, code, refusal = _held_out(read_listing.with_outcomes(files), config)
    splits = {file.path: file for file in listing.files}  # val may have been held out
    files = [splits.get(file.path, file) for file in files]
    numbers = {file.path: number for number, file in enumerate(files)}
    known = Known(read_listing, files, {numbers[one.file.path]: one for one in pictures})
    remarks = list(listing.remarks)
    if len(files) > MAX_COMPARED:
        remarks.append(
            f"copies and labels are looked for in {MAX_COMPARED:,} of {len(files):,} images, drawn from them"
        )
    if not quick and pictures:
        known = _with_features(known, listing, config)
    found = copies.find(files)
    return Findings(
        classes=listing.classes.names,
        train=dict(Counter(file.label for file in listing.of("train"))),
        val=dict(Counter(file.label for file in listing.of("val"))),
        test=sum(file.split == "test" for file in files),
        ignored=listing.ignored.total(),
        remarks=(*remarks, *copies.remarks(found), *groups.remarks(files)),
        bad=tuple(BadFile(file.path, file.status, file.error) for file in files if file.status != "ok"),
        ignored_names=dict(listing.ignored.names.most_common()),
        links=tuple(listing.ignored.links),
        copies=tuple(found),
        code=code,
        refusal=refusal,
        findings=examine(known, config),
        depth="listing" if quick else "features",
        seconds=round(time.monotonic() - started, 2),
    )


def _with_features(known: Known, listing: Listing, config: TrainConfig) -> Known:
    from tlearn.doctor import features  # Ray

    usable = [number for number, file in enumerate(known.files) if file.status == "ok"]
    files = [known.files[number] for number in usable]
    found, points = features.points(files, features.computed(config, listing, files))
    return dataclasses.replace(known, featured=[usable[number] for number in found], points=points)


def _held_out(listing: Listing, config: TrainConfig) -> tuple[Listing, int, str | None]:
    """With what training would hold out; with which code and words it would refuse the folder, if it would."""
    try:
        listing = hold_out(listing, config.val_fraction, config.seed)
        listing.classes.require(sorted({file.label for file in listing.unlabelled if file.split == "val"}), "val/")
        manifest.require_enough(listing, config.max_error_rate)
    except TlearnError as error:
        return listing, error.code, str(error)
    return listing, DONE, None


def lines(findings: Findings) -> Iterator[str]:
    """The findings for a person."""
    classes = Classes(findings.classes)
    for split, counts in (("train", findings.train), ("val", findings.val)):
        yield f"{split}: {sum(counts.values()):,} images of {len(classes.names):,} classes ({classes.counted(counts)})"
    yield f"test: {findings.test:,} images"
    said = [finding.what for finding in findings.findings]
    yield from (f"note: {remark}" for remark in findings.remarks if not any(remark in what for what in said))
    yield from _first([f"{printable(file.path)}: {file.status}: {file.error}" for file in findings.bad])
    yield f"{len(findings.bad):,} of them cannot be used" if findings.bad else "every image can be used"
    for finding in findings.findings:
        if finding.kind != "unreadable":
            yield from _told(finding)


def following(findings: Findings, data: str, output: str | None) -> Iterator[str]:
    """What to do next; `data` and `output` are quoted where a shell needs it."""
    num_files = len({suspect.path for finding in findings.findings for suspect in finding.suspects})
    files = many(num_files, "file", "files")
    if num_files and output is None:
        yield f"next: tlearn check {data} --output findings.csv lists {files}, with what to do"
    elif num_files:
        yield f"next: look at {files} in {output}, correct it, then tlearn train {data} --exclude {output}"


def _told(finding: Finding) -> Iterator[str]:
    """In one line what it is and the first files, in the next what to do."""
    files = [_shown(suspect) for suspect in finding.suspects[:_MAX_SHOWN]]
    more = len(finding.suspects) - len(files)
    yield finding.what + (f": {', '.join(files)}" if files else "") + (f" and {more:,} more" if more else "")
    yield f"  {finding.advice}"


def _shown(suspect: Suspect) -> str:
    label = suspect.suggestion.removeprefix("relabel:")
    is_other = label != suspect.suggestion
    details = [f"{printable(label)}, {suspect.score:.0%} sure"] * is_other
    details += [f"like {some(suspect.beside, 2)}"] * bool(suspect.beside)
    return printable(suspect.path) + (f" ({', '.join(details)})" if details else "")


def _first(found: Sequence[str]) -> Iterator[str]:
    yield from found[:_MAX_LISTED]
    if len(found) > _MAX_LISTED:
        yield f"and {len(found) - _MAX_LISTED:,} more: --json lists them all"
