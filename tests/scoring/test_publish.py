"""The log over a table by which lakes read it: the same rows as in its files, whoever publishes, however often."""

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_scoring import Place
from test_tables import make_old

import tlearn
from tlearn import storage
from tlearn.cli import main
from tlearn.config import ScoreConfig
from tlearn.errors import InputError, IntegrityError, LockedError, UsageError
from tlearn.scoring import publish as publishing
from tlearn.scoring import table
from tlearn.scoring.ledger import Ledger
from tlearn.scoring.publish import publish

deltalake = pytest.importorskip("deltalake", reason="deltalake (extra lake) is not installed")


def rows(found: pa.Table) -> list[dict[str, Any]]:
    return found.select(table.SCHEMA.names).sort_by([("path", "ascending"), ("scored_at", "ascending")]).to_pylist()


def in_files(place: Place) -> list[dict[str, Any]]:
    return rows(pa.concat_tables([pq.read_table(file) for file in sorted(place.table.glob("*.parquet"))]))


def in_log(place: Place) -> list[dict[str, Any]]:
    log = deltalake.DeltaTable(place.table)
    found = rows(pa.table(log.to_pyarrow_table()))
    assert log.count() == len(found)
    return found


def three_runs(place: Place) -> None:
    place.score()
    for number in range(2):
        place.put(f"cat/new-{number}.jpg", f"another new content {number}")
        place.score()


def take_out(place: Place) -> None:
    first = min(place.table.glob("*.parquet"))
    first.unlink()
    (place.table / "_tlearn" / "commits" / f"{first.name}.json").unlink()


def write_again(place: Place) -> None:
    ledger, data = Ledger(str(place.table)), pa.BufferOutputStream()
    record = ledger.records()[1]
    pq.write_table(table.read(ledger.open(record.name), record.name), data, compression="gzip")
    ledger.replace(record, data.getvalue().to_pybytes())


def add_one(place: Place) -> None:
    place.put("dog/newest.jpg", "the newest content of all")
    place.score()


def rescore(place: Place) -> None:
    place.score(rescore=True)


def nothing(place: Place) -> None:
    pass


def lose_the_record(place: Place) -> None:
    (place.table / "_tlearn" / "commits" / f"{max(place.table.glob('*.parquet')).name}.json").unlink()


def cut_the_record(place: Place) -> None:
    (place.table / "_tlearn" / "commits" / f"{max(place.table.glob('*.parquet')).name}.json").write_text("{")


def add_one_and_lose_its_record(place: Place) -> None:
    add_one(place)
    lose_the_record(place)


@pytest.mark.parametrize(
    ("change", "added", "removed"),
    [(nothing, 0, 0), (add_one, 1, 0), (rescore, 1, 0), (take_out, 0, 1), (write_again, 1, 0),
     (lose_the_record, 0, 0), (cut_the_record, 0, 0), (add_one_and_lose_its_record, 1, 0)],
)  # fmt: skip
def test_the_log_has_the_rows_of_the_files_after_any_change(
    change: Callable[[Place], None], added: int, removed: int, place: Place
) -> None:
    three_runs(place)
    assert publish(str(place.table)).added == 3
    assert in_log(place) == in_files(place)
    change(place)
    published = publish(f"{place.table}/")
    assert (published.added, published.removed, published.version) == (added, removed, int(bool(added + removed)))
    assert in_log(place) == in_files(place)
    sizes = {
        add["path"]: add["size_bytes"]
        for add in pa.table(deltalake.DeltaTable(place.table).get_add_actions()).to_pylist()
    }
    assert sizes == {file.name: file.stat().st_size for file in place.table.glob("*.parquet")}
    before = {path: path.read_bytes() for path in place.table.rglob("*") if path.is_file()}
    assert publish(str(place.table)).added == 0
    assert before == {path: path.read_bytes() for path in place.table.rglob("*") if path.is_file()}


def lose(file: Path, note: Path) -> None:
    file.rename(file.with_name("moved.bak"))


def cut(file: Path, note: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def miscount(file: Path, note: Path) -> None:
    note.write_text(json.dumps({**json.loads(note.read_text()), "num_rows": 9}))


def mismeasure(file: Path, note: Path) -> None:
    note.write_text(json.dumps({**json.loads(note.read_text()), "num_bytes": 9}))


def lose_both(file: Path, note: Path) -> None:
    lose(file, note)
    note.write_text("{")


@pytest.mark.parametrize("damage", [lose, cut, miscount, mismeasure, lose_both])
@pytest.mark.parametrize("is_published", [False, True])
def test_a_file_that_is_not_as_its_record_says_is_named_and_not_published(
    is_published: bool, damage: Callable[[Path, Path], None], place: Place
) -> None:
    three_runs(place)
    if is_published:
        publish(str(place.table))
    log = sorted(place.table.glob("_delta_log/*"))
    file = max(place.table.glob("*.parquet"))
    damage(file, place.table / "_tlearn" / "commits" / f"{file.name}.json")
    with pytest.raises(IntegrityError, match=file.name):
        publish(str(place.table))
    assert sorted(place.table.glob("_delta_log/*")) == log
    if damage in (miscount, mismeasure):
        (place.table / "_tlearn" / "commits" / f"{file.name}.json").unlink()
        assert publish(str(place.table)).num_rows == len(in_files(place))


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    "content", [b"{", b"\x00" * 50, b'{"protocol":{"minReaderVersion":9,"minWriterVersion":99}}\n']
)
def test_a_log_that_cannot_be_read_can_be_removed_and_is_made_anew(number: int, content: bytes, place: Place) -> None:
    place.score()
    publish(str(place.table))
    add_one(place)
    publish(str(place.table))
    (place.table / "_delta_log" / f"{number:020}.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"could not read .*_delta_log: .*; remove this folder and publish again"):
        publish(str(place.table))
    shutil.rmtree(place.table / "_delta_log")
    assert publish(str(place.table)).added == 2
    assert in_log(place) == in_files(place)


def test_the_transaction_of_a_commit_is_the_number_of_its_newest_file(place: Place) -> None:
    three_runs(place)
    publish(str(place.table))
    assert deltalake.DeltaTable(place.table).transaction_version("tlearn") == 3


def test_the_log_is_published_from_python_as_by_the_command(place: Place) -> None:
    place.score()
    published = tlearn.publish(place.table)
    assert isinstance(published, tlearn.Published) and (published.added, published.num_rows) == (1, 30)
    assert in_log(place) == in_files(place)
    with pytest.raises(InputError, match="a table that grows"):
        tlearn.publish(place.root)


def test_only_what_the_ledger_records_is_published(place: Place) -> None:
    place.score()
    expected = in_files(place)
    pq.write_table(pa.table({"path": ["foreign.jpg"]}), place.table / "foreign.parquet")
    assert publish(str(place.table)).num_files == 1
    assert in_log(place) == expected


def test_plain_readers_and_the_table_itself_do_not_mind_the_log(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    three_runs(place)
    before, newest = in_files(place), table.latest(str(place.table))
    publish(str(place.table))
    deltalake.DeltaTable(place.table).create_checkpoint()  # a Parquet file
    assert in_files(place) == before == rows(pq.read_table(place.table))
    assert duckdb.sql(f"select count(*) from '{place.table}/*.parquet'").fetchall() == [(len(before),)]
    assert table.latest(str(place.table)) == newest
    assert main(["verify", str(place.table)]) == 0
    ledger = Ledger(str(place.table))
    assert ledger.strangers() == [] == ledger.look(ledger.records())
    assert place.score()["added"] == 0
    assert "_delta_log" not in capsys.readouterr().err


def test_polars_reads_the_log(place: Place) -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    three_runs(place)
    publish(str(place.table))
    assert polars.read_delta(str(place.table)).height == len(in_files(place))


def test_duckdb_reads_the_log(place: Place) -> None:
    there = duckdb.sql("select installed from duckdb_extensions() where extension_name = 'delta'").fetchall()
    if there != [(True,)]:
        pytest.skip("the extension delta of DuckDB is not installed")
    three_runs(place)
    publish(str(place.table))
    assert duckdb.sql(f"select count(*) from delta_scan('{place.table}')").fetchall() == [(len(in_files(place)),)]


@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_that_publish_at_once_one_looks_again(
    is_first: bool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_runs(place)
    if not is_first:
        publish(str(place.table))
        add_one(place)
    commit, others = publishing._commit, [True]

    def late(location: str, log: Any, *changes: Any) -> Any:
        if others and others.pop():
            commit(location, log and deltalake.DeltaTable(location), *changes)
        return commit(location, log, *changes)

    monkeypatch.setattr(publishing, "_commit", late)
    assert publish(str(place.table)).added == 0
    assert in_log(place) == in_files(place)


def test_who_is_never_alone_at_the_log_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: Any) -> None:
        raise deltalake.exceptions.CommitFailedError("another was faster")

    place.score()
    monkeypatch.setattr(publishing, "_commit", late)
    with pytest.raises(LockedError, match="again and again"):
        publish(str(place.table))


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["table", "--as", "delta"], 0, "1 file with 30 rows in the log of table, version 0: 1 added, 0 removed"),
        (["table/"], 0, "version 0"),
        (["table", "--as", "iceberg"], 2, "expected for --as one of"),
        (["input"], 3, "found no ledger"),
        (["nowhere"], 3, "found nothing"),
        ([], 2, "tlearn publish scores/ --as delta"),
    ],
    ids=str,
)
def test_publishing_by_the_command(
    words: list[str],
    code: int,
    says: str,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place.score()
    monkeypatch.chdir(place.root)
    assert main(["publish", *words]) == code
    printed = capsys.readouterr()
    assert says in (printed.err if code else printed.out)
    if not code:
        assert main(["publish", *words, "--json"]) == 0
        expected = {"version": 0, "added": 0, "removed": 0, "num_files": 1, "num_rows": 30}
        assert json.loads(capsys.readouterr().out) == expected


def score(place: Place, *words: str) -> int:
    paths = ["--input", f"{place.root}/input", "--output", f"{place.table}/", "--cache", f"{place.root}/cache"]
    return main(["score", "--model", place.model, *paths, "--publish", "delta", "--json", *words])


def test_scoring_publishes_what_it_adds_and_what_is_not_yet_published(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.score()
    for version in (0, 1, 1):
        assert score(place) == 0
        assert "not_published" not in json.loads(capsys.readouterr().out)
        assert deltalake.DeltaTable(place.table).version() == version
        assert in_log(place) == in_files(place)
        place.put("dog/one-more.jpg", "one more content")


def test_rows_that_cannot_be_published_are_there_and_the_same_command_publishes_them(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.table.mkdir()
    (place.table / "_delta_log").write_text("in the way")
    assert score(place) == 7
    printed = capsys.readouterr()
    assert len(in_files(place)) == 30
    assert "the rows are in" in printed.err and "its log is behind" in printed.err
    assert "its log is behind" in json.loads(printed.out)["not_published"]
    (place.table / "_delta_log").unlink()
    assert score(place) == 0
    assert in_log(place) == in_files(place)


def test_without_the_extra_nothing_is_computed(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    assert score(place) == 2
    assert 'pip install "tlearn[lake]"' in capsys.readouterr().err
    assert not place.computed
    with pytest.raises(UsageError, match="DIR/ with --publish"):
        ScoreConfig(model="m", input="in", output="scores.parquet", publish="delta")


def test_a_table_of_an_earlier_version_is_published_after_its_next_run(place: Place) -> None:
    place.score()
    make_old(place)
    with pytest.raises(InputError, match="earlier version"):
        publish(str(place.table))
    place.score()
    publish(str(place.table))
    assert in_log(place) == in_files(place)


@pytest.mark.slow
def test_a_table_on_an_object_store_is_published_once_by_all_that_do_so_at_once(place: Place, bucket: str) -> None:
    three_runs(place)
    for path in place.table.rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{bucket}/table/{path.relative_to(place.table)}", path.read_bytes())
    added: list[int] = []
    threads = [threading.Thread(target=lambda: added.append(publish(f"{bucket}/table/").added)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(added) == [0, 0, 3]
    options = {"aws_allow_http": "true", "aws_endpoint": os.environ["AWS_ENDPOINT_URL"]}
    log = deltalake.DeltaTable(f"{bucket}/table", storage_options=options)
    assert (log.version(), log.count()) == (0, len(in_files(place)))
