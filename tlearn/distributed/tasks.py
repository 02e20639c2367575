"""Independent pieces of work on the cluster, each a task of its own; what each returns is small."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

from tlearn.distributed import launch
from tlearn.distributed.launch import causes
from tlearn.errors import StorageError

_LOST = (NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)


def run(
    function: Callable[[Any], Any], arguments: Mapping[int, Any], cpus: float, gpus: float, max_failures: int
) -> Iterator[tuple[int, Any]]:
    """Call a function of a module with each argument, in a process with so much of the cluster; yield what it returns.

    In the order in which they end, with their keys. A task that is lost with its process or its node is given again,
    up to `max_failures` times in all, then StorageError is raised. What the function raises ends all of them.
    """
    launch.start_ray()
    # Ray retries for ever what dies for want of memory, unless it retries nothing.
    task = ray.remote(function).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)
    running = {task.remote(argument): key for key, argument in arguments.items()}
    num_lost = 0
    try:
        while running:
            (done,), _ = ray.wait([*running])
            key = running.pop(done)
            try:
                with causes():
                    result = ray.get(done)
            except StorageError as error:
                num_lost += 1
                if not isinstance(error.__cause__, _LOST) or num_lost > max_failures:
                    raise
                running[task.remote(arguments[key])] = key
            else:
                yield key, result
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
