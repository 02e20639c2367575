"""What a person or a log sees while something runs.

On a terminal: stages, a bar with rate and time left, a table that grows by a row an epoch. In a notebook the bar is
one line that is rewritten; in a log it is a plain line every ten seconds. Underneath is the logger "tlearn", which
whoever imports tlearn may give other handlers.

With TLEARN_LOG=json one line of JSON on stderr for every event, for what reads the logs of unattended jobs: the time
(UTC), the job (a new id for every command) and the event; the other fields are the event's own.
"""

import contextlib
import io
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO

if TYPE_CHECKING:
    import rich.progress

_log = logging.getLogger("tlearn")
_events = logging.getLogger("tlearn.events")
_JOB = secrets.token_hex(8)
_LEAST_SECONDS = 0.25
"""A rate of less time is chance: the last batch of a few images ends a moment after the first."""
_SECONDS_BETWEEN = {"log": 10.0, "notebook": 0.5}


def prepare_streams() -> None:
    """What a terminal cannot show is shown as \\u2026, and what is closed (>&-) is written to nowhere."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file that is opened would be taken for it
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _show(text: str, stream: TextIO, end: str = "\n") -> None:
    """Print; where the reader has left (`tlearn train | head`), what follows goes nowhere, and the work goes on."""
    try:
        print(text, file=stream, end=end, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Lines(logging.Handler):
    """What is said goes to stdout, warnings to stderr. Asks for both anew: notebooks and bars exchange them."""

    def emit(self, record: logging.LogRecord) -> None:
        _show(record.getMessage(), sys.stderr if record.levelno >= logging.WARNING else sys.stdout)


class _Json(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        figures: Mapping[str, Any] = record.__dict__["figures"]
        line = {"time": datetime.now(UTC).isoformat(), "job": _JOB, "event": record.msg, **figures}
        _show(json.dumps(line), sys.stderr)


_events.addHandler(_Json())
_events.propagate = False


@contextlib.contextmanager
def shown(*, quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Within, everything that is said is shown; with `quiet` only warnings, with `verbose` what Ray says too."""
    if not _log.handlers:
        _log.addHandler(_Lines())
        _log.propagate = False
    before = _log.level
    _log.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    try:
        yield
    finally:
        _log.setLevel(before)


def is_verbose() -> bool:
    return _log.isEnabledFor(logging.DEBUG)


def say(text: str) -> None:
    _log.info("%s", text)


def warn(text: str) -> None:
    _log.warning("%s", text)


def event(name: str, **figures: str | int | float | None) -> None:
    if os.environ.get("TLEARN_LOG") == "json":
        _events.critical(name, extra={"figures": figures})


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, num_left: int = 1) -> str:
    """Text in columns: the first `num_left` of them flush left, the others flush right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 1))
    for number, name in enumerate(header):
        grid.add_column(Text(name), justify="left" if number < num_left else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*map(Text, row))  # as it is: a file may be called [red]
    text = io.StringIO()
    Console(file=text, width=sys.maxsize, color_system=None).print(grid)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _medium() -> Literal["terminal", "notebook", "log"]:
    if "ipykernel" in sys.modules:
        return "notebook"
    return "terminal" if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else "log"


class Progress:
    """Something long, of which parts are done: rate and time left, on stderr."""

    def __init__(self, what: str, total: int, *, unit: str = "images", num_parallel: int = 1):
        """`num_parallel` parts are worked on at once: the rate is taken from the moment when so many are done."""
        self.what, self.total, self.unit, self.num_parallel = what, total, unit, num_parallel
        self.done = 0
        self._started = self._last = self._printed = time.monotonic()
        self._num_advances = 0
        self._steady: tuple[float, int] | None = None
        self._medium = _medium() if _log.isEnabledFor(logging.INFO) and total else None
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> Self:
        if self._medium == "terminal":
            self._bar = _bar(self.unit)
            self._task = self._bar.add_task(self.what, total=self.total, rate="")
            self._bar.start()
        return self

    def advance(self, count: int, of: int | None = None) -> None:
        """`of` is the total where it has grown."""
        self.done += count
        if of is not None and of != self.total:
            self.total = of
            if self._bar is not None:
                self._bar.update(self._task, total=of)
        self._num_advances += 1
        self._last = time.monotonic()
        if self._num_advances == self.num_parallel:
            self._steady = (self._last, self.done)
        if self._bar is not None:
            rate = f"{self.rate():.1f} {self.unit}/s, {_clock(self._seconds_left())} left" if self.rate() else ""
            self._bar.update(self._task, completed=self.done, rate=rate)
        elif self._medium is not None and self._last - self._printed >= _SECONDS_BETWEEN[self._medium]:
            self._printed = self._last
            end = "\r" if self._medium == "notebook" else "\n"
            _show(self.line().ljust(79 if end == "\r" else 0), sys.stderr, end)

    def line(self) -> str:
        left = f", {self.rate():.1f} {self.unit}/s, {_clock(self._seconds_left())} left" if self.rate() else ""
        return f"{self.what}: {self.done:,} of {self.total:,}{left}"

    def _seconds_left(self) -> float:
        return (self.total - self.done) / self.rate()

    def rate(self) -> float:
        """Units per second without the start of the actors; 0.0 while it is unknown, or of too short a time."""
        if self._steady is None or self._last - self._steady[0] < _LEAST_SECONDS:
            return 0.0
        return (self.done - self._steady[1]) / (self._last - self._steady[0])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._medium is not None and kind is None:
            text = f"{self.what}: {self.done:,} in {_clock(time.monotonic() - self._started)}"
            text += f", {self.rate():.1f} {self.unit}/s after the start" if self.rate() else ""
            _show(text.ljust(79 if self._medium == "notebook" else 0), sys.stderr)


def _bar(unit: str) -> "rich.progress.Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True, expand=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Epochs:
    """Loss and accuracy of each epoch: a table that grows on a terminal, a line of its own for each epoch in a log."""

    _COLUMNS = ("epoch", "train loss", "accuracy", "val loss", "accuracy", "seconds")

    def __init__(self, num_epochs: int):
        self.num_epochs = num_epochs
        self._has_header = False
        self._lowest = float("inf")

    def add(self, epoch: int, *, train: tuple[float, float], val: tuple[float, float], seconds: float) -> None:
        """`train` and `val` are loss and accuracy."""
        if _medium() == "log":
            say(
                f"epoch {epoch:>3} of {self.num_epochs}: train loss {train[0]:.4f} accuracy {train[1]:.4f}, "
                f"val loss {val[0]:.4f} accuracy {val[1]:.4f}, {seconds:.1f} s"
            )
            return
        if not self._has_header:
            say("  ".join(f"{name:>10}" for name in self._COLUMNS))
            self._has_header = True
        cells = (f"{epoch}/{self.num_epochs}", *(f"{figure:.4f}" for figure in (*train, *val)), f"{seconds:.1f}")
        mark = "  lowest so far" if val[0] < self._lowest else ""
        self._lowest = min(self._lowest, val[0])
        say("  ".join(f"{cell:>10}" for cell in cells) + mark)
