"""The time of this machine, for what waits and what happens again and again: a simulated one can stand here."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator


def monotonic() -> float:
    return time.monotonic()


def sleep(seconds: float) -> None:
    time.sleep(seconds)


@contextlib.contextmanager
def every(seconds: float, function: Callable[[], object]) -> Iterator[None]:
    """Call a function that raises nothing again and again, from a thread, until the block ends."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            function()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
