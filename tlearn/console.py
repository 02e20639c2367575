"""What a person or a log sees while something runs.

With TLEARN_LOG=json one line of JSON on stderr for every event, for what reads the logs of unattended jobs: the time
(UTC), the job (a new id for every command) and the event; the other fields are the event's own.
"""

import json
import os
import secrets
import sys
import time
from datetime import UTC, datetime
from types import TracebackType

_JOB = secrets.token_hex(8)


def event(name: str, **figures: str | int | float | None) -> None:
    if os.environ.get("TLEARN_LOG") == "json":
        line = {"time": datetime.now(UTC).isoformat(), "job": _JOB, "event": name, **figures}
        print(json.dumps(line), file=sys.stderr, flush=True)


class Progress:
    """A line that is rewritten on a terminal, and printed every ten seconds elsewhere; on stderr."""

    def __init__(self, what: str, total: int, *, unit: str = "images", quiet: bool = False):
        self.what = what
        self.total = total
        self.unit = unit
        self.quiet = quiet
        self.done = 0
        self.num_parallel = 1
        """Chunks that are worked on at once: the rate is taken from the moment when so many are done."""
        self.started = time.monotonic()
        self._num_advances = 0
        self._steady: tuple[float, int] | None = None
        self._printed = self.started
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> "Progress":
        return self

    def advance(self, count: int) -> None:
        self.done += count
        self._num_advances += 1
        now = time.monotonic()
        if self._num_advances == self.num_parallel:
            self._steady = (now, self.done)
        self._last = now
        if not self.quiet and now - self._printed >= (0.2 if self._is_terminal else 10):
            self._printed = now
            end = "\r" if self._is_terminal else "\n"
            print(f"{self.line():<79}", end=end, file=sys.stderr, flush=True)

    def line(self) -> str:
        rate = self.rate()
        left = f", {rate:.1f} {self.unit}/s, {_clock((self.total - self.done) / rate)} left" if rate else ""
        return f"{self.what}: {self.done:,} of {self.total:,}{left}"

    def rate(self) -> float:
        """Units per second without the start of the actors; 0.0 while it is unknown."""
        if self._steady is None or self._last == self._steady[0]:
            return 0.0
        return (self.done - self._steady[1]) / (self._last - self._steady[0])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.quiet and self.total and kind is None:
            seconds = time.monotonic() - self.started
            text = f"{self.what}: {self.done:,} in {_clock(seconds)}"
            text += f", {self.rate():.1f} {self.unit}/s after the start" if self.rate() else ""
            print(f"{text:<79}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def say(text: str, *, quiet: bool) -> None:
    if not quiet:
        print(text, flush=True)
