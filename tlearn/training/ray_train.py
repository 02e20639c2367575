"""An attempt by Ray Train: workers anywhere on the cluster, on GPUs or CPUs, their number fixed or not.

On one machine with one worker and no GPU, alone.py does the same without its start.
"""

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer

from tlearn import storage
from tlearn.distributed import launch
from tlearn.training import checkpoint, failures, worker
from tlearn.training.loop import Worker
from tlearn.training.worker import Attempt, Reached, Workers

_RESIZE_SECONDS = 30.0
"""How often it is looked whether the cluster has room for more workers, where their number may vary."""


def learn(attempt: Attempt, workers: Workers) -> None:
    """Learn to the end; at Ctrl-C to a checkpoint within the epoch. Raises what Ray Train does."""
    config = attempt.job.config
    launch.start_ray()
    launch.wait_for_room(workers.bundles, config.wait_seconds)
    root, _, name = attempt.folder.rpartition("/")
    system, path = storage.filesystem(root)
    trainer = _Trainer(
        run,
        train_loop_config={"attempt": attempt},
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers,  # type: ignore[arg-type]
            use_gpu=workers.use_gpu,
            resources_per_worker=workers.bundles[0],
            elastic_resize_monitor_interval_s=_RESIZE_SECONDS,  # type: ignore[call-arg]
        ),
        run_config=RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=system,
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="val_loss", checkpoint_score_order="min"
            ),  # and the last one is always kept
            callbacks=[_Final(storage.is_remote(root))],  # type: ignore[list-item]
            failure_config=FailureConfig(max_failures=config.max_failures, controller_failure_limit=3),  # type: ignore[call-arg]
        ),
    )
    try:
        trainer.fit()
    except KeyboardInterrupt:  # Ctrl-C, or SIGTERM by the handler of the command line
        attempt.stop()
        raise


class _Trainer(TorchTrainer):
    """Leaves Ctrl-C to us: at Ray's own handler the workers would end without a checkpoint, and we with code 0 or 1."""

    def _register_sigint_handler(self, controller: object) -> None:
        pass


@dataclass(frozen=True)
class _Final(UserCallback):
    """Ends a run at an error of ours: another start would meet it again."""

    is_remote: bool
    """Whether the run is on an object store, where what fails may pass."""

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if final := failures.final(error, is_remote=self.is_remote):
                raise final


def run(arguments: dict[str, Any]) -> None:
    """In a worker."""
    attempt, context = arguments["attempt"], ray.train.get_context()
    device = ray.train.torch.get_device()
    with _latest_checkpoint(attempt) as folder:
        worker.learn(attempt, Worker(context.get_world_rank(), context.get_world_size(), device), folder, _report)


@contextlib.contextmanager
def _latest_checkpoint(attempt: Attempt) -> Iterator[Path | None]:
    """What this attempt has reached comes before what it may have started from."""
    latest = ray.train.get_checkpoint() or (attempt.initial and _checkpoint(attempt.initial))
    if latest:
        with latest.as_directory() as folder:
            yield Path(folder)
    else:
        yield None


def _checkpoint(folder: str) -> Checkpoint:
    system, path = storage.filesystem(folder)
    return Checkpoint(path, system)


def _report(attempt: Attempt, reached: Reached) -> None:
    """Rank 0 writes; all report, because report is a barrier."""
    history, is_epoch = reached.progress.history, reached.logits is not None
    metrics = dataclasses.asdict(history[-1]) if is_epoch else {"val_loss": sys.float_info.max}
    if reached.learner.worker.rank != 0:
        ray.train.report(metrics, checkpoint=None)
        return
    attempt.check_lease()
    with tempfile.TemporaryDirectory() as folder:
        reached.save(Path(folder))
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
    if is_epoch:
        storage.write_bytes(attempt.metrics_location, checkpoint.lines(history).encode())
