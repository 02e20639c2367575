"""Tables as people have them: of earlier versions, of several models, with odd dates, damaged, among other files."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import instant
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_scoring import Crash, Place, inject

from tlearn.classes import Classes
from tlearn.scoring import table
from tlearn.scoring.ledger import Ledger
from tlearn.storage.entries import microseconds


def query(place: Place, columns: str) -> dict[str, Any]:
    """The newest rows, as the README reads them, by their path."""
    rows = duckdb.sql(f"select path, {columns} from ({table.LATEST.format(folder=place.table)})").fetchall()
    return {str(path): values for path, *values in rows}


def make_old(place: Place, modified: int | None = None) -> None:
    """Write the files of a table as version 0.1.0 did: a field for each class, any date, no size in the records."""
    for path in place.table.glob("*.parquet"):
        rows = pq.read_table(path)
        probabilities = rows["probabilities"].to_pylist(maps_as_pydicts="strict")
        names = next(one for one in probabilities if one)
        struct = pa.array(probabilities, pa.struct([(name, pa.float32()) for name in names]))
        rows = rows.set_column(rows.column_names.index("probabilities"), "probabilities", struct)
        if modified is not None:
            times = pa.array([modified] * rows.num_rows).cast(pa.timestamp("us", "UTC"))
            rows = rows.set_column(rows.column_names.index("modified"), "modified", times)
        path.write_bytes(b"")
        pq.write_table(rows, path)
        note = place.table / "_tlearn" / "commits" / f"{path.name}.json"
        record = json.loads(note.read_text())
        del record["num_bytes"]
        note.write_text(json.dumps({**record, "sha256": table.storage.sha256_file(path)}))


def test_models_of_other_classes_share_a_table_that_everybody_reads(place: Place, tmp_path: Path) -> None:
    place.score()
    for number, classes in enumerate((("Cat", "cat", "fox"), ("cat", "dog", "owl")), 1):
        place.put(f"new-{number}.jpg", "y" * (100 + number))
        model = instant.save_model(tmp_path / f"model-{number}", number, Classes(classes))
        assert place.score(model=model)["added"] == 30 + number
    found = query(place, "probabilities['cat'], probabilities['Cat'], probabilities['owl'], map_keys(probabilities)")
    assert len(found) == 32
    for cat, other_cat, owl, names in found.values():
        assert (other_cat, owl, names) == (None, 0.0, ["cat", "dog", "owl"]) and 0 <= cat <= 1
    second = pq.read_table(sorted(place.table.glob("*.parquet"))[1]).to_pylist(maps_as_pydicts="strict")
    assert all(list(row["probabilities"]) == ["Cat", "cat", "fox"] for row in second)
    assert all(pq.read_schema(path).equals(table.SCHEMA) for path in place.table.glob("*.parquet"))


def test_a_table_of_an_earlier_version_is_read_and_goes_on_with_todays_columns(place: Place, tmp_path: Path) -> None:
    place.score()
    place.put("second.jpg", "in a second file")
    place.score()
    before = place.outcomes()
    make_old(place)
    assert Ledger(str(place.table)).verify() == []
    old = table.latest(str(place.table))
    place.computed.clear()
    assert place.score()["added"] == 0 and place.computed == []
    assert place.outcomes() == before and table.latest(str(place.table)).equals(old)
    model = instant.save_model(tmp_path / "other", 1, Classes(("cat", "fox")))
    place.put("bird.jpg", "bird")
    assert place.score(model=model)["added"] == 32
    assert len(query(place, "probabilities['fox']")) == 32
    assert Ledger(str(place.table)).verify() == []
    written = {path: path.stat().st_mtime_ns for path in place.table.glob("*.parquet")}
    place.score(model=model)
    assert written == {path: path.stat().st_mtime_ns for path in place.table.glob("*.parquet")}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_while_an_old_table_is_written_again_loses_nothing(
    when: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.score()
    before = place.outcomes()

    def crash() -> None:
        raise Crash

    for at in range(1, 6):
        make_old(place)
        with monkeypatch.context() as patch, pytest.raises(Crash):
            inject(patch, at, when, crash)
            place.score()
        (place.table / "_tlearn" / "lease.json").unlink(missing_ok=True)
        assert place.outcomes() == before
        assert place.score()["added"] == 0
        assert Ledger(str(place.table)).verify() == [] and place.outcomes() == before


BEYOND = 910_670_515_199
"""Seconds: a day of the year 30828, as some network drives date their files."""


@pytest.mark.parametrize("nanoseconds", [BEYOND * 10**9, -(10**20), 2**63 - 1, -1, 0])
def test_every_time_is_one_that_a_date_can_have(nanoseconds: int) -> None:
    assert pa.scalar(microseconds(nanoseconds), pa.timestamp("us", "UTC")).as_py().year in range(1, 10000)
    assert microseconds(1_700_000_000_123_456_789) == 1_700_000_000_123_456


@pytest.fixture
def in_memory(place: Place) -> Iterator[None]:
    """Move the input to where a file may have any date: a file system in memory. Skips where there is none."""
    try:
        folder = tempfile.mkdtemp(dir="/dev/shm")
    except OSError:
        pytest.skip("no file system in memory")
    shutil.move(place.root / "input", folder)
    (place.root / "input").symlink_to(Path(folder) / "input")
    yield
    shutil.rmtree(folder)


@pytest.mark.usefixtures("in_memory")
def test_a_file_with_an_odd_date_has_one_row_that_everybody_reads(place: Place) -> None:
    seconds = (BEYOND, -62_200_000_000, 8_000_000_000_000, 300_000_000_000, -1)
    paths = sorted((place.root / "input").rglob("*.jpg"))
    for path, second in zip(paths, seconds, strict=False):
        os.utime(path, (second, second))
        if path.stat().st_mtime != second:
            pytest.skip("this file system has other dates")
    assert place.score()["statuses"] == {"scored": 30}
    assert (place.score()["added"], place.score()["unchanged"]) == (0, 30)
    assert len(query(place, "epoch_us(modified)")) == 30
    assert len(list(table.lines(table.latest(str(place.table))))) == 31


@pytest.mark.parametrize("second", [BEYOND, -62_200_000_000])
def test_a_table_that_a_date_has_broken_goes_on(second: int, place: Place) -> None:
    place.score()
    make_old(place, second * 10**6)
    assert len(list(table.lines(table.latest(str(place.table))))) == 31
    assert place.score()["added"] == 0
    assert len(query(place, "epoch_us(modified)")) == 30
