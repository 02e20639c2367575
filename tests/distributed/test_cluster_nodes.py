"""How many actors of which size fit on which nodes; no Ray."""

import pytest

from tlearn.distributed.nodes import ByTasks, Here, Node, Nodes, Pool, Threads
from tlearn.errors import InputError


def nodes(*sizes: tuple[int, int]) -> Nodes:
    """(CPUs, GPUs) of each."""
    return Nodes(tuple(Node(*size) for size in sizes))


def test_a_pool_asks_for_as_many_as_are_wanted_and_fits_those_that_have_room() -> None:
    assert nodes((8, 1)).pool((1, 4), 100) == Pool(4, 8, 1, workers=(1, 4))


@pytest.mark.parametrize(("sizes", "most"), [([(8, 1)], 1), ([(8, 0), (4, 0)], 12), ([(8, 2), (64, 1)], 3)])
def test_more_workers_than_the_cluster_has_are_refused(sizes: list[tuple[int, int]], most: int) -> None:
    assert nodes(*sizes).pool((most, 99), 100).num_actors == 99
    with pytest.raises(InputError, match=f"expected at most {most} workers"):
        nodes(*sizes).pool((most + 1, 99), 100)


@pytest.mark.parametrize(
    ("workers", "then", "expected"),
    [
        (None, [(4, 0)], (4, 1)),
        (None, [(4, 0)] * 3, (12, 1)),
        ((2, 2), [(2, 0)], (2, 1)),
        ((2, 2), [(8, 0)] * 2, (2, 4)),
    ],
)
def test_a_round_fits_the_nodes_that_there_are(
    workers: tuple[int, int] | None, then: list[tuple[int, int]], expected: tuple[int, int]
) -> None:
    before = nodes((4, 0), (4, 0)).pool(workers, 100)
    fitted = nodes(*then).refitted(before, 100)
    assert (fitted.num_actors, fitted.cpus_per_actor) == expected


@pytest.mark.parametrize(
    ("sizes", "workers", "num_chunks", "expected"),
    [
        ([(16, 1)], None, 100, (4, 4, 1 / 4)),
        ([(192, 8)], None, 1000, (32, 6, 1 / 4)),
        ([(4, 1)], None, 100, (2, 2, 1 / 2)),
        ([(3, 1)], None, 100, (1, 3, 1)),
        ([(8, 4)], None, 100, (4, 2, 1)),
        ([(16, 1), (4, 1)], None, 100, (4, 2, 1 / 2)),
        ([(16, 1), (64, 0)], None, 100, (4, 4, 1 / 4)),
        ([(16, 1)], None, 3, (2, 8, 1 / 2)),
        ([(16, 2)], None, 2, (2, 8, 1)),
        ([(16, 1)], None, 1, (1, 16, 1)),
        ([(16, 1)], (1, 1), 100, (1, 16, 1)),
        ([(16, 1)], (1, 4), 100, (4, 16, 1)),
        ([(8, 0)], None, 100, (8, 1, 0)),
    ],
)
def test_actors_share_a_gpu_where_their_cpus_decode_for_it(
    sizes: list[tuple[int, int]],
    workers: tuple[int, int] | None,
    num_chunks: int,
    expected: tuple[int, int, float],
) -> None:
    pool = nodes(*sizes).pool(workers, num_chunks)
    assert (pool.num_actors, pool.cpus_per_actor, pool.gpus_per_actor) == expected


@pytest.mark.parametrize(
    ("gib", "num_actors"), [(79.6, 8), (24.0, 8), (15.8, 4), (12.0, 4), (8.0, 2), (6.0, 2), (4.0, 1), (0.0, 4)]
)
def test_no_more_actors_share_a_gpu_than_its_memory_has_room_for(gib: float, num_actors: int) -> None:
    assert Nodes((Node(16, 1, gib_of_gpu=gib),)).pool(None, 100).num_actors == num_actors
    assert Nodes((Node(16, 1, gib_of_gpu=gib), Node(16, 1, gib_of_gpu=4.0))).pool(None, 100).num_actors == 2


@pytest.mark.parametrize(
    ("then", "expected"),
    [([(16, 1)], (4, 4, 1 / 4)), ([(16, 1), (4, 1)], (4, 2, 1 / 2)), ([(4, 0)], (4, 1, 1 / 4))],
)
def test_a_round_fits_the_gpus_that_there_are(then: list[tuple[int, int]], expected: tuple[int, int, float]) -> None:
    fitted = nodes(*then).refitted(nodes((16, 1), (16, 1)).pool(None, 100), 100)
    assert (fitted.num_actors, fitted.cpus_per_actor, fitted.gpus_per_actor) == expected


@pytest.mark.parametrize(
    ("sizes", "num_workers", "on_gpus", "expected"),
    [
        ([(2, 0)], 1, False, 2),
        ([(2, 0)], 2, False, 1),
        ([(1, 0), (1, 0)], 1, False, 1),
        ([(4, 0), (4, 0)], 1, False, 4),
        ([(4, 0), (4, 0)], 3, False, 2),
        ([(8, 1), (64, 0)], 1, True, 8),
        ([(8, 4), (64, 0)], 4, True, 2),
        ([(0, 0), (3, 0)], 9, False, 1),
    ],
)
def test_workers_get_the_cpus_that_a_node_has(
    sizes: list[tuple[int, int]], num_workers: int, on_gpus: bool, expected: int
) -> None:
    assert nodes(*sizes).cpus_of_each(num_workers, on_gpus=on_gpus) == expected


@pytest.mark.parametrize(
    ("size", "workers", "expected"),
    [
        ((2, 0), None, (1, 1, 0)),
        ((8, 0), None, (7, 1, 0)),
        ((8, 0), (2, 2), (2, 3, 0)),
        ((4, 0), (1, 9), (3, 1, 0)),
        ((8, 4), None, (4, 1, 1)),
        ((4, 4), None, (3, 1, 1)),
        ((96, 1), None, (1, 1, 1)),
    ],
)
def test_a_pool_keeps_a_cpu_for_tasks(
    size: tuple[int, int], workers: tuple[int, int] | None, expected: tuple[int, int, int]
) -> None:
    pool = nodes(size).pool(workers, 100, "pool")
    assert (pool.num_actors, pool.cpus_per_actor, pool.gpus_per_actor) == expected
    assert pool.num_actors * pool.cpus_per_actor < size[0]
    assert pool.threads == Threads(expected[1], ByTasks())


@pytest.mark.parametrize(
    ("num_cpus", "workers", "message"), [(1, None, "expected 2 CPUs or more"), (2, (2, 2), "at most 1 ")]
)
def test_a_pool_without_a_cpu_for_tasks_is_refused(
    num_cpus: int, workers: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        nodes((num_cpus, 0)).pool(workers, 100, "pool")


@pytest.mark.parametrize(("size", "expected"), [((4, 0), Threads(2, Here(1))), ((8, 2), Threads(4, Here(4)))])
def test_one_thread_decodes_beside_a_processor_and_several_before_a_gpu(
    size: tuple[int, int], expected: Threads
) -> None:
    assert nodes(size).pool((2, 2), 100).threads == expected


def test_a_cluster_that_states_no_cpus_has_one() -> None:
    assert nodes((0, 2)).pool(None, 100) == Pool(2, 1, 1)
