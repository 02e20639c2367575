"""Pictures that look as a photograph rarely does: blank, too dark, too bright, blurred, tiny, of an odd shape.

The limits are such that of 2,600 photographs of cats and dogs two are named, and both are so: one of 195x33 pixels, one
of 73x50. What many pictures of a folder are (X-rays are dark) is the folder's nature and no fault.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tlearn.data.findings import Finding, Kind, Suspect, many
from tlearn.doctor.seen import Seen

_BLANK_CONTRAST = 0.008
"""One colour but for noise, which the small picture averages."""
_DARK, _BRIGHT = 0.3, 0.7
"""All but a hundredth of the pixels are darker, or brighter. Photographs: 0.43 at least, 0.48 at most."""
_BLURRED = 0.25
"""Sharpness. Photographs: 0.26 at least; 9 of 10 that were blurred with a radius of 4 pixels or more are below."""
_LEAST_FOR_SHARPNESS = 100
"""Pixels of the shorter side. What is smaller is enlarged, which blurs it."""
_TINY, _TINY_SHARE = 64, 0.25
"""Pixels of the shorter side, and its share of the folder's median."""
_ODD = 3.0
"""Longer side by shorter side, and by the median shape of the folder."""
_NATURE, _FEW = 0.1, 3
"""What more than this share, and more than so many, of the pictures are, is no fault."""


@dataclass(frozen=True, slots=True)
class _Typical:
    """Medians of a folder."""

    side: float
    """Pixels of the shorter side."""
    aspect: float
    """Width by height."""


@dataclass(frozen=True, slots=True)
class _Fault:
    kind: Kind
    what: str
    advice: str
    excess: Callable[[Seen, _Typical], float]
    """Above 0 where a picture has it; 1 where it could not have more of it."""
    suggestion: str = "look"


def _dark(seen: Seen, typical: _Typical) -> float:
    return 1 - seen.lightest / _DARK


def _bright(seen: Seen, typical: _Typical) -> float:
    return (seen.darkest - _BRIGHT) / (1 - _BRIGHT)


def _blurred(seen: Seen, typical: _Typical) -> float:
    return 1 - seen.sharpness / _BLURRED if min(seen.width, seen.height) >= _LEAST_FOR_SHARPNESS else 0.0


def _tiny(seen: Seen, typical: _Typical) -> float:
    return 1 - min(seen.width, seen.height) / min(_TINY, _TINY_SHARE * typical.side)


def _odd(seen: Seen, typical: _Typical) -> float:
    aspect = seen.width / seen.height
    longer = min(max(aspect, 1 / aspect), max(aspect / typical.aspect, typical.aspect / aspect))
    return 1 - _ODD / longer


_BLANK = _Fault(
    "blank",
    "of one colour",
    "There is nothing to learn from them: exclude them.",
    lambda seen, typical: 1 - seen.contrast / _BLANK_CONTRAST,
    "exclude",
)
_FAULTS = (
    _Fault("dark", "too dark to see much", "Lighten them, or exclude them if nothing can be seen.", _dark),
    _Fault("bright", "too bright to see much", "Exclude them if nothing can be seen.", _bright),
    _Fault("blurred", "blurred all over", "Exclude them unless pictures to be scored are blurred too.", _blurred),
    _Fault("tiny", "much smaller than the others", "Take the originals; thumbnails say little.", _tiny),
    _Fault("odd_aspect", "of a very long shape", "Crop them: the network sees the square in the middle.", _odd),
)


def find(seen: Sequence[Seen]) -> list[Finding]:
    """What is odd in the looks of these pictures; of a blank one nothing else."""
    if not seen:
        return []
    typical = _Typical(
        statistics.median(min(one.width, one.height) for one in seen),
        statistics.median(one.width / one.height for one in seen),
    )
    blank = [one for one in seen if _BLANK.excess(one, typical) > 0]
    rest = [one for one in seen if _BLANK.excess(one, typical) <= 0]
    found = [_finding(_BLANK, blank, typical, len(seen))] + [
        _finding(fault, [one for one in rest if fault.excess(one, typical) > 0], typical, len(seen))
        for fault in _FAULTS
    ]
    return [finding for finding in found if finding is not None]


def _finding(fault: _Fault, seen: Sequence[Seen], typical: _Typical, count: int) -> Finding | None:
    if not seen or len(seen) > max(_NATURE * count, _FEW):
        return None
    # At the limit as likely as not.
    suspects = [Suspect(one.file.path, fault.suggestion, (1 + min(fault.excess(one, typical), 1)) / 2) for one in seen]
    ordered = tuple(sorted(suspects, key=lambda suspect: -suspect.score))
    what = f"{many(len(seen), 'picture is', 'pictures are')} {fault.what}"
    return Finding(fault.kind, what, ordered, fault.advice)
