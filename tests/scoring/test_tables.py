"""Tables as people have them: of earlier versions, of several models, with odd dates, damaged, among other files."""

import json
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import instant
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import PROJECT
from test_scoring import Crash, Place, inject

import tlearn
from tlearn import storage
from tlearn.classes import Classes
from tlearn.cli import main
from tlearn.config import ScoreConfig
from tlearn.distributed import submit
from tlearn.errors import IntegrityError, StorageError, UsageError
from tlearn.evaluation.interval import accuracy_interval
from tlearn.scoring import output as outputs
from tlearn.scoring import table
from tlearn.scoring.inputs import Input
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


def test_readers_find_a_probability_as_the_readme_says(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Polars and Spark are not installed for tests."""
    import pandas
    import pyarrow

    place.put("bad.jpg", "bad")
    place.score()
    place.table.rename(place.root / "TABLE")
    monkeypatch.chdir(place.root)
    text = (PROJECT / "tlearn" / "scoring" / "README.md").read_text(encoding="utf-8")
    ways = dict(re.findall(r"^\| (DuckDB|pandas|pyarrow) \| `(.*)` \|$", text, re.MULTILINE))
    scored = [row["path"] for row in pq.read_table("TABLE").to_pylist() if row["status"] == "scored"]
    rows = duckdb.sql(ways["DuckDB"]).fetchall()
    assert sorted(path for path, value in rows if value is not None) == sorted(scored) and len(rows) == 31
    of_pandas = eval(ways["pandas"], {"pandas": pandas})
    of_pyarrow = [(row["probabilities"] or {}).get("cat") for row in eval(ways["pyarrow"], {"pyarrow": pyarrow})]
    assert of_pandas.notna().sum() == sum(value is not None for value in of_pyarrow) == 30


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

    for at in range(1, 4):
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


def test_a_name_with_a_line_break_is_one_line_of_what_is_printed(place: Place) -> None:
    place.put("cat/a\nb.jpg", "a")
    place.score()
    printed = list(table.lines(table.latest(str(place.table))))
    assert len(printed) == 32 and any(line.startswith("cat/a\\nb.jpg ") for line in printed)


@pytest.mark.parametrize("second", [BEYOND, -62_200_000_000])
def test_a_table_that_a_date_has_broken_goes_on(second: int, place: Place) -> None:
    place.score()
    make_old(place, second * 10**6)
    assert len(list(table.lines(table.latest(str(place.table))))) == 31
    assert place.score()["added"] == 0
    assert len(query(place, "epoch_us(modified)")) == 30


def emptied(content: bytes) -> bytes:
    return b""


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zeroed(content: bytes) -> bytes:
    """As long as before, without what was in it: a file system gave room and no content before the power failed."""
    return bytes(len(content))


def flipped(content: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + bytes([content[half] ^ 16]) + content[half + 1 :]


def other(content: bytes) -> bytes:
    return b"[]"


def spoil(path: Path, how: Callable[[bytes], bytes]) -> None:
    path.write_bytes(how(path.read_bytes()))


@pytest.mark.parametrize("how", [emptied, cut, zeroed, flipped, other])
@pytest.mark.parametrize("names", ["plan.parquet", "000001.parquet"])
def test_a_plan_or_a_part_that_cannot_be_read_is_made_again(
    names: str, how: Callable[[bytes], bytes], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise Crash

    for output in (f"{place.table}/", str(place.root / "one.parquet"))[: 2 if how is cut else 1]:
        with monkeypatch.context() as patch, pytest.raises(Crash):
            for kind in (outputs.GrowingTable, outputs.Snapshot):
                patch.setattr(kind, "publish", stop)
            place.score(output=output)
        (work,) = (path.parent for path in place.root.rglob("plan.parquet"))
        spoil(work / names, how)
        assert place.score(output=output)["statuses"] == {"scored": 30}
    assert place.outcomes() == sorted(set(place.outcomes())) and len(place.rows()) == 30


@pytest.mark.parametrize("how", [emptied, cut, zeroed, other, None])
@pytest.mark.parametrize("by", ["the next run", "--repair"])
def test_a_record_that_is_lost_is_said_and_made_anew_from_its_file(
    by: str, how: Callable[[bytes], bytes] | None, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "b.jpg"):
        place.score()
        place.put(name, name)
    note = sorted((place.table / "_tlearn" / "commits").iterdir())[-1]
    if how is None:
        note.unlink()
    else:
        spoil(note, how)
    before = place.outcomes()
    place.computed.clear()
    assert main(["verify", str(place.table)]) == 6
    said = capsys.readouterr()
    assert note.name.removesuffix(".json") in said.out + said.err
    if by == "--repair":
        assert main(["verify", str(place.table), "--repair"]) == 0
        assert "its record is made anew" in capsys.readouterr().out
    assert place.score()["added"] == 1 and place.computed == ["b.jpg"]
    assert set(before) <= set(place.outcomes()) and main(["verify", str(place.table)]) == 0


@pytest.mark.parametrize("by", ["the next run", "--repair"])
def test_a_ledger_that_is_lost_is_made_anew_from_the_files(by: str, place: Place) -> None:
    place.score()
    place.put("a.jpg", "a")
    place.score(abstain_below=1.0)
    before, records = place.outcomes(), Ledger(str(place.table)).records()
    shutil.rmtree(place.table / "_tlearn")
    if by == "--repair":
        assert main(["verify", f"{place.table}/", "--repair"]) == 0
    assert place.score()["added"] == 0 and place.outcomes() == before
    made = Ledger(str(place.table)).records()
    assert [(one.name, one.sha256, one.num_rows, one.statuses, one.run, one.model) for one in made] == [
        (one.name, one.sha256, one.num_rows, one.statuses, one.run, one.model) for one in records
    ]


def test_a_record_whose_file_is_gone_too_is_removed_by_repair(place: Place) -> None:
    place.score()
    (file,) = place.table.glob("*.parquet")
    file.unlink()
    spoil(place.table / "_tlearn" / "commits" / f"{file.name}.json", emptied)
    assert main(["verify", str(place.table), "--repair"]) == 0
    assert place.score()["added"] == 30


@pytest.mark.parametrize("is_seen", [True, False], ids=["with another time", "with the same time"])
def test_an_index_with_a_flipped_byte_anywhere_is_made_anew_at_the_latest_by_the_next_run(
    is_seen: bool, place: Place
) -> None:
    place.score()
    before = place.outcomes()
    (index,) = (place.root / "cache" / "tables").glob("*.duckdb")
    size = index.stat().st_size
    for position in range(0, size, size // 12):
        content, status = bytearray(index.read_bytes()), index.stat()
        content[position] ^= 1
        index.write_bytes(content)
        if not is_seen:
            os.utime(index, ns=(status.st_atime_ns, status.st_mtime_ns))
        with nullcontext() if is_seen else suppress(StorageError):
            place.score()
        assert place.score()["added"] == 0
    assert place.outcomes() == before


@pytest.mark.parametrize("how", [emptied, cut, zeroed, other, None])
def test_a_damaged_file_of_a_table_is_said_and_scoring_goes_on(
    how: Callable[[bytes], bytes] | None, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.score()
    (file,) = place.table.glob("*.parquet")
    if how is None:
        file.unlink()
    elif how is zeroed:  # of the same size: told by whoever reads it
        spoil(file, how)
        assert main(["scores", str(place.table)]) == 6
        assert file.name in capsys.readouterr().err
        return
    else:
        spoil(file, how)
    capsys.readouterr()
    place.put("new.jpg", "new")
    assert place.score()["added"] == 1
    assert file.name in capsys.readouterr().err
    assert main(["scores", str(place.table)]) == 6
    error = capsys.readouterr().err
    assert file.name in error and error.count("\n") == 1


def test_a_flipped_byte_is_never_a_row(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.score()
    (file,) = place.table.glob("*.parquet")
    content = file.read_bytes()
    for position in range(4, len(content), len(content) // 40):
        file.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        code = main(["scores", str(place.table), "--num-rows", "100"])
        said = capsys.readouterr()
        assert code in (0, 6)
        if code == 6:
            assert file.name in said.err and said.err.count("\n") == 1


def test_a_table_is_what_its_ledger_says_whatever_else_is_in_its_folder(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.score()
    os.mkfifo(place.table / "pipe.parquet")
    pq.write_table(pa.table({"a": [1]}), place.table / "foreign.parquet")
    assert main(["scores", str(place.table), "--num-rows", "100"]) == 0
    said = capsys.readouterr()
    assert said.out.count("scored") == 30 and "foreign.parquet" in said.err
    place.put("new.jpg", "new")
    assert place.score()["added"] == 1 and "foreign.parquet" in capsys.readouterr().err
    assert main(["verify", str(place.table)]) == 6
    assert "foreign.parquet: not in the ledger" in capsys.readouterr().out


def test_what_is_not_as_the_ledger_says_is_said_with_what_to_do(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.score()
    assert main(["verify", str(place.table)]) == 0
    assert capsys.readouterr().out == "1 file, as the ledger says\n"
    (file,), (note,) = place.table.glob("*.parquet"), (place.table / "_tlearn" / "commits").iterdir()
    note.write_text(json.dumps(json.loads(note.read_text()) | {"num_rows": 1}))
    assert main(["verify", str(place.table)]) == 6
    said = capsys.readouterr()
    assert "expected 1 row, found 30: remove _tlearn/commits/scores-000001.parquet.json" in said.out
    assert "found 1 difference:" in said.err
    file.rename(place.root / "elsewhere.parquet")
    remedy = "but missing: restore it, or remove _tlearn/commits/scores-000001.parquet.json to have its images scored"
    assert main(["verify", str(place.table)]) == 6 and remedy in capsys.readouterr().out
    assert place.score()["unchanged"] == 30
    said = capsys.readouterr()
    assert said.err.startswith("WARNING: ") and remedy in said.err
    with pytest.raises(IntegrityError, match="it is gone: restore it"):
        place.score(cache=str(place.root / "other-cache"))
    note.unlink()
    assert place.score()["added"] == 30 and main(["verify", str(place.table)]) == 0


def foreign(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)


def text(path: Path) -> None:
    path.write_text("path,status\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "code"), [(foreign, 6), (text, 6), (empty, 6), (pipe, 7)], ids=lambda value: getattr(value, "__name__", "")
)
def test_what_is_no_table_is_named(
    make: Callable[[Path], None], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "folder" / "some.parquet"
    path.parent.mkdir()
    make(path)
    assert main(["scores", str(path)]) == code
    assert main(["verify", str(path)]) == 3
    assert main(["scores", str(path.parent)]) == (3 if make is pipe else 6)
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith("tlearn: expected") and str(path.parent) in line
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "output",
    ["x.tsv", "x.json", "x.CSV", "x.xlsx", "x.pq", "X.PARQUET", "x.feather", "a/x.txt", "x.db", "x.csv.gz", ""],
)
def test_an_output_that_is_meant_as_another_file_is_refused(output: str, place: Place) -> None:
    with pytest.raises(UsageError, match="expected --output NAME"):
        place.score(output=output and str(place.root / output))
    assert not (place.root / "a").exists() and not list(place.root.glob("[xX].*"))


@pytest.mark.parametrize("output", ["model=v2/", "x.csv/", "x.parquet/", "table.2026-11-26", ".hidden", "é ü"])
def test_any_other_name_is_that_of_a_table(output: str, place: Place) -> None:
    for added in (30, 0):
        assert place.score(output=f"{place.root}/{output}")["added"] == added
    assert (
        place.score(output=f"{place.root}/{output}/.//" if output[-1] != "/" else f"{place.root}/{output}")["added"]
        == 0
    )


def nothing(place: Place) -> None:
    pass


def a_folder(place: Place) -> None:
    (place.root / "a.parquet").mkdir()
    (place.root / "a.csv").mkdir()


def another_file(place: Place) -> None:
    foreign(place.root / "a.parquet")
    shutil.copy(place.root / "a.parquet", place.root / "a.csv")


def a_table(place: Place) -> None:
    place.score(output=f"{place.root}/there/")


def a_run(place: Place) -> None:
    (place.root / "there").mkdir()
    (place.root / "there" / "config.json").write_text("{}")


def other_rows(place: Place) -> None:
    (place.root / "there").mkdir()
    foreign(place.root / "there" / "rows.parquet")


def linked(place: Place) -> None:
    (place.root / "linked").symlink_to(place.root / "input")


@pytest.mark.parametrize(
    ("output", "make"),
    [
        ("a.parquet", a_folder),
        ("a.parquet", another_file),
        ("a.csv", a_folder),
        ("a.csv", another_file),
        ("there/mine.parquet", a_table),
        ("there/mine.csv", a_table),
        ("there/", a_run),
        ("there/", other_rows),
        ("model/", nothing),
        ("linked/", linked),
        ("input/", nothing),
        ("", nothing),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_place_that_holds_something_else_is_refused_before_work(
    output: str, make: Callable[[Place], None], place: Place
) -> None:
    make(place)
    place.computed.clear()
    before = {path: path.stat().st_mtime_ns for path in place.root.rglob("*")}
    with pytest.raises(UsageError, match=r"choose another|that grows"):
        place.score(output=f"{place.root}/{output}")
    assert place.computed == [] and before == {path: path.stat().st_mtime_ns for path in place.root.rglob("*")}


@pytest.mark.parametrize("output", ["input/scores/", "input/scores.parquet", "input/scores.csv"])
def test_an_output_inside_the_input_is_no_picture(output: str, place: Place) -> None:
    for _ in range(2):
        summary = place.score(output=f"{place.root}/{output}")
        assert summary["listed"] == 30
    assert Input.of(f"{place.root}/input").folder == f"{place.root}/input"


@pytest.mark.parametrize("output", ["newest.tsv", "table/newest.parquet", "table/newest.csv", "newest"])
def test_the_newest_rows_are_not_written_where_they_would_be_taken_for_something_else(
    output: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.score()
    assert main(["scores", str(place.table), "--output", f"{place.root}/{output}"]) == 2
    assert not (place.root / output).exists() and capsys.readouterr().err.count("\n") == 1


def test_a_damaged_table_of_one_file_is_replaced(place: Place) -> None:
    output = place.root / "one.parquet"
    output.write_bytes(b"")
    assert place.score(output=str(output))["added"] == 30


@pytest.mark.parametrize(
    ("given", "paths"),
    [
        (["cat/01.jpg"], ["01.jpg"]),
        (["cat/01.jpg", "cat/03.jpg"], ["01.jpg", "03.jpg"]),
        (["cat/01.jpg", "dog/00.jpg", "cat/01.jpg"], ["cat/01.jpg", "dog/00.jpg"]),
        (["notes.txt"], ["notes.txt"]),
        (["small", "cat/01.jpg"], ["cat/01.jpg", "small/a.jpg", "small/b/c.jpg"]),
        (["small/", "./small/a.jpg", "small/b"], ["small/a.jpg", "small/b/c.jpg"]),
        (["small"], ["a.jpg", "b/c.jpg"]),
        (["bad\udcff.jpg"], ["bad%FF.jpg"]),
        (["link.jpg", "linked"], ["link.jpg", "linked/a.jpg", "linked/b/c.jpg"]),
    ],
    ids=str,
)
def test_pictures_and_folders_that_are_named_are_what_is_scored(
    given: list[str], paths: list[str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("notes.txt", "small/a.jpg", "small/b/c.jpg", "small/d.txt", "bad\udcff.jpg"):
        place.put(name, f"content of {name.encode(errors='replace')}")
    monkeypatch.chdir(place.root / "input")
    Path("link.jpg").symlink_to("cat/01.jpg")
    Path("linked").symlink_to("small")
    for more in (len(paths), 0):
        summary = place.score(input=tuple(given) if len(given) > 1 else given[0])
        assert (summary["listed"], summary["added"]) == (len(paths), more)
    assert sorted(row["path"] for row in place.rows()) == paths


def test_python_and_submitted_jobs_take_lists_too(place: Place) -> None:
    paths = [place.root / "input" / "cat" / "01.jpg", f"{place.root}/input/dog"]
    scored = tlearn.score(place.model, paths, place.root / "one.parquet", cache=f"{place.root}/cache")
    assert (scored.listed, scored.added) == (16, 16)
    config = ScoreConfig(model="/m", input=("/in/a.jpg", "b.jpg"), output="/t/")
    with pytest.raises(UsageError, match=r"--input, got b\.jpg"):
        submit._require_absolute(config)
    with pytest.raises(UsageError, match="got no path"):
        ScoreConfig(model="m", input=(), output="t/")


def test_a_named_picture_has_the_path_that_it_has_in_its_folder(place: Place) -> None:
    place.score(input=f"{place.root}/input/cat")
    assert place.score(input=f"{place.root}/input/cat/01.jpg")["unchanged"] == 1
    labels = place.score(input=(f"{place.root}/input/cat/01.jpg", f"{place.root}/input/dog"), output=f"{place.root}/b/")
    assert labels["listed"] == 16


@pytest.mark.parametrize(("given", "code"), [(["nowhere.jpg"], 3), (["cat/01.jpg", "nowhere"], 3), (["pipe.jpg"], 3)])
def test_a_named_path_without_a_picture_is_said_before_work(
    given: list[str], code: int, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(place.root / "input" / "pipe.jpg")
    paths = [f"{place.root}/input/{name}" for name in given]
    assert main(["score", "--model", place.model, "--output", f"{place.table}/", "--input", *paths]) == code
    assert given[-1] in capsys.readouterr().err and not place.table.exists()


def test_rows_with_a_label_have_an_accuracy_and_its_interval(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.put("dog/bad.jpg", "bad")
    place.put("unlabelled.jpg", "y")
    summary = place.score()
    rows = [row for row in place.rows() if row["label"] and row["prediction"]]
    right = sum(row["label"] == row["prediction"] for row in rows)
    low, high = summary["accuracy_interval"]
    assert (summary["labelled"], summary["accuracy"]) == (30, right / 30) and 0 <= low < right / 30 < high <= 1
    again = place.score()
    assert (again["labelled"], again["accuracy"], again["accuracy_interval"]) == (0, None, None)
    place.put("cat/new.jpg", "new")
    words = ["--model", place.model, "--input", f"{place.root}/input", "--output", f"{place.root}/b.parquet"]
    assert main(["score", *words]) == 0
    assert re.search(r"accuracy 0\.\d{4} of 31 labelled, 95% sure: 0\.\d+ to ", capsys.readouterr().out)


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (5, 10), (500, 500), (0, 500)])
def test_an_interval_is_inside_of_0_and_1_and_holds_the_accuracy(right: int, count: int) -> None:
    low, high = accuracy_interval(right / count, count)
    assert 0 <= low <= right / count <= high <= 1 and high - low > 0.005


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, with a file more than its ledger has, of which more is shown than a pipe holds."""
    folder = tmp_path_factory.mktemp("printed")
    now = datetime.now(UTC)
    rows = [table.Row(path=f"{number:0100}.jpg", status="scored", model="m", scored_at=now) for number in range(3000)]
    pq.write_table(table.of_rows(rows), folder / "scores.parquet")
    for number in range(1500):
        (folder / "table" / f"{number:0100}.parquet").parent.mkdir(exist_ok=True)
        (folder / "table" / f"{number:0100}.parquet").touch()
    (folder / "table" / "_tlearn").mkdir()
    return folder


@pytest.mark.parametrize(("target", "code"), [("a pipe", 0), ("/dev/full", 7)])
@pytest.mark.parametrize(
    "words", ["scores scores.parquet", "scores scores.parquet --num-rows 3000", "verify table"], ids=str
)
def test_what_cannot_be_printed_ends_in_one_line_or_none(
    words: str,
    target: str,
    code: int,
    printed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if target == "a pipe":  # whose reader has left
        reader, writer = os.pipe()
        os.close(reader)
    elif Path(target).exists():
        writer = os.open(target, os.O_WRONLY)
    else:
        pytest.skip("no device that is always full")
    monkeypatch.chdir(printed)
    with os.fdopen(writer, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert main(words.split()) == code
        stream.flush()  # as Python does at its end
    said = capfd.readouterr().err.splitlines()
    assert [line.startswith("tlearn: ") for line in said] == [True] * (code != 0)


class Refusal(BaseHTTPRequestHandler):
    """Answers as an object store does whoever has no rights there."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_PUT = do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A URI on a store that refuses everything."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        yield "s3://refused-to-tlearn"
        server.shutdown()


def test_a_store_that_refuses_ends_with_7_and_one_line(
    refused: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"{place.root}/input"
    for words in (
        ["scores", f"{refused}/t"],
        ["scores", f"{refused}/t.parquet"],
        ["verify", f"{refused}/t/"],
        ["check", f"{refused}/in", "--quick"],
        ["train", f"{refused}/in", "--output", str(place.table)],
        ["evaluate", place.model, f"{refused}/in"],
        ["compare", f"{refused}/a", f"{refused}/b"],
        ["report", f"{refused}/run"],
        ["score", "--model", place.model, "--input", f"{refused}/in", "--output", f"{place.table}/"],
        ["score", "--model", place.model, "--input", folder, "--output", f"{refused}/t/"],
        ["score", "--model", place.model, "--input", folder, "--output", f"{refused}/t.parquet"],
    ):
        assert main(words) == 7
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "refused-to-tlearn" in error
    assert not place.table.exists()


def test_a_record_is_made_of_a_name_that_is_on_the_disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power failure could leave the record without its file."""
    place.score()
    (note,) = (place.table / "_tlearn" / "commits").iterdir()
    note.unlink()
    steps, settle, write = [], storage.settle, storage.write_bytes
    monkeypatch.setattr(storage, "settle", lambda folder: (steps.append("settle"), settle(folder)))
    monkeypatch.setattr(storage, "write_bytes", lambda *given: (steps.append(given[0][-5:]), write(*given)))
    place.score()
    assert note.exists() and steps.index("settle") < steps.index(".json")
