"""An iterator that runs ahead in a thread."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tlearn.distributed.ahead import ahead


def test_items_come_in_order_and_the_iterator_does_not_wait_for_whoever_reads_them() -> None:
    is_read = threading.Event()

    def make(check: Callable[[], None]) -> Iterator[int]:
        yield from range(3)
        is_read.set()

    with ahead(make) as items:
        assert is_read.wait(5)
        assert [item for item in items if item is not None] == [0, 1, 2]


def test_nothing_is_said_while_nothing_comes() -> None:
    go_on = threading.Event()

    def make(check: Callable[[], None]) -> Iterator[str]:
        go_on.wait(5)
        yield "item"

    with ahead(make) as items:
        assert next(items) is None
        go_on.set()
        assert next(filter(None, items)) == "item"
        assert list(items) == []


def test_what_the_iterator_raises_is_raised_behind_its_items() -> None:
    def make(check: Callable[[], None]) -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with ahead(make) as items:
        assert next(filter(None, items)) == 1
        with pytest.raises(ValueError, match="no more"):
            list(items)


def test_it_is_read_no_further_when_nobody_asks_any_more() -> None:
    read: list[int] = []

    def make(check: Callable[[], None]) -> Iterator[int]:
        while True:
            check()
            read.append(1)
            time.sleep(0.01)
            yield 1

    with pytest.raises(KeyError), ahead(make) as items:
        next(items)
        raise KeyError
    num_read = len(read)
    time.sleep(0.1)
    assert len(read) == num_read
