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

from tlearn import storage
from tlearn.config import PreprocessConfig
from tlearn.data.careful import Careful
from tlearn.data.fetch import Decoder, Fetch, Fetched, fetch
from tlearn.distributed import launch
from tlearn.distributed.nodes import ByTasks, Decode

_PATHS_PER_TASK = 16
_LEAST_AHEAD = 4
_LOST = (NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)


def decoder(
    folder: str, preprocess: PreprocessConfig, decode: Decode, batch_size: int, fetch: Fetch = fetch
) -> Decoder:
    """What decodes the files of a folder for a network that takes `batch_size` of them together."""
    if isinstance(decode, ByTasks):
        num_ahead = max(2 * batch_size // _PATHS_PER_TASK, _LEAST_AHEAD)
        return lambda paths: _on_cluster(folder, paths, preprocess, num_ahead, fetch)
    threads = ThreadPoolExecutor(decode.num_threads)
    return lambda paths: threads.map(lambda path: fetch(folder, path, preprocess), paths)


def surviving(started: str, decode: Decoder, careful: Careful) -> Decoder:
    """What decodes a chunk: `decode`, or `careful` where an earlier process died over the same chunk."""
    return careful if is_second(started) else decode


def is_second(started: str) -> bool:
    """Whether an earlier process began the chunk of the file `started`, which is left for the next one.

    So a picture that kills its decoder costs one picture.
    """
    found = storage.exists(started)
    storage.write_bytes(started, b"")
    return found


def _on_cluster(
    folder: str, paths: Sequence[str], preprocess: PreprocessConfig, num_ahead: int, fetch: Fetch
) -> Iterator[Fetched]:
    """With never more than `num_ahead` tasks beyond the one whose pictures are looked at."""
    launch.start_ray()

    def submit(batch: Sequence[str]) -> Any:
        return _decode.remote(folder, batch, preprocess, fetch)

    waiting: deque[tuple[Sequence[str], Any]] = deque()
    for start in range(0, len(paths), _PATHS_PER_TASK):
        batch = paths[start : start + _PATHS_PER_TASK]
        waiting.append((batch, submit(batch)))
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
    pixels = [file.pixels.numpy()[None] for file in fetched if file.pixels is not None]
    return [dataclasses.replace(file, pixels=None) for file in fetched], np.concatenate([blank, *pixels])


def _results(paths: Sequence[str], task: Any, submit: Callable[[Sequence[str]], Any]) -> Iterator[Fetched]:
    """What a task has fetched; if it was lost, what one new task for each of its paths has."""
    try:
        done = ray.get(task)
    except _LOST:
        for retry in [submit([path]) for path in paths]:
            yield _result_of_retry(retry)
    else:
        yield from _together(*done)


def _result_of_retry(task: Any) -> Fetched:
    try:
        return next(_together(*ray.get(task)))
    except WorkerCrashedError:
        return Fetched(status="decoder_crash", error="the process that decoded it died")
    except _LOST as error:
        return Fetched(status="io_error", error=f"the task that decoded it was lost twice ({type(error).__name__})")


def _together(fetched: list[Fetched], pixels: np.ndarray[Any, Any]) -> Iterator[Fetched]:
    # A copy, so that the object store can be used again, and because torch wants to write.
    rows = iter(torch.from_numpy(pixels.copy()))
    for file in fetched:
        yield dataclasses.replace(file, pixels=next(rows)) if file.status == "ok" else file
