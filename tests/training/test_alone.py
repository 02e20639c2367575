"""An attempt without Ray: workers that die at every checkpoint, or are killed, learn what an undisturbed one does."""

import dataclasses
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alone as doubles
import pytest
import torch
from processes import wait_for
from safetensors.torch import load_file
from test_worker import CONFIG, attempt

from tlearn.distributed.child import Child, Died
from tlearn.errors import StorageError
from tlearn.training import alone, checkpoint
from tlearn.training.checkpoint import Position
from tlearn.training.worker import Attempt, Job, Reached

assert attempt  # a fixture, for the tests below


def with_settings(attempt: Attempt, folder: Path, **settings: Any) -> Attempt:
    config = dataclasses.replace(attempt.job.config, **settings)
    return dataclasses.replace(attempt, folder=str(folder), job=dataclasses.replace(attempt.job, config=config))


def learned(attempt: Attempt) -> tuple[dict[str, torch.Tensor], Position]:
    """What the newest checkpoint holds; there are no more than it and the best."""
    found = checkpoint.whole_of(attempt.folder, "digest")
    assert found.keys() == checkpoint.useful(found)
    newest = checkpoint.newest(found)
    tensors = {path.name: load_file(path) for path in Path(newest).glob("*.safetensors")}
    flat = {f"{file} {name}": tensor for file, named in tensors.items() for name, tensor in named.items()}
    return flat, found[newest]


def require_same(one: Attempt, other: Attempt) -> None:
    (tensors, position), (expected, undisturbed) = learned(one), learned(other)
    assert position.is_finished and tensors.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
    assert [dataclasses.replace(epoch, seconds=0) for epoch in position.history] == [
        dataclasses.replace(epoch, seconds=0) for epoch in undisturbed.history
    ]


KEEPER = alone._Keeper


def dying(found: dict[str, Position]) -> Callable[..., None]:
    """Keeps a checkpoint, and dies in the middle of the next one."""

    def keep(attempt: Attempt, reached: Reached) -> None:
        KEEPER(found)(attempt, reached)
        progress = reached.progress
        if not progress.is_finished:
            torn = Path(attempt.folder, f"checkpoint_{len(progress.history):04}_{progress.start + 1:06}")
            torn.mkdir()
            (torn / "optimizer.pt").write_bytes(b"half")
            raise Died("SIGKILL")

    return keep


@pytest.fixture
def undisturbed(attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """In this process."""
    monkeypatch.setattr(alone, "Child", doubles.Child)
    undisturbed = with_settings(attempt, tmp_path / "undisturbed", checkpoint_every_seconds=None)
    alone.learn(undisturbed)
    return undisturbed


def test_a_worker_that_dies_after_every_checkpoint_learns_the_same(
    undisturbed: Attempt, attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "_Keeper", dying)
    disturbed = with_settings(attempt, tmp_path / "disturbed", max_failures=100)
    alone.learn(disturbed)
    require_same(disturbed, undisturbed)
    assert Path(disturbed.metrics_location).read_text().count("\n") == len(learned(disturbed)[1].history)


def test_another_attempt_goes_on_from_the_checkpoint_that_it_is_given(
    undisturbed: Attempt, attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "_Keeper", dying)
    first = with_settings(attempt, tmp_path / "first", max_failures=2)
    with pytest.raises(Died):
        alone.learn(first)
    monkeypatch.setattr(alone, "_Keeper", KEEPER)
    found = checkpoint.whole_of(first.folder, "digest")
    second = with_settings(attempt, tmp_path / "second")
    alone.learn(dataclasses.replace(second, initial=checkpoint.newest(found)))
    require_same(second, undisturbed)


class Mortal(Child):
    """Killed when it has left something more in its folder, twice."""

    num_lives = 2

    def __enter__(self) -> Child:
        child, attempt = super().__enter__(), pickle.loads(self._request)[1]
        if Mortal.num_lives:
            Mortal.num_lives -= 1
            before = set(os.listdir(attempt.folder)) if os.path.exists(attempt.folder) else set()
            threading.Thread(target=self.kill_after, args=(attempt.folder, before)).start()
        return child

    def kill_after(self, folder: str, before: set[str]) -> None:
        wait_for(lambda: os.path.exists(folder) and set(os.listdir(folder)) - before)
        self.kill()


@pytest.mark.slow
def test_a_killed_process_learns_the_same(
    undisturbed: Attempt, attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "Child", Mortal)
    monkeypatch.setattr(Mortal, "num_lives", 2)
    killed = with_settings(attempt, tmp_path / "killed", max_failures=2)
    alone.learn(killed)
    assert not Mortal.num_lives
    require_same(killed, undisturbed)


@pytest.mark.parametrize(
    ("error", "num_starts"),
    [(Died("SIGKILL"), 3), (RuntimeError("odd"), 3), (StorageError("full"), 1), (OSError(28, "full"), 1)],
)
def test_what_another_start_would_meet_again_ends_the_attempt(
    error: Exception, num_starts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []

    def start(attempt: Attempt) -> None:
        starts.append(1)
        raise error

    monkeypatch.setattr(alone, "_learned", start)
    job = Job(dataclasses.replace(CONFIG, max_failures=2), "digest", 2, 1, (), ())
    with pytest.raises(type(error)):
        alone.learn(Attempt(job, str(tmp_path), 1, None, "", ""))
    assert len(starts) == num_starts
