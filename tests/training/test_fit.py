"""What a person sees of a training run while it goes on."""

import contextlib
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray import exceptions
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal import exceptions as inner

from tlearn.errors import LockedError, StorageError, TlearnError, TrainingError
from tlearn.training import checkpoint, failures, ray_train, worker
from tlearn.training.checkpoint import Epoch
from tlearn.training.worker import Attempt

CODE = """
import sys
from tlearn import console
from tlearn.training import live
from tlearn.training.run import opened

folder = sys.argv[1]
with console.shown(), opened(f"{folder}/run") as run, live.followed(f"{folder}/metrics.jsonl", run, 1, 0):
    pass
"""
EPOCH = Epoch(1, 1, 0.1, 20, 0.5, 0.5, 0.5, 0.5, 1, 2.0)


@pytest.mark.slow
def test_every_epoch_is_passed_on_and_tensorboard_does_without_tensorflow(tmp_path: Path) -> None:
    line = checkpoint.lines([EPOCH])
    (tmp_path / "metrics.jsonl").write_text(line)
    (tmp_path / "tensorflow.py").write_text("raise AssertionError('tensorflow is imported')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("epoch   1 of 1: train loss 0.5000") and said.stderr == ""
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == line
    (events,) = (tmp_path / "run").glob("events.out.tfevents.*")
    assert b"val_accuracy" in events.read_bytes()


class Wrapped(Exception):
    def __init__(self, name: str, error: Exception):
        super().__init__(str(error))
        setattr(self, name, error)


FULL = OSError(errno.ENOSPC, "no room")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TrainingError("loss"), TrainingError),
        (Wrapped("_base_exc", LockedError("held")), LockedError),
        (Wrapped("controller_failure", StorageError("full")), StorageError),
        (Wrapped("controller_failure", Wrapped("cause", FULL)), StorageError),
        (WorkerGroupError("failed", {0: Wrapped("_base_exc", FULL)}), StorageError),
        (OSError(errno.EIO, "perhaps it passes"), None),
        (RuntimeError("a worker was killed"), None),
        (WorkerGroupError("failed", {1: RuntimeError("a worker was killed")}), None),
    ],
)
def test_an_error_of_ours_is_found_in_what_ray_wraps_around_it_and_is_not_tried_again(
    error: Exception, kind: type[TlearnError] | None
) -> None:
    found = failures.ours(error)
    assert type(found) is (kind or type(None))
    with contextlib.nullcontext() if kind is None else pytest.raises(kind):
        ray_train._Final(is_remote=False).after_exception(None, {0: error})
    with contextlib.nullcontext() if kind in (None, StorageError) else pytest.raises(kind):
        ray_train._Final(is_remote=True).after_exception(None, {0: error})  # an object store may answer again


ADVICE = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR. Consider this. And that."
)
DIED = exceptions.ActorDiedError(ActorDiedErrorContext(error_message=ADVICE, actor_id=bytes(16), class_name="Worker"))
OOM = exceptions.OutOfMemoryError(ADVICE)
FAILED_START = exceptions.RayTaskError("__init__", "Traceback\nValueError: of ours", ValueError("of ours"))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (DIED, "a process was lost"),
        (exceptions.RayActorError(), "a process was lost"),
        (exceptions.ActorUnavailableError(ADVICE, bytes(16)), "a process could not be reached"),
        (exceptions.WorkerCrashedError(), "a process was lost"),
        (exceptions.NodeDiedError(ADVICE), "a node was lost"),
        (exceptions.LocalRayletDiedError(), "a node was lost"),
        (exceptions.OwnerDiedError("ab", b"", ""), "a node was lost"),
        (OOM, "memory on its node (fewer --workers"),
        (inner.WorkerHealthCheckFailedError("poll failed", OOM), "memory on its node (fewer --workers"),
        (inner.WorkerHealthCheckTimeoutError("no answer"), "a process gave no answer"),
        (inner.WorkerGroupStartupTimeoutError(2), "did not start in time"),
        (inner.WorkerGroupStartupFailedError(ADVICE), "lost while it started"),
        (inner.BroadcastCollectiveTimeoutError(1.0, [0], 1.0), "waited for each other"),
        (ControllerError(DIED), "a process was lost"),
        (WorkerGroupError(ADVICE, {1: inner.WorkerHealthCheckFailedError("poll", DIED)}), "worker 1: a process was"),
        (WorkerGroupError(ADVICE, {0: ValueError("odd\nvery odd")}), "worker 0: ValueError: very odd"),
        (exceptions.ActorDiedError(FAILED_START), "ActorDiedError: ValueError: of ours"),
        (ValueError(), "ValueError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_was_lost_is_said_in_a_short_sentence_without_rays_advice(error: Exception, says: str) -> None:
    said = failures.root_cause(error)
    assert said.startswith(says) or says in said
    assert len(said) < 160 and "onsider" not in said and "RAY_" not in said and ".log" not in said and "\n" not in said


def test_a_run_that_is_stopped_waits_for_a_checkpoint_within_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = iter([("epoch", 0), ("within", 3)])

    def sleep(_: float) -> None:
        name, start = next(coming)
        (tmp_path / name).mkdir()
        content = {"digest": "", "start": start, "sums": [0, 0, 0], "history": [], "sha256": {}}
        (tmp_path / name / "progress.json").write_text(json.dumps(content))

    monkeypatch.setattr(worker.time, "sleep", sleep)
    job: Any = None
    Attempt(job, str(tmp_path), 1, None, f"{tmp_path}/lease.json", "").stop()
    assert next(coming, None) is None and (tmp_path / "stop").exists()
