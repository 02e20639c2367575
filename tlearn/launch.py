"""Ray, started once: what both jobs ask of it before their work."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator

import ray
import ray.data

from tlearn import network
from tlearn.config import Precision
from tlearn.errors import IntegrityError, LockedError, StorageError, TrainingError, UsageError


def start_ray() -> None:
    """Join the cluster that RAY_ADDRESS or a running `ray start` names, or start one on this machine."""
    if ray.is_initialized():
        return
    # Ray Train polls its workers every two seconds, which is longer than an epoch on features takes.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "1800")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray puts one of its own there, which ends the process in mid-step
    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong there comes back as an exception


def precision_of(choice: str) -> Precision:
    """The precision of the frozen layers on this cluster: bf16 on GPUs and on processors that multiply in it."""
    if choice == "auto":
        return "bf16" if ray.cluster_resources().get("GPU") else network.processor_precision()
    return "bf16" if choice == "bf16" else "fp32"


@contextlib.contextmanager
def causes() -> Iterator[None]:
    """Turn what Ray wraps around an error of ours back into that error."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, (IntegrityError, StorageError, UsageError, LockedError, TrainingError)):
                raise cause from error
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise
