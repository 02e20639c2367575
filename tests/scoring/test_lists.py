"""Lists in the place of a listing: whatever they are written in, what they say of the files of a folder is the same."""

import csv
import gzip
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_scoring import Place

import tlearn
from tlearn import storage
from tlearn.cli import main, parse
from tlearn.config import ScoreConfig
from tlearn.data.names import Ignored
from tlearn.distributed import submit
from tlearn.errors import InputError, UsageError
from tlearn.scoring import lists
from tlearn.scoring.columns import SCHEMA
from tlearn.storage import UNKNOWN

NAMES = ["a.jpg", "b/c d.PNG", 'ü,"q".jpg', "no-suffix", "x/notes.txt", "@eaDir/t.jpg", "b/e;f\t.gif"]
PICTURES = [NAMES[0], NAMES[1], NAMES[2], NAMES[3], NAMES[6]]
TIME = 1_767_225_600_123_000
"""2026-01-01T00:00:00.123Z."""


def listed(*given: str | Path, folder: str = "/data/in", ignored: Ignored | None = None) -> list[tuple[Any, ...]]:
    found = []
    for table in lists.batches(lists.of(list(map(str, given)), folder), folder, ignored or Ignored()):
        assert table.schema == SCHEMA and table.num_rows
        found += [tuple(row.values()) for row in table.to_pylist()]
    return found


def parquet(at: Path, /, compression: str = "snappy", **columns: Any) -> Path:
    pq.write_table(pa.table(columns), at, compression=compression)
    return at


def text(path: Path, *lines: str | list[Any], sign: str = ",", end: str = "\n") -> Path:
    """Lines, or cells of lines."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        for line in lines:
            if isinstance(line, list):
                csv.writer(file, delimiter=sign, lineterminator=end).writerow(line)
            else:
                file.write(line + end)
    return path


def folder_of_lists(folder: Path) -> Path:
    for name, names in {"data/1.parquet": NAMES[:3], "data/2.parquet": NAMES[3:], "_old/3.parquet": ["z.jpg"]}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        parquet(folder / name, path=names)
    for name in ("_SUCCESS", "manifest.checksum"):
        (folder / "data" / name).write_text("none")
    return folder


FORMS: dict[str, Callable[[Path], Path]] = {
    "parquet": lambda at: parquet(at / "l.parquet", path=NAMES),
    "parquet, other text": lambda at: parquet(at / "l.parquet", path=pa.array(NAMES, pa.large_string())),
    "parquet, dictionary": lambda at: parquet(at / "l.parquet", path=pa.array(NAMES).dictionary_encode()),
    "parquet, bytes": lambda at: parquet(at / "l.parquet", path=[name.encode() for name in NAMES]),
    "parquet by its bytes": lambda at: parquet(at / "l.of.files", path=NAMES),
    "parquet, packed": lambda at: parquet(at / "l.parquet", "zstd", path=NAMES),
    "csv with a header": lambda at: text(at / "l.csv", ["id", "path"], *[[1, name] for name in NAMES]),
    "csv of one column": lambda at: text(at / "l.csv", *[[name] for name in NAMES]),
    "csv without a header": lambda at: text(at / "l.csv", *[[name, 7] for name in NAMES]),
    "csv, packed, CR LF": lambda at: text(at / "l.CSV.gz", ["path", "id"], *[[name, 1] for name in NAMES], end="\r\n"),
    "csv of a spreadsheet": lambda at: text(at / "l.csv", "\ufeffPath;id", *[[name, 1] for name in NAMES], sign=";"),
    "tsv": lambda at: text(at / "l.tsv", ["id", "path"], *[[1, name] for name in NAMES], sign="\t"),
    "text": lambda at: text(at / "l.txt", *NAMES),
    "text of another name, CR LF, packed": lambda at: text(at / "files.gz", *NAMES, end="\r\n"),
    "text with empty lines": lambda at: text(at / "l.txt", "", *NAMES, "", ""),
    "a folder": lambda at: folder_of_lists(at / "lists"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_list_is_read_whatever_it_is_written_in(form: str, tmp_path: Path) -> None:
    ignored = Ignored()
    found = listed(FORMS[form](tmp_path), ignored=ignored)
    assert [path for path, *_ in found] == PICTURES
    assert dict(ignored.names) == {".txt": 1, "@eaDir/": 1}


def test_several_lists_are_read_one_after_the_other_in_tables_of_some_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "_NUM_ROWS", 10)
    names = [f"{number:03}.jpg" for number in range(95)]
    given = [parquet(tmp_path / "a.parquet", path=names), text(tmp_path / "b.txt", "z.jpg", "000.jpg")]
    read = lists.batches(lists.of(list(map(str, given)), "/in"), "/in", Ignored())
    tables = [table["path"].to_pylist() for table in read]
    assert [path for paths in tables for path in paths] == [*names, "z.jpg", "000.jpg"]
    assert max(map(len, tables)) == 10


@pytest.mark.parametrize(
    "header",
    [
        ["path", "size", "modified", "etag"],
        ["Key", "Size", "LastModifiedDate", "ETag"],
        ["key", "size", "last_modified_date", "e_tag"],
        ["name", "size", "updated", "etag"],
        ["FILE", "Bytes", "mtime", "e-tag"],
        ["file_name", "bytes", "Last-Modified", "eTag"],
        ["URL", "SIZE", "last modified", "etag"],
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_size_time_and_etag_are_taken_by_the_names_of_their_columns(
    kind: str, header: list[str], tmp_path: Path
) -> None:
    rows = [["a.jpg", "5", "2026-01-01T00:00:00.123Z", '"tag"'], ["b.jpg", "", "", ""]]
    if kind == "csv":
        given = text(tmp_path / "l.csv", ["other", *header[::-1]], *[["0", *row[::-1]] for row in rows])
    else:
        values = [["a.jpg", "b.jpg"], [5, None], [datetime.fromtimestamp(TIME / 10**6, UTC), None], ["tag", None]]
        given = parquet(tmp_path / "l.parquet", **dict(zip(header, values, strict=True)), other=[0, 0])
    assert listed(given) == [("a.jpg", 5, TIME, "tag"), ("b.jpg", UNKNOWN, UNKNOWN, None)]


def test_a_csv_without_a_header_has_path_size_time_and_etag_in_this_order(tmp_path: Path) -> None:
    rows = [["a.jpg", 5, "2026-01-01T00:00:00.123Z", "tag", "other"]]
    assert [listed(text(tmp_path / "l.csv", *[row[:n] for row in rows])) for n in (1, 2, 3, 4, 5)] == [
        [("a.jpg", UNKNOWN, UNKNOWN, None)],
        [("a.jpg", 5, UNKNOWN, None)],
        [("a.jpg", 5, TIME, None)],
        [("a.jpg", 5, TIME, "tag")],
        [("a.jpg", 5, TIME, "tag")],
    ]


EAST = timezone(timedelta(hours=2))
AT = datetime(2026, 1, 1, 0, 0, 0, 123000, UTC)


@pytest.mark.parametrize(
    ("column", "microseconds"),
    [
        *[(pa.array([AT], pa.timestamp(unit, zone)), TIME - (123_000 if unit == "s" else 0))
          for unit in ("s", "ms", "us", "ns") for zone in ("UTC", "Europe/Rome", None)],
        (pa.array([AT.astimezone(EAST)], pa.timestamp("us", "+02:00")), TIME),
        *[(pa.array([said]), TIME) for said in (
            "2026-01-01T00:00:00.123Z", "2026-01-01 00:00:00.123", "2026-01-01T02:00:00.123+02:00",
            "2026-01-01 00:00:00.123456789+00", "2025-12-31T19:00:00.123-0500", " 2026-01-01T00:00:00.123Z ",
        ) if "456" not in said],
        (pa.array(["2026-01-01 00:00:00.123456789+00"]), TIME + 456),
        (pa.array(["2026-01-01T00:00:00.123Z"], pa.large_string()), TIME),
        (pa.array([TIME // 10**6]), TIME - 123_000),
        (pa.array([TIME // 1000]), TIME),
        (pa.array([TIME]), TIME),
        (pa.array([TIME * 1000 + 999]), TIME),
        (pa.array([TIME / 10**6]), TIME - 123_000),
        (pa.array(["1767225600"]), TIME - 123_000),
        (pa.array(["1767225600.1230000000"]), TIME - 123_000),
        (pa.array(["1767225600123"]), TIME),
        (pa.array([0]), 0),
        (pa.array([None], pa.timestamp("ms")), UNKNOWN),
        (pa.array([None], pa.string()), UNKNOWN),
        (pa.array([None], pa.float64()), UNKNOWN),
    ],
    ids=str,
)  # fmt: skip
def test_a_time_is_the_same_however_it_is_written(column: pa.Array, microseconds: int, tmp_path: Path) -> None:
    given = parquet(tmp_path / "l.parquet", path=["a.jpg"], mtime=column)
    assert listed(given) == [("a.jpg", UNKNOWN, microseconds, None)]


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/data/in/a.jpg", "a.jpg"),
        ("/data/in//b/./c.jpg", "b/c.jpg"),
        ("./a.jpg", "a.jpg"),
        ("./b/../a.jpg", "a.jpg"),
        ("/data/other/../in/a.jpg", "a.jpg"),
        ("//data/in/a.jpg", "a.jpg"),
        ("file:///data/in/a%20b.jpg", "a b.jpg"),
        ("data/in/a.jpg", "data/in/a.jpg"),
        ("caf%E9.jpg", "caf%25E9.jpg"),
        ("100%.jpg", "100%.jpg"),
        ("b/c.jpg/", None),
    ],
)
def test_a_path_is_relative_to_the_input_or_below_it(written: str, path: str | None, tmp_path: Path) -> None:
    found = listed(text(tmp_path / "l.txt", "first.jpg", written))
    assert [name for name, *_ in found] == ["first.jpg", *([path] if path else [])]


@pytest.mark.parametrize(
    ("folder", "written", "path"),
    [
        ("s3://b/in", "s3://b/in/a.jpg", "a.jpg"),
        ("s3://b/in/", "a/../b.jpg", "a/../b.jpg"),
        ("s3://b", "s3://b//x.jpg", "/x.jpg"),
        ("gs://b/in", "gs://b/in/ü.jpg", "ü.jpg"),
    ],
)
def test_keys_of_a_store_stay_as_they_are(folder: str, written: str, path: str, tmp_path: Path) -> None:
    assert [name for name, *_ in listed(text(tmp_path / "l.txt", written), folder=folder)] == [path]


def test_names_of_any_bytes_are_listed_as_a_folder_lists_them(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"a\xff.jpg\n\xfc/b.txt\nc.jpg\n")
    pq.write_table(pa.table({"path": pa.array([b"a\xff.jpg", b"c.jpg"])}), tmp_path / "l.parquet")
    for name in ("l.txt", "l.parquet"):
        assert [path for path, *_ in listed(tmp_path / name)] == ["a%FF.jpg", "c.jpg"]


@pytest.mark.parametrize(
    ("folder", "written"),
    [
        ("/data/in", "/data/other/a.jpg"),
        ("/data/in", "/data/input/a.jpg"),
        ("/data/in", "../a.jpg"),
        ("/data/in", "b/../../a.jpg"),
        ("/data/in", "/data/in/../a.jpg"),
        ("/data/in", "s3://b/a.jpg"),
        ("s3://b/in", "s3://c/in/a.jpg"),
        ("s3://b/in", "/data/in/a.jpg"),
        ("s3://b/in", "gs://b/in/a.jpg"),
    ],
)
@pytest.mark.parametrize("kind", ["l.txt", "l.csv", "l.parquet"])
def test_a_path_outside_of_the_input_is_named_with_its_line(
    kind: str, folder: str, written: str, tmp_path: Path
) -> None:
    paths = [f"{number}.jpg" for number in range(20)] + [written]
    if kind == "l.parquet":
        given = parquet(tmp_path / kind, path=paths)
    else:
        given = text(tmp_path / kind, *([["path"]] if kind == "l.csv" else []), *[[path] for path in paths])
    where = {"l.txt": "line 21", "l.csv": "line 22", "l.parquet": "row 21"}[kind]
    with pytest.raises(InputError) as raised:
        listed(given, folder=folder)
    assert f"found {written} in {where} of {given}" in str(raised.value) and folder in str(raised.value)


def manifest(at: Path, kind: str, schema: str, *names: str) -> Path:
    path = at / "photos" / "daily" / "2026-01-01T01-00Z" / "manifest.json"
    for folder in (path.parent, at / "photos" / "daily" / "data"):
        folder.mkdir(parents=True)
    files = [{"key": f"inventories/photos/daily/data/{name}", "size": 1, "MD5checksum": "0"} for name in names]
    path.write_text(json.dumps({"sourceBucket": "photos", "fileFormat": kind, "fileSchema": schema, "files": files}))
    return path


VERSIONED = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"


def in_csv(at: Path) -> Path:
    path = manifest(at, "CSV", VERSIONED, "1.csv.gz", "2.csv.gz")
    rows = [
        ["photos", "in/a+b%2Bc.jpg", "v2", "true", "false", "5", "2026-01-01T00:00:00.123Z", "tag", "STANDARD"],
        ["photos", "in/a+b%2Bc.jpg", "v1", "false", "false", "4", "2025-01-01T00:00:00.000Z", "old", "STANDARD"],
        ["photos", "in/gone.jpg", "v2", "true", "true", "", "2026-01-01T00:00:00.000Z", "", ""],
    ]
    more = [["photos", "in/%C3%BC/", "", "true", "false", "0", "2026-01-01T00:00:00.000Z", "", ""]]
    more += [["photos", name, "", "true", "false", "6", "2026-01-01T00:00:00.000Z", "t", ""] for name in (
        "in/%C3%BC/d.jpg", "other/e.jpg", "in/f.txt", "in/%25E9.jpg")]  # fmt: skip
    data = at / "photos" / "daily" / "data"
    text(data / "1.csv.gz", *rows)
    text(data / "2.csv.gz", *more)
    return path


def in_parquet(at: Path) -> Path:
    path = manifest(at, "Parquet", "message s3.inventory { required binary bucket (STRING); }", "1.parquet")
    parquet(
        at / "photos" / "daily" / "data" / "1.parquet",
        bucket=["photos"] * 7,
        key=["in/a b+c.jpg", "in/a b+c.jpg", "in/gone.jpg", "in/ü/d.jpg", "other/e.jpg", "in/f.txt", "in/%E9.jpg"],
        is_latest=[True, False, True, None, True, True, True],
        is_delete_marker=[False, False, True, False, False, False, False],
        size=[5, 4, None, 6, 6, 6, 6],
        last_modified_date=pa.array([TIME // 1000] + [1_767_225_600_000] * 6, pa.timestamp("ms", "UTC")),
        e_tag=["tag", "old", None, "t", "t", "t", "t"],
    )
    return path


@pytest.mark.parametrize("write", [in_csv, in_parquet])
def test_an_inventory_of_s3_lists_what_is_there_now_below_the_input(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    ignored = Ignored()
    found = listed(write(tmp_path), folder="s3://photos/in", ignored=ignored)
    second = TIME - 123_000
    assert found == [
        ("a b+c.jpg", 5, TIME, "tag"),
        ("ü/d.jpg", 6, second, "t"),
        ("%25E9.jpg", 6, second, "t"),
    ]
    assert dict(ignored.names) == {".txt": 1} and ignored.outside == 1
    assert "of the inventory, not in the input: 1 files" in ignored.remarks()


@pytest.mark.parametrize("is_headed", [False, True])
def test_the_files_of_an_inventory_are_read_without_its_manifest(is_headed: bool, tmp_path: Path) -> None:
    header = [["bucket", "key", "size", "last_modified_date", "e_tag"]] if is_headed else []
    row = ["photos", "in/a+b.jpg", "5", "2026-01-01T00:00:00.123Z", "tag"]
    text(tmp_path / "1.csv.gz", *header, row)
    assert listed(tmp_path, folder="s3://photos/in/") == [("a b.jpg", 5, TIME, "tag")]


WRONG: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "no path": (lambda at: parquet(at / "l.parquet", id=[1], what=["a"]), ["path", "id, what", "name it path"]),
    "no path in a manifest": (lambda at: manifest(at, "CSV", "Bucket, Size", "1.csv"), ["could not read", "not there"]),
    "size": (lambda at: text(at / "l.csv", ["a.jpg", 1], ["b.jpg", "big"]), ["a size in bytes", "big", "line 2"]),
    "half a byte": (
        lambda at: parquet(at / "l.parquet", path=["a.jpg"], size=[1.5]),
        ["size in bytes", "1.5", "row 1"],
    ),
    "time": (
        lambda at: text(at / "l.csv", ["path", "mtime"], ["a.jpg", "yesterday"]),
        ["a time (2026-11-26T09:00:00Z", "yesterday", "line 2"],
    ),
    "paths that are none": (lambda at: parquet(at / "l.parquet", path=[{"a": 1}]), ["could not read"]),
    "an etag that is none": (lambda at: parquet(at / "l.parquet", path=["a"], etag=[[1]]), ["could not read"]),
    "a size that is none": (lambda at: parquet(at / "l.parquet", path=["a"], size=[[1]]), ["a size in bytes", "row 1"]),
    "a time that is none": (lambda at: parquet(at / "l.parquet", path=["a"], mtime=[True]), ["a time", "row 1"]),
    "cells": (lambda at: text(at / "l.csv", ["path", "id"], ["a.jpg"]), ["could not read", "2 columns"]),
    "half a gz": (
        lambda at: (at / "l.txt.gz").write_bytes(gzip.compress(os.urandom(99_999))[:50_000]) and at / "l.txt.gz",
        ["could not read"],
    ),
    "no gz": (lambda at: (at / "l.txt.gz").write_text("a.jpg\n") and at / "l.txt.gz", ["could not read"]),
    "half a parquet": (lambda at: (at / "l.parquet").write_bytes(b"PAR1abc") and at / "l.parquet", ["could not read"]),
    "half a csv": (lambda at: text(at / "l.csv", ["path", "id"], ["a.jpg"]), ["write it again"]),
    "a size below 0": (lambda at: text(at / "l.csv", ["a.jpg", 5], ["b.jpg", -1]), ["in bytes", "-1", "line 2"]),
    "a size below 0 in parquet": (
        lambda at: parquet(at / "l.parquet", path=["a.jpg", "b.jpg"], size=[5, -12]),
        ["a size in bytes", "-12", "row 2"],
    ),
    "a path that is a number": (lambda at: parquet(at / "l.parquet", path=[1, 2]), ["expected text", "int64"]),
    "a path with a NUL byte": (
        lambda at: text(at / "l.txt", *["b.jpg"] * 20_000, "a\0.jpg"),
        ["expected a path, found a\\x00.jpg in line 20,001", "leave it out"],
    ),
    "a key with a NUL byte": (
        lambda at: text(at / "l.csv", ["bucket", "key"], ["b", "a%00.jpg"]),
        ["found a\\x00.jpg in line 2"],
    ),
    "a header without a path": (
        lambda at: text(at / "l.csv", ["picture", "weight"], ["a.jpg", 5]),
        ["a column of paths", "picture, weight", "name it path"],
    ),
    **{
        f"{what} in {name}": (
            lambda at, name=name, content=content: (at / name).write_bytes(content) and at / name,
            ["could not read it", words, "write it as Parquet, CSV"],
        )
        for name in ("l.txt", "l.csv", "l")
        for what, content, words in (
            ("json", b'[{"path": "a.jpg"}]', "it is JSON"),
            ("json of several lines", b'\xef\xbb\xbf\n{\n  "files": [\n    "a.jpg"]}\n', "it is JSON"),
            ("json lines", b'{"path": "a.jpg"}\n{"path": "b.jpg"}\n', "it is JSON"),
            ("xml", b"<?xml version='1.0'?><a/>", "it is XML"),
            ("utf-16", "a.jpg\nb.jpg\n".encode("utf-16"), "it is UTF-16"),
            ("utf-16 without a mark", "a.jpg\nb.jpg\n".encode("utf-16-be"), "NUL bytes"),
            ("find -print0", b"a.jpg\0b.jpg\0", "NUL bytes"),
            ("a database", b"SQLite format 3\0", "NUL bytes"),
        )
    },
    **{
        f"a csv of another name: {line}": (
            lambda at, line=line: text(at / "l.dat", line, "a.jpg,5"),
            ["of a CSV", "ends in .csv"],
        )
        for line in ("path,size", "id;Key;size", "a.jpg,37308", "b/a.jpg\t5\t2026-01-01T00:00:00Z", '"a.jpg","5"')
    },
    "nothing": (lambda at: at / "l.txt", ["not there"]),
    "an empty folder": (lambda at: (at / "lists").mkdir() or at / "lists", [".parquet", "found none"]),
    "orc": (lambda at: manifest(at, "ORC", "struct<bucket:string>", "1.orc"), ["ORC", "Parquet or CSV"]),
    "no manifest": (lambda at: (at / "manifest.json").write_text("[]") and at / "manifest.json", ["no manifest"]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_with_a_list_is_one_line(wrong: str, tmp_path: Path) -> None:
    write, words = WRONG[wrong]
    with pytest.raises(InputError) as raised:
        listed(write(tmp_path))
    assert all(word in str(raised.value) for word in words) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "names", [["a, b.jpg", "c.jpg"], ["file, 1.jpg"], ["[1] {x}.jpg"], ["{6F9619FF}.jpg"], ["a,b"]]
)
def test_names_that_look_like_another_kind_of_list_are_names(names: list[str], tmp_path: Path) -> None:
    assert [path for path, *_ in listed(text(tmp_path / "l.txt", *names))] == names


@pytest.mark.parametrize("cell", ["37308", " 37308 ", "37308.0", "37308.", "37308.000 "])
@pytest.mark.parametrize("nothing", ["", " ", "NULL", "NaN", "nan", "None", "NaT", "<NA>", "N/A"])
def test_cells_of_pandas_and_databases_are_understood(cell: str, nothing: str, tmp_path: Path) -> None:
    rows = [["a.jpg", cell, "1767225600.123"], ["b.jpg", nothing, nothing]]
    expected = [("a.jpg", 37308, TIME - 123_000, None), ("b.jpg", UNKNOWN, UNKNOWN, None)]
    assert listed(text(tmp_path / "l.csv", ["path", "size", "mtime"], *rows)) == expected
    assert listed(text(tmp_path / "plain.csv", *rows)) == expected


def test_numbers_with_gaps_are_floats_to_pandas(tmp_path: Path) -> None:
    numbers = pa.array([5.0, float("nan"), None])
    given = parquet(tmp_path / "l.parquet", path=["a.jpg", "b.jpg", "c.jpg"], size=numbers, mtime=numbers)
    assert [row[1:3] for row in listed(given)] == [(5, 5_000_000), (UNKNOWN, UNKNOWN), (UNKNOWN, UNKNOWN)]


def test_a_pipe_is_no_list(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for given in (str(tmp_path / "pipe"), "-", "/dev/null"):
        with pytest.raises(InputError, match="expected a file as --input-list, found a pipe or a device"):
            listed(given)


@pytest.mark.parametrize("name", ["l.txt", "l.csv", "l.txt.gz"])
def test_an_empty_list_lists_nothing(name: str, tmp_path: Path) -> None:
    assert listed(text(tmp_path / name)) == []
    assert listed(text(tmp_path / "head.csv", ["path", "size"])) == []
    assert listed(parquet(tmp_path / "l.parquet", path=pa.array([], pa.string()))) == []


def told(place: Place, *columns: str) -> Path:
    """A list of all files, some twice, that says no more than these columns."""
    rows = []
    for file in sorted((place.root / "input").rglob("*.jpg")):
        status = file.stat()
        said = {"size": status.st_size, "mtime": status.st_mtime_ns // 10**9, "etag": hash(file.read_bytes())}
        rows.append([file.relative_to(place.root / "input"), *[said[name] for name in columns]])
    return text(place.root / "list.csv", ["path", *columns], *rows, *rows[:3])


@pytest.mark.parametrize("columns", [(), ("size",), ("size", "mtime", "etag"), ("mtime",)], ids=str)
def test_what_is_listed_is_scored_and_compared_with_what_the_list_says(columns: tuple[str, ...], place: Place) -> None:
    given = str(told(place, *columns))
    place.put("unlisted.jpg", "not in the list")
    (place.root / "input" / "cat" / "01.jpg").unlink()
    for output in (f"{place.root}/one.parquet", f"{place.table}/"):
        assert place.score(input_list=given, output=output)["statuses"] == {"scored": 29, "missing": 1}
    assert len(place.rows()) == 30
    place.computed.clear()
    place.score(input_list=given)
    assert place.computed == ["cat/01.jpg"]
    changed = place.put("dog/00.jpg", "longer than it was")
    os.utime(changed, (1, 1))
    summary = place.score(input_list=str(told(place, *columns)))
    assert summary["statuses"] == ({"scored": 2} if columns else {"scored": 1})


def test_what_is_listed_twice_counts_once(place: Place) -> None:
    given = told(place)
    assert len(given.read_text().splitlines()) == 1 + 30 + 3
    summary = place.score(input_list=str(given))
    assert (summary["listed"], summary["unchanged"], summary["added"]) == (30, 0, 30)


def test_an_empty_list_is_named(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    given = text(place.root / "l.txt")
    place.score(input_list=str(given))
    assert f"found no picture in {place.root}/input by the list {given}" in caplog.text


@pytest.mark.parametrize(("num_wrong", "is_doubted"), [(0, False), (10, False), (20, True)])
def test_a_list_of_other_files_is_doubted(
    num_wrong: int, is_doubted: bool, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    files = sorted((place.root / "input").rglob("*.jpg"))
    rows = [[file, file.stat().st_size + (number < num_wrong)] for number, file in enumerate(files)]
    assert place.score(input_list=str(text(place.root / "l.csv", *rows)))["statuses"].get("changed", 0) == num_wrong
    assert (f"{num_wrong} of 30 files are not as the list says" in caplog.text) == is_doubted


def test_python_and_submitted_jobs_take_lists(place: Place) -> None:
    first, second = text(place.root / "1.txt", "cat/01.jpg"), text(place.root / "2.txt", "dog/00.jpg", "cat/01.jpg")
    paths = {"model": place.model, "input": place.root / "input", "output": place.root / "one.parquet"}
    scored = tlearn.score(**paths, input_list=[first, second], cache=f"{place.root}/cache")
    assert (scored.added, scored.computed) == (2, 2)
    assert tlearn.score(**paths, input_list=first, cache=f"{place.root}/cache").listed == 1
    words = ["submit", "score", "/m", "/in", "--input-list", "/l.txt", "l.txt", "--output", "/t/"]
    with pytest.raises(UsageError, match=r"--input-list, got l\.txt"):
        submit._require_absolute(parse(words).settings.job)
    with pytest.raises(UsageError, match="got no file"):
        ScoreConfig(model="m", input="in", input_list=(), output="t/")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--input", "input", "--input-list", "l.txt", "l.csv"], 0, ""),
        (["--input", "input", "--input-list", "nowhere.txt"], 3, "nowhere.txt"),
        (["--input", "input/cat", "input/dog", "--input-list", "l.txt"], 2, "expected one folder as --input"),
        (["--input", "input/cat/01.jpg", "--input-list", "l.txt"], 2, "expected one folder as --input"),
        (["--input", "input", "--input-list", "-"], 3, "found a pipe"),
        (["--input", "input/cat", "--input-list", "outside.txt"], 3, "line 1 of"),
        (["--input", "input", "--input-list", "no-paths.csv"], 3, "found id, what: name it path"),
    ],
    ids=str,
)
def test_lists_by_the_command(
    words: list[str],
    code: int,
    says: str,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place.root)
    text(place.root / "l.txt", "cat/01.jpg")
    text(place.root / "l.csv", ["file", "id"], [place.root / "input" / "dog" / "00.jpg", 1])
    text(place.root / "outside.txt", str(place.root / "input" / "dog" / "00.jpg"))
    text(place.root / "no-paths.csv", ["id", "what"], [1, "a"])
    output = ["--output", f"{place.table}/", "--cache", f"{place.root}/cache"]
    assert main(["score", "--model", place.model, *words, *output]) == code
    assert says in capsys.readouterr().err
    assert sorted(row["path"] for row in place.rows()) == (["cat/01.jpg", "dog/00.jpg"] if code == 0 else [])


@pytest.mark.slow
def test_lists_and_files_may_be_on_a_store(place: Place, bucket: str) -> None:
    for file in (place.root / "input").rglob("*.jpg"):
        storage.write_bytes(f"{bucket}/in/{file.relative_to(place.root / 'input')}", file.read_bytes())
    name = bucket.removeprefix("s3://")
    rows = [[name, key, "true"] for key in ("in/cat/01.jpg", "in/dog/00.jpg", "other/x.jpg")]
    at = manifest(place.root, "CSV", "Bucket, Key, IsLatest", "1.csv")
    text(at.parents[1] / "data" / "1.csv", *rows)
    parquet(place.root / "photos" / "list.parquet", uri=[f"{bucket}/in/cat/03.jpg", "cat/01.jpg"])
    for path in (place.root / "photos").rglob("*.*"):
        storage.write_bytes(f"{bucket}/{path.relative_to(place.root)}", path.read_bytes())
    for given, paths in (
        (at.relative_to(place.root), ["cat/01.jpg", "dog/00.jpg"]),
        ("photos/list.parquet", ["cat/03.jpg"]),
    ):
        settings = {"input": f"{bucket}/in", "input_list": f"{bucket}/{given}", "output": f"{bucket}/table/"}
        place.computed.clear()
        place.score(**settings)
        assert sorted(place.computed) == paths
