"""What the page shows, section by section: from the files of a run or of a scored folder to what the template draws."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlearn import storage
from tlearn.data.findings import Finding
from tlearn.evaluation.quality import Quality
from tlearn.recipes import RECIPES
from tlearn.report import charts, figures, reading, slices, wall
from tlearn.report.charts import Abstaining, Chart, ClassCurves, Standings
from tlearn.report.figures import ClassFigures, Floats, Judged, Rate, Slice
from tlearn.report.wall import Group, Picture

_MAX_MATRIX = 20
"""Classes; of more only the pairs that are confused most are shown."""
_PLACES = {"recipe", "data", "output", "cache", "json", "quiet", "verbose"}
"""Settings that say nothing of what was trained."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Of the confusion matrix."""

    label: str
    prediction: str
    place: tuple[int, int]
    """Numbers of both classes."""
    count: int
    share: float
    """Of the images of the class."""

    @property
    def shade(self) -> int:
        """From 0 to 9."""
        return math.ceil(9 * self.share)


@dataclass(frozen=True, slots=True)
class Truth:
    """What only labels tell."""

    matrix: Sequence[Sequence[Cell]]
    """Empty where it would be too large."""
    confused: Sequence[Cell]
    """Pairs, the most frequent first."""
    per_class: Sequence[ClassFigures]
    curves: Sequence[ClassCurves]
    roc: Chart | None
    recall: Chart | None
    calibration: Chart
    errors: tuple[float | None, float | None]
    """Expected calibration error before calibration and after it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A finding of the doctor: the number of its group, and where its pictures are on the wall."""

    finding: Finding
    group: int
    places: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Board:
    """The wall and what points to it."""

    pictures: Sequence[Picture]
    found: Sequence[Found] | None
    weak: Sequence[tuple[Slice, int]] | None
    """Slices with the numbers of their groups; None where too few pictures have a label."""
    groups: Sequence[Group]


@dataclass(frozen=True, slots=True)
class Lead:
    """Accuracies that the page begins with."""

    accuracy: Rate | None = None
    """On the validation pictures, or on the scored ones that have a label."""
    test: Rate | None = None
    linear_probe: Rate | None = None
    largest_class: Rate | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """What the template shows; empty or None where nothing is known."""

    kind: str
    """run or scored."""
    title: str
    subtitle: str
    board: Board
    data: Mapping[str, Any]
    """What the script works on."""
    facts: Sequence[tuple[str, str, str]]
    """Name, value, note."""
    lead: Lead
    remarks: Sequence[str] = ()
    standings: Standings | None = None
    changes: Sequence[tuple[str, str, str]] = ()
    """Name, value and default of settings that are not the recipe's."""
    learning: Sequence[Chart] = ()
    best_epoch: int = 0
    truth: Truth | None = None
    test: Sequence[ClassFigures] = ()
    abstaining: Abstaining | None = None
    has_layers: bool = False
    depth: str = ""
    folds: Mapping[str, Any] | None = None
    scored: Mapping[str, Any] | None = None
    drift: Mapping[str, Any] | None = None
    splits: Sequence[str] = ()
    counts: Sequence[tuple[str, Sequence[int]]] = ()
    """Of each class the images of each split."""
    skipped: Sequence[tuple[str, str, str]] = ()
    settings: Sequence[tuple[str, str]] = ()


def of_run(location: str) -> Content:
    """The page of a finished run. Raises what reading its files raises."""
    run = reading.of_run(location)
    summary, classes = run.summary, tuple(run.summary["classes"])
    quality = Quality.from_json(summary["quality"])
    judged = _judged([wall.picture(row) for row in run.validation], classes)
    before = figures.before_calibration(judged.probabilities, summary.get("temperature") or 1.0)
    truth, abstaining = _truth(judged, before, quality.calibration_error), _abstaining(judged)
    board, lead = _board(run.pictures, run.findings), _lead(summary, quality, len(run.validation))
    requested = run.settings.get("requested", run.settings["config"])
    splits = [split for split in ("train", "val", "test") if any(key[0] == split for key in run.counts)]
    return Content(
        kind="run",
        title=f"{summary['recipe']}: {_some(classes)}",
        subtitle=f"{run.ended:%Y-%m-%d %H:%M} UTC, model {summary['model_digest']}",
        board=board,
        data=_data(board, classes, truth, abstaining) | {"layers": wall.layers(run.layers)},
        facts=_facts(summary, quality),
        lead=lead,
        remarks=summary.get("remarks", ()),
        standings=_standings(lead),
        changes=list(_changes(requested)),
        learning=[charts.learning(run.epochs, what, summary["best_epoch"]) for what in ("loss", "accuracy")],
        best_epoch=summary["best_epoch"],
        truth=truth,
        test=list(_of_quality(Quality.from_json(summary["test"]))) if summary.get("test") else (),
        abstaining=abstaining,
        has_layers=bool(run.layers),
        depth=run.depth,
        folds=_folds(summary.get("folds")),
        splits=splits,
        counts=[(name, [run.counts.get((split, name), 0) for split in splits]) for name in classes],
        skipped=run.skipped,
        settings=list(_flat(run.settings)),
    )


def of_scored(folder: str) -> Content:
    """The page of a scored folder, from scored.json, pictures.parquet and drift.json."""
    scored = storage.read_json(storage.join(folder, "scored.json"))
    pictures = wall.read(folder) or []
    drift = reading.optional_json(folder, "drift.json")
    predicted = [of for of in pictures if of.prediction is not None and of.probability is not None]
    labelled = [of for of in predicted if of.label is not None]
    classes = tuple(sorted({name for of in pictures for name in of.probabilities}))
    known = [of for of in labelled if of.label in classes and of.prediction in classes]
    judged = _judged(known, classes) if known else None
    truth = _truth(judged, _raw(known, classes), None) if judged else None
    confidences = np.array([of.probability for of in predicted], dtype=float)
    abstaining = _abstaining(judged) if judged else _of_confidences(confidences, len(classes))
    board = _board(pictures, None, [("drift", "drive the drift", drift["paths"])] if drift and drift["paths"] else [])
    accuracy = None if scored["accuracy"] is None else Rate.of(scored["accuracy"], scored["labelled"])
    return Content(
        kind="scored",
        title=f"scored: {_some(classes)}",
        subtitle=f"model {scored['model']}, table {scored['output']}",
        board=board,
        data=_data(board, classes, truth, abstaining) | {"layers": []},
        facts=[(name.replace("_", " "), f"{count:,}", "") for name, count in sorted(scored["statuses"].items())],
        lead=Lead(accuracy),
        remarks=scored["remarks"],
        truth=truth,
        abstaining=abstaining,
        scored=scored,
        drift=drift,
        splits=["predicted"],
        counts=[(name, [sum(of.prediction == name for of in predicted)]) for name in classes],
        settings=[pair for pair in _flat(scored) if not pair[0].startswith("statuses.")],
    )


def _judged(pictures: Sequence[Picture], classes: tuple[str, ...]) -> Judged:
    index = {name: place for place, name in enumerate(classes)}
    return Judged(
        classes,
        np.array([index[of.label or ""] for of in pictures]),
        np.array([index[of.prediction or ""] for of in pictures]),
        np.array([_row(of, classes) for of in pictures]),
    )


def _row(of: Picture, classes: Sequence[str]) -> list[float]:
    """Probabilities of all classes; where only that of the prediction is known, the others share the rest."""
    probability = math.nan if of.probability is None else of.probability
    if of.probabilities:
        return [of.probabilities.get(name, 0.0) for name in classes]
    rest = (1 - probability) / max(len(classes) - 1, 1)
    return [probability if name == of.prediction else rest for name in classes]


def _raw(pictures: Sequence[Picture], classes: Sequence[str]) -> Floats | None:
    """Probabilities before calibration, if all pictures have them."""
    raws = [of.raw for of in pictures if of.raw]
    return np.array([[of.get(name, 0.0) for name in classes] for of in raws]) if len(raws) == len(pictures) else None


def _truth(judged: Judged, before: Floats | None, error: float | None) -> Truth:
    """`before` are the probabilities (n, k) before calibration, `error` is the calibration error where it is known."""
    confusion = judged.confusion()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    names = judged.classes

    def cell(row: int, column: int) -> Cell:
        count, share = int(confusion[row, column]), float(shares[row, column])
        return Cell(names[row], names[column], (row, column), count, share)

    places = range(len(names))
    wrong = [cell(row, column) for row, column in np.argwhere(confusion).tolist() if row != column]
    against = figures.curves(judged)
    curves = [charts.class_curves(of, len(against)) for of in against]
    earlier = None if before is None else dataclasses.replace(judged, probabilities=before).confidences
    after = figures.reliability(judged.confidences, judged.is_right)
    return Truth(
        matrix=[[cell(row, column) for column in places] for row in places] if len(names) <= _MAX_MATRIX else [],
        confused=sorted(wrong, key=lambda cell: (-cell.count, cell.label, cell.prediction))[:20],
        per_class=figures.per_class(names, confusion),
        curves=curves,
        roc=charts.receiver(curves[0]) if curves else None,
        recall=charts.precision_recall(curves[0]) if curves else None,
        calibration=charts.calibration(after, [] if earlier is None else figures.reliability(earlier, judged.is_right)),
        errors=(_error(earlier, judged), _error(judged.confidences, judged) if error is None else error),
    )


def _error(confidences: Floats | None, judged: Judged) -> float | None:
    if confidences is None or not np.isfinite(judged.probabilities).all():
        return None
    return figures.calibration_error(figures.reliability(confidences, judged.is_right, 15))


def _abstaining(judged: Judged) -> Abstaining:
    kept = figures.abstaining(judged.confidences, judged.is_right, len(judged.classes))
    return charts.abstaining(judged.confidences, judged.is_right, kept)


def _of_confidences(confidences: Floats, num_classes: int) -> Abstaining:
    return charts.abstaining(confidences, None, figures.abstaining(confidences, None, num_classes))


def _board(
    pictures: Sequence[Picture],
    findings: Sequence[Finding] | None,
    others: Iterable[tuple[str, str, Sequence[str]]] = (),
) -> Board:
    """The wall with a group for each finding, for each weak slice, and for `others` (kind, name, paths)."""
    places = {of.path: place for place, of in enumerate(pictures)}
    found, groups = [], [Group(kind, name, [places[p] for p in paths if p in places]) for kind, name, paths in others]
    for finding in findings or ():
        at = {p: places[p] for of in finding.suspects for p in (of.path, *of.beside) if p in places}
        found.append(Found(finding, len(groups), at))
        groups.append(Group("finding", finding.kind.replace("_", " "), list(at.values())))
    judged = [place for place, of in enumerate(pictures) if of.label and of.prediction]
    masks = slices.groups([pictures[place] for place in judged])
    is_right = np.array([not pictures[place].is_wrong for place in judged], dtype=bool)
    weak = []
    for each in figures.weakest(is_right, masks):
        weak.append((each, len(groups)))
        groups.append(Group("slice", each.name, [judged[n] for n in np.flatnonzero(masks[each.name])]))
    return Board(pictures, None if findings is None else found, weak if masks else None, groups)


def _data(board: Board, classes: Sequence[str], truth: Truth | None, abstaining: Abstaining) -> dict[str, Any]:
    doubts = {
        suspect.path: suspect.score
        for found in board.found or ()
        for suspect in found.finding.suspects
        if found.finding.kind == "wrong_label"
    }
    return {
        "wall": wall.content(board.pictures, classes, doubts),
        "groups": [dataclasses.asdict(group) for group in board.groups],
        "curves": [dataclasses.asdict(of) for of in truth.curves] if truth else [],
        "thresholds": [
            [of.at, of.count, of.right, of.accuracy.low, of.accuracy.high, of.x, of.dot_x, of.dot_y]
            for of in abstaining.thresholds
        ],
        "has_truth": truth is not None,
    }


def _lead(summary: Mapping[str, Any], quality: Quality, num_val: int) -> Lead:
    test = Quality.from_json(summary["test"]) if summary.get("test") else None
    baseline = summary.get("baseline") or {}
    probe, largest = (baseline.get(name) for name in ("linear_probe", "largest_class"))
    return Lead(
        accuracy=Rate.of(quality.accuracy, num_val),
        test=None if test is None else Rate.of(test.accuracy, test.num_images),
        linear_probe=None if probe is None else Rate.of(probe, num_val),
        largest_class=None if largest is None else Rate.of(largest, num_val),
    )


def _standings(lead: Lead) -> Standings:
    rates = [
        ("Validation accuracy", "validation", lead.accuracy),
        ("Test accuracy", "validation", lead.test),
        ("Linear probe on the same features", "baseline", lead.linear_probe),
        ("Always the largest class", "baseline", lead.largest_class),
    ]
    return charts.standings({name: (style, rate) for name, style, rate in rates if rate is not None})


def _facts(summary: Mapping[str, Any], quality: Quality) -> list[tuple[str, str, str]]:
    cascade = summary.get("cascade")
    answered = "of the pictures it may answer in scoring"
    small = [("Small network", f"{cascade['answered']:.0%}", answered)] if cascade else []
    return [
        ("Log-loss", _shown(quality.log_loss, 4), f"{_shown(summary['val_loss'], 4)} before calibration"),
        ("ROC-AUC", _shown(quality.roc_auc, 4), "each class against the rest"),
        ("Brier score", _shown(quality.brier, 4), "0 is perfect"),
        ("Calibration error", _shown(quality.calibration_error), f"temperature {_shown(summary.get('temperature'))}"),
        ("Best epoch", str(summary["best_epoch"]), f"of {summary['epochs']}"),
        ("Images", f"{summary['num_train']:,}", f"for training, {summary['num_val']:,} for validation"),
        (
            "Seconds",
            _shown(summary["seconds_total"], 1),
            f"features {_shown(summary['seconds_features'], 1)}, training {_shown(summary['seconds_train'], 1)}",
        ),
        ("Features", f"{summary['features_computed']:,}", f"computed, {summary['features_reused']:,} reused"),
        *small,
    ]


def _shown(value: Any, digits: int = 4) -> str:
    if isinstance(value, float):
        return f"{value:,.{digits}f}" if math.isfinite(value) else "n/a"
    return "n/a" if value is None else str(value)


def _folds(folds: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The folds with a table of them: its head and its rows of text."""
    if folds is None:
        return None
    each = [of if isinstance(of, Mapping) else {"accuracy": of} for of in folds["per_fold"]]
    rows = [[str(n), *(_shown(value) for value in of.values())] for n, of in enumerate(each, 1)]
    return {**folds, "head": ["fold", *(name.replace("_", " ") for name in (each[0] if each else ()))], "rows": rows}


def _of_quality(quality: Quality) -> Iterable[ClassFigures]:
    """Counts are found again from shares; a precision of 0 does not tell of how many."""
    for name, of in quality.per_class.items():
        right = round((of.recall or 0.0) * of.count)
        yield figures.class_figures(name, of.count, round(right / of.precision) if of.precision else 0, right)


def _changes(requested: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    recipe = RECIPES.get(requested.get("recipe", ""))
    if recipe is None:
        return
    defaults = dict(_flat(json.loads(json.dumps(dataclasses.asdict(recipe)))))
    for name, value in _flat(requested):
        if name not in _PLACES and defaults.get(name, value) != value:
            yield name, value, defaults[name]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted names and text."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.".removeprefix("config."))
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
