"""An attempt by one worker on this machine: a child process and a folder of checkpoints, without Ray.

It learns what one worker of Ray Train learns, bit for bit, and leaves the same folders, from which either goes on; Ray
and Ray Train take longer to start than a head on cached features takes to learn.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from tlearn import storage
from tlearn.distributed.child import Child
from tlearn.training import checkpoint, failures, worker
from tlearn.training.checkpoint import Position
from tlearn.training.loop import Worker
from tlearn.training.worker import Attempt, Reached


def learn(attempt: Attempt) -> None:
    """Learn to the end; at Ctrl-C to a checkpoint within the epoch. A worker that fails is started again, as often as
    the settings say, from its last checkpoint. Raises what it raises, and child.Died."""
    is_remote = storage.is_remote(attempt.folder)
    for left in range(attempt.job.config.max_failures, -1, -1):
        try:
            _learned(attempt)
        except Exception as error:
            if not left or failures.final(error, is_remote=is_remote):
                raise
        else:
            return


def _learned(attempt: Attempt) -> None:
    with Child(_run, attempt) as child:
        try:
            for _ in child.results():
                pass
        except KeyboardInterrupt:  # Ctrl-C, or SIGTERM by the handler of the command line
            attempt.stop()
            raise


def _run(attempt: Attempt) -> Iterator[None]:
    """In the child."""
    found = checkpoint.whole_of(attempt.folder, attempt.job.digest)
    start = checkpoint.newest(found) if found else attempt.initial
    with contextlib.nullcontext() if start is None else checkpoint.opened(start) as folder:
        worker.learn(attempt, Worker(), folder, _Keeper(found))
    yield from ()


@dataclass(frozen=True, slots=True)
class _Keeper:
    """Writes the checkpoints, and keeps the best and the newest of them."""

    found: dict[str, Position]
    """By folder."""

    def __call__(self, attempt: Attempt, reached: Reached) -> None:
        attempt.check_lease()
        progress = reached.progress
        folder = storage.join(attempt.folder, f"checkpoint_{len(progress.history):04}_{progress.start:06}")
        with storage.workplace(folder) as place:
            place.path.mkdir(parents=True, exist_ok=True)
            reached.save(place.path)
            place.upload(last="progress.json")
        self.found[folder] = progress
        for other in self.found.keys() - checkpoint.useful(self.found):
            del self.found[other]
            storage.remove_folder(other)
        if reached.logits is not None:
            storage.write_bytes(attempt.metrics_location, checkpoint.lines(progress.history).encode())
