"""Charts as positions in an SVG drawing: the template draws what is computed here, the script moves it."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlearn.report.figures import Bin, Bools, Curves, Floats, Kept, Rate

# As wide as a phone, so that the text is as large there as elsewhere.
WIDTH, HEIGHT = 356, 236
LEFT, RIGHT, TOP, BOTTOM = 44, 348, 14, 196
_MOST_POINTS, _MOST_POINTS_IN_ALL = 150, 30_000
"""Of a curve that is drawn 304 units wide; of all curves of a page."""
_NUM_BARS = 25
_LINE_HEIGHT = 12


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    style: str
    """Class of the style sheet."""
    path: str
    name: str = ""
    """What the legend says of it; no entry where it is empty."""


@dataclass(frozen=True, slots=True)
class Dot:
    style: str
    x: float
    y: float
    text: str
    low: float | None = None
    """Ends of a whisker."""
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    style: str
    x: float
    y: float
    width: float
    height: float
    upto: float
    """The upper edge of what it counts."""
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    description: str
    """For whom cannot see it."""
    x_name: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line] = ()
    dots: Sequence[Dot] = ()
    bars: Sequence[Bar] = ()
    marks: Mapping[str, float] = field(default_factory=dict)
    """Of each vertical line, by its class, where it stands."""


@dataclass(frozen=True, slots=True)
class Frame:
    """From values to positions."""

    x_low: float = 0.0
    x_high: float = 1.0
    y_low: float = 0.0
    y_high: float = 1.0

    def x(self, value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (value - self.x_low) / (self.x_high - self.x_low), 1)

    def y(self, value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (value - self.y_low) / (self.y_high - self.y_low), 1)

    def x_ticks(self, values: Iterable[float]) -> list[Tick]:
        return [Tick(self.x(value), f"{value:.6g}") for value in values]

    def y_ticks(self, values: Iterable[float]) -> list[Tick]:
        return [Tick(self.y(value), f"{value:.6g}") for value in values]

    def path(self, xs: Iterable[float], ys: Iterable[float]) -> str:
        return "M" + "L".join(f"{self.x(x):g},{self.y(y):g}" for x, y in zip(xs, ys, strict=True))


@dataclass(frozen=True, slots=True)
class Standing:
    """An accuracy beside others: the model, a baseline."""

    name: str
    rate: Rate
    style: str
    y: float
    x: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Standings:
    rows: Sequence[Standing]
    ticks: Sequence[Tick]
    height: float


def standings(rates: Mapping[str, tuple[str, Rate]]) -> Standings:
    """Accuracies one below the other on one scale, each with its style and interval."""
    levels = round_numbers(min(rate.low for _, rate in rates.values()), 1.0)
    frame = Frame(levels[0], levels[-1])
    rows = [
        Standing(
            name=name,
            rate=rate,
            style=style,
            y=24 + 34 * place,
            x=frame.x(rate.value or 0.0),
            low=frame.x(rate.low),
            high=frame.x(rate.high),
        )
        for place, (name, (style, rate)) in enumerate(rates.items())
    ]
    return Standings(rows, [Tick(frame.x(level), f"{100 * level:.4g}%") for level in levels], 24 + 34 * len(rows))


_UNIT = Frame()
_FIFTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_DIAGONAL = Line("ideal", _UNIT.path((0, 1), (0, 1)))


def round_numbers(low: float, high: float) -> list[float]:
    """About five that enclose low to high."""
    if high - low <= 1e-4 * abs(high):
        low, high = 0.9 * low, high or 1.0
    size = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(factor * size for factor in (1, 2, 5, 10, 20) if factor * size >= (high - low) / 4)
    return [index * step for index in range(math.floor(low / step), math.ceil(high / step) + 1)]


def learning(epochs: Sequence[Mapping[str, Any]], what: str, best: int) -> Chart:
    """Loss or accuracy of training and validation over the epochs, from lines of metrics.jsonl."""
    # A resumed run may have written an epoch twice: the later line counts.
    lines: dict[int, Any] = {line["epoch"]: line for line in epochs}
    series = {
        name: [(epoch, float(lines[epoch][key])) for epoch in sorted(lines) if _is_number(lines[epoch][key])]
        for name, key in (("training", f"train_{what}"), ("validation", f"val_{what}"))
    }
    levels = round_numbers(*_ends([value for points in series.values() for _, value in points]))
    first, last = min(lines), max(lines)
    frame = Frame(first - 0.5, last + 0.5, levels[0], levels[-1])
    said = [f"{name} from {of[0][1]:.3f} to {of[-1][1]:.3f}" for name, of in series.items() if of]
    return Chart(
        title=what,
        description=f"{what.capitalize()} over {len(lines)} epochs: {', '.join(said) or 'not known'}",
        x_name="epoch",
        x_ticks=frame.x_ticks(range(first, last + 1, (last - first) // 8 + 1)),
        y_ticks=frame.y_ticks(levels),
        lines=[Line(name, frame.path(*zip(*of, strict=True)), name) for name, of in series.items() if of],
        dots=[
            Dot(name, frame.x(epoch), frame.y(value), f"{name}, epoch {epoch}: {value:.4f}")
            for name, of in series.items()
            for epoch, value in of
            if len(of) <= 60
        ],
        marks={"best": frame.x(best)},
    )


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class ClassCurves:
    """What the two charts show of one class."""

    name: str
    roc: str
    recall: str
    roc_area: float
    average_precision: float


def class_curves(of: Curves, num_curves: int) -> ClassCurves:
    """One of so many."""
    most = max(10, min(_MOST_POINTS, _MOST_POINTS_IN_ALL // num_curves))
    places = np.linspace(0, len(of.precisions) - 1, min(len(of.precisions), most)).astype(int)
    false, true, precisions = (each[places].tolist() for each in (of.false_positives, of.true_positives, of.precisions))
    return ClassCurves(
        name=of.name,
        roc=_UNIT.path(false, true),
        recall=_UNIT.path(true, precisions),
        roc_area=round(of.roc_area, 4),
        average_precision=round(of.average_precision, 4),
    )


def receiver(of: ClassCurves) -> Chart:
    return Chart(
        title="true positive rate",
        description=f"Receiver operating characteristic of {of.name}, area {of.roc_area:.3f}",
        x_name="false positive rate",
        x_ticks=_UNIT.x_ticks(_FIFTHS),
        y_ticks=_UNIT.y_ticks(_FIFTHS),
        lines=[_DIAGONAL, Line("validation", of.roc)],
    )


def precision_recall(of: ClassCurves) -> Chart:
    return Chart(
        title="precision",
        description=f"Precision over recall of {of.name}, average precision {of.average_precision:.3f}",
        x_name="recall",
        x_ticks=_UNIT.x_ticks(_FIFTHS),
        y_ticks=_UNIT.y_ticks(_FIFTHS),
        lines=[Line("validation", of.recall)],
    )


def calibration(after: Sequence[Bin], before: Sequence[Bin]) -> Chart:
    """Accuracy over the probability of the prediction, in tenths."""
    series = [
        (style, name, bins)
        for style, name, bins in (("training", "before calibration", before), ("validation", "calibrated", after))
        if bins
    ]
    return Chart(
        title="share that is right",
        description=f"Reliability in {len(after)} tenths of the probability of the prediction",
        x_name="probability of the prediction",
        x_ticks=_UNIT.x_ticks(_FIFTHS),
        y_ticks=_UNIT.y_ticks(_FIFTHS),
        lines=[
            _DIAGONAL,
            *(
                Line(style, _UNIT.path([of.confidence for of in bins], [of.accuracy.value or 0.0 for of in bins]), name)
                for style, name, bins in series
            ),
        ],
        dots=[_bin_dot(style, name, of) for style, name, bins in series for of in bins],
    )


def _bin_dot(style: str, name: str, of: Bin) -> Dot:
    share = of.accuracy.value or 0.0
    return Dot(
        style=style,
        x=_UNIT.x(of.confidence),
        y=_UNIT.y(share),
        text=f"{name}: {of.accuracy.count:,} pictures of probability {of.confidence:.3f}, {share:.3f} of them right",
        low=_UNIT.y(of.accuracy.low) if style == "validation" else None,
        high=_UNIT.y(of.accuracy.high) if style == "validation" else None,
    )


@dataclass(frozen=True, slots=True)
class Threshold:
    """A place of the threshold: what is kept there, and where the marks of both charts stand."""

    at: float
    count: int
    right: int
    accuracy: Rate
    x: float
    dot_x: float
    dot_y: float


@dataclass(frozen=True, slots=True)
class Abstaining:
    histogram: Chart
    trade: Chart | None
    """Accuracy over coverage, where the truth is known."""
    thresholds: Sequence[Threshold]
    start: int
    """The one that is shown first."""


_START = 0.9


def abstaining(confidences: Floats, is_right: Bools | None, kept: Sequence[Kept]) -> Abstaining:
    """Histogram of confidences (n,), and what each threshold leaves; is_right (n,) or None."""
    low, total = kept[0].threshold, max(len(confidences), 1)
    rates = [Rate.of(each.right / max(each.count, 1), each.count) for each in kept]
    levels = round_numbers(min([0.99, *(rate.value for rate in rates if rate.value is not None)]), 1.0)
    frame, plane = Frame(x_low=low), Frame(y_low=levels[0], y_high=levels[-1])
    thresholds = [
        Threshold(
            at=of.threshold,
            count=of.count,
            right=of.right,
            accuracy=rate,
            x=frame.x(of.threshold),
            dot_x=plane.x(of.count / total),
            dot_y=plane.y(1.0 if rate.value is None else rate.value),
        )
        for of, rate in zip(kept, rates, strict=True)
    ]
    shown = [of for of in thresholds if of.count]
    trade = Chart(
        title="share of these that is right",
        description="What is right among the predictions that a threshold keeps, over the share that it keeps",
        x_name="share of the pictures that is kept",
        x_ticks=plane.x_ticks(_FIFTHS),
        y_ticks=plane.y_ticks(levels),
        lines=[Line("validation", "M" + "L".join(f"{of.dot_x:g},{of.dot_y:g}" for of in shown))] if shown else [],
    )
    start = min(range(len(kept)), key=lambda place: abs(kept[place].threshold - _START))
    histogram = _histogram(confidences, is_right, frame)
    return Abstaining(histogram, None if is_right is None else trade, thresholds, start)


def _histogram(confidences: Floats, is_right: Bools | None, across: Frame) -> Chart:
    """Right ones above the axis, wrong ones below it, with heights as square roots: both ends must be seen."""
    edges = np.linspace(across.x_low, 1, _NUM_BARS + 1)
    right = np.ones(len(confidences), bool) if is_right is None else is_right
    above, below = (np.sqrt(np.histogram(confidences[of], edges)[0]) for of in (right, ~right))
    top, depth = max(float(above.max()), 1.0), float(below.max())
    frame = dataclasses.replace(across, y_low=-depth, y_high=top)
    name = "pictures" if is_right is None else "right"
    levels = [
        Tick(frame.y(sign * math.sqrt(count)), f"{count:,.0f}")
        for sign, most in ((1, top), (-1, depth))
        for count in _counts(most**2)
        if abs(frame.y(sign * math.sqrt(count)) - frame.y(0)) > _LINE_HEIGHT
    ]
    return Chart(
        title="pictures",
        description=f"Histogram of the probability of {len(confidences):,} predictions",
        x_name="probability of the prediction",
        x_ticks=frame.x_ticks(np.linspace(across.x_low, 1, 6).round(3).tolist()),
        y_ticks=[Tick(frame.y(0), "0"), *levels],
        bars=[*_bars(frame, edges, above, name), *_bars(frame, edges, -below, "wrong")],
        marks={"threshold": frame.x(_START)},
    )


def _bars(frame: Frame, edges: Floats, roots: Floats, name: str) -> list[Bar]:
    """Of square roots of counts; those below zero hang."""
    width = round((RIGHT - LEFT) / _NUM_BARS - 1, 1)
    return [
        Bar(
            style="wrong" if name == "wrong" else "right",
            x=frame.x(start) + 0.5,
            y=frame.y(max(root, 0.0)),
            width=width,
            height=round(abs(frame.y(root) - frame.y(0)), 1),
            upto=round(float(end), 4),
            text=f"{start:.2f} to {end:.2f}: {round(root**2):,} {name}",
        )
        for start, end, root in zip(edges[:-1], edges[1:], roots, strict=True)
        if root
    ]


def _counts(most: float) -> list[float]:
    """Counts up to `most` whose square roots lie apart."""
    if most < 1:
        return []
    size = 10.0 ** math.floor(math.log10(most + 1e-6))
    highest = next(factor * size for factor in (5, 2, 1) if factor * size <= most + 1e-6)
    return [highest, round(highest / 4)] if highest >= 16 else [highest]
