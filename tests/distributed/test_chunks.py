"""An actor pool on a real Ray: every chunk once, whatever dies."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tlearn.distributed import pool as chunks
from tlearn.distributed.chunks import Chunk
from tlearn.distributed.pool import Pool
from tlearn.errors import IntegrityError, TrainingError

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]

CHUNKS = [Chunk(f"chunk-{number}", pa.table({"path": [f"{number}.jpg"]})) for number in range(12)]
POOL = Pool(2, 1, 0)


class Echo:
    def __call__(self, chunk: Chunk) -> dict[str, Any]:
        return {"chunk": chunk.id, "path": chunk.rows["path"][0].as_py()}


class DiesOnce:
    """Ends its process at chunk 5, unless it, or an earlier process, has done so already."""

    def __init__(self, canary: str):
        self.canary = Path(canary)

    def __call__(self, chunk: Chunk) -> dict[str, Any]:
        if chunk.id == "chunk-5" and not self.canary.exists():
            self.canary.touch()
            os._exit(1)
        return {"chunk": chunk.id}


class AlwaysDies:
    def __call__(self, chunk: Chunk) -> dict[str, Any]:
        os._exit(1)


class CannotStart:
    def __init__(self) -> None:
        raise IntegrityError("expected one thing, got another: mend it")


def test_every_chunk_is_worked_on_once() -> None:
    results = list(chunks.run(CHUNKS, f"{__name__}:Echo", {}, POOL))
    assert sorted((one["chunk"], one["path"]) for one in results) == sorted(
        (chunk.id, chunk.rows["path"][0].as_py()) for chunk in CHUNKS
    )


def test_no_chunk_is_lost_with_an_actor(tmp_path: Path) -> None:
    results = list(chunks.run(CHUNKS, f"{__name__}:DiesOnce", {"canary": str(tmp_path / "canary")}, POOL))
    assert sorted(one["chunk"] for one in results) == sorted(chunk.id for chunk in CHUNKS)


def test_actors_that_always_die_end_the_job() -> None:
    with pytest.raises(TrainingError, match="4 died one after the other"):
        list(chunks.run(CHUNKS, f"{__name__}:AlwaysDies", {}, Pool(1, 1, 0)))


def test_an_error_of_ours_at_the_start_of_an_actor_comes_back_as_it_is() -> None:
    with pytest.raises(IntegrityError, match=r"^expected one thing, got another: mend it$"):
        list(chunks.run(CHUNKS, f"{__name__}:CannotStart", {}, POOL))


def test_more_workers_than_the_cluster_has_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at most"):
        chunks.pool((1000, 1000), 5)


def set_nodes(monkeypatch: pytest.MonkeyPatch, *nodes: tuple[int, int]) -> None:
    """(CPUs, GPUs) of each."""
    found = [{"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}} for cpus, gpus in nodes]
    found.append({"Alive": False, "Resources": {"CPU": 100.0, "GPU": 100.0}})
    monkeypatch.setattr(chunks.ray, "nodes", lambda: found)
    alive = [node["Resources"] for node in found if node["Alive"]]
    resources = {name: sum(one[name] for one in alive) for name in ("CPU", "GPU")}
    monkeypatch.setattr(chunks.ray, "cluster_resources", lambda: resources)


def test_a_pool_asks_for_as_many_as_are_wanted_and_fits_those_that_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    set_nodes(monkeypatch, (8, 1))
    assert chunks.pool((1, 4), 100) == Pool(4, 8, 1, workers=(1, 4))
    with pytest.raises(ValueError, match="expected at most 1 workers"):
        chunks.pool((2, 4), 100)


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
    workers: tuple[int, int] | None,
    then: list[tuple[int, int]],
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_nodes(monkeypatch, (4, 0), (4, 0))
    pool = chunks.pool(workers, 100)
    set_nodes(monkeypatch, *then)
    fitted = chunks._refitted(pool, 100)
    assert (fitted.num_actors, fitted.cpus_per_actor) == expected


@pytest.mark.parametrize(
    ("nodes", "num_workers", "on_gpus", "expected"),
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
    nodes: list[tuple[int, int]], num_workers: int, on_gpus: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_nodes(monkeypatch, *nodes)
    assert chunks.cpus_of_each(num_workers, on_gpus=on_gpus) == expected
