"""What follows a run elsewhere while it goes on: TensorBoard beside it, MLflow and Weights & Biases from outside.

These two read what the run leaves in its folder anyway, each in a process of its own. Whatever becomes of one (no
server, no key, no answer) costs a warning and, at the end of the run, a limited time.
"""

import contextlib
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tlearn import storage
from tlearn.config import TrainConfig
from tlearn.console import warn
from tlearn.errors import UsageError
from tlearn.training import board
from tlearn.training.run import RunFolder

_END_SECONDS = {"finished": 30.0, "stopped": 5.0}
"""For what is still on its way when a run ends."""


def require(trackers: Sequence[str]) -> None:
    """Raise UsageError for a tracker that lacks its package, or does not know where to."""
    for name in trackers:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder of that name, which the trackers themselves make
            raise UsageError(f"expected {name} for --track {name}, found none: pip install 'tlearn[{name}]'")
    if "mlflow" in trackers and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UsageError("expected MLFLOW_TRACKING_URI for --track mlflow, got none: a server's address, or file:DIR")


@contextlib.contextmanager
def tracked(config: TrainConfig, run: RunFolder) -> Iterator[None]:
    """Let the trackers follow the run while the block trains it and publishes it."""
    names = [name for name in config.track if name != "tensorboard"]
    trackers = [_start(name, run, _identity(run)) for name in dict.fromkeys(names)]
    outcome = "stopped"
    try:
        yield
        outcome = "finished"
    finally:
        _end(trackers, outcome)
    if "tensorboard" in config.track:
        try:
            board.write_result(run.path)
            run.workplace.upload()
        except Exception as error:  # the run is finished, whatever TensorBoard says
            warn(f"WARNING: not all of the result is in TensorBoard: {type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class _Tracker:
    name: str
    process: subprocess.Popen[str]
    said: IO[bytes]
    """Its stderr."""
    watch: threading.Thread


def _start(name: str, run: RunFolder, identity: str) -> _Tracker:
    title = run.location.rpartition("/")[2]
    places = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}
    if not storage.is_remote(run.location):
        places["WANDB_DIR"] = os.environ.get("WANDB_DIR", str(run.path))
    said = tempfile.TemporaryFile()  # noqa: SIM115  closed by who watches
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tlearn.training.trackers", name, str(run.path), identity, title],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=said,
        env=os.environ | places,
        text=True,
        start_new_session=True,  # Ctrl-C is ours: the tracker is told how the run has ended
    )
    watch = threading.Thread(target=_watch, args=(name, process, said), daemon=True)
    watch.start()
    return _Tracker(name, process, said, watch)


def _watch(name: str, process: subprocess.Popen[str], said: IO[bytes]) -> None:
    """Wait for the end of a tracker, and say why where it is none that it should have."""
    code = process.wait()
    with said:
        said.seek(0)
        lines = [line for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    if code:
        why = (
            "it gave no answer" if code == -signal.SIGKILL else lines[-1].strip() if lines else f"it ended with {code}"
        )
        warn(f"WARNING: --track {name} does not follow this run: {why}")


def _end(trackers: Sequence[_Tracker], outcome: str) -> None:
    """Say how the run has ended, and wait; not for long."""
    for tracker in trackers:
        assert tracker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError), tracker.process.stdin as stdin:
            stdin.write(outcome)
    deadline = time.monotonic() + _END_SECONDS[outcome]
    for tracker in trackers:
        tracker.watch.join(max(deadline - time.monotonic(), 0.0))
        if tracker.watch.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(tracker.process.pid, signal.SIGKILL)
            tracker.watch.join(5.0)


def _identity(run: RunFolder) -> str:
    """By what the trackers know the run: drawn once, and kept in it."""
    location = storage.join(run.location, "tracking.json")
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(storage.read_json(location)["id"])
    identity = secrets.token_hex(4)
    storage.write_bytes(location, json.dumps({"id": identity}).encode())
    return identity
