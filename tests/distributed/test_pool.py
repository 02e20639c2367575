"""An actor pool on a real Ray: every chunk once, whatever dies."""

from pathlib import Path

import pytest
import ray
from processes import wait_for
from works import CHUNKS

from tlearn import console
from tlearn.distributed import launch, pool
from tlearn.distributed.chunks import ChunkResult
from tlearn.distributed.nodes import Pool
from tlearn.errors import IntegrityError, StorageError, TrainingError

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]

POOL = Pool(2, 1, 0)


def test_every_chunk_is_worked_on_once() -> None:
    results = list(pool.run(CHUNKS, "works:Count", 7, Pool(1, 2, 0)))
    assert len(results) == 12
    assert set(results) == {ChunkResult(f"chunk-{number}", 100, 7 + number) for number in range(12)}


def test_no_chunk_is_lost_with_an_actor(tmp_path: Path) -> None:
    results = list(pool.run(CHUNKS, "works:DiesOnce", str(tmp_path / "canary"), POOL))
    assert sorted(result.chunk for result in results) == sorted(chunk.id for chunk in CHUNKS)


def test_no_chunk_is_lost_with_an_actor_that_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_LEAST_SECONDS", 2.0)
    monkeypatch.setattr(pool, "_TIMES_SLOWEST", 1)
    monkeypatch.setattr(pool, "_TIMES_FIRST", 0)
    canary = tmp_path / "canary"
    results = list(pool.run(CHUNKS, "works:StandsStillOnce", str(canary), POOL))
    assert sorted(result.chunk for result in results) == sorted(chunk.id for chunk in CHUNKS)
    process = int(canary.read_text())
    wait_for(lambda: not Path(f"/proc/{process}").exists())


def test_actors_are_ended_where_their_results_are_not_wanted_any_more(tmp_path: Path) -> None:
    results = pool.run(CHUNKS, "works:Count", 7, Pool(1, 2, 0))
    next(results)
    results.close()  # type: ignore[attr-defined]
    wait_for(lambda: ray.available_resources().get("CPU") == 2)


def test_room_that_does_not_come_is_said_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "_FIRST_WORD_SECONDS", 0.2)
    wait_for(lambda: ray.available_resources().get("CPU") == 2)
    launch.wait_for_room([{"CPU": 1}], 0)
    with console.shown(), pytest.raises(StorageError, match=r"expected 3 CPUs to become free, .*--wait-seconds"):
        launch.wait_for_room([{"CPU": 3}], 0.5)
    assert "waiting for 3 CPUs: 2 CPUs and 0 GPUs are free" in capsys.readouterr().err
    wait_for(lambda: ray.available_resources().get("CPU") == 2)


def test_actors_that_always_die_end_the_job() -> None:
    with pytest.raises(TrainingError, match="4 died one after the other"):
        list(pool.run(CHUNKS, "works:AlwaysDies", None, POOL))


def test_an_error_of_ours_at_the_start_of_an_actor_comes_back_as_it_is() -> None:
    with pytest.raises(IntegrityError, match=r"^expected one thing, got another: mend it$"):
        list(pool.run(CHUNKS, "works:CannotStart", None, POOL))


def test_the_cluster_has_what_ray_was_started_with() -> None:
    nodes, resources = launch.nodes(), ray.cluster_resources()
    assert (nodes.num_cpus, nodes.num_gpus) == (resources["CPU"], resources.get("GPU", 0))
    assert [node.id for node in nodes.nodes] == [ray.get_runtime_context().get_node_id()]
