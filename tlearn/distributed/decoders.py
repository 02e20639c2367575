"""Paths to what they hold, in their order and ahead of the network: by threads here, or by tasks on the cluster.

Tasks are for nodes whose GPUs are faster than their few cores can decode. It is the one way on which pixels travel
through Ray's object store, a few batches of them at a time.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

from tlearn.config import PreprocessConfig
from tlearn.data.fetch import Fetched, fetch

Fetch = Callable[[str, str, PreprocessConfig], Fetched]
Decoder = Callable[[Sequence[str]], Iterator[Fetched]]

_PATHS_PER_TASK = 16
_LEAST_AHEAD = 4
_LOST = (NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)


def decoder(
    folder: str, preprocess: PreprocessConfig, num_threads: int | None, batch_size: int, fetch: Fetch = fetch
) -> Decoder:
    """By so many threads in this process, or, with None, by tasks on the cluster."""
    if num_threads is None:
        num_ahead = max(2 * batch_size // _PATHS_PER_TASK, _LEAST_AHEAD)
        return lambda paths: _on_cluster(folder, paths, preprocess, num_ahead, fetch)
    threads = ThreadPoolExecutor(num_threads)
    return lambda paths: threads.map(lambda path: fetch(folder, path, preprocess), paths)


def _on_cluster(
    folder: str, paths: Sequence[str], preprocess: PreprocessConfig, num_ahead: int, fetch: Fetch
) -> Iterator[Fetched]:
    """With never more than `num_ahead` tasks beyond the one whose pictures are looked at."""

    def submit(some: Sequence[str]) -> Any:
        return _decode.remote(folder, some, preprocess, fetch)

    waiting: deque[tuple[Sequence[str], Any]] = deque()
    for start in range(0, len(paths), _PATHS_PER_TASK):
        some = paths[start : start + _PATHS_PER_TASK]
        waiting.append((some, submit(some)))
        if len(waiting) > num_ahead:
            yield from _results(*waiting.popleft(), submit)
    while waiting:
        yield from _results(*waiting.popleft(), submit)


# Ray retries for ever what dies for want of memory, unless it retries nothing.
@ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")
def _decode(
    folder: str, paths: Sequence[str], preprocess: PreprocessConfig, fetch: Fetch
) -> tuple[list[Fetched], np.ndarray[Any, Any]]:
    """What the files hold, their pixels apart, (number, 3, size, size): as an array they are not pickled but mapped."""
    fetched = [fetch(folder, path, preprocess) for path in paths]
    blank = np.zeros((0, 3, preprocess.image_size, preprocess.image_size), np.uint8)
    pixels = [one.pixels.numpy()[None] for one in fetched if one.pixels is not None]
    return [dataclasses.replace(one, pixels=None) for one in fetched], np.concatenate([blank, *pixels])


def _results(paths: Sequence[str], task: Any, submit: Callable[[Sequence[str]], Any]) -> Iterator[Fetched]:
    """Of a task; if it was lost, of one new task for each of its paths."""
    try:
        done = ray.get(task)
    except _LOST:
        for alone in [submit([path]) for path in paths]:
            yield _result_alone(alone)
    else:
        yield from _together(*done)


def _result_alone(task: Any) -> Fetched:
    try:
        return next(_together(*ray.get(task)))
    except WorkerCrashedError:
        return Fetched(status="decoder_crash", error="the process that decoded it died")
    except _LOST as error:
        return Fetched(status="io_error", error=f"the task that decoded it was lost twice ({type(error).__name__})")


def _together(fetched: list[Fetched], pixels: np.ndarray[Any, Any]) -> Iterator[Fetched]:
    # A copy, so that the object store can be used again, and because torch wants to write.
    rows = iter(torch.from_numpy(pixels.copy()))
    for one in fetched:
        yield dataclasses.replace(one, pixels=next(rows)) if one.status == "ok" else one
