"""Whether one model is better than another: what both say of the same pictures, picture by picture.

A picture is the same by its bytes and its class, wherever it lies. One that either model was trained on is left out:
of that one the model knows the answer.
"""

import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlearn import console, storage
from tlearn.config import CompareConfig
from tlearn.errors import InputError, printable
from tlearn.evaluation.interval import accuracy_interval
from tlearn.evaluation.paired import Counts, mean_interval
from tlearn.scoring import answers
from tlearn.scoring.answers import Answers

_LEAST = 2.0**-25
"""As in evaluating: what a probability of 0 counts as."""
_MAX_SHOWN = 10
"""Pictures that a terminal shows."""

Key = tuple[str, str, int]
"""What a picture is known by: sha256, class, and of several copies the how manieth."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models, on the pictures that both have."""

    location: str
    """As it was given."""
    accuracy: float
    interval: tuple[float, float]
    """In which the accuracy lies with 95% certainty (Wilson)."""
    log_loss: float


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A picture of which the two predict different classes."""

    path: str
    """Of A."""
    label: str
    prediction_a: str
    probability_a: float
    """Of this prediction."""
    prediction_b: str
    probability_b: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What `tlearn compare --json` prints. Differences are B less A."""

    a: Side
    b: Side
    num_images: int
    """That were compared."""
    difference: float
    """Of the accuracies."""
    interval: tuple[float, float]
    """In which it lies with 95% certainty (Tango's score)."""
    only_a: int
    """Pictures that A has right and B wrong."""
    only_b: int
    p_value: float
    """Of McNemar's exact test: of so uneven a number of these, or more uneven, were both models right equally often."""
    log_loss_difference: float
    log_loss_interval: tuple[float, float] | None
    """By the spread of the pairs; None for a single picture."""
    disagreements: tuple[Disagreement, ...]
    """First those where the probabilities of the true class are furthest apart."""
    remarks: tuple[str, ...]
    """One line each: what was left out, and why."""
    margin: float | None = None
    """By so much B may be worse."""
    is_good_enough: bool | None = None
    """Whether it is 95% sure that B is not worse by more; None without a margin."""
    images_needed: int | None = None
    """With a margin: from how many pictures like these on it would be sure; None where none would do."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def lines(self) -> Iterator[str]:
        """For a person."""
        sides = [
            (name, side.location, f"{side.accuracy:.4f}", _between(side.interval, ".3f"), f"{side.log_loss:.4f}")
            for name, side in (("A", self.a), ("B", self.b))
        ]
        yield console.table(("", "", "accuracy", "95% sure", "log-loss"), sides, num_left=2)
        yield ""
        yield f"{self.num_images:,} pictures compared: only B has {self.only_b:,} right, only A {self.only_a:,}"
        yield f"accuracy of B less that of A: {self._difference()}"
        differ = self.only_a + self.only_b
        chance = "" if self.p_value < 0.05 else ", which may be chance" if differ else ": both have the same ones right"
        yield f"McNemar's exact test: p = {self.p_value:.3g}{chance}"
        sure = f" (95% sure: {_between(self.log_loss_interval, '+.4f')})" if self.log_loss_interval else ""
        yield f"log-loss of B less that of A: {self.log_loss_difference:+.4f}{sure}"
        if shown := self.disagreements[:_MAX_SHOWN]:
            yield ""
            rows = [
                (
                    *map(printable, (one.path, one.label)),
                    f"{printable(one.prediction_a)} {one.probability_a:.3f}",
                    f"{printable(one.prediction_b)} {one.probability_b:.3f}",
                )
                for one in shown
            ]
            yield console.table(("picture", "class", "A says", "B says"), rows, num_left=4)
            if more := len(self.disagreements) - len(shown):
                yield f"and {more:,} more: --output NAME.csv"
        yield from (f"note: {remark}" for remark in self.remarks)

    def verdict(self) -> str:
        """With a margin: whether B is good enough, by which figures, and what would have been needed."""
        wanted = f"worse than A by more than {self.margin:g}"
        if self.is_good_enough:
            return f"B is not {wanted}: the difference is {self._difference()}"
        needed = (
            f"about {self.images_needed:,} pictures like these are needed to be sure"
            if self.images_needed
            else "more pictures would not help"
        )
        found = f"a difference of {self._difference()} on {self.num_images:,} pictures"
        return f"expected B not {wanted}, got {found}: {needed}"

    def _difference(self) -> str:
        return f"{self.difference:+.4f} (95% sure: {_between(self.interval, '+.4f')})"


def compare(config: CompareConfig) -> Comparison:
    """Match the pictures of both, compare what is said of them, write --output.

    Raises InputError where they have no picture in common, UsageError for a model without --data, TooManyBadFiles
    where too much of --data has no score, and TlearnErrors as `evaluate` does.
    """
    names = ("A", "B")
    sides = [answers.find(config, location) for location in (config.a, config.b)]
    left_out: list[str] = []
    for name, side in zip(names, sides, strict=True):
        left_out += _left_out(name, side, [row["sha256"] for of in sides for row in of.rows])
    trained = frozenset[str]().union(*(side.trained or () for side in sides))
    fair = [_by_key(row for row in side.rows if row["sha256"] not in trained) for side in sides]
    a, b = fair
    pairs = [(row, b[key]) for key, row in a.items() if key in b]
    for name, rows in zip(names, fair, strict=True):
        if alone := len(rows) - len(pairs):
            left_out.append(f"{alone:,} pictures of {name} are not in the other, with the same class, and are left out")
    if not pairs:
        raise InputError(
            f"expected pictures that {config.a} and {config.b} both have, found none ({'; '.join(left_out)}): "
            "compare the models on one folder, --data DIR"
        )
    remarks = dict.fromkeys([*left_out, *(remark for side in sides for remark in side.remarks)])
    comparison = _compared(config, pairs, tuple(remarks))
    if config.output is not None:
        storage.write_bytes(storage.absolute(config.output), _csv(comparison.disagreements))
    return comparison


def _by_key(rows: Iterable[dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    copies: Counter[tuple[str, str]] = Counter()
    found: dict[Key, dict[str, Any]] = {}
    for row in rows:
        same = row["sha256"], row["label"]
        found[(*same, copies[same])] = row
        copies[same] += 1
    return found


def _left_out(name: str, side: Answers, digests: list[str]) -> Iterator[str]:
    """A line where pictures (by their digests) are those that a model was trained on, or may be."""
    if side.trained is None:
        yield f"what {name} was trained on is not known (no run around it): the comparison may be unfair"
    elif known := len(side.trained & set(digests)):
        yield f"{known:,} pictures are training pictures of {name}: on them a comparison is not fair, they are left out"


def _compared(
    config: CompareConfig, pairs: list[tuple[dict[str, Any], dict[str, Any]]], remarks: tuple[str, ...]
) -> Comparison:
    right = np.array([[row["prediction"] == row["label"] for row in pair] for pair in pairs])  # (images, 2)
    truths = np.nan_to_num([[_truth(row) for row in pair] for pair in pairs])  # (images, 2)
    losses = -np.log(np.maximum(truths, _LEAST))
    counts = Counts(len(pairs), int((right[:, 0] & ~right[:, 1]).sum()), int((right[:, 1] & ~right[:, 0]).sum()))
    accuracies, log_losses = right.mean(0).tolist(), losses.mean(0).tolist()
    a, b = (
        Side(location, accuracy, accuracy_interval(accuracy, len(pairs)), log_loss)
        for location, accuracy, log_loss in zip((config.a, config.b), accuracies, log_losses, strict=True)
    )
    apart = np.abs(truths[:, 0] - truths[:, 1])
    telling = sorted(range(len(pairs)), key=lambda index: (-apart[index], pairs[index][0]["path"]))
    margin, interval = config.no_worse_than, counts.interval()
    return Comparison(
        a=a,
        b=b,
        num_images=len(pairs),
        difference=counts.difference,
        interval=interval,
        only_a=counts.only_a,
        only_b=counts.only_b,
        p_value=counts.mcnemar(),
        log_loss_difference=log_losses[1] - log_losses[0],
        log_loss_interval=mean_interval(losses[:, 1] - losses[:, 0]),
        disagreements=tuple(_disagreements(pairs[index] for index in telling)),
        remarks=remarks,
        margin=margin,
        is_good_enough=None if margin is None else interval[0] >= -margin,
        images_needed=None if margin is None else counts.images_needed(margin),
    )


def _truth(row: Mapping[str, Any]) -> float:
    """The probability of the true class."""
    return float(dict(row["probabilities"]).get(row["label"], 0.0))


def _disagreements(pairs: Iterator[tuple[dict[str, Any], dict[str, Any]]]) -> Iterator[Disagreement]:
    for a, b in pairs:
        if a["prediction"] != b["prediction"]:
            said = (a["prediction"], a["probability"], b["prediction"], b["probability"])
            yield Disagreement(a["path"], a["label"], *said)


def _csv(disagreements: tuple[Disagreement, ...]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Disagreement)])
    writer.writeheader()
    writer.writerows(map(dataclasses.asdict, disagreements))
    return text.getvalue().encode()


def _between(interval: tuple[float, float], kind: str) -> str:
    low, high = interval
    return f"{low:{kind}} to {high:{kind}}"
