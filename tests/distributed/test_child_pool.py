"""A pool that is one child of this process: every chunk once, whatever dies, without Ray."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from processes import wait_for
from works import CHUNKS

from tlearn.config import ScoreConfig
from tlearn.distributed import launch, places, pool
from tlearn.distributed.chunks import FEW_CHUNKS, FEW_IMAGES, chunk_size
from tlearn.distributed.nodes import Node, Nodes, Pool
from tlearn.distributed.places import Address
from tlearn.errors import IntegrityError, TrainingError
from tlearn.scoring import compute, job

CHILD = Pool(1, 2, 0, is_child=True)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "start_ray", lambda: pytest.fail("Ray is started"))


def test_every_chunk_is_worked_on_once_in_its_order() -> None:
    results = list(pool.run(CHUNKS, "works:Count", 7, CHILD))
    assert [(result.chunk, result.num_failed) for result in results] == [(f"chunk-{n}", 7 + n) for n in range(12)]


@pytest.mark.parametrize("work", ["DiesOnce", "StandsStillOnce"])
def test_no_chunk_is_lost_with_a_child(work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_LEAST_SECONDS", 2.0)
    monkeypatch.setattr(pool, "_TIMES_SLOWEST", 1)
    monkeypatch.setattr(pool, "_TIMES_FIRST", 0)
    canary = tmp_path / "canary"
    results = list(pool.run(CHUNKS, f"works:{work}", str(canary), CHILD))
    assert [result.chunk for result in results] == [chunk.id for chunk in CHUNKS]
    if process := canary.read_text():
        assert not Path(f"/proc/{process}").exists()


def test_a_child_ends_where_its_results_are_not_wanted_any_more(tmp_path: Path) -> None:
    results = pool.run(CHUNKS, "works:Tell", str(tmp_path), CHILD)
    next(results)
    (process,) = (path.name for path in tmp_path.iterdir())
    results.close()  # type: ignore[attr-defined]
    wait_for(lambda: not Path(f"/proc/{process}").exists())


def test_children_that_always_die_end_the_job() -> None:
    with pytest.raises(TrainingError, match=r"4 died one after the other \(exit code 1\): look for a lack of memory"):
        list(pool.run(CHUNKS, "works:AlwaysDies", None, CHILD))


def test_an_error_of_ours_at_the_start_of_a_child_comes_back_as_it_is() -> None:
    with pytest.raises(IntegrityError, match=r"^expected one thing, got another: mend it$"):
        list(pool.run(CHUNKS, "works:CannotStart", None, CHILD))


@pytest.mark.parametrize(
    ("given", "is_child"),
    [
        ({}, True),
        ({"workers": (1, 1)}, True),
        ({"workers": (2, 2)}, False),
        ({"workers": (1, 2)}, False),
        ({"num_chunks": FEW_CHUNKS + 1}, False),
        ({"decode": "pool"}, False),
        ({"num_gpus": 1}, False),
        ({"cluster": Address("auto", "RAY_ADDRESS")}, False),
    ],
)
def test_few_chunks_are_left_to_a_child_where_no_more_is_asked_for(
    given: dict[str, Any], is_child: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"workers": None, "num_chunks": FEW_CHUNKS, "decode": "here", "num_gpus": 0, "cluster": None, **given}
    node = Node(4, words["num_gpus"])
    monkeypatch.setattr(launch.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(launch, "_here", lambda: node)
    monkeypatch.setattr(places, "cluster", lambda: words["cluster"])
    chosen = launch.pool(words["workers"], words["num_chunks"], words["decode"])
    assert chosen == (
        Pool(1, 4, 0, "here", words["workers"], is_child=True)
        if is_child
        else Nodes((node,)).pool(words["workers"], words["num_chunks"], words["decode"])
    )


@pytest.mark.parametrize(
    ("num_images", "is_few"), [(1, True), (100, True), (FEW_IMAGES, True), (FEW_IMAGES + 1, False)]
)
def test_few_images_are_few_chunks(num_images: int, is_few: bool) -> None:
    assert (-(-num_images // chunk_size(num_images)) <= FEW_CHUNKS) is is_few


@pytest.mark.slow
def test_a_picture_that_kills_its_decoder_costs_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support import PreprocessConfig, save_model

    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(compute, "SCORER", "actors:Poisoned")
    save_model(tmp_path / "model", PreprocessConfig(image_size=32, short_side=32))
    (tmp_path / "in").mkdir()
    for name in (*(f"{number}.png" for number in range(11)), "poison.png"):
        Image.new("RGB", (40, 40), (len(name), 7, 9)).save(tmp_path / "in" / name)
    output = str(tmp_path / "scores.parquet")
    scored = job.score(ScoreConfig(model=str(tmp_path / "model"), input=str(tmp_path / "in"), output=output))
    statuses = {row["path"]: row["status"] for row in pq.read_table(output).to_pylist()}
    assert scored.listed == len(statuses) == 12
    assert [path for path, status in statuses.items() if status == "decoder_crash"] == ["poison.png"]
