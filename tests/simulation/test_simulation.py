"""Scoring keeps its promises in thousands of worlds in which everything fails, each made from a number."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
import simulate
from processes import PYTHONPATH

AT_ONCE = 250


@pytest.fixture(scope="module", autouse=True)
def seams() -> Iterator[None]:
    with simulate.seams():
        yield


@pytest.mark.parametrize("first", range(0, 2000, AT_ONCE))
def test_no_promise_is_broken(first: int, request: pytest.FixtureRequest) -> None:
    seed = request.config.getoption("--seed", None)
    for number in range(first, first + AT_ONCE) if seed is None else [seed]:
        world = simulate.simulate(number)
        if world.schedule.violation is not None:
            pytest.fail(simulate.told(world), pytrace=False)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_promise_is_broken_in_many_worlds() -> None:
    starts = range(2000, int(os.environ.get("TLEARN_SEEDS", "10000")), AT_ONCE)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        broken = pool.map(simulate.first_violation, [range(start, start + AT_ONCE) for start in starts])
        assert list(filter(None, broken)) == []


KINDS = {(kind, is_growing, has_lease) for kind in ("disk", "bucket") for is_growing in (0, 1) for has_lease in (0, 1)}
OPERATIONS = {"crash", "pause", "power loss", "edit", "link", "create", "sync folder", "remove folder"}
OUTCOMES = {"503", "timed out", "500, but it is done", "AlreadyExistsError", "PreconditionError"}


def test_worlds_are_of_all_kinds() -> None:
    missing = KINDS | OPERATIONS | OUTCOMES
    for seed in range(500):  # of the rarest one world in thirty has it
        world = simulate.simulate(seed)
        missing -= {(world.kind, world.is_growing, world.has_lease)}
        missing -= {word for step in world.schedule.trace for word in (step.operation, step.outcome)}
        if not missing:
            return
    pytest.fail(f"in 500 worlds there is none of {missing}")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [5, 8])
def test_a_seed_gives_the_same_trace_in_every_process(seed: int) -> None:
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join([PYTHONPATH, *sys.path])}
    command = [sys.executable, simulate.__file__, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines() == simulate.told(simulate.simulate(seed), 10**6).splitlines()
