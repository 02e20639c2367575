"""The page of a run or of a scored folder: one HTML file with its figures, pictures and settings inside."""

import base64
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template, UndefinedError
from markupsafe import Markup

from tlearn import storage
from tlearn.errors import IntegrityError, TlearnError
from tlearn.report import charts, sections
from tlearn.report.figures import Rate
from tlearn.report.sections import Content

# What HTML or UTF-8 cannot hold.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def write_report(run: str | Path) -> str:
    """Write report.html into the folder (or URI) of a finished run, from the files that training left there.

    Returns its location. Raises InputError where a file is missing, IntegrityError where one is damaged or of another
    version, StorageError where the report cannot be written.
    """
    location = storage.absolute(str(run))
    return _write(location, storage.join(location, "report.html"), sections.of_run)


def write_scored(folder: str, target: str) -> None:
    """Write the page of a scored folder to `target`, from scored.json, pictures.parquet and drift.json in `folder`.

    Raises IntegrityError where one is damaged, StorageError where the page cannot be written.
    """
    _write(storage.absolute(folder), storage.absolute(target), sections.of_scored)


def _write(location: str, target: str, read: Callable[[str], Content]) -> str:
    try:
        with storage.reached():
            page = render(read(location))
    except TlearnError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError, UndefinedError) as error:
        raise IntegrityError(
            f"expected what this version of tlearn leaves of a run in {location}, could not use it "
            f"({type(error).__name__}: {error}): train or score again for a report"
        ) from error
    storage.write_bytes(target, page.encode())
    return target


def render(content: Content) -> str:
    """The page. Its policy names the digests of its own style and script: nothing else runs or is loaded."""
    style, script = (_source(name) for name in ("page.css", "page.js"))
    return _template().render(
        {field.name: getattr(content, field.name) for field in dataclasses.fields(content)},
        area=charts,
        style=Markup(style),
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
        json=Markup(_json(content.data)),
    )


@functools.cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True)
    environment.filters |= {"fixed": _fixed, "percent": _percent, "interval": _interval}
    return environment.from_string(_source("report.html.jinja"))


def _source(name: str) -> str:
    return files("tlearn.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: Any) -> str:
    """JSON that ends no script element, whatever it holds."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _shown(value: Any) -> Any:
    """What the template prints: short numbers, clean text."""
    if isinstance(value, float):
        return f"{value:g}"
    # Markup is a str too, and must stay Markup.
    return _UNPRINTABLE.sub("\ufffd", value) if type(value) is str else "" if value is None else value


def _fixed(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}%"


def _interval(rate: Rate) -> str:
    return f"{100 * rate.low:.1f} to {100 * rate.high:.1f}%"
