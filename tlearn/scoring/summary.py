"""What a scoring job returns."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tlearn.data.names import Ignored
from tlearn.data.status import SCORED
from tlearn.evaluation import drift
from tlearn.evaluation.drift import Histograms, Reference
from tlearn.evaluation.interval import accuracy_interval
from tlearn.network.description import Description
from tlearn.scoring.parts import Merged
from tlearn.scoring.waves import Counts


@dataclass(frozen=True, slots=True)
class Finished:
    """What one run did; a command has two where it first goes on with one that was stopped."""

    run: str
    is_last: bool
    """Whether the listing ended with it."""
    merged: Merged
    num_computed: int
    images_per_second: float
    """0.0 where there were too few to tell."""
    rows: pa.Table | None
    """That it made, where they are wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a command did: listed = unchanged + computed + copied, but for a run that it went on with."""

    listed: int
    unchanged: int
    """Files whose row is as they are."""
    scored: int
    """Files with a prediction, `uncertain` and `unknown` ones too."""
    uncertain: int
    unknown: int
    failed: int
    labelled: int
    """Rows with a prediction and a label: a folder of the path is named as a class."""
    accuracy: float | None
    """Of these; None where there are none."""
    accuracy_interval: tuple[float, float] | None
    """In which it lies with 95% certainty (Wilson)."""
    added: int
    """Rows. Files that failed again as before have none."""
    copied: int
    """Files with the bytes of another."""
    computed: int
    statuses: dict[str, int]
    ignored: int
    """Files that are no pictures by name, and folders that are not entered."""
    model: str
    """Digest."""
    run: str | None
    """The last one; None where there was nothing to do."""
    output: str
    drift: float | None
    """Population stability index; None where there are too few images to tell."""
    drift_sentence: str
    images_per_second: float
    """After the start; 0.0 where there were too few to tell."""
    seconds_total: float
    ignored_names: dict[str, int]
    """How many of each suffix, and of each name that systems leave behind (folders end in /)."""
    remarks: tuple[str, ...]
    """One line each: what the listing left out."""
    report: str | None = None
    """The page that was made; None where no picture has a score."""
    not_published: str | None = None
    """Why the log of the table is behind it, where one was wanted: the same command again brings it up."""

    def exceeds(self, max_error_rate: float) -> bool:
        """Whether more than this share of the files that were looked at has no score."""
        return self.failed > max_error_rate * (self.scored + self.failed)

    def to_json(self) -> dict[str, Any]:
        """`not_published` only where there is a reason."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name != "not_published" or value is not None}


def histograms(runs: Sequence[Finished]) -> Histograms | None:
    """Of all images that were scored."""
    found: Histograms | None = None
    for run in runs:
        if run.merged.histograms is not None:
            found = drift.add(found, run.merged.histograms)
    return found


def summarize(
    output: str, model: Description, counts: Counts, ignored: Ignored, runs: Sequence[Finished], seconds: float
) -> Scored:
    statuses: Counter[str] = Counter()
    for run in runs:
        statuses.update(run.merged.statuses)
    num_scored = sum(statuses[status] for status in SCORED)
    num_labelled = sum(run.merged.num_labelled for run in runs)
    accuracy = sum(run.merged.num_right for run in runs) / num_labelled if num_labelled else None
    network, counted = drift.chief(histograms(runs))
    value, sentence = drift.judge(Reference.from_json(model.reference_of(network)), counted)
    if statuses["unknown"]:
        sentence += f"; {statuses['unknown']:,} of {num_scored:,} look like none of the classes (status unknown)"
    return Scored(
        listed=counts.listed,
        unchanged=counts.unchanged,
        scored=num_scored,
        uncertain=statuses["uncertain"],
        unknown=statuses["unknown"],
        failed=statuses.total() - num_scored,
        labelled=num_labelled,
        accuracy=accuracy,
        accuracy_interval=None if accuracy is None else accuracy_interval(accuracy, num_labelled),
        added=sum(run.merged.num_rows for run in runs),
        copied=counts.copied,
        computed=sum(run.num_computed for run in runs),
        statuses=dict(statuses),
        ignored=ignored.total(),
        model=model.digest,
        run=runs[-1].run if runs else None,
        output=output,
        drift=None if value is None else round(value, 4),
        drift_sentence=sentence,
        images_per_second=round(next((run.images_per_second for run in reversed(runs) if run.num_computed), 0.0), 2),
        seconds_total=round(seconds, 2),
        ignored_names=dict(ignored.names.most_common()),
        remarks=tuple(ignored.remarks()),
    )
