"""Ray Train: from a job to the folder of its best checkpoint, through kills and lost workers."""

import contextlib
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Iterator
from types import ModuleType

from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from tlearn import storage
from tlearn.config import TrainConfig
from tlearn.console import event, say
from tlearn.distributed import launch
from tlearn.distributed.launch import causes
from tlearn.errors import IntegrityError, TrainingError, UsageError
from tlearn.storage import Workplace
from tlearn.training import worker

_RESIZE_SECONDS = 30.0
"""How often it is looked whether the cluster has room for more workers, where their number may vary."""
_STOP_SECONDS = 20.0


def best_checkpoint(job: worker.Job, run: Workplace) -> tuple[Checkpoint, int]:
    """Train from the newest whole checkpoint to the end; returns the best one and how many epochs ran."""
    config = job.config
    root = storage.join(run.location, "checkpoints")
    found = _checkpoints(root, job.digest)
    if config.resume == "require" and not found:
        raise UsageError(f"expected a checkpoint in {root}, found none: leave out --resume require")
    num_done = 0
    if found:
        newest = found[_newest(found)]
        num_done = len(newest.history)
        within = f" and {newest.start} updates" if newest.start else ""
        say(f"resumed after epoch {num_done}{within}", quiet=config.quiet)
    if not any(progress.is_finished for progress in found.values()):
        num_workers, use_gpu, num_cpus = _training_workers(config)
        # A name of its own for every start: Ray's own index of a run does not survive a kill while it is written,
        # and workers of a killed driver live on for a moment; they go on with the folder of their attempt. Ray's
        # dashboard shows the name.
        attempt = f"{run.location.rpartition('/')[2]}-{len(storage.folders(root)) + 1:03}"
        folder = storage.join(root, attempt)
        job = dataclasses.replace(
            job,
            initial_checkpoint=_take_over(root, storage.join(folder, "initial"), job.digest) if found else None,
            num_threads=max(int(num_cpus), 1),
            metrics_path=storage.join(folder, "metrics.jsonl"),
        )
        storage.write_bytes(job.metrics_path, b"")
        system, path = storage.filesystem(root)
        trainer = TorchTrainer(
            worker.run,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(
                num_workers=num_workers,  # type: ignore[arg-type]
                use_gpu=use_gpu,
                resources_per_worker={"CPU": num_cpus, "GPU": int(use_gpu)},
                elastic_resize_monitor_interval_s=_RESIZE_SECONDS,  # type: ignore[call-arg]
            ),
            run_config=RunConfig(
                name=attempt,
                storage_path=path,
                storage_filesystem=system,
                checkpoint_config=CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute="val_loss", checkpoint_score_order="min"
                ),  # and the last one is always kept
                failure_config=FailureConfig(max_failures=config.max_failures, controller_failure_limit=3),  # type: ignore[call-arg]
            ),
        )
        with causes(), _live_metrics(job, run, num_done):
            try:
                trainer.fit()
            except KeyboardInterrupt:  # SIGTERM: Ctrl-C goes to Ray's own handler
                _checkpoint_and_stop(job, folder)
                raise
            except Exception as error:
                raise TrainingError(f"training failed: {_root_cause(error)}") from error
        found = _checkpoints(root, job.digest)
    history = max((progress.history for progress in found.values()), key=len)
    _write_metrics(run, "".join(json.dumps(line) + "\n" for line in history))
    whole = {folder: progress.history[-1]["val_loss"] for folder, progress in found.items() if not progress.start}
    return _checkpoint(min(whole, key=whole.__getitem__)), len(history)


def _checkpoint_and_stop(job: worker.Job, attempt: str) -> None:
    """Ask for a checkpoint within the epoch, and wait until it is whole; not for long, the workers may be gone too."""
    seen = {"initial", *storage.folders(attempt)}
    storage.write_bytes(job.stop_location, b"")
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline:
        for name in set(storage.folders(attempt)) - seen:
            with contextlib.suppress(IntegrityError):
                progress = worker.checkpoint_progress(storage.join(attempt, name))
                if progress.start or progress.is_finished:  # else an epoch ended before the workers looked
                    return
                seen.add(name)
        time.sleep(0.2)


def _checkpoint(folder: str) -> Checkpoint:
    system, path = storage.filesystem(folder)
    return Checkpoint(path, system)


def _newest(found: dict[str, worker.Progress]) -> str:
    return max(found, key=lambda folder: (len(found[folder].history), found[folder].start))


def _take_over(root: str, target: str, job_digest: str) -> Checkpoint:
    """Copy the newest whole checkpoint, which may vanish while we look if an earlier attempt still lives."""
    for _ in range(5):
        newest = _newest(_checkpoints(root, job_digest))
        storage.remove_folder(target)
        with contextlib.suppress(OSError, IntegrityError):
            storage.copy_folder(newest, target)
            worker.checkpoint_progress(target)
            return _checkpoint(target)
    raise IntegrityError(f"expected a checkpoint that stays in {root}, every one vanished: is another run in {root}?")


def _training_workers(config: TrainConfig) -> tuple[int | tuple[int, int], bool, float]:
    """(workers, whether on GPUs, CPUs of each): the GPUs of the cluster, or one worker with all CPUs."""
    nodes = launch.nodes()
    num_gpus, num_cpus = nodes.num_gpus, nodes.num_cpus
    use_gpu = config.device == "gpu" or (config.device == "auto" and num_gpus > 0)
    available = num_gpus if use_gpu else num_cpus
    lowest, highest = config.num_workers or (max(num_gpus, 1) if use_gpu else 1,) * 2
    if lowest > available:
        raise UsageError(
            f"expected at most {available} workers on {'GPUs' if use_gpu else 'CPUs'} ({num_cpus} CPUs, {num_gpus} "
            f"GPUs in the cluster), got {config.workers or lowest}: lower --workers, or add nodes"
        )
    cpus_of_each = nodes.cpus_of_each(min(highest, available), on_gpus=use_gpu)
    return lowest if lowest == highest else (lowest, highest), use_gpu, cpus_of_each


def _checkpoints(root: str, job_digest: str) -> dict[str, worker.Progress]:
    """Every undamaged checkpoint of this job, and how far it had come."""
    found: dict[str, worker.Progress] = {}
    damaged = []
    attempts = [storage.join(root, name) for name in storage.folders(root)]
    names = [(attempt, name) for attempt in attempts for name in storage.folders(attempt) if name != "initial"]
    for folder in [storage.join(*one) for one in names]:
        try:
            progress = worker.checkpoint_progress(folder)
        except IntegrityError as error:
            damaged.append(error)
            continue
        if progress.digest == job_digest:
            found[folder] = progress
    for damage in damaged:
        print(f"WARNING: {damage}; it is not used", file=sys.stderr, flush=True)
    return found


def _root_cause(error: BaseException) -> str:
    failures = getattr(error, "worker_failures", None)
    if failures:
        rank, failure = min(failures.items())
        return f"worker {rank}: {_root_cause(failure)}"
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


@contextlib.contextmanager
def _live_metrics(job: worker.Job, run: Workplace, num_seen: int) -> Iterator[None]:
    """Pass every line that the first worker writes on: to RUN/metrics.jsonl, to TensorBoard, to the person."""
    # Where TensorFlow is installed, TensorBoard would load it for opening files, and torch's compiler, loaded after it,
    # would end the process: both hold an LLVM. By this module TensorBoard knows that it is to do without.
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
    from torch.utils.tensorboard import SummaryWriter

    seconds = 2.0 if storage.is_remote(job.metrics_path) else 0.2  # each look there is a request
    ended = threading.Event()
    num_epochs = sum(phase.optim.num_epochs for phase in job.phases)

    def follow() -> None:
        seen = num_seen
        with SummaryWriter(str(run.path)) as board:
            while True:
                last = ended.is_set()
                text = storage.read(job.metrics_path).data.decode()
                new = [json.loads(line) for line in text.splitlines()[seen:]]
                for line in new:
                    for name in line.keys() - {"phase", "epoch", "seconds"}:
                        board.add_scalar(name, line[name], line["epoch"])
                    event("epoch", run=run.location, **line)
                    say(
                        f"epoch {line['epoch']:>3} of {num_epochs}: "
                        f"train loss {line['train_loss']:.4f} accuracy {line['train_accuracy']:.4f}, "
                        f"val loss {line['val_loss']:.4f} accuracy {line['val_accuracy']:.4f}, {line['seconds']:.1f} s",
                        quiet=job.config.quiet,
                    )
                seen += len(new)
                if new:
                    board.flush()
                    _write_metrics(run, text)
                if last:
                    return
                ended.wait(seconds)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _write_metrics(run: Workplace, lines: str) -> None:
    storage.write_bytes(str(run.path / "metrics.jsonl"), lines.encode())
    run.upload()
