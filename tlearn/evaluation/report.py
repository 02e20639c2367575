"""The report of a run: one HTML page with its figures, pictures and settings inside."""

import base64
import io
import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jinja2 import Environment, StrictUndefined
from PIL import Image, ImageOps

from tlearn import storage
from tlearn.errors import InputError

_FILES = ("config.json", "summary.json", "metrics.jsonl", "manifest.parquet", "validation.parquet")
# What HTML or UTF-8 cannot hold.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def write_report(run: Path) -> Path:
    """Write report.html into the folder of a finished run, from the files that training left there."""
    for name in _FILES:
        if not (run / name).is_file():
            raise InputError(f"expected a finished run in {run}, found no {name}: run `tlearn train` first")
    settings, summary = (json.loads((run / name).read_text(encoding="utf-8")) for name in _FILES[:2])
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    # Without partitioning=None, a folder called a=b on the way to the run would become a column.
    bad, columns = [("status", "!=", "ok")], ["path", "status", "error"]
    skipped = pq.read_table(run / "manifest.parquet", columns=columns, filters=bad, partitioning=None).to_pylist()
    columns = ["path", "label", "prediction", "probability"]
    rows = pq.read_table(run / "validation.parquet", columns=columns, partitioning=None).to_pylist()
    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True)
    environment.filters["fixed"] = _fixed
    page = environment.from_string(_TEMPLATE).render(
        summary=summary,
        settings=_flat(settings),
        # When the run ended, not when the page was made: the same run gives the same page.
        date=datetime.fromtimestamp((run / "summary.json").stat().st_mtime, UTC),
        charts=[_chart(epochs, what, summary["best_epoch"]) for what in ("loss", "accuracy")],
        mistakes=_mistakes(rows, settings["config"]["data"]),
        skipped=[tuple(row.values()) for row in skipped],
        quality=summary["quality"],
        **_figures(rows, summary),
    )
    report, temporary = run / "report.html", run / f".report.html.{os.getpid()}.tmp"
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, report)
    finally:
        temporary.unlink(missing_ok=True)
    return report


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


def _figures(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> dict[str, Any]:
    """What summary.json does not say: how sure the accuracy is, the confusion matrix, accuracy by probability."""
    classes, quality = summary["classes"], summary["quality"]
    index = {name: position for position, name in enumerate(classes)}
    labels, predictions = (np.array([index[row[key]] for row in rows]) for key in ("label", "prediction"))
    matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    n, accuracy, z = len(rows), quality["accuracy"], 1.96
    error = math.sqrt(accuracy * (1 - accuracy) / n)
    # Wilson's interval, as the standard error is 0 where there is no mistake.
    centre, half = accuracy + z * z / (2 * n), z * math.hypot(error, z / (2 * n))
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
    return {
        "error": error,
        "interval": [max(centre + sign * half, 0.0) / (1 + z * z / n) for sign in (-1, 1)],
        "matrix": list(zip(classes, cells, strict=True)),
        "per_class": [
            (name, one["count"], _fixed(one["precision"]), _fixed(one["recall"]))
            for name, one in quality["per_class"].items()
        ],
        "bins": list(zip(range(10), counts, confidence, right, strict=True)),
    }


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose low to high."""
    if high - low <= 1e-4 * abs(high):
        low, high = 0.9 * low, high or 1.0
    size = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(factor * size for factor in (1, 2, 5, 10, 20) if factor * size >= (high - low) / 4)
    return [index * step for index in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _chart(epochs: Sequence[Mapping[str, Any]], what: str, best: int) -> dict[str, Any]:
    """Where the training and validation curves of loss or accuracy run, as shares of the plot."""
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

    return {
        "what": what,
        "x_ticks": [(x(epoch), epoch) for epoch in range(first, last + 1, (last - first) // 12 + 1)],
        "y_ticks": [(y(value), f"{value:.6g}") for value in levels],
        "best": x(best),
        "curves": {name: [(x(e), y(v), e, v) for e, v in curve] for name, curve in curves.items()},
    }


def _mistakes(rows: Sequence[Mapping[str, Any]], data: str) -> list[dict[str, Any]]:
    """The mistakes of which the model was surest, with a thumbnail where the photograph is at hand."""
    wrong = [row for row in rows if row["label"] != row["prediction"]]
    surest = sorted(wrong, key=lambda row: (-row["probability"], row["path"]))[:12]
    return [{**row, "picture": _thumbnail(data, row["path"])} for row in surest]


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


_TEMPLATE = """<!doctype html>
{% set tenths = [(0, 0), (0.2, "0.2"), (0.4, "0.4"), (0.6, "0.6"), (0.8, "0.8"), (1, 1)] %}
{% set names = summary.classes[:8] | join(", ") ~ (", ..." if summary.classes | length > 8 else "") %}
{% macro tile(name, value, note) %}
<div class="tile"><small>{{ name }}</small><b>{{ value }}</b><small>{{ note }}</small></div>{% endmacro %}
{% macro table(class, rows) %}<div class="wide"><table class="{{ class }}"><thead><tr>
{% for cell in varargs %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead><tbody>
{% for row in rows %}<tr><th scope="row"><bdi>{{ row[0] }}</bdi></th>
{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table></div>{% endmacro %}
{% macro plot(name, x_name, x_ticks, y_ticks) %}
<svg viewBox="0 0 460 290" role="img" aria-label="{{ name }}"><text x="250" y="12">{{ name }}</text>
{% for y, text in y_ticks %}<path class="grid" d="M50 {{ 244 - 220 * y }}H450"/>
<text x="44" y="{{ 248 - 220 * y }}" class="end">{{ text }}</text>{% endfor %}
{% for x, text in x_ticks %}<text x="{{ 50 + 400 * x }}" y="262">{{ text }}</text>{% endfor %}
<text x="250" y="282">{{ x_name }}</text>{{ caller() }}</svg>{% endmacro %}
<html lang="en"><head><meta charset="utf-8"><title>{{ summary.recipe }}: {{ names }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"><style>
:root { color-scheme: light dark; --text: #1b1e22; --back: #fff; --tile: #f3f5f7; --muted: #5b6470;
 --line: #d8dde3; --train: #b9530b; --val: #1c66c4 }
@media screen and (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --back: #15181b; --tile: #1f2428;
 --muted: #9ba5b0; --line: #3a424a; --train: #ff9d5c; --val: #6cacff } }
* { box-sizing: border-box; print-color-adjust: exact }
body { margin: auto; max-width: 1000px; padding: 24px 20px; background: var(--back); color: var(--text);
 font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
h1, h2 { font-size: 26px; margin: 0; break-after: avoid } h2 { font-size: 18px; margin: 32px 0 8px }
small, p { color: var(--muted); font-size: 13px; margin: 0 0 10px } td small { display: block; margin: 0 }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 12px }
.tile { background: var(--tile); border-radius: 8px; padding: 10px; margin: 0; break-inside: avoid }
.tile > * { display: block; margin: 0 } .tile b { font-size: 20px } img { max-width: 100% }
.training { color: var(--train); stroke: var(--train); stroke-dasharray: 5 3 }
.validation { color: var(--val); stroke: var(--val) } .mark { stroke: var(--muted); stroke-dasharray: 2 3 }
svg { width: 470px; max-width: 100%; stroke-width: 2; fill: none } .grid { stroke: var(--line) }
circle { fill: var(--back); stroke-dasharray: none } rect { fill: var(--val); fill-opacity: .3 }
text { fill: var(--muted); font-size: 12px; text-anchor: middle; stroke: none } .end { text-anchor: end }
.wide { overflow-x: auto } table { border-collapse: collapse } svg, tr { break-inside: avoid }
th, td { padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line); text-align: right }
th:first-child, .text * { text-align: left; vertical-align: top } .matrix * { padding: 4px 10px }
.matrix td { background: color-mix(in srgb, var(--val) calc(var(--share) * 45%), transparent) }
</style></head><body><h1>{{ summary.recipe }}: <bdi>{{ names }}</bdi></h1>
<p>{{ summary.classes | length }} classes, {{ date.strftime("%Y-%m-%d %H:%M UTC") }}, model
{{ summary.model_digest }}</p><div class="tiles">
{{ tile("Validation accuracy", quality.accuracy | fixed ~ " \u00b1 " ~ error | fixed,
 "standard error, n = " ~ summary.num_val ~ "; 95 % interval " ~ interval | map("fixed") | join(" to ")) }}
{{ tile("Log-loss", quality.log_loss | fixed(4), "calibrated; " ~ summary.val_loss | fixed(4) ~ " in the best epoch") }}
{{ tile("Brier score", quality.brier | fixed(4), "0 is perfect") }}
{{ tile("ROC-AUC", quality.roc_auc | fixed(4), "each class against the rest") }}
{{ tile("Best epoch", summary.best_epoch, "of " ~ summary.epochs) }}
{{ tile("Training images", summary.num_train, summary.num_val ~ " for validation") }}
{{ tile("Seconds", summary.seconds_total | fixed(1), "features " ~ summary.seconds_features | fixed(1) ~
 ", training " ~ summary.seconds_train | fixed(1)) }}
{{ tile("Features computed", summary.features_computed, summary.features_reused ~ " reused") }}
</div><h2>Curves</h2><p><b class="validation">Validation</b> is solid, <b class="training">training</b>
dashed; the dotted line marks the best epoch, {{ summary.best_epoch }}.</p>
{% for chart in charts %}{% call plot(chart.what, "epoch", chart.x_ticks, chart.y_ticks) %}
<path class="mark" d="M{{ 50 + 400 * chart.best }} 24V244"/>
{% for name, curve in chart.curves.items() %}<g class="{{ name }}">
<polyline points="{% for x, y, _, _ in curve %}{{ 50 + 400 * x }},{{ 244 - 220 * y }} {% endfor %}"/>
{% for x, y, epoch, value in curve if curve | length <= 100 %}
<circle cx="{{ 50 + 400 * x }}" cy="{{ 244 - 220 * y }}" r="3"><title>
{{ name }}, epoch {{ epoch }}: {{ value | fixed(4) }}</title></circle>
{% endfor %}</g>{% endfor %}{% endcall %}{% endfor %}
<h2>Confusion matrix</h2>{% if matrix | length <= 30 %}<p>Rows are true classes, columns predictions,
percentages of the row.</p><div class="wide"><table class="matrix"><thead><tr><td></td>
{% for name, _ in matrix %}<th scope="col"><bdi>{{ name }}</bdi></th>{% endfor %}</tr></thead><tbody>
{% for name, cells in matrix %}<tr><th scope="row"><bdi>{{ name }}</bdi></th>
{% for n, share in cells %}<td style="--share: {{ share if n else 0 }}">{{ n }}
<small>{{ (100 * share) | fixed(1) }} %</small></td>{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% else %}<p>Too large for a page; validation.parquet has every prediction.</p>{% endif %}
<h2>Classes</h2>{{ table("classes", per_class, "class", "n", "precision", "recall") }}
<h2>Reliability</h2><p>Bars: the share of right predictions in each tenth of the predicted probability, and
how many there are; dots: at the mean probability. Expected calibration error, in 15 bins:
{{ quality.calibration_error | fixed }}, with logits divided by the temperature {{ summary.temperature }}.</p>
{% call plot("accuracy", "predicted probability", tenths, tenths) %}<path class="mark" d="M50 244L450 24"/>
{% for i, n, mean, right in bins if n %}{% set y = 244 - 220 * right %}
<text x="{{ 70 + 40 * i }}" y="{{ y - 6 }}">{{ n }}</text>
<rect x="{{ 52 + 40 * i }}" y="{{ y }}" width="36" height="{{ 244 - y }}"/>
<circle class="validation" cx="{{ 50 + 400 * mean }}" cy="{{ y }}" r="3"/>{% endfor %}{% endcall %}
<h2>Worst mistakes</h2><p>{% if mistakes %}The wrong predictions of the highest probability{% else %}None
{% endif %}{% if mistakes | rejectattr("picture") | list %}; photographs that could not be
opened are left out{% endif %}.</p><div class="tiles">{% for row in mistakes %}<figure class="tile">
{% if row.picture %}<img src="{{ row.picture }}" alt="">{% endif %}<bdi>{{ row.path }}</bdi><small>true
<bdi>{{ row.label }}</bdi>, predicted <bdi>{{ row.prediction }}</bdi>, {{ row.probability | fixed(4) }}
</small></figure>{% endfor %}</div><h2>Skipped files</h2>
{% if skipped %}{{ table("text", skipped[:50], "path", "status", "error") }}{% else %}<p>None.</p>{% endif %}
{% if skipped | length > 50 %}<p>and {{ skipped | length - 50 }} more</p>{% endif %}
<h2>Settings</h2>{{ table("text", settings, "setting", "value") }}</body></html>
"""
