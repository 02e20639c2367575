"""Runs in a row: each is ready when its own chunks are done, in the order in which they were planned."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_scoring import Place

from tlearn.distributed.chunks import ChunkResult
from tlearn.scoring import compute, plan, waves
from tlearn.scoring import output as outputs
from tlearn.scoring.ledger import Ledger
from tlearn.scoring.stream import Stream
from tlearn.storage import Taken


def sizes(*of: int) -> Iterator[int]:
    yield from of


@pytest.fixture
def in_waves(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Of 30 files: 8, 8 and the rest."""
    monkeypatch.setattr(waves, "sizes", lambda: sizes(8, 8))
    monkeypatch.setattr(waves, "FIRST", 4)
    return place


def test_a_large_folder_makes_several_files_and_the_same_rows_as_a_small_one(in_waves: Place, tmp_path: Path) -> None:
    for name in "abc":
        in_waves.put(f"twins/{name}.jpg", "twins in three places")
        in_waves.put(f"zz/{name}.jpg", "twins in three places")
    found = in_waves.score()
    assert (found["listed"], found["added"], found["computed"], found["copied"]) == (36, 36, 31, 5)
    names = sorted(path.name for path in in_waves.table.glob("*.parquet"))
    assert len(names) > 2 and names == [f"scores-{number:06}.parquet" for number in range(1, len(names) + 1)]
    in_waves.score(output=str(tmp_path / "one.parquet"))
    columns = ["path", "status", "prediction", "probability", "label", "sha256"]
    one = pq.read_table(tmp_path / "one.parquet", columns=columns).sort_by("path")
    assert one.equals(
        pa.concat_tables(pq.read_table(in_waves.table / name, columns=columns) for name in names).sort_by("path")
    )
    assert Ledger(str(in_waves.table)).verify() == [] and in_waves.score()["added"] == 0


@pytest.mark.parametrize("at", range(4))
def test_a_command_that_is_ended_in_any_wave_goes_on_with_what_was_planned(
    at: int, in_waves: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(BaseException):
        pass

    with monkeypatch.context() as patch:
        chunks = compute.chunks

        def ended(places: object, stream: Stream) -> Iterator[tuple[ChunkResult, float]]:
            for number, result in enumerate(chunks(places, stream)):  # type: ignore[arg-type]
                if number == at:
                    raise Ended
                yield result

        patch.setattr(compute, "chunks", ended)
        with pytest.raises(Ended):
            in_waves.score()
    num_computed = len(in_waves.computed)
    in_waves.put("late.jpg", "late")
    assert in_waves.score()["listed"] == 31
    assert sorted(str(row["path"]) for row in in_waves.rows()) == sorted(
        path.relative_to(in_waves.root / "input").as_posix() for path in (in_waves.root / "input").rglob("*.jpg")
    )
    assert len(in_waves.computed) == 31 and num_computed >= 4 * at
    assert Ledger(str(in_waves.table)).verify() == []


def test_plans_that_follow_another_run_than_the_last_commit_are_void(
    in_waves: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Number 2 is planned behind a number 1 that never came; another number 1 comes in its place."""

    def stop(*_: object) -> None:
        raise KeyError

    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr("tlearn.scoring.output.GrowingTable.publish", stop)
        in_waves.score()
    runs = in_waves.table / "_tlearn" / "runs"
    assert len([*runs.glob("*/plan.parquet")]) >= 2
    with monkeypatch.context() as patch:
        patch.setattr("tlearn.scoring.planning.Places.remove", lambda places: None)
        in_waves.score(unknown_rate=0.5)  # under other facts: it plans anew, and leaves what is there
    in_waves.computed.clear()
    assert in_waves.score()["added"] == 0 and in_waves.computed == []
    assert len(in_waves.rows()) == 30


def test_a_rescore_that_is_ended_between_its_waves_is_done_to_its_end(
    in_waves: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_waves.score()

    class Ended(BaseException):
        pass

    with monkeypatch.context() as patch:
        write, num_plans = plan.write, [0]

        def ended(*arguments: Any) -> None:
            num_plans[0] += 1
            if num_plans[0] == 3:
                raise Ended
            write(*arguments)

        patch.setattr(plan, "write", ended)
        with pytest.raises(Ended):
            in_waves.score(rescore=True)
    in_waves.score(rescore=True)
    counts = Counter(str(row["path"]) for row in in_waves.rows())
    assert len(counts) == 30 and min(counts.values()) >= 2


def test_what_was_added_before_another_run_came_between_is_counted(
    in_waves: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, num_published = outputs.GrowingTable.publish, [0]

    def taken_once(*arguments: Any) -> Any:
        num_published[0] += 1
        if num_published[0] == 2:
            raise Taken("by another run")
        return publish(*arguments)

    monkeypatch.setattr(outputs.GrowingTable, "publish", taken_once)
    found = in_waves.score()
    assert found["added"] == len(in_waves.rows()) == len(in_waves.computed) == 30
    assert Ledger(str(in_waves.table)).verify() == []
