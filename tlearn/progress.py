"""What a person sees while something long runs: rate and time left."""

import sys
import time
from types import TracebackType


class Progress:
    """A line that is rewritten on a terminal, and printed every ten seconds elsewhere; on stderr."""

    def __init__(self, what: str, total: int, *, quiet: bool = False):
        self.what = what
        self.total = total
        self.quiet = quiet
        self.done = 0
        self.started = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._printed = self.started
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> "Progress":
        return self

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if self._first is None:
            self._first = (now, self.done)
        if not self.quiet and now - self._printed >= (0.2 if self._is_terminal else 10):
            self._printed = now
            end = "\r" if self._is_terminal else "\n"
            print(f"{self.line(now):<79}", end=end, file=sys.stderr, flush=True)

    def line(self, now: float) -> str:
        rate = self.rate(now)
        left = f", {_clock((self.total - self.done) / rate)} left" if rate else ""
        return f"{self.what}: {self.done:,} of {self.total:,}, {rate:.1f} images/s{left}"

    def rate(self, now: float | None = None) -> float:
        """Images per second since the first were done, so without the start of the actors; 0.0 if unknown."""
        if self._first is None:
            return 0.0
        seconds = (now or time.monotonic()) - self._first[0]
        return (self.done - self._first[1]) / seconds if seconds > 0 else 0.0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.quiet and self.total and kind is None:
            seconds = time.monotonic() - self.started
            overall = self.done / seconds if seconds > 0 else 0.0
            text = f"{self.what}: {self.done:,} in {_clock(seconds)}, {overall:.1f} images/s with start-up"
            print(f"{text:<79}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
