"""Tables as CSV: what is in the rows is in the file, for whatever reads CSV, and the file is replaced as a table is."""

import csv
import io
import json
import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import instant
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import PROJECT
from test_scoring import Crash, Place, inject

import tlearn
from tlearn.classes import Classes
from tlearn.cli import main
from tlearn.config import ScoreConfig, ScoresConfig
from tlearn.errors import UsageError
from tlearn.scoring import flat, table

ODD = Classes(("=1+1", 'a "b", c', "é\r\nü", "probability", "top_1"))
ODD_PATHS = ("=cmd.jpg", "+1.jpg", "-1.jpg", "@a.jpg", 'a,"b"/c\n.jpg', " é.jpg", "\udcff%.jpg", "\t.jpg", "a;b.jpg")


def read(file: Path) -> list[dict[str, str]]:
    """As RFC 4180 has it, and strictly."""
    data = file.read_bytes()
    assert not data.startswith(b"\xef\xbb\xbf") and data.endswith(b"\r\n")
    rows = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))
    assert {len(row) for row in rows} == {len(rows[0])} and len(set(rows[0])) == len(rows[0])
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def in_order(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return sorted(rows, key=lambda row: row["path"].encode())


def plain(value: Any) -> str:
    """What a cell says of a value of the table."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, float):
        return min((f"{value:.{digits}g}" for digits in range(1, 10)), key=lambda text: np.float32(text) != value)
    return "" if value is None else str(value)


@pytest.fixture
def odd(place: Place, tmp_path: Path) -> Place:
    """A table of odd names, and of two models, the classes of which are others."""
    for number, path in enumerate(ODD_PATHS):
        place.put(path, "z" * (100 + number))
    place.put("bad.jpg", "bad")
    place.score()
    place.put("new.jpg", "new")
    place.model = instant.save_model(tmp_path / "odd", 1, ODD)
    (place.root / "input/cat/01.jpg").unlink()
    place.score()
    return place


def test_a_csv_has_what_the_newest_rows_have(odd: Place) -> None:
    target = odd.root / "newest.csv"
    assert main(["scores", str(odd.table), "--output", str(target)]) == 0
    rows = table.latest(str(odd.table)).to_pylist(maps_as_pydicts="strict")
    found = in_order(read(target))
    names = [f"probability:{name}" for name in ("cat", "dog", *ODD.names)]
    place = table.SCHEMA.names.index("probabilities")
    assert sorted(list(found[0])[place : place + 7]) == sorted(names)
    assert [name for name in found[0] if name not in names] == [n for n in table.SCHEMA.names if n != "probabilities"]
    for row, cells in zip(rows, found, strict=True):
        probabilities = row.pop("probabilities") or {}
        for name in names:
            value = cells.pop(name)
            assert value == "" if name[12:] not in probabilities else np.float32(value) == probabilities[name[12:]]
        assert cells == {name: plain(value) for name, value in row.items()}


def test_what_people_read_csv_with_reads_the_same(odd: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    target = str(odd.root / "scores.csv")
    assert main(["scores", str(odd.table), "--output", target]) == 0
    rows = table.latest(str(odd.table))
    monkeypatch.chdir(odd.root)
    page = (PROJECT / "tlearn/scoring/README.md").read_text(encoding="utf-8")
    (way,) = re.findall(r"frame = (pandas\.read_csv\(.*\))", page)
    frame = eval(way, {"pandas": pandas}).sort_values("path", key=lambda paths: paths.str.encode("utf-8"))
    of_duckdb = duckdb.sql(f"select * from read_csv('{target}', header = true, new_line = '\\r\\n')").to_arrow_table()
    for name in ("path", "status", "prediction", "probability", "label", "error", "bytes", "sha256"):
        assert [None if pandas.isna(value) else value for value in frame[name]] == pytest.approx(rows[name].to_pylist())
    assert of_duckdb.sort_by("path")["path"].to_pylist() == rows["path"].to_pylist()
    assert frame["scored_at"].tolist() == rows["scored_at"].to_pylist()
    cats = [dict(pairs or []).get("cat") for pairs in rows["probabilities"].to_pylist()]
    assert frame["probability:cat"].astype(np.float32).tolist() == pytest.approx(
        [np.nan if value is None else value for value in cats], abs=0, rel=0, nan_ok=True
    )


def test_null_is_nothing_and_an_empty_text_is_quotes() -> None:
    rows = pa.table({"path": ["a", "b"], "error": pa.array([None, ""], pa.string()), "height": pa.array([None, 0])})
    sink = io.BytesIO()
    flat.write_csv(sink, [rows], [])
    assert sink.getvalue() == b'"path","error","height"\r\n"a",,\r\n"b","",0\r\n'


def test_columns_are_those_of_the_rows_whatever_they_are() -> None:
    column = pa.array([{"cat": 1.0}, None], table.SCHEMA.field("probabilities").type)
    time = pa.array([0, None], pa.timestamp("us", "UTC"))
    rows = pa.table(
        {"path": ["a", "b"], "later": pa.array([0.1, None], pa.float32()), "probabilities": column, "at": time}
    )
    sink = io.BytesIO()
    flat.write_csv(sink, [rows.slice(0, 0), rows], ["cat", "dog"])
    header, *lines = sink.getvalue().decode().splitlines()
    assert header == '"path","later","probability:cat","probability:dog","at"'
    assert lines == ['"a",0.1,1,,"1970-01-01T00:00:00.000000Z"', '"b",,,,']


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_the_most_probable_classes_are_those_of_sorting_and_the_first_is_the_prediction(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flat, "NUM_ROWS", 7)
    random = np.random.default_rng(count)
    rows: list[dict[str, Any]] = []
    for number in range(60):
        names = random.permutation([f"class {name}" for name in range(number % 6)]).tolist()
        values = np.float32(random.integers(0, 4, len(names)) / 8).tolist()  # with ties
        likely = [name for name, value in zip(names, values, strict=True) if value == max(values)]
        row = {"prediction": random.choice(likely) if likely else None}
        rows.append(row | {"probabilities": dict(zip(names, values, strict=True)) if number % 7 else None})
        if not rows[-1]["probabilities"]:
            rows[-1]["prediction"] = None
    schema = pa.schema([("prediction", pa.string()), table.SCHEMA.field("probabilities")])
    found = flat.top_k(pa.Table.from_pylist(rows, schema).slice(3), count).to_pylist()
    for row, top in zip(rows[3:], found, strict=True):
        pairs = list((row["probabilities"] or {}).items())
        values = sorted((value for _, value in pairs), reverse=True) + [None] * count
        assert [top[f"probability_{place}"] for place in range(1, count + 1)] == values[:count]
        said = [top[f"top_{place}"] for place in range(1, count + 1)]
        assert said[0] == row["prediction"] and len({*said} - {None}) == min(count, len(pairs))
        assert all((name, top[f"probability_{place}"]) in pairs for place, name in enumerate(said, 1) if name)
    assert list(found[0]) == flat.top_columns(count)


def test_the_newest_row_of_a_path_is_the_last_of_the_latest(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [
        table.Row(path=f"{random.choice(['', 'ä', 'a/', 'Z'])}{random.integers(9)}", status=str(number), model="m",
                  scored_at=datetime(2026, 1, 1 + int(random.integers(3))))
        for number in range(200)
    ]  # fmt: skip
    pq.write_table(table.of_rows(rows), tmp_path / "t.parquet", row_group_size=30)
    newest: dict[str, table.Row] = {}
    for row in rows:
        if row.path not in newest or row.scored_at >= newest[row.path].scored_at:
            newest[row.path] = row
    found = table.latest(f"{tmp_path}/t.parquet")
    assert found["path"].to_pylist() == sorted(newest, key=str.encode)
    assert found["status"].to_pylist() == [newest[path].status for path in found["path"].to_pylist()]
    pq.write_table(table.of_rows([]), tmp_path / "t.parquet")
    assert table.latest(f"{tmp_path}/t.parquet").equals(table.of_rows([]))


@pytest.mark.parametrize("top_k", [None, 1, 3])
def test_scoring_into_csv_is_scoring_into_parquet_and_writing_that_as_csv(
    top_k: int | None, place: Place, tmp_path: Path
) -> None:
    place.put("bad.jpg", "bad")
    place.put("cat/twin.jpg", "x" * 10)
    place.model = instant.save_model(tmp_path / "odd", 1, ODD)
    direct, later = place.root / "new/direct.csv", place.root / "later.csv"
    said = place.score(output=str(direct), top_k=top_k)
    assert (said["added"], said["output"], list(direct.parent.iterdir())) == (32, str(direct), [direct])
    place.score(output=str(place.root / "one.parquet"))
    words = ["--top-k", str(top_k)] if top_k else []
    assert main(["scores", str(place.root / "one.parquet"), "--output", str(later), *words]) == 0
    both = [in_order(read(file)) for file in (direct, later)]
    for row in (row for rows in both for row in rows):
        row["scored_at"] = ""
    assert both[0] == both[1] and len(both[0]) == 32
    columns = [name for name in both[0][0] if flat.is_column(name) and name not in table.SCHEMA.names]
    assert columns == (flat.top_columns(top_k) if top_k else [f"probability:{name}" for name in ODD.names])


def test_a_table_is_read_as_a_stream(odd: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many classes a table may be larger than memory, and than what Arrow takes rows from at once."""
    monkeypatch.setattr(flat, "NUM_ROWS", 7)
    found = table.newest(str(odd.table))
    assert max(rows.num_rows for rows in found.rows()) <= 7
    assert sum(rows.num_rows for rows in found.rows()) == len(found.order) == table.latest(str(odd.table)).num_rows
    assert found.table(3)["path"].to_pylist() == table.latest(str(odd.table))["path"].to_pylist()[:3]
    place = odd.put("later.jpg", "added after the look")
    odd.score()
    assert place.name not in pa.concat_tables(found.rows())["path"].to_pylist()


def test_without_a_picture_a_csv_has_the_columns_of_its_model(place: Place) -> None:
    shutil.rmtree(place.root / "input/cat")
    shutil.rmtree(place.root / "input/dog")
    place.score(output=f"{place.root}/one.csv")
    assert read(place.root / "one.csv") == []
    header = (place.root / "one.csv").read_text().strip().replace('"', "").split(",")
    assert "probability:cat" in header and "probability:dog" in header


OURS = '"path","status","probability:cat","top_1","scored_at"\r\n'


@pytest.mark.parametrize(
    ("content", "is_replaced"),
    [
        (OURS, True),
        (OURS + '"a.jpg","scored",1,"cat","20', True),
        ("path,status,scored_at\n", True),
        ("", True),
        ("path,label\na.jpg,cat\n", False),
        ("path,status,scored_at,checked by\n", False),
        ("path;status;scored_at\n", False),
        ("path,status,probability:cat\n", False),
        ("\ufeffpath,status,scored_at\n", False),
        ('"path,status,scored_at\n', False),
        ("\0" * 100, False),
        ("\n" + OURS, False),
        ("x" * 200_000, False),
        ("PAR1", False),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_only_a_csv_of_scores_is_replaced(
    content: str, is_replaced: bool, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    target, source = place.root / "photos.csv", place.root / "one.parquet"
    target.write_bytes(content.encode())
    pq.write_table(table.of_rows([]), source)
    commands = [["scores", str(source)]]
    if content.startswith((OURS, "path,label")):
        commands.insert(0, ["score", "--model", place.model, "--input", f"{place.root}/input"])
    for words in commands:
        code = main([*words, "--output", str(target)])
        out, said = capsys.readouterr()
        assert "next: tlearn scores" not in out  # which reads Parquet
        if is_replaced:
            assert code == 0 and len(read(target)) == (30 if words[0] == "score" else 0)
        else:
            assert code == 2 and target.read_bytes() == content.encode()
            assert said.count("\n") == 1 and str(target) in said


@pytest.mark.parametrize("when", ["before", "halfway"])
def test_a_crash_at_any_step_leaves_the_old_csv_or_the_new_one(
    when: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = place.root / "one.csv"

    def crash() -> None:
        raise Crash

    def paths() -> list[str]:
        return [row["path"] for row in read(target)]

    shutil.rmtree(place.root / "input/cat")
    place.score(output=str(target))
    old = paths()
    place.put("new.jpg", "new")
    for at in range(1, 100):
        place.computed.clear()
        with monkeypatch.context() as patch:
            counter = inject(patch, at, when, crash)
            try:
                place.score(output=str(target))
            except Crash:
                assert paths() in (old, sorted([*old, "new.jpg"]))
        if counter[0] < at:
            break
        (place.root / ".one.csv.work/lease.json").unlink(missing_ok=True)
        place.score(output=str(target))
        assert paths() == sorted([*old, "new.jpg"]) and len(place.computed) <= 2 * 16
    assert at > 8 and not list(place.root.glob(".*"))


@pytest.mark.parametrize("output", ["table/", "one.parquet"])
def test_the_most_probable_classes_alone_are_for_csv(output: str) -> None:
    with pytest.raises(UsageError, match=r"--output NAME\.csv with --top-k, got .*tlearn scores TABLE --top-k"):
        ScoreConfig(model="m", input="i", output=output, top_k=3)
    for config in (ScoreConfig, ScoresConfig):
        needed = {"model": "m", "input": "i", "output": "o.csv"} if config is ScoreConfig else {"table": "t"}
        with pytest.raises(UsageError, match="top_k must be from 1 to 1000, got 0"):
            config(**needed, top_k=0)  # type: ignore[operator]


def test_the_most_probable_classes_are_shown_and_kept(odd: Place, capsys: pytest.CaptureFixture[str]) -> None:
    target = odd.root / "top.parquet"
    words = ["scores", str(odd.table), "--top-k", "2", "--num-rows", "99"]
    assert main([*words, "--output", str(target)]) == 0
    header, *lines, _ = capsys.readouterr().out.splitlines()
    assert header.split() == ["path", "status", "top_1", "probability_1", "top_2", "probability_2", "error"]
    rows = pq.read_table(target).sort_by("path")
    assert rows.column_names == [*table.SCHEMA.names, *flat.top_columns(2)] and len(lines) == rows.num_rows
    assert rows["top_1"].equals(rows["prediction"]) and rows["probability_1"].equals(rows["probability"])
    for line, row in zip(lines, rows.to_pylist(), strict=True):
        if row["prediction"] == ODD.names[0]:
            assert f" {row['top_1']} " in line and f"{row['probability_2']:.3f}" in line
    assert main(["scores", str(target)]) == 0  # a table as any other


@pytest.mark.parametrize("words", [["scores", "one.csv"], ["compare", "one.csv", "one.csv"]], ids=" ".join)
def test_a_csv_is_for_other_programs(
    words: list[str], place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.root)
    place.score(output="one.csv")
    assert main(words) == 3
    assert "score into NAME.parquet or DIR/" in capsys.readouterr().err


def test_python_scores_and_evaluates_into_csv(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    cache, data = f"{place.root}/cache", place.root / "input"
    scored = tlearn.score(place.model, data, place.root / "one.csv", cache=cache, top_k=1)
    assert scored.added == 30 and "top_1" in read(place.root / "one.csv")[0]
    plain = tlearn.evaluate(place.model, data, cache=cache)
    kept = tlearn.evaluate(place.model, data, cache=cache, output=f"{place.root}/two.csv")
    assert (kept.quality, kept.confusion) == (plain.quality, plain.confusion)
    assert "probability:dog" in read(place.root / "two.csv")[0]
    assert (
        main(["evaluate", place.model, str(data), "--cache", cache, "--output", f"{place.root}/two.csv", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"] == plain.accuracy
