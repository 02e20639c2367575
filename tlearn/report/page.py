"""The report of a run: one HTML page with its figures, pictures and settings inside."""

import base64
import contextlib
import io
import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jinja2 import Environment, StrictUndefined, UndefinedError
from PIL import Image, ImageOps

from tlearn import storage
from tlearn.errors import InputError, IntegrityError, TlearnError
from tlearn.evaluation.interval import accuracy_interval
from tlearn.evaluation.quality import Quality

# What HTML or UTF-8 cannot hold.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class _Run:
    """What the files of a finished run say."""

    settings: dict[str, Any]
    summary: dict[str, Any]
    ended: datetime
    epochs: list[dict[str, Any]]
    skipped: list[dict[str, Any]]
    """Path, status and error of every file without features."""
    predictions: list[dict[str, Any]]
    """Path, label, prediction and probability of every validation image."""


@dataclass(frozen=True, slots=True)
class _Figures:
    """What summary.json does not say: how sure the accuracy is, the confusion matrix, accuracy by probability."""

    error: float
    interval: list[float]
    matrix: list[tuple[str, list[tuple[int, float]]]]
    """Of each true class: the count of each prediction, and its share."""
    per_class: list[tuple[str, int, str, str]]
    bins: list[tuple[int, int, float, float]]
    """Number, count, mean probability and share of right predictions of each tenth."""


@dataclass(frozen=True, slots=True)
class _Test:
    """Figures of test/."""

    quality: Quality
    interval: tuple[float, float]
    per_class: list[tuple[str, int, str, str]]


@dataclass(frozen=True, slots=True)
class _Chart:
    """Where the training and validation curves of loss or accuracy run, as shares of the plot."""

    what: str
    x_ticks: list[tuple[float, int]]
    y_ticks: list[tuple[float, str]]
    best: float
    curves: dict[str, list[tuple[float, float, int, float]]]


@dataclass(frozen=True, slots=True)
class _Mistake:
    path: str
    label: str
    prediction: str
    probability: float
    picture: str


def write_report(run: str | Path) -> str:
    """Write report.html into the folder (or URI) of a finished run, from the files that training left there.

    Returns its location. Raises InputError where a file is missing, IntegrityError where one is damaged or of another
    version, StorageError where the report cannot be written.
    """
    location = storage.absolute(str(run))
    report = storage.join(location, "report.html")
    try:
        page = _page(_read(location))
    except TlearnError:
        raise
    except (KeyError, TypeError, ValueError, UndefinedError) as error:
        raise IntegrityError(
            f"expected what this version of tlearn leaves of a run in {location}, could not use it "
            f"({type(error).__name__}: {error}): train again for a report"
        ) from error
    storage.write_bytes(report, page.encode())
    return report


def _read(location: str) -> _Run:
    settings, summary, epochs = (_content(location, name) for name in ("config.json", "summary.json", "metrics.jsonl"))
    return _Run(
        settings=json.loads(settings.data),
        summary=json.loads(summary.data),
        # When the run ended, not when the page was made: the same run gives the same page.
        ended=datetime.fromtimestamp(summary.modified // 10**6, UTC),
        epochs=[json.loads(line) for line in epochs.data.splitlines()],
        skipped=_rows(location, "manifest.parquet", ["path", "status", "error"], [("status", "!=", "ok")]),
        predictions=_rows(location, "validation.parquet", ["path", "label", "prediction", "probability"]),
    )


def _content(location: str, name: str) -> storage.Content:
    with _of_finished_run(location, name) as file:
        return storage.read(file)


def _rows(location: str, name: str, columns: list[str], filters: Any = None) -> list[dict[str, Any]]:
    with _of_finished_run(location, name) as file, storage.open_input(file) as source:
        return pq.read_table(source, columns=columns, filters=filters).to_pylist()  # type: ignore[no-any-return]


@contextlib.contextmanager
def _of_finished_run(location: str, name: str) -> Iterator[str]:
    try:
        yield storage.join(location, name)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"expected a finished run in {location}, found no {name}: run `tlearn train` first") from None


def _page(run: _Run) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True)
    environment.filters["fixed"] = _fixed
    template = files("tlearn.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    quality = Quality.from_json(run.summary["quality"])
    return environment.from_string(template).render(
        summary=run.summary,
        settings=_flat(run.settings),
        date=run.ended,
        charts=[_chart(run.epochs, what, run.summary["best_epoch"]) for what in ("loss", "accuracy")],
        mistakes=_mistakes(run.predictions, run.settings["config"]["data"]),
        skipped=[tuple(row.values()) for row in run.skipped],
        quality=quality,
        remarks=run.summary.get("remarks", ()),
        test=_test(run.summary.get("test")),
        figures=_figures(run.predictions, run.summary["classes"], quality),
    )


def _shown(value: Any) -> Any:
    """What the template prints: rounded numbers, clean text."""
    if isinstance(value, float):
        return _fixed(value)
    # Markup is a str too, and must stay Markup.
    return _UNPRINTABLE.sub("\ufffd", value) if type(value) is str else "" if value is None else value


def _fixed(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted names and text."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.".removeprefix("config."))
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)


def _per_class(quality: Quality) -> list[tuple[str, int, str, str]]:
    """Name, number of images, precision and recall."""
    return [(name, of.count, _fixed(of.precision), _fixed(of.recall)) for name, of in quality.per_class.items()]


def _test(content: dict[str, Any] | None) -> _Test | None:
    if content is None:
        return None
    quality = Quality.from_json(content)
    return _Test(quality, accuracy_interval(quality.accuracy, quality.num_images), _per_class(quality))


def _figures(rows: Sequence[Mapping[str, Any]], classes: Sequence[str], quality: Quality) -> _Figures:
    index = {name: position for position, name in enumerate(classes)}
    labels, predictions = (np.array([index[row[key]] for row in rows]) for key in ("label", "prediction"))
    matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    with np.errstate(invalid="ignore"):
        shares = matrix / matrix.sum(1, keepdims=True)
    cells = [list(zip(*pair, strict=True)) for pair in zip(matrix.tolist(), shares.tolist(), strict=True)]
    # A model that diverged has no probabilities.
    probabilities = np.nan_to_num(np.array([row["probability"] for row in rows], dtype=float))
    bins = np.clip((probabilities * 10).astype(int), 0, 9)
    counts = np.bincount(bins, minlength=10)
    confidence, right = (
        np.bincount(bins, weights, 10) / np.maximum(counts, 1) for weights in (probabilities, labels == predictions)
    )
    return _Figures(
        error=math.sqrt(quality.accuracy * (1 - quality.accuracy) / len(rows)),
        interval=list(accuracy_interval(quality.accuracy, len(rows))),
        matrix=list(zip(classes, cells, strict=True)),
        per_class=_per_class(quality),
        bins=list(zip(range(10), counts, confidence, right, strict=True)),
    )


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose low to high."""
    if high - low <= 1e-4 * abs(high):
        low, high = 0.9 * low, high or 1.0
    size = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(factor * size for factor in (1, 2, 5, 10, 20) if factor * size >= (high - low) / 4)
    return [index * step for index in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _chart(epochs: Sequence[Mapping[str, Any]], what: str, best: int) -> _Chart:
    # A resumed run may have written an epoch twice: the later line counts.
    lines: dict[int, Any] = {line["epoch"]: line for line in epochs}
    curves = {
        split: [(epoch, value) for epoch in sorted(lines) if _fixed(value := lines[epoch][key]) != "n/a"]
        for split, key in (("training", f"train_{what}"), ("validation", f"val_{what}"))
    }
    values = [value for curve in curves.values() for _, value in curve] or [0.0]
    levels, first, last = _ticks(min(values), max(values)), min(lines), max(lines)

    def x(epoch: int) -> float:
        return (epoch - first + 0.5) / (last - first + 1)

    def y(value: float) -> float:
        return (value - levels[0]) / (levels[-1] - levels[0])

    return _Chart(
        what=what,
        x_ticks=[(x(epoch), epoch) for epoch in range(first, last + 1, (last - first) // 12 + 1)],
        y_ticks=[(y(value), f"{value:.6g}") for value in levels],
        best=x(best),
        curves={name: [(x(e), y(v), e, v) for e, v in curve] for name, curve in curves.items()},
    )


def _mistakes(rows: Sequence[Mapping[str, Any]], data: str) -> list[_Mistake]:
    """The mistakes of which the model was surest, with a thumbnail where the photograph is at hand."""
    wrong = [row for row in rows if row["label"] != row["prediction"]]
    surest = sorted(wrong, key=lambda row: (-row["probability"], row["path"]))[:12]
    return [_Mistake(**row, picture=_thumbnail(data, row["path"])) for row in surest]


def _thumbnail(folder: str, path: str) -> str:
    """The photograph as a data: URI, or nothing if it cannot be had."""
    # The page must come about whatever a file holds, and Pillow raises exceptions of every kind.
    try:
        if path.startswith("/") or ".." in path.split("/"):
            return ""
        file, buffer = io.BytesIO(storage.read_listed(folder, path).data), io.BytesIO()
        with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
            image.thumbnail((160, 160))
            # Pillow would copy the photograph's comment.
            ImageOps.exif_transpose(image).convert("RGB").save(buffer, "JPEG", quality=80, comment=b"")
    except Exception:
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
