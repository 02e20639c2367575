"""Copies as findings: which of them to keep."""

from collections.abc import Sequence

from tlearn.data.findings import Finding, Kind, Suspect, many
from tlearn.data.manifest import File
from tlearn.doctor import twins
from tlearn.doctor.twins import Pair

_KEPT_FIRST = ("test", "val", "train")
"""Of copies in two splits the one that is judged on stays, so that figures on it stay comparable."""
_ADVICE = "Exclude the copies: what is learned from must not be judged on, and what is there twice counts twice."

_HARMLESS = "Look at them: within one split and class a copy does little harm; under two classes one label is wrong."


def find(files: Sequence[File], pairs: Sequence[Pair]) -> list[Finding]:
    """Copies byte for byte; and, by the pairs of numbers of files that are one picture, all others."""
    exact = _exact(files)
    kept = _kept(files, exact)
    same = [_suspect(files, number, keeper, 1.0) for number, keeper in enumerate(kept) if number != keeper]
    similarity: dict[int, float] = {}
    for pair in pairs:
        for number in (kept[pair.first], kept[pair.second]):
            similarity[number] = max(pair.similarity, similarity.get(number, 0.0))
    keepers = _kept(files, groups(files, pairs))
    near = [
        _suspect(files, number, keepers[number], similarity[number])
        for number in sorted(set(kept))
        if number != keepers[number]
    ]
    one, more = "file is a copy of another, byte for byte", "files are copies of others, byte for byte"
    found = [_finding("exact_duplicates", many(len(same), one, more), files, same)] if same else []
    how = "mirrored, rescaled, recompressed or cropped"
    one, more = f"file is another picture {how}", f"files are other pictures {how}"
    return [*found, *([_finding("near_duplicates", many(len(near), one, more), files, near)] if near else [])]


def groups(files: Sequence[File], pairs: Sequence[Pair]) -> list[int]:
    """Of each file the number of the first that it is one picture with."""
    exact = list(enumerate(_exact(files)))
    return twins.groups(len(files), [*exact, *((pair.first, pair.second) for pair in pairs)])


def _exact(files: Sequence[File]) -> list[int]:
    """Of each file the number of the first with its bytes. Of those that give no picture none is another's copy."""
    first: dict[str, int] = {}
    contents = (file.sha256 if file.status == "ok" else None for file in files)
    return [first.setdefault(content or f"/{number}", number) for number, content in enumerate(contents)]


def _kept(files: Sequence[File], groups: Sequence[int]) -> list[int]:
    """Of each file the one of its group that stays."""
    best: dict[int, int] = {}
    for number in sorted(range(len(files)), key=lambda number: _KEPT_FIRST.index(files[number].split)):
        best.setdefault(groups[number], number)
    return [best[group] for group in groups]


def _suspect(files: Sequence[File], number: int, keeper: int, sure: float) -> Suspect:
    """One under another class is to be looked at: nobody knows which is right. Near ones of one split do no harm."""
    file, kept = files[number], files[keeper]
    is_useful = file.split == kept.split and file.sha256 != kept.sha256
    return Suspect(file.path, "look" if is_useful or _differ(file, kept) else "exclude", sure, (kept.path,))


def _differ(one: File, other: File) -> bool:
    return "" not in (one.label, other.label) and one.label != other.label


def _finding(kind: Kind, what: str, files: Sequence[File], suspects: Sequence[Suspect]) -> Finding:
    """The worst first: under two classes, then in two splits."""
    of = {file.path: file for file in files}
    twins = {suspect.path: (of[suspect.path], of[suspect.beside[0]]) for suspect in suspects}
    ordered = sorted(
        suspects,
        key=lambda suspect: (
            not _differ(*twins[suspect.path]),
            len({file.split for file in twins[suspect.path]}) == 1,
            -suspect.score,
        ),
    )
    num_differ = sum(_differ(*pair) for pair in twins.values())
    num_across = sum(one.split != other.split for one, other in twins.values())
    details = [f"{num_differ:,} under two classes"] * bool(num_differ)
    details += [f"{num_across:,} in two splits"] * bool(num_across)
    advice = _ADVICE if any(suspect.suggestion == "exclude" for suspect in suspects) else _HARMLESS
    return Finding(kind, what + (f" ({', '.join(details)})" if details else ""), tuple(ordered), advice)
