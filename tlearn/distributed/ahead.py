"""An iterator that a thread reads, ahead of whoever asks for its items."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

_PATIENCE_SECONDS = 0.2
_END_SECONDS = 5.0
"""So long whoever ends waits for the thread, which may be in the middle of something."""


class Over(Exception):
    """Raised in the thread: nobody asks any more."""


@contextlib.contextmanager
def ahead(make: Callable[[Callable[[], None]], Iterator[Item]]) -> Iterator[Iterator[Item | None]]:
    """Within, the items of an iterator as they come, and None whenever none has come for a moment.

    The iterator is made by `make`, which is given a function to call now and then: it raises Over when the block has
    ended. What the iterator raises is raised where its items are asked for.
    """
    found: queue.Queue[tuple[str, Any]] = queue.Queue()
    is_over = threading.Event()

    def check() -> None:
        if is_over.is_set():
            raise Over

    def read() -> None:
        try:
            for item in make(check):
                found.put(("item", item))
                check()
            found.put(("end", None))
        except Over:
            pass
        except BaseException as error:
            found.put(("error", error))

    thread = threading.Thread(target=read, daemon=True, name="ahead")
    thread.start()
    try:
        yield _items(found)
    finally:
        is_over.set()
        thread.join(_END_SECONDS)


def _items(found: "queue.Queue[tuple[str, Any]]") -> Iterator[Any]:
    while True:
        try:
            kind, value = found.get(timeout=_PATIENCE_SECONDS)
        except queue.Empty:
            yield None
            continue
        if kind == "end":
            return
        if kind == "error":
            raise value
        yield value
