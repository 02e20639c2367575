"""What a training hears of its data: the listing, the bytes, and whatever features are in the cache by now."""

import time
from dataclasses import dataclass
from typing import Any

from tlearn.config import TrainConfig
from tlearn.data.findings import Finding, Kind
from tlearn.data.manifest import Listing
from tlearn.doctor import features
from tlearn.doctor.examine import Known, examine
from tlearn.features.cut import Cut

_SAID: tuple[Kind, ...] = ("wrong_label", "near_duplicates", "unlike_its_class")
"""Of these the first is said at the end of a training; of the others it has said what there is before."""


@dataclass(frozen=True, slots=True)
class Examined:
    """The findings, and how far it was looked."""

    findings: tuple[Finding, ...]
    has_features: bool
    seconds: float

    @property
    def remarks(self) -> tuple[str, ...]:
        """At most one line: the most important finding that nobody has been told of yet."""
        said = sorted((each for each in self.findings if each.kind in _SAID), key=lambda each: _SAID.index(each.kind))
        return tuple(f"{each.what}: see the findings in the report" for each in said[:1])

    def to_json(self) -> dict[str, Any]:
        depth = "features" if self.has_features else "listing"
        findings = [finding.to_json() for finding in self.findings]
        return {"findings": findings, "seconds": self.seconds, "depth": depth}


def examined(config: TrainConfig, listing: Listing, cut: Cut) -> Examined:
    """What is found without computing a feature; of `cut` those are used that the cache has.

    Where it lacks one of a picture that was trained or validated on, features are left alone.
    """
    started = time.monotonic()
    featured, points = features.points(listing.files, cut)
    lacking = set(range(len(listing.files))).difference(featured)
    has_features = all(listing.files[n].split == "test" or listing.files[n].status != "ok" for n in lacking)
    if not has_features:
        featured, points = [], points[:0]
    findings = examine(Known(listing, listing.files, {}, featured, points), config)
    return Examined(findings, has_features, round(time.monotonic() - started, 2))
