"""Ray, started once: what both jobs ask of it before their work."""

import contextlib
import hashlib
import importlib.util
import logging
import os
import signal
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Literal

import ray
import ray.data
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tlearn import storage
from tlearn.config import Arithmetic, EngineChoice, PrecisionChoice
from tlearn.errors import IntegrityError, LockedError, StorageError, TrainingError, UsageError
from tlearn.network import processor

_starting = threading.Lock()

_LOOK_SECONDS = 60.0
"""How long nodes are waited for that are to look whether they see a path; one that is slower is taken to see it."""


def start_ray() -> None:
    """Join the cluster that RAY_ADDRESS or a running `ray start` names, or start one on this machine.

    May be called by several threads: one starts, the others wait for it.
    """
    handler = signal.getsignal(signal.SIGTERM)
    with _starting:
        if not ray.is_initialized():
            _start_ray()
    if threading.current_thread() is threading.main_thread():
        # Ray, in whatever thread it starts, puts handlers of its own there: one ends the process in mid-step, one
        # aborts it if it takes three seconds to end.
        signal.signal(signal.SIGTERM, handler)


def _start_ray() -> None:
    # Ray Train polls its workers every two seconds, which is longer than an epoch on features takes.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "1800")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong there comes back as an exception


def require_shared(files: Sequence[str], folders: Sequence[str]) -> None:
    """Raise UsageError where a node that computes does not see a file, or what is written into a folder.

    Copies of a file are as good as the file. What is on object stores is seen by all; one node alone is not asked.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    others = [node for node in others if node["Resources"].keys() & {"CPU", "GPU"}]
    if not others or all(map(storage.is_remote, [*files, *folders])):
        return
    looked_at = {path: storage.absolute(path) for path in files if not storage.is_remote(path)}
    with contextlib.ExitStack() as written:
        for folder in folders:
            if not storage.is_remote(folder):
                token = storage.join(storage.absolute(folder), f".{uuid.uuid4().hex}.tmp")
                storage.write_bytes(token, token.encode())
                written.callback(storage.remove, token)
                looked_at[folder] = token
        asked = {}
        for node in others:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            look = ray.remote(_beginnings).options(num_cpus=0, scheduling_strategy=strategy)
            asked[look.remote([*looked_at.values()])] = node["NodeManagerHostname"]
        answers, _ = ray.wait([*asked], num_returns=len(asked), timeout=_LOOK_SECONDS)
        for answer in answers:
            with contextlib.suppress(RayError):  # the node is gone
                theirs = ray.get(answer)
                ours = _beginnings([*looked_at.values()])  # after them: what was changed meanwhile is no difference
                for path, there, own in zip(looked_at, theirs, ours, strict=True):
                    if own is not None and there != own:
                        raise UsageError(
                            f"expected paths that every node sees, node {asked[answer]} does not see {path}: put it on "
                            "storage that all nodes mount, or give a URI (s3://, gs://)"
                        )


def _beginnings(paths: list[str]) -> list[str | None]:
    """What tells files apart: the SHA-256 of their first MiB; None for one that cannot be read."""
    found: list[str | None] = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        try:
            found.append(hashlib.sha256(storage.read(folder, name, max_bytes=2**20).data).hexdigest())
        except OSError:
            found.append(None)
    return found


def _has_openvino() -> bool:
    """Whether the extra `cpu` is installed."""
    return importlib.util.find_spec("openvino") is not None


def plain_arithmetic(choice: EngineChoice, precision: PrecisionChoice) -> Arithmetic:
    """What this cluster computes convolutions with, in int8 aside. Raises UsageError for what it cannot do."""
    on_gpu = bool(ray.cluster_resources().get("GPU"))
    name: Literal["torch", "openvino"] = "openvino"
    if choice == "torch" or (choice == "auto" and (on_gpu or not _has_openvino())):
        name = "torch"
    elif on_gpu or not _has_openvino():
        why = "the cluster has GPUs" if on_gpu else "it is not installed (extra cpu)"
        raise UsageError(f"expected to compute with openvino, but {why}: leave out --engine")
    if precision == "fp32" or precision == "bf16":
        return Arithmetic(name, precision)
    return Arithmetic(name, "bf16" if on_gpu else processor.precision())


def may_quantize(plain: Arithmetic, precision: PrecisionChoice) -> bool:
    """Whether int8 is to be used, or, with auto, is worth a trial. Raises UsageError where it cannot be."""
    if precision == "int8" and plain.engine == "torch":
        raise UsageError("expected openvino for --precision int8, got torch: install the extra cpu, use no GPUs")
    return precision == "int8" or (precision == "auto" and plain.engine == "openvino" and processor.has_int8())


def arithmetic_of_model(trained: Arithmetic, choice: EngineChoice, precision: PrecisionChoice) -> Arithmetic:
    """What to score with: as the model was trained if that is int8 and the processor has it, else what is there."""
    plain = plain_arithmetic(choice, precision)
    if not may_quantize(plain, precision):
        return plain
    if trained.ranges:
        return trained
    if precision == "int8":
        raise UsageError("expected a model with ranges for int8, got one without: train it with --precision int8")
    return plain


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
