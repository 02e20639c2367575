"""Independent tasks on a real Ray: every one once, whatever dies; an error of ours is that error."""

import os
from pathlib import Path

import pytest

from tlearn.distributed import tasks
from tlearn.errors import StorageError, TrainingError

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]


def dies_once(canary: str) -> str:
    if not Path(canary).exists():
        Path(canary).touch()
        os._exit(1)
    return Path(canary).name


def dies(_: str) -> None:
    os._exit(1)


def fails(_: str) -> None:
    raise TrainingError("expected a loss that is a number")


def test_a_task_whose_process_dies_is_given_again(tmp_path: Path) -> None:
    todo = {number: str(tmp_path / f"{number}") for number in range(3)}
    assert dict(tasks.run(dies_once, todo, 1, 0, 3)) == {0: "0", 1: "1", 2: "2"}


def test_what_dies_always_or_is_an_error_of_ours_ends_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="expected Ray to run as long as the command"):
        list(tasks.run(dies, {0: ""}, 1, 0, 1))
    with pytest.raises(TrainingError, match=r"^expected a loss that is a number$"):
        list(tasks.run(fails, {0: "", 1: ""}, 1, 0, 1))
