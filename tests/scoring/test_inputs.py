"""What is scored: folders, pictures and lists, as tables of paths with sizes, times and e-tags."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tlearn import storage
from tlearn.data.fetch import Fetched
from tlearn.data.names import Ignored
from tlearn.scoring import inputs
from tlearn.scoring.actor import _as_listed
from tlearn.scoring.inputs import Input, side_by_side
from tlearn.storage import UNKNOWN, Entry


def put(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.fsencode(name))


@pytest.mark.parametrize("is_remote", [False, True])
@pytest.mark.parametrize(
    ("given", "paths", "ignored"),
    [
        (["."], ["a.jpg", "b/c.jpg", "b/d/e.PNG", "f%FF.jpg"], {".txt": 2}),
        (["b", "a.jpg"], ["a.jpg", "b/c.jpg", "b/d/e.PNG"], {".txt": 1}),
        (["b/d", "b/notes.txt", "a.jpg"], ["a.jpg", "b/d/e.PNG", "b/notes.txt"], {}),
        (["b", "x"], ["b/c.jpg", "b/d/e.PNG"], {".txt": 2}),
        (["x"], [], {".txt": 1}),
    ],
    ids=str,
)
def test_an_input_is_a_stream_of_tables_with_every_picture_once(
    given: list[str],
    paths: list[str],
    ignored: dict[str, int],
    is_remote: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(tmp_path, ["a.jpg", "b/c.jpg", "b/d/e.PNG", "b/notes.txt", "f\udcff.jpg", "x/y.txt"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "_BATCH_SIZE", 2)
    given_input = Input.of(given)
    monkeypatch.setattr(storage, "is_remote", lambda location: is_remote)
    found = Ignored()
    tables = list(given_input.batches(found))
    assert all(table.schema == inputs.SCHEMA and 0 < table.num_rows <= 2 for table in tables)
    entries = [Entry(**row) for table in tables for row in table.to_pylist()]
    assert sorted(entry.path for entry in entries) == paths
    assert dict(found.names) == ignored
    for entry in entries:
        status = Path(given_input.folder, storage.decode_name(entry.path).decode(errors="surrogateescape")).stat()
        assert (entry.size, entry.modified, entry.etag) == (status.st_size, status.st_mtime_ns // 1000, None)


def test_streams_are_read_side_by_side_and_give_what_they_have_as_it_comes() -> None:
    is_late = threading.Event()

    def slow() -> Iterator[int]:
        yield 0
        assert is_late.wait(10)
        yield 1

    found = []
    for item in side_by_side([slow(), iter([2, 3, 4])]):
        found.append(item)
        if len(found) == 4:
            is_late.set()  # the other stream has ended
    assert sorted(found[:4]) == [0, 2, 3, 4] and found[4:] == [1]


def test_an_error_of_one_stream_ends_all() -> None:
    def broken() -> Iterator[int]:
        yield 0
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(side_by_side([broken(), iter(range(100))]))


SECOND = 10**6


@pytest.mark.parametrize(("listed", "found"), [(7_123_000, 7_000_000), (7_000_000, 7_123_456), (7_123_456, 7_123_000)])
def test_times_are_compared_to_the_digits_that_both_have(listed: int, found: int) -> None:
    assert Entry("a.jpg", 5, listed).change(5, found) is None
    assert Entry("a.jpg", 5, listed).change(5, found + SECOND) == "written to after it was listed"


@pytest.mark.parametrize(
    ("size", "modified", "error"),
    [
        (5, 7 * SECOND + 123_456, None),
        (UNKNOWN, 7 * SECOND + 123_456, None),
        (5, UNKNOWN, None),
        (UNKNOWN, UNKNOWN, None),
        (5, 7 * SECOND, None),
        (5, 7 * SECOND + 123_000, None),
        (5, 8 * SECOND, "written to after it was listed"),
        (5, 7 * SECOND + 124_000, "written to after it was listed"),
        (5, 7 * SECOND + 123_457, "written to after it was listed"),
        (UNKNOWN, 6 * SECOND, "written to after it was listed"),
        (4, UNKNOWN, "listed with 4 bytes, found with 5"),
        (0, 7 * SECOND, "listed with 0 bytes, found with 5"),
    ],
)
def test_a_file_is_compared_with_what_the_list_says_of_it(size: int, modified: int, error: str | None) -> None:
    fetched = Fetched(size=5, modified=7 * SECOND + 123_456)
    judged = _as_listed(Entry("a.jpg", size, modified), fetched)
    assert judged.error == error and judged.status == ("ok" if error is None else "changed")
    assert (judged.size, judged.modified) == (fetched.size, fetched.modified)
    assert _as_listed(Entry("a.jpg", size, modified), Fetched("missing", "gone")) == Fetched("missing", "gone")
