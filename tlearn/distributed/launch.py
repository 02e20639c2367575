"""Ray, started once: what both jobs ask of it before their work."""

import contextlib
import functools
import hashlib
import logging
import os
import queue
import secrets
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray._private.thirdparty import pynvml
from ray.exceptions import AuthenticationError, RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tlearn import console, storage
from tlearn.config import DecodeChoice
from tlearn.distributed import guard, places
from tlearn.distributed.chunks import FEW_CHUNKS
from tlearn.distributed.nodes import Node, Nodes, Pool
from tlearn.distributed.places import Address
from tlearn.errors import StorageError, TlearnError, UsageError

_starting = threading.Lock()
_failure: tuple[float, StorageError] | None = None
"""Of the last start, and when it was."""
_is_own = False
"""Whether the Ray that was started last is one of this process."""

_START_SECONDS, _JOIN_SECONDS = 90.0, 50.0
"""How long the start of Ray may take, and the answer of one that runs."""
_BEAT_SECONDS = 5.0
_FIRST_WORD_SECONDS, _NEXT_WORD_SECONDS = 10.0, 60.0
_LOOK_SECONDS = 60.0
"""How long nodes are waited for that are to look whether they see a path; one that is slower is taken to see it."""


@contextlib.contextmanager
def causes() -> Iterator[None]:
    """Turn what Ray wraps around an error of ours back into that error, and Ray's own into a StorageError."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, TlearnError) and not isinstance(cause, RayError):  # Ray's copy says all of the way
                raise cause from error
            cause = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(error, RayError) and not isinstance(error, RayTaskError):
            came = lost(error) or _line(error)
            raise StorageError(
                f"expected Ray to run as long as the command, got: {came}; the same command goes on from here"
            ) from error
        raise


_LOST = {
    "OutOfMemoryError": "Ray ended a worker for want of memory on its node (fewer --workers or smaller batches may do)",
    "PreemptionError": "a node was taken away",
    "NodeDiedError": "a node was lost",
    "LocalRayletDiedError": "a node was lost",
    "ObjectLostError": "a node was lost, with what it held",
    "ActorUnavailableError": "a process could not be reached",
    "RayActorError": "a process was lost: killed, or with its node",
    "WorkerCrashedError": "a process was lost: killed, or with its node",
    "WorkerHealthCheckTimeoutError": "a process gave no answer for too long",
    "CollectiveTimeoutError": "the workers waited for each other for too long",
    "WorkerGroupStartupTimeoutError": "the workers did not start in time",
    "WorkerGroupStartupFailedError": "a worker was lost while it started",
}
"""What Ray says of these in several sentences, with advice for its own settings. By name: some are not public."""


def lost(error: BaseException) -> str | None:
    """One sentence for an error of Ray's that says that something of the cluster is gone; None for others."""
    if getattr(error, "actor_init_failed", False):  # its text ends with an exception of ours
        return None
    return next((_LOST[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _LOST), None)


def is_alone() -> bool:
    """Whether all work is on this machine and on its processors. Then Ray is started by what cannot do without it."""
    is_joined = not _is_own if ray.is_initialized() else places.cluster() is not None
    return not is_joined and not _here().num_gpus


def start_ray() -> None:
    """Join the cluster that RAY_ADDRESS or a running `ray start` names, or start one on this machine.

    May be called by several threads: one starts, the others wait for it, and share its failure. Raises StorageError.
    """
    global _failure
    asked = time.monotonic()
    with _starting, _handlers_kept():
        if ray.is_initialized():
            return
        if _failure is not None and _failure[0] > asked:
            raise _failure[1]
        try:
            _start_or_join()
        except StorageError as error:
            _failure = time.monotonic(), error
            raise
        threading.Thread(target=_beat, daemon=True, name="beat").start()


def _start_or_join() -> None:
    global _is_own
    _prepare_environment()
    address = places.cluster()
    _is_own = address is None
    if address is not None:
        _join(address)
    else:
        _start_here()
    _quieten()


def _beat() -> None:
    """For as long as this Ray is the process's, and answers."""
    with contextlib.suppress(Exception):
        while ray.is_initialized():
            ray.nodes()
            guard.beat()
            time.sleep(_BEAT_SECONDS)


def _join(address: Address) -> None:
    address.require_answer()
    try:
        _in_time(functools.partial(ray.init, address.text, **_options()), _JOIN_SECONDS)
    except StorageError as error:
        raise StorageError(
            f"{address}, no answer for {_JOIN_SECONDS:.0f} s: it stands still, or its token may be missing here, or "
            "another: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from error
    except Exception as error:
        raise StorageError(f"{address}: {_advice(error)}") from error


def _start_here() -> None:
    """A Ray of this process, with a token that nobody else has to know."""
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray puts one into the home folder
    folder = places.session_folder()
    for is_last in (False, True):
        try:
            _in_time(
                functools.partial(ray.init, "local", num_cpus=num_cpus(), _temp_dir=folder, **_options()),
                _START_SECONDS,
            )
            return
        except StorageError:
            raise
        except Exception as error:  # under load Ray gives up its own start too early
            ray.shutdown()
            if is_last:
                raise StorageError(
                    f"expected Ray to start on this machine (in {folder}), got {_line(error)}"
                ) from error


def num_cpus() -> int:
    """That may be used: of the control group, as Ray counts them, and of the affinity (taskset, Slurm)."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(int(ray._private.utils.get_num_cpus(override_docker_cpu_warning=True)), usable), 1)


def _prepare_environment() -> None:
    # Ray Train polls its workers every two seconds, which is longer than an epoch on features takes.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "120")
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "1800")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("PYTHONUTF8", "1")  # names of files and classes in any locale


def _options() -> dict[str, Any]:
    quiet = {} if console.is_verbose() else {"logging_level": logging.CRITICAL, "log_to_driver": False}
    return {"include_dashboard": False, **quiet}


def _quieten() -> None:
    import ray.data

    if not console.is_verbose():
        ray.data.DataContext.get_current().enable_progress_bars = False
        for name in ("ray.data", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong there comes back as an exception
        # What raylets say of lost tasks Ray prints on stdout, whatever it is told of logging.
        ray._private.worker.print_to_stdstream = _say_nothing


def _say_nothing(data: object, ignore_prefix: bool) -> None:
    """In the place of Ray's printing."""


def _in_time(start: Callable[[], object], seconds: float) -> None:
    """Call in a thread that stays: Linux ends Ray's processes with the thread that started them."""
    ended: queue.Queue[BaseException | None] = queue.Queue()

    def run() -> None:
        try:
            start()
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)
            threading.Event().wait()

    threading.Thread(target=run, daemon=True, name="ray").start()
    try:
        error = ended.get(timeout=seconds)
    except queue.Empty:
        raise StorageError(f"expected Ray to start within {seconds:.0f} s, it did not") from None
    if error is not None:
        raise error


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray, in whatever thread it starts, puts handlers of its own into the main one: one ends the process in mid-step,
    one aborts it if it takes three seconds to end."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _advice(error: Exception) -> str:
    text = _line(error)
    if "Version mismatch" in text:
        return f"another Ray or Python there ({text}): install the same here"
    # Something listens there: a token that is refused is no more than a failure to connect.
    if isinstance(error, AuthenticationError) or "Failed to connect" in text or "token" in text.lower():
        return f"its token may be missing here, or another ({text}): set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    return f"got {text}: RAY_ADDRESS=local starts a Ray of its own"


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@causes()
def wait_for_room(bundles: Sequence[Mapping[str, float]], seconds: float) -> None:
    """Until the cluster has all of these resources free at once: nodes may have to come, other jobs to end.

    Says after ten seconds what it waits for, and every minute. Raises StorageError after so many seconds. Where no Ray
    is started, there is nobody to wait for.
    """
    if not ray.is_initialized():
        return
    free = ray.available_resources()
    wanted = {name: sum(bundle.get(name, 0) for bundle in bundles) for name in ("CPU", "GPU")}
    if all(free.get(name, 0) >= number for name, number in wanted.items()):
        return
    what = " and ".join(f"{number:g} {name}{'s' * (number != 1)}" for name, number in wanted.items() if number)
    room = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")  # what an autoscaler sees
    try:
        started, patience = time.monotonic(), min(_FIRST_WORD_SECONDS, seconds)
        while not room.wait(patience):
            waited = time.monotonic() - started
            has = f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs are free"
            if waited >= seconds:
                raise StorageError(
                    f"expected {what} to become free, after {waited:.0f} s {has}: add nodes, or wait longer "
                    "(--wait-seconds)"
                )
            console.warn(f"waiting for {what}: {has}")
            patience = min(_NEXT_WORD_SECONDS, seconds - waited)
            free = ray.available_resources()
    finally:
        remove_placement_group(room)


@causes()
def nodes() -> Nodes:
    """What the cluster has at this moment; where no Ray is started, this machine."""
    if not ray.is_initialized():
        return Nodes((_here(),))
    here = ray.get_runtime_context().get_node_id()
    return Nodes(
        tuple(
            Node(
                node["Resources"].get("CPU", 0),
                node["Resources"].get("GPU", 0),
                id=node["NodeID"],
                host=node["NodeManagerHostname"],
                gib_of_gpu=_gib_of_gpu() if node["NodeID"] == here else 0.0,
            )
            for node in ray.nodes()
            if node["Alive"]
        )
    )


def join(files: Sequence[str], folders: Sequence[str], wait_seconds: float) -> None:
    """Start Ray unless this machine is alone; see to it that there is a CPU, and that all nodes see what they need."""
    if is_alone():
        return
    start_ray()
    wait_for_room([{"CPU": 1}], wait_seconds)
    require_shared(files, folders)
    require_gpus()


def _here() -> Node:
    """This machine, with what a Ray that is started here counts."""
    manager, count = ResourceAndLabelSpec._get_current_node_accelerator(None, {})
    has_gpus = manager is not None and manager.get_resource_name() == "GPU"
    return Node(num_cpus(), count if has_gpus else 0, gib_of_gpu=_gib_of_gpu())


@functools.cache
def _gib_of_gpu() -> float:
    """Memory of the smallest GPU of this machine; 0.0 where there is none, or not NVIDIA's."""
    try:
        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return float(min((pynvml.nvmlDeviceGetMemoryInfo(handle).total for handle in handles), default=0) / 2**30)
    except pynvml.NVMLError:
        return 0.0


def pool(workers: tuple[int, int] | None, num_chunks: int | None, decode: DecodeChoice) -> Pool:
    """What is to work on so many chunks: actors, or where they are few, and this machine alone, a child without Ray.

    None: on very many.
    """
    is_few = num_chunks is not None and num_chunks <= FEW_CHUNKS and not ray.is_initialized() and is_alone()
    child = nodes().child(workers, decode) if is_few else None
    return child or nodes().pool(workers, sys.maxsize if num_chunks is None else num_chunks, decode)


@causes()
def require_shared(files: Sequence[str], folders: Sequence[str]) -> None:
    """Raise UsageError where a node that computes does not see a file, or what is written into a folder.

    Copies of a file are as good as the file. What is on object stores is seen by all; one node alone is not asked.
    """
    if not ray.is_initialized():
        return
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
                        "storage that all nodes mount, or give a URI (s3://, gs://, az://)"
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
            yield asked[answer], ray.get(answer, timeout=_LOOK_SECONDS)


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


def require_gpus() -> None:
    """Raise UsageError where Ray counts GPUs that torch cannot use; for what would learn it after hours of work."""
    if not ray.is_initialized() or not nodes().has_gpus:
        return
    look = ray.remote(_require_gpu).options(num_cpus=0, num_gpus=1)
    with causes():
        answers, _ = ray.wait([look.remote()], timeout=_LOOK_SECONDS)
        ray.get(answers, timeout=_LOOK_SECONDS)


def _require_gpu() -> None:
    from tlearn.network import device

    device.require_gpu()
