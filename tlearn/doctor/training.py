"""What a training hears of its data: the listing, the bytes, and whatever features are in the cache by now."""

import contextlib
import json
import time
from dataclasses import dataclass
from typing import Any

from tlearn import storage
from tlearn.config import TrainConfig, digest
from tlearn.data.findings import Finding, Kind
from tlearn.data.manifest import Listing
from tlearn.doctor import features
from tlearn.doctor.examine import Known, examine
from tlearn.errors import StorageError
from tlearn.features.cache import outcomes
from tlearn.features.cut import Cut

_SAID: tuple[Kind, ...] = ("wrong_label", "near_duplicates", "unlike_its_class")
"""Of these the first is said at the end of a training; of the others it has said what there is before."""
_VERSION = 1
"""To be raised where the same pictures give other findings."""


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
    started, found = time.monotonic(), outcomes(listing.files, "plain", cut)
    featured = {number for number, file in enumerate(found.files) if file.status == "ok"}
    lacking = set(range(len(listing.files))) - featured
    has_features = all(listing.files[n].split == "test" or listing.files[n].status != "ok" for n in lacking)
    kept = _kept(config, listing, cut, sorted(featured) if has_features else [])
    findings = _read(kept)
    if findings is None:
        numbers, points = features.points(listing.files, cut)
        if not has_features:
            numbers, points = [], points[:0]
        findings = examine(Known(listing, listing.files, {}, numbers, points), config)
        with contextlib.suppress(StorageError):  # a cache that cannot be written is read, as far as it goes
            storage.write_bytes(kept, json.dumps([finding.to_json() for finding in findings]).encode())
    return Examined(findings, has_features, round(time.monotonic() - started, 2))


def _kept(config: TrainConfig, listing: Listing, cut: Cut, featured: list[int]) -> str:
    """Where the findings are kept: by all that they depend on."""
    files = [(f.path, f.label, f.split, f.group, f.sha256, f.status, f.error) for f in listing.files]
    facts = [_VERSION, files, listing.classes.names, featured, cut.frozen_digest, digest(cut.preprocess)]
    return storage.join(storage.absolute(config.cache), "findings", f"{digest(facts)}.json")


def _read(kept: str) -> tuple[Finding, ...] | None:
    try:
        return tuple(map(Finding.from_json, storage.read_json(kept)))
    except (OSError, ValueError, TypeError, KeyError):  # none yet, or not whole
        return None
