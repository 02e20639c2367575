"""Why an attempt has failed: what of it is ours, what may pass, and how it is said in a line."""

import errno
import os

from ray.exceptions import RayError

from tlearn.distributed import child, launch
from tlearn.errors import StorageError, TlearnError

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def ours(error: BaseException | None) -> TlearnError | None:
    """The error of ours, or of a disk that takes nothing, in what Ray has wrapped around it."""
    while error is not None:
        if isinstance(error, TlearnError) and not isinstance(error, RayError):  # Ray's copy says all of the way
            return error
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            why = os.strerror(error.errno)
            return StorageError(f"could not write a checkpoint: {why}; free some space, the same command goes on")
        wrapped = [getattr(error, name, None) for name in ("controller_failure", "cause", "_base_exc", "__cause__")]
        wrapped += getattr(error, "worker_failures", {}).values()
        error = next((inner for inner in wrapped if isinstance(inner, BaseException)), None)
    return None


def final(error: BaseException, *, is_remote: bool) -> TlearnError | None:
    """The error of ours that another start would meet again; `is_remote` is a run on an object store, which may not."""
    found = ours(error)
    return None if is_remote and isinstance(found, StorageError) else found


def root_cause(error: BaseException) -> str:
    failures = getattr(error, "worker_failures", None)
    if failures:
        rank, failure = min(failures.items())
        return f"worker {rank}: {root_cause(failure)}"
    for name in ("controller_failure", "health_check_failure"):
        if isinstance(inner := getattr(error, name, None), BaseException):
            return root_cause(inner)
    if isinstance(error, child.Died):
        return f"its process was lost ({error}); the same command goes on from the last checkpoint"
    if lost := launch.lost(error):
        return f"{lost}; the same command goes on from the last checkpoint"
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__
