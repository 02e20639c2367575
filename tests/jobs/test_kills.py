"""Any process of a job may die at any moment; tests/benchmarks/kills.py does it more often."""

from pathlib import Path

import pytest
from kills import Job, kills
from processes import started

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.mark.parametrize("kind", ["score", "train"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_process_costs_no_row_leaves_nothing_and_ends_with_a_line(
    kind: str, workers: int, tmp_path: Path
) -> None:
    wrong = [kill for kill in kills(Job(tmp_path, kind, workers), 1, seed=1) if not kill.is_right]
    assert not wrong


def test_two_trainings_at_once_share_a_cache(tmp_path: Path) -> None:
    job = Job(tmp_path, "train")
    words = [job.command(number, cache=f"{tmp_path}/cache") for number in (1, 2)]
    with started(*words[0], RAY_ADDRESS="local") as first, started(*words[1], RAY_ADDRESS="local") as second:
        assert [process.wait(300) for process in (first, second)] == [0, 0]
    assert job.is_whole(1) and job.is_whole(2)
