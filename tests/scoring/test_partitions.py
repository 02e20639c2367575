"""Planning of several folders and lists by shares, without Ray and without a network."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_scoring import Place

from tlearn.data.names import Ignored
from tlearn.distributed import tasks
from tlearn.scoring import index as indices
from tlearn.scoring import partitions, planning, table
from tlearn.scoring.index import Share
from tlearn.scoring.inputs import Input
from tlearn.scoring.ledger import Ledger
from tlearn.scoring.output import GrowingTable
from tlearn.scoring.partitions import Partitions
from tlearn.scoring.table import Row
from tlearn.scoring.waves import Counts, Scope, Wave


def here(function: Callable[[Any], Any], arguments: Mapping[int, Any], *_: object) -> Iterator[tuple[int, Any]]:
    """In the place of tasks; the last one ends first."""
    for key in reversed(sorted(arguments)):
        yield key, function(arguments[key])


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "run", here)


def lists_of(root: Path, num_lists: int) -> Partitions:
    """Each path is in its list and in the next one."""
    (root / "input").mkdir()
    for number in range(num_lists):
        paths = [f"{path:04}.jpg" for path in range(600) if (path % num_lists - number) % num_lists < 2]
        columns = {"path": [*paths, "notes.txt"], "size": [*(int(path[:4]) + 1 for path in paths), 1]}
        pq.write_table(pa.table({**columns, "modified": [1] * (len(paths) + 1)}), root / f"{number}.parquet")
    given = Input.of(f"{root}/input", [f"{root}/{number}.parquet" for number in range(num_lists)])
    scope = Scope(f"{root}/input", "model", 2**20, rescore=False)
    return Partitions(given.parts, GrowingTable(f"{root}/table"), f"{root}/cache", scope)


@pytest.mark.parametrize("num_lists", [2, 3, 5])
def test_the_shares_of_all_lists_hold_each_path_once(num_lists: int, tmp_path: Path) -> None:
    ignored, lists = Ignored(), lists_of(tmp_path, num_lists)
    found = list(partitions.by_tasks(lists, ignored))
    paths = Counter(path for wave in found for path in wave.table["path"].to_pylist())
    assert paths == Counter({f"{path:04}.jpg": 1 for path in range(600)})
    assert sum((wave.counts for wave in found), Counts()).compute == 600
    assert len(found) == num_lists + 1 and all(wave.counts.compute < 600 for wave in found)
    assert [wave.is_last for wave in found] == [False] * num_lists + [True]
    assert ignored.names == {".txt": num_lists}
    assert not Path(lists.folder).exists()


def test_the_indices_of_all_shares_hold_each_row_once(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    rows = table.of_rows([Row(path=f"{n}", status="scored", model="model", scored_at=now) for n in range(50)])
    known = Counter[str]()
    for number in range(3):
        with indices.opened(tmp_path / f"{number}.duckdb", Share(number, 3)) as index:
            index.ingest("first", "sha256", [rows])
            held = index.outcomes(rows["path"].to_pylist(), "model")
            assert 0 < len(held) < 50
            known.update(held.keys())
    assert known == Counter({f"{n}": 1 for n in range(50)})


def test_a_command_on_a_cluster_plans_its_folders_by_shares_and_adds_the_same_rows(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_tasks, planned = partitions.by_tasks, []

    def noted(*arguments: Any) -> Iterator[Wave]:
        for wave in by_tasks(*arguments):
            planned.append(wave.table.num_rows)
            yield wave

    monkeypatch.setattr(planning, "cluster", lambda: "10.0.0.1:6379")
    monkeypatch.setattr(planning, "by_tasks", noted)
    both = [f"{place.root}/input/cat", f"{place.root}/input/dog"]
    first = place.score(input=both)
    assert (first["listed"], first["added"]) == (30, 30) and len(planned) == 3
    place.put("cat/new.jpg", "new")
    again = place.score(input=both)
    assert (again["listed"], again["unchanged"], again["added"]) == (31, 30, 1)
    assert place.score(input=both)["added"] == 0
    assert sorted(str(row["path"]) for row in place.rows()) == sorted(
        path.relative_to(place.root / "input").as_posix() for path in (place.root / "input").rglob("*.jpg")
    )
    assert Ledger(str(place.table)).verify() == []
