"""What a table holds and what is to be done, without a job: files of a few bytes, rows made by hand."""

import hashlib
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tlearn import storage
from tlearn.errors import StorageError
from tlearn.scoring import index as indices
from tlearn.scoring import plan, table
from tlearn.scoring import waves as planning
from tlearn.scoring.index import Index
from tlearn.scoring.plan import Facts, Plan
from tlearn.scoring.table import COPIED, Row
from tlearn.scoring.waves import SCHEMA, Counts, Scope, Wave, sizes, waves

MODEL = "model"


@dataclass
class Folder:
    """Files, how they are listed, and which were read."""

    root: Path
    listed: list[dict[str, Any]] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)

    def put(self, path: str, content: str, modified: int = 1, etag: str | None = None) -> dict[str, Any]:
        self.write(path, content, modified)
        entry = {"path": path, "size": len(content), "modified": modified, "etag": etag}
        self.listed.append(entry)
        return entry

    def write(self, path: str, content: str, modified: int) -> None:
        (self.root / path).write_text(content)
        os.utime(self.root / path, ns=(modified * 1000, modified * 1000))

    def row(self, entry: dict[str, Any], status: str = "scored", model: str = MODEL) -> Row:
        """What a run makes of a listed file."""
        return Row(
            path=entry["path"],
            status=status,
            prediction="cat" if status == "scored" else None,
            probabilities={"cat": 0.75, "dog": 0.25} if status == "scored" else None,
            error=None if status == "scored" else status,
            bytes=entry["size"],
            modified=entry["modified"],
            sha256=hashlib.sha256((self.root / entry["path"]).read_bytes()).hexdigest(),
            model=model,
            scored_at=datetime.now(UTC),
        )

    def batches(self, num_rows: int = 3) -> Iterator[pa.Table]:
        schema = pa.schema([*(SCHEMA.field(name) for name in ("path", "size", "modified")), ("etag", pa.string())])
        for start in range(0, len(self.listed), num_rows):
            yield pa.Table.from_pylist(self.listed[start : start + num_rows], schema=schema)

    def waves(self, index: Index, sizes: Iterable[int] = (), **scope: Any) -> list[Wave]:
        scope = {"folder": str(self.root), "model": MODEL, "max_bytes": 100, "rescore": False, **scope}
        return list(waves(index, self.batches(), Scope(**scope), sizes))

    def todo(self, index: Index, **scope: Any) -> dict[str, tuple[str | None, str | None]]:
        """Of one wave: path to same_as and result."""
        (wave,) = self.waves(index, **scope)
        return {row["path"]: (row["same_as"], row["result"]) for row in wave.table.to_pylist()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    (tmp_path / "input").mkdir()
    folder, read = Folder(tmp_path / "input"), storage.read_listed

    def noted(root: str, path: str, max_bytes: int | None = None) -> storage.Content:
        folder.opened.append(path)
        return read(root, path, max_bytes)

    monkeypatch.setattr(storage, "read_listed", noted)
    # So that a few files take several rounds.
    for name, size in {"FIRST": 4, "_LARGEST_NEW": 8, "_LARGEST_ROUND": 16, "_READ_AT_ONCE": 2}.items():
        monkeypatch.setattr(planning, name, size)
    return folder


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with indices.opened(tmp_path / "cache" / "index.duckdb") as index:
        yield index


def ingest(index: Index, *rows: Row) -> None:
    index.ingest(f"file-{len(index.commits())}", "sha256", [table.of_rows(rows)])


def total(found: Iterable[Wave]) -> Counts:
    return sum((wave.counts for wave in found), Counts())


@pytest.mark.parametrize("sizes", [(), (1,) * 50, (7, 2, 9, 4), (20,), (40,)])
def test_waves_of_any_size_hold_the_same_files_once_each_in_the_order_of_their_paths(
    sizes: tuple[int, ...], folder: Folder, index: Index
) -> None:
    entries = [folder.put(f"{number:02}.jpg", "x" * (number + 1)) for number in range(40)]
    ingest(index, *map(folder.row, entries[::2]))
    random.Random(0).shuffle(folder.listed)
    folder.listed += folder.listed[5:15]
    found = folder.waves(index, sizes)
    paths = [wave.table["path"].to_pylist() for wave in found]
    assert sorted(path for some in paths for path in some) == [entry["path"] for entry in entries[1::2]]
    assert all(some == sorted(some) for some in paths)
    assert all(0 < len(some) <= size for some, size in zip(paths[:-1], sizes, strict=False))
    assert [wave.is_last for wave in found] == [False] * (len(found) - 1) + [True]
    counts = total(found)
    assert (counts.compute, counts.copied, counts.opened) == (20, 0, 0)
    assert all(wave.counts.listed == wave.counts.unchanged + wave.table.num_rows for wave in found)


def test_waves_grow_to_a_limit_and_stay_there() -> None:
    growing = sizes()
    assert [next(growing) for _ in range(9)] == [4096 * 2**number for number in range(7)] + [262_144] * 2


@pytest.mark.parametrize(
    ("listed", "is_known"),
    [
        ({}, True),
        ({"size": -1}, True),
        ({"modified": -1}, True),
        ({"size": -1, "modified": -1}, True),
        ({"size": 99}, False),
        ({"size": -1, "modified": 2}, False),
        ({"size": 99, "modified": -1}, False),
    ],
)
def test_what_a_listing_does_not_know_is_not_compared(
    listed: dict[str, int], is_known: bool, folder: Folder, index: Index
) -> None:
    ingest(index, folder.row(folder.put("a.jpg", "a")))
    folder.listed[0] |= listed
    assert (folder.todo(index) == {}) == is_known


@pytest.mark.parametrize("size", [1, 2, 9])
def test_the_same_bytes_are_computed_once_over_all_waves_and_read_once(size: int, folder: Folder, index: Index) -> None:
    for number, path in enumerate("gbdafce"):
        folder.put(f"{path}.jpg", ("twin", "once", "same")[number % 3])
    found = folder.waves(index, (size,) * 7)
    first: dict[str, str] = {}
    for row in (row for wave in found for row in wave.table.to_pylist()):
        content = (folder.root / row["path"]).read_text()
        assert row["same_as"] == first.get(content)
        first.setdefault(content, row["path"])
    assert Counter(folder.opened) == Counter({entry["path"]: 1 for entry in folder.listed})
    assert total(found) == Counts(listed=7, compute=3, copied=4, opened=7)


def test_a_file_of_an_earlier_wave_is_the_first_of_its_bytes_though_it_is_read_later(
    folder: Folder, index: Index
) -> None:
    for path in "uvwxyz":  # a round; the last has the size of those that come later
        folder.put(path, path * ord(path))
    for path in "ba":
        folder.put(path, "z" * ord("z"))
    rows = [row for wave in folder.waves(index, (2,) * 9, max_bytes=200) for row in wave.table.to_pylist()]
    assert {row["path"]: row["same_as"] for row in rows} == {**dict.fromkeys("uvwxyz"), "b": "z", "a": "z"}


def test_files_with_other_etags_are_not_read_and_equal_ones_are_believed_only_when_read(
    folder: Folder, index: Index
) -> None:
    for path, content, etag in [("a", "1111", "x"), ("b", "1111", "y"), ("c", "2222", "z"), ("d", "3333", "z")]:
        folder.put(path, content, etag=etag)
    assert folder.todo(index) == dict.fromkeys("abcd", (None, None))
    assert folder.opened == ["c", "d"]


def test_known_bytes_bring_their_outcome_whatever_their_path(folder: Folder, index: Index) -> None:
    row = folder.row(folder.put("old.jpg", "known"))
    ingest(index, row, folder.row(folder.put("bad.jpg", "wrong"), "unreadable"))
    ingest(index, folder.row(folder.put("gone.jpg", "later"), "changed"))
    folder.listed.clear()
    for path, content in [("a", "known"), ("b", "known"), ("c", "wrong"), ("d", "later"), ("e", "other")]:
        folder.put(path, content)
    todo = folder.todo(index)
    assert {path: same_as for path, (same_as, _) in todo.items()} == dict.fromkeys("abcde")
    results = {path: json.loads(result) for path, (_, result) in todo.items() if result}
    expected = table.of_rows([row]).select(COPIED).to_pylist(maps_as_pydicts="strict")
    assert [results["a"]] == [results["b"]] == expected and results["c"]["status"] == "unreadable"
    assert results.keys() == set("abc")
    assert folder.todo(index, rescore=True) == {
        "a": (None, None),
        "b": ("a", None),
        **dict.fromkeys("cde", (None, None)),
    }
    assert folder.todo(index, model="other")["c"] == (None, None)


def test_a_touched_file_needs_no_row_and_is_not_read_again(folder: Folder, index: Index) -> None:
    entry = folder.put("a.jpg", "bytes")
    ingest(index, folder.row(entry))
    folder.write("a.jpg", "bytes", 2)
    folder.listed[0] = {**entry, "modified": 2}
    assert (folder.todo(index), folder.opened) == ({}, ["a.jpg"])
    assert (folder.todo(index), folder.opened) == ({}, ["a.jpg"])


@pytest.mark.parametrize("seed", range(8))
def test_a_random_folder_is_planned_as_a_plain_loop_plans_it(seed: int, folder: Folder, index: Index) -> None:
    choice = random.Random(seed)
    known = {}
    for number in range(60):
        entry = folder.put(f"{number:02}", choice.choice("abcdefgh") * choice.randrange(1, 9), choice.randrange(3))
        if choice.random() < 0.5:
            status = choice.choice(["scored", "scored", "unreadable", "missing"])
            known[entry["path"]] = folder.row(entry, status)
    ingest(index, *known.values())
    for entry in choice.sample(folder.listed, 30):  # changed since, or touched
        content = choice.choice(
            [choice.choice("abcdefgh") * choice.randrange(1, 9), (folder.root / entry["path"]).read_text()]
        )
        entry |= {"size": len(content), "modified": choice.randrange(3)}
        folder.write(entry["path"], content, entry["modified"])
    choice.shuffle(folder.listed)

    settled = {path: row for path, row in known.items() if row.status != "missing"}
    outcomes = {row.sha256 for row in settled.values()}
    expected = {}
    for entry in folder.listed:
        row, sha256 = settled.get(entry["path"]), folder.row(entry).sha256
        is_same = row is not None and (entry["size"], entry["modified"]) == (row.bytes, row.modified)
        if not is_same and not (row is not None and row.sha256 == sha256):
            expected[entry["path"]] = (sha256, sha256 in outcomes)

    rows = [row for wave in folder.waves(index, (5,) * 99) for row in wave.table.to_pylist()]
    computed = [expected[row["path"]][0] for row in rows if row["same_as"] is row["result"] is None]
    assert {row["path"]: row["result"] is not None for row in rows} == {
        path: copy for path, (_, copy) in expected.items()
    }
    assert sorted(computed) == sorted({sha256 for sha256, is_copy in expected.values() if not is_copy})
    assert all(expected[row["path"]][0] == expected[row["same_as"]][0] for row in rows if row["same_as"])
    assert len(folder.opened) == len(set(folder.opened))


def test_rows_that_come_in_meanwhile_change_nothing_of_the_plan(folder: Folder, index: Index) -> None:
    for number in range(30):
        folder.put(f"{number:02}", "x" * (number % 10 + 1))
    scope = Scope(str(folder.root), MODEL, 100, rescore=False)
    expected = [wave.table.to_pylist() for wave in waves(index, folder.batches(), scope, (4,) * 99)]
    found = []
    for wave in waves(index, folder.batches(), scope, (4,) * 99):
        found.append(wave.table.to_pylist())
        rows = [folder.row({**row, "etag": None}) for row in found[-1]]
        thread = threading.Thread(target=ingest, args=(index, *rows))
        thread.start()
        thread.join()
    assert found == expected
    assert folder.todo(index) == {}


def test_the_index_gives_the_newest_row_of_a_path_and_model(folder: Folder, index: Index) -> None:
    entry = folder.put("a.jpg", "first")
    ingest(index, folder.row(entry, "unreadable"), folder.row(entry, model="other"))
    (folder.root / "a.jpg").write_text("second")
    newest = folder.row(entry)
    ingest(index, newest)
    assert index.outcomes(["a.jpg", "b.jpg"], MODEL) == {"a.jpg": ("scored", None, newest.sha256)}
    assert index.outcomes([], MODEL) == index.outcomes(["a.jpg"], "no model") == {}
    results = index.results(["b.jpg", "a.jpg"], MODEL).to_pylist(maps_as_pydicts="strict")
    assert results == table.of_rows([newest]).select(["path", *COPIED]).to_pylist(maps_as_pydicts="strict")
    index.clear()
    assert (index.commits(), index.outcomes(["a.jpg"], MODEL)) == ({}, {})


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"not a database" * 1000),
        cut_short,
        Path.unlink,
        lambda path: path.with_suffix(".seal").unlink(),  # as a process that was killed leaves it
        lambda path: path.with_suffix(".seal").write_bytes(b"\xff\xfe"),
        lambda path: path.with_name(f"{path.name}.wal").write_bytes(b"torn") and path.with_suffix(".seal").unlink(),
    ],
)
def test_an_index_that_is_not_what_was_closed_is_made_anew(
    damage: Callable[[Path], object], folder: Folder, tmp_path: Path
) -> None:
    path = tmp_path / "index.duckdb"
    for file in ("index.sqlite", "index.sha256"):
        (tmp_path / file).write_text("of an earlier version")
    with indices.opened(path) as index:
        ingest(index, folder.row(folder.put("a.jpg", "a")))
    with indices.opened(path) as index:
        assert len(index.commits()) == 1
    damage(path)
    with indices.opened(path) as index:
        assert index.commits() == {}
        ingest(index, folder.row(folder.listed[0]))
    assert sorted(file.name for file in tmp_path.glob("index.*")) == ["index.duckdb", "index.seal"]


def test_what_is_beside_an_index_is_gone_with_its_waves_however_they_end(folder: Folder, tmp_path: Path) -> None:
    path = tmp_path / "it's an index.duckdb"
    for number in range(9):
        folder.put(f"{number}.jpg", "x" * number)
    scope = Scope(str(folder.root), MODEL, 100, rescore=False)
    beside = path.with_suffix(".beside")
    with indices.opened(path) as index:
        found = waves(index, folder.batches(), scope, (2, 2))
        next(found)
        assert beside.exists()
        found.close()
        assert not beside.exists()
    beside.write_bytes(b"of a thread that could not be waited for")
    with indices.opened(path) as index:
        assert total(folder.waves(index)).listed == 9
    assert not beside.exists()


def test_nothing_is_printed_of_a_long_statement(index: Index, capfd: pytest.CaptureFixture[str]) -> None:
    index.sql("set progress_bar_time = 1")
    index.sql("select sum(hash(a * b)) from range(10_000) as one (a), range(10_000) as two (b)")
    assert capfd.readouterr() == ("", "")


def test_an_index_that_has_failed_is_not_trusted_again(folder: Folder, tmp_path: Path) -> None:
    path = tmp_path / "index.duckdb"
    with pytest.raises(StorageError, match="--cache"), indices.opened(path) as index:
        ingest(index, folder.row(folder.put("a.jpg", "a")))
        index.sql("select * from nothing")
    with indices.opened(path) as index:
        assert index.commits() == {}


FACTS = Facts(model=MODEL, input="input", rescore=False, abstain_below=None, number=1)


def wave_of(num_rows: int, num_copies: int) -> Wave:
    rows = [{"path": f"{number:06}", "size": number, "modified": -number} for number in range(num_rows)]
    copies = [{"path": f"x{number:06}", "size": 1, "modified": 1, "same_as": "000000"} for number in range(num_copies)]
    counts = Counts(num_rows + num_copies, 0, num_rows, num_copies)
    return Wave(pa.Table.from_pylist([*rows, *copies], schema=SCHEMA), counts, is_last=True)


@pytest.mark.parametrize(("num_rows", "chunk_size"), [(0, 8), (1, 8), (17, 8), (9000, 64), (9000, 1024), (9000, 5000)])
def test_a_plan_gives_each_row_in_one_chunk_or_as_a_copy(num_rows: int, chunk_size: int, tmp_path: Path) -> None:
    wave = wave_of(num_rows, 5000)
    plan.write(wave, str(tmp_path), FACTS, chunk_size)
    assert plan.is_whole(str(tmp_path))
    with plan.opened(str(tmp_path)) as planned:
        assert FACTS.agree(planned.facts) and planned.num_rows == num_rows + 5000
        chunks = [planned.entries(chunk) for chunk in range(planned.num_chunks)]
        assert [len(chunk) for chunk in chunks] == [planned.num_images(chunk) for chunk in range(planned.num_chunks)]
        assert all(len(chunk) == chunk_size for chunk in chunks[:-1])
        copies = [copy for group in planned.copies() for copy in group]
    found = [entry.path for chunk in chunks for entry in chunk] + [copy.entry.path for copy in copies]
    assert found == wave.table["path"].to_pylist()
    assert {copy.same_as for copy in copies} == {"000000"}


def test_a_plan_with_a_row_group_for_each_chunk_is_read_as_before(tmp_path: Path) -> None:
    rows = wave_of(5, 2).table
    with pq.ParquetWriter(tmp_path / "plan.parquet", SCHEMA) as writer:
        for start, num_rows in ((0, 3), (3, 2), (5, 2)):
            writer.write_table(rows.slice(start, num_rows))
        writer.add_key_value_metadata({"tlearn": json.dumps({"num_chunks": 2})})
    planned = Plan(tmp_path / "plan.parquet")
    assert [[entry.size for entry in planned.entries(chunk)] for chunk in range(2)] == [[0, 1, 2], [3, 4]]
    assert [len(copies) for copies in planned.copies()] == [2]


def test_a_plan_is_named_by_what_is_to_be_done_and_with_what(folder: Folder, index: Index) -> None:
    for number in range(40):
        folder.put(f"{number:02}", "x" * (number % 7))
    (wave,) = folder.waves(index)
    folder.listed.reverse()
    (again,) = folder.waves(index)
    assert plan.digest(again, FACTS) == plan.digest(wave, FACTS)
    assert plan.digest(wave, replace(FACTS, number=2)) != plan.digest(wave, FACTS)
    folder.listed.pop()
    (less,) = folder.waves(index)
    assert plan.digest(less, FACTS) != plan.digest(wave, FACTS)


def test_a_file_that_is_written_between_its_listing_and_its_reading_is_no_copy(folder: Folder, index: Index) -> None:
    """Of the same size, so that only its time says so: whoever computes it finds that it has changed."""
    ingest(index, folder.row(folder.put("a.jpg", "bytes")))
    folder.put("b.jpg", "other")
    folder.write("b.jpg", "bytes", 2)
    assert folder.todo(index) == {"b.jpg": (None, None)}


def test_an_empty_file_that_is_touched_needs_no_row(folder: Folder, index: Index) -> None:
    entry = folder.put("a.jpg", "")
    ingest(index, folder.row(entry, "unreadable"))
    folder.write("a.jpg", "", 2)
    folder.listed[0] = {**entry, "modified": 2}
    assert folder.todo(index) == {}
