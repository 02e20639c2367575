"""Ray, started once: what both jobs ask of it before their work."""

import contextlib
import hashlib
import logging
import os
import signal
import threading
import uuid
from collections.abc import Iterator, Sequence

import ray
import ray.data
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tlearn import console, storage
from tlearn.distributed.nodes import Node, Nodes
from tlearn.errors import StorageError, TlearnError, UsageError

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
            try:
                _start_ray()
            except (ConnectionError, RuntimeError, RayError) as error:
                where = os.environ.get("RAY_ADDRESS", "this machine")
                raise StorageError(
                    f"expected a Ray that answers at {where}, got {' '.join(str(error).split())[:200]}: another "
                    "Ray may run here with another token; RAY_ADDRESS=local starts one of its own"
                ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray, in whatever thread it starts, puts handlers of its own there: one ends the process in mid-step, one
        # aborts it if it takes three seconds to end.
        signal.signal(signal.SIGTERM, handler)


def _start_ray() -> None:
    # Ray Train polls its workers every two seconds, which is longer than an epoch on features takes.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "1800")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if console.is_verbose():
        ray.init(include_dashboard=False)
        return
    ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong there comes back as an exception


def nodes() -> Nodes:
    """What the cluster has at this moment; needs a Ray that is started."""
    return Nodes(
        tuple(
            Node(
                node["Resources"].get("CPU", 0),
                node["Resources"].get("GPU", 0),
                id=node["NodeID"],
                host=node["NodeManagerHostname"],
            )
            for node in ray.nodes()
            if node["Alive"]
        )
    )


def require_shared(files: Sequence[str], folders: Sequence[str]) -> None:
    """Raise UsageError where a node that computes does not see a file, or what is written into a folder.

    Copies of a file are as good as the file. What is on object stores is seen by all; one node alone is not asked.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in nodes().nodes if node.id != here and (node.num_cpus or node.num_gpus)]
    if not others or all(map(storage.is_remote, [*files, *folders])):
        return
    local_files = {path: storage.absolute(path) for path in files if not storage.is_remote(path)}
    with _tokens([folder for folder in folders if not storage.is_remote(folder)]) as tokens:
        looked_at = {**local_files, **tokens}
        locations = [*looked_at.values()]
        for node, theirs in _seen_by(others, locations):
            ours = _beginnings(locations)  # after them: what was changed meanwhile is no difference
            for path, there, own in zip(looked_at, theirs, ours, strict=True):
                if own is not None and there != own:
                    raise UsageError(
                        f"expected paths that every node sees, node {node.host} does not see {path}: put it on "
                        "storage that all nodes mount, or give a URI (s3://, gs://)"
                    )


@contextlib.contextmanager
def _tokens(folders: Sequence[str]) -> Iterator[dict[str, str]]:
    """The location of a new file in each folder, gone afterwards."""
    tokens = {folder: storage.join(storage.absolute(folder), f".{uuid.uuid4().hex}.tmp") for folder in folders}
    try:
        for token in tokens.values():
            storage.write_bytes(token, token.encode())
        yield tokens
    finally:
        for token in tokens.values():
            storage.remove(token)


def _seen_by(others: Sequence[Node], locations: list[str]) -> Iterator[tuple[Node, list[str | None]]]:
    """What each node sees at these locations; nodes that are gone or slow say nothing."""
    asked = {}
    for node in others:
        strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
        look = ray.remote(_beginnings).options(num_cpus=0, scheduling_strategy=strategy)
        asked[look.remote(locations)] = node
    answers, _ = ray.wait([*asked], num_returns=len(asked), timeout=_LOOK_SECONDS)
    for answer in answers:
        with contextlib.suppress(RayError):  # the node is gone
            yield asked[answer], ray.get(answer)


def _beginnings(locations: list[str]) -> list[str | None]:
    """What tells files apart: the SHA-256 of their first MiB; None for one that cannot be read."""
    digests: list[str | None] = []
    for location in locations:
        folder, _, name = location.rpartition("/")
        try:
            digests.append(hashlib.sha256(storage.read_listed(folder, name, max_bytes=2**20).data).hexdigest())
        except Exception:  # whatever a storage raises
            digests.append(None)
    return digests


@contextlib.contextmanager
def causes() -> Iterator[None]:
    """Turn what Ray wraps around an error of ours back into that error."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, TlearnError) and not isinstance(cause, RayError):  # Ray's copy says all of the way
                raise cause from error
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise
