"""What the listing alone shows: files that cannot be read, names that look alike, classes of one split only."""

from collections import Counter
from collections.abc import Iterable, Sequence

from tlearn.classes import Classes, likeness
from tlearn.data import groups
from tlearn.data.findings import Finding, Suspect, many
from tlearn.data.manifest import File, Listing
from tlearn.errors import printable, some


def find(listing: Listing, files: Sequence[File]) -> list[Finding]:
    """Of a listing as it was read, and of all its files with what became of them."""
    found = [_unreadable(files), *_one_split(listing, files), _look_alikes(listing.classes, files)]
    found += [groups.finding(files), _imbalance(listing)]
    return [finding for finding in found if finding is not None]


def merged(names: Iterable[str]) -> dict[str, str]:
    """Of each name of a class the first of those that a person may take for it."""
    first: dict[str, str] = {}
    return {name: first.setdefault(likeness(name), name) for name in names}


def _unreadable(files: Sequence[File]) -> Finding | None:
    bad = [Suspect(file.path, "exclude", 1.0) for file in files if file.status != "ok"]
    what = f"{many(len(bad), 'file', 'files')} cannot be read"
    return Finding("unreadable", what, tuple(bad), "Mend or exclude them; training leaves them out.") if bad else None


def _one_split(listing: Listing, files: Sequence[File]) -> list[Finding]:
    """Classes of val/ that train/ lacks; and the reverse, unless val/ has one whose name looks the same."""
    classes = listing.classes
    strange = [file for file in files if file.split == "val" and file.label not in classes.names]
    found = []
    if strange:
        names = classes.beside(sorted({file.label for file in strange}))
        what = f"train/ has no images of {names}, val/ has {len(strange):,}"
        advice = "Add images of it to train/, or exclude these; training refuses them."
        meant = {likeness(name): f"relabel:{name}" for name in classes.names}
        suspects = tuple(Suspect(file.path, meant.get(likeness(file.label), "exclude"), 1.0) for file in strange)
        found.append(Finding("class_only_in_one_split", what, suspects, advice))
    in_val = {likeness(file.label) for file in files if file.split == "val"}
    lacking = [name for name in classes.names if likeness(name) not in in_val]
    if in_val and lacking:
        what = f"val/ has no images of {some(lacking)}: its figures say nothing of them"
        found.append(Finding("class_only_in_one_split", what, (), "Put some of its images into val/."))
    return found


def _look_alikes(classes: Classes, files: Sequence[File]) -> Finding | None:
    """The smaller class is a slip of whoever named the folder."""
    if not (alike := classes.look_alikes()):
        return None
    counts = Counter(file.label for file in files)
    largest: dict[str, str] = {}
    for name in sorted(classes.names, key=lambda name: -counts[name]):
        largest.setdefault(likeness(name), name)
    suspects = [
        Suspect(file.path, f"relabel:{meant}", 0.9)
        for file in files
        if (meant := largest.get(likeness(file.label))) and meant != file.label and file.label in classes.names
    ]
    what = f"class names that look alike: {'; '.join(alike)}"
    advice = f"If they are one class, rename the folder {printable(min(classes.names, key=lambda n: counts[n]))!r}."
    return Finding("look_alike_names", what, tuple(suspects), advice if len(alike) == 1 else "Rename the folders.")


def _imbalance(listing: Listing) -> Finding | None:
    classes = listing.classes
    counts = Counter(file.label for file in listing.of("train"))
    if not counts or max(counts.values()) <= 3 * min(counts.values()):
        return None
    what = f"the classes differ much in size: {classes.counted(counts)}"
    return Finding("imbalance", what, (), "Train with --balance, or add images of the small classes.")
