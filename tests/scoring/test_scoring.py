"""The growing table, the plan and the ledger, with a network that takes no time: rows follow from the bytes of files.

A crash is injected before and after every step that changes the disk, and halfway through every write.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import instant
import pyarrow.parquet as pq
import pytest
from processes import PYTHONPATH

from tlearn import console, storage
from tlearn.config import ScoreConfig
from tlearn.distributed.chunks import chunk_size
from tlearn.errors import IntegrityError, LockedError, StorageError
from tlearn.scoring import compute, planning, table, waves
from tlearn.scoring import job as scoring
from tlearn.scoring.ledger import Ledger
from tlearn.scoring.planning import Places
from tlearn.storage import files


@dataclasses.dataclass
class Place:
    """A folder to score, a table, and what was computed."""

    root: Path
    model: str
    computed: list[str] = dataclasses.field(default_factory=list)
    opened: list[str] = dataclasses.field(default_factory=list)

    @property
    def table(self) -> Path:
        return self.root / "table"

    def put(self, name: str, content: str) -> Path:
        path = self.root / "input" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def score(self, **settings: Any) -> dict[str, Any]:
        settings = {"input": f"{self.root}/input", "output": f"{self.table}/", "max_error_rate": 1.0, **settings}
        config = ScoreConfig(**{"model": self.model, "cache": str(self.root / "cache"), **settings})
        return scoring.score(config).to_json()

    def rows(self) -> list[dict[str, Any]]:
        return [row for file in sorted(self.table.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]

    def outcomes(self) -> list[tuple[str, ...]]:
        """What the rows say, without when and in which run they were made."""
        names = ("path", "status", "prediction", "label", "error", "sha256", "model")
        return sorted(tuple(str(row[name]) for name in names) for row in self.rows())


def fill(place: Place) -> None:
    for number in range(30):
        place.put(f"{'cat' if number % 2 else 'dog'}/{number:02}.jpg", "x" * (number + 10))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place(tmp_path, instant.save_model(tmp_path / "model"))
    install(place, monkeypatch)
    fill(place)
    return place


def install(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the actors by a loop that notes what it computes, and note what is opened."""
    instant.install(monkeypatch, place.computed)
    read = storage.read_listed

    def counted(folder: str, path: str, max_bytes: int | None = None) -> storage.Content:
        if folder == str(place.root / "input"):
            place.opened.append(path)
        return read(folder, path, max_bytes)

    monkeypatch.setattr(storage, "read_listed", counted)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("other")])
@pytest.mark.parametrize("output", ["table/", "one.parquet"])
def test_a_copy_is_judged_by_what_it_holds_whatever_became_of_the_first(
    output: str, change: Callable[[Path], object], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = [place.put(f"twins/{name}.jpg", "twins") for name in "abc"]
    here = []

    def one(places: Places, entry: storage.Entry) -> Any:
        here.append(entry.path)
        return instant.row_of(places, entry)

    instant.before_chunks(monkeypatch, lambda: change(twins[0]))
    monkeypatch.setattr(compute, "one", one)
    place.score(output=str(place.root / output))
    rows = {row["path"]: row for row in table.latest(str(place.root / output)).to_pylist()}
    assert [rows[f"twins/{name}.jpg"]["status"] for name in "abc"] == [
        "missing" if change is Path.unlink else "changed",
        "scored",
        "scored",
    ]
    assert here == ["twins/b.jpg"]


def test_a_second_run_opens_nothing_and_adds_nothing(place: Place) -> None:
    first = place.score()
    assert (first["listed"], first["added"], first["computed"]) == (30, 30, 30)
    before = {path: path.stat().st_mtime_ns for path in place.table.rglob("*")}
    place.opened.clear()
    second = place.score()
    assert (second["listed"], second["unchanged"], second["added"], second["computed"]) == (30, 30, 0, 0)
    assert place.opened == []
    files = {path: path.stat().st_mtime_ns for path in place.table.rglob("*") if path.is_file()}
    assert files == {path: time for path, time in before.items() if path.is_file()}


def test_only_what_is_new_is_scored_and_one_file_is_added(place: Place) -> None:
    place.score()
    place.put("cat/new.jpg", "new one")
    place.put("bird.JPG", "no class folder")
    place.computed.clear()
    summary = place.score()
    assert sorted(place.computed) == ["bird.JPG", "cat/new.jpg"]
    assert (summary["listed"], summary["unchanged"], summary["added"]) == (32, 30, 2)
    assert len(list(place.table.glob("*.parquet"))) == 2
    assert {row["path"]: row["label"] for row in place.rows()}["bird.JPG"] is None


def test_changed_bytes_and_a_new_model_are_scored_again(place: Place, tmp_path: Path) -> None:
    place.score()
    place.put("cat/01.jpg", "other")
    assert place.score()["added"] == 1
    assert [row["path"] for row in place.rows()].count("cat/01.jpg") == 2
    newest = {row["path"]: row for row in table.latest(str(place.table)).to_pylist()}
    assert newest["cat/01.jpg"]["sha256"] == hashlib.sha256(b"other").hexdigest() and len(newest) == 30
    assert place.score(model=instant.save_model(tmp_path / "second", 1))["added"] == 30
    assert place.score()["added"] == 0


def test_a_touched_file_that_cannot_be_read_when_it_is_planned_has_no_second_row(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.score()
    expected = place.outcomes()
    os.utime(place.root / "input" / "cat" / "01.jpg", (1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(waves._Planning, "_sha256", lambda *_: None)
        again = place.score()
    assert (again["listed"], again["unchanged"], again["added"]) == (30, 29, 0)
    assert place.outcomes() == expected
    assert place.score(rescore=True)["added"] == 30


def test_a_touched_file_has_no_second_row_and_is_opened_once(place: Place) -> None:
    place.score()
    os.utime(place.root / "input" / "cat" / "01.jpg", (1, 1))
    place.opened.clear()
    assert place.score()["added"] == 0
    assert place.opened == ["cat/01.jpg"]
    assert place.score()["added"] == 0
    assert place.opened == ["cat/01.jpg"]


def test_the_same_bytes_under_two_paths_are_two_rows_and_one_computation(place: Place) -> None:
    place.put("cat/copy-a.jpg", "twins")
    place.put("dog/copy-b.jpg", "twins")
    first = place.score()
    assert (first["computed"], first["copied"], first["added"]) == (31, 1, 32)
    rows = {row["path"]: row for row in place.rows()}
    for name in ("prediction", "probability", "probabilities", "sha256", "status"):
        assert rows["cat/copy-a.jpg"][name] == rows["dog/copy-b.jpg"][name]
    assert (rows["cat/copy-a.jpg"]["label"], rows["dog/copy-b.jpg"]["label"]) == ("cat", "dog")
    place.put("moved.jpg", "twins")
    place.computed.clear()
    assert place.score()["added"] == 1
    assert place.computed == []
    assert {row["path"]: row["prediction"] for row in place.rows()}["moved.jpg"] == rows["cat/copy-a.jpg"]["prediction"]


def test_rescore_adds_everything_beside_the_old_rows(place: Place) -> None:
    place.score()
    assert place.score(rescore=True)["added"] == 30
    assert len(place.rows()) == 60
    assert table.latest(str(place.table)).num_rows == 30
    assert place.score()["added"] == 0


def test_bad_files_have_a_row_once_and_passing_trouble_is_tried_again(place: Place) -> None:
    place.put("bad.jpg", "bad content")
    link = place.root / "input" / "gone.jpg"
    link.symlink_to("nowhere")
    summary = place.score()
    assert summary["statuses"] == {"scored": 30, "unreadable": 1, "missing": 1}
    again = place.score()
    assert (again["statuses"], again["added"], again["computed"]) == ({"missing": 1}, 0, 1)
    link.unlink()
    place.put("gone.jpg", "here now")
    assert place.score()["added"] == 1
    statuses = [row["status"] for row in place.rows() if row["path"] == "gone.jpg"]
    assert statuses == ["missing", "scored"]


def test_uncertain_rows_count_as_scored_and_are_settled(place: Place) -> None:
    place.put("bad.jpg", "bad content")
    summary = place.score(abstain_below=0.75)
    num_uncertain = sum(row["probability"] < 0.75 for row in place.rows() if row["probability"])
    assert 0 < num_uncertain < 30
    assert summary["statuses"] == {"scored": 30 - num_uncertain, "uncertain": num_uncertain, "unreadable": 1}
    assert (summary["scored"], summary["uncertain"], summary["failed"]) == (30, num_uncertain, 1)
    assert place.score(abstain_below=0.75)["added"] == place.score()["added"] == 0
    original = next(row for row in place.rows() if row["status"] == "uncertain")
    place.put("copy.jpg", (place.root / "input" / original["path"]).read_text())
    assert place.score(abstain_below=0.75)["statuses"] == {"uncertain": 1}
    assert place.rows()[-1]["prediction"] == original["prediction"]
    assert place.score(rescore=True)["uncertain"] == 0


def test_a_stopped_run_does_not_go_on_with_another_limit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(scoring.parts, "merge", stop)
        place.score(abstain_below=1.0)
    assert place.score()["statuses"] == {"scored": 30}


def test_the_exit_code_follows_the_rows_of_this_run(place: Place) -> None:
    place.score()
    place.put("bad.jpg", "bad content")
    config = ScoreConfig(
        model=place.model, input=f"{place.root}/input", output=f"{place.table}/", cache=f"{place.root}/cache"
    )
    assert scoring.score(config).exceeds(config.max_error_rate)
    assert len(place.rows()) == 31
    assert not scoring.score(config).exceeds(config.max_error_rate)


def test_the_summary_has_these_keys_in_this_order(place: Place) -> None:
    keys = "listed unchanged scored uncertain unknown failed labelled accuracy accuracy_interval added copied"
    keys += " computed statuses ignored model run output drift drift_sentence images_per_second seconds_total"
    keys += " ignored_names remarks report"
    assert list(place.score()) == keys.split()


def test_what_is_no_picture_has_no_row_and_is_said(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        "._00.jpg",
        "cat/Thumbs.db",
        "@eaDir/00.jpg/thumb.jpg",
        "00.jpg:large",
        "00.jpg.1",
        "_SUCCESS",
        "a.csv",
    ):
        place.put(name, name)
    os.symlink("../input/cat", place.root / "input" / "camera")
    os.symlink("nowhere", place.root / "input" / "mount")
    os.symlink("nowhere", place.root / "input" / "dead.jpg")
    with console.shown():
        summary = place.score()
    assert (summary["listed"], summary["ignored"], summary["statuses"]) == (31, 7, {"scored": 30, "missing": 1})
    kinds = {"._*": 1, "Thumbs.db": 1, "@eaDir/": 1, ".jpg:large": 1, ".1": 1, "_SUCCESS": 1, ".csv": 1}
    assert summary["ignored_names"] == kinds
    said = capsys.readouterr().out
    for remark in summary["remarks"]:
        assert f"note: {remark}\n" in said
    assert "not followed: camera\n" in said and "nowhere: mount\n" in said and ".jpg:large 1" in said
    (row,) = (row for row in place.rows() if row["status"] == "missing")
    assert (row["path"], row["error"]) == ("dead.jpg", "a link that leads nowhere")


def test_an_input_without_a_picture_is_not_passed_over_in_silence(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (place.root / "input").rglob("*.jpg"):
        path.rename(path.with_suffix(".jpg:large"))
    with console.shown(quiet=True):
        place.score()
    assert "found no picture in" in capsys.readouterr().err


def test_a_lost_index_changes_nothing(place: Place) -> None:
    place.score()
    for path in (place.root / "cache" / "tables").iterdir():
        path.write_bytes(b"not a database" * 100)
    place.opened.clear()
    assert place.score()["added"] == 0
    assert place.opened == []


def test_an_empty_folder_makes_an_empty_table(place: Place) -> None:
    for path in (place.root / "input").rglob("*.jpg"):
        path.unlink()
    assert place.score()["listed"] == 0
    assert place.score(output=str(place.root / "one.parquet"))["listed"] == 0
    assert pq.read_table(place.root / "one.parquet").num_rows == 0


def test_a_single_file_is_replaced_and_leaves_nothing_beside_it(place: Place) -> None:
    output = place.root / "out" / "scores.parquet"
    place.score(output=str(output))
    place.put("cat/new.jpg", "new one")
    place.score(output=str(output))
    assert pq.read_table(output).num_rows == 31
    assert list(output.parent.iterdir()) == [output]


def test_files_that_are_not_ours_are_left_alone(place: Place) -> None:
    place.score()
    strange = {"_SUCCESS": b"", ".DS_Store": b"1", "notes.csv": b"a,b", "_tlearn/mine.txt": b"mine"}
    for name, content in strange.items():
        (place.table / name).write_bytes(content)
    place.put("cat/new.jpg", "new one")
    place.score()
    place.score(rescore=True)
    assert {name: (place.table / name).read_bytes() for name in strange} == strange


def test_verify_finds_what_is_wrong_and_repairs_nothing(place: Place) -> None:
    place.score()
    ledger = Ledger(str(place.table))
    assert ledger.verify() == []
    (file,) = place.table.glob("*.parquet")
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    assert "sha256" in ledger.verify()[0]
    assert file.read_bytes() == content
    (place.table / "foreign.parquet").write_bytes(b"")
    assert "not in the ledger" in ledger.verify()[1]
    file.unlink()
    assert "missing" in ledger.verify()[0]
    with pytest.raises(IntegrityError, match="it is gone"):
        (place.root / "cache" / "tables").rename(place.root / "elsewhere")
        place.score()


def test_two_runs_at_once_do_not_share_an_output(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def second_run() -> None:
        with pytest.raises(LockedError):
            place.score()

    with monkeypatch.context() as patch:
        instant.before_chunks(patch, second_run)
        assert place.score()["added"] == 30
    assert [place.score()["added"] for _ in range(5)] == [0] * 5


class Crash(BaseException):
    """What no handler of errors handles."""


OPERATIONS = ("write", "remove", "publish", "remove_folder")


def inject(monkeypatch: pytest.MonkeyPatch, at: int, when: str, crash: Callable[[], None]) -> list[int]:
    """Crash at the `at`-th operation on the disk: before it, halfway through, or after it; returns its counter."""
    counter = [0]
    originals = {name: getattr(storage, name) for name in OPERATIONS}
    for name in OPERATIONS:

        def wrapped(*arguments: Any, name: str = name, **more: Any) -> Any:
            counter[0] += 1
            here = counter[0] == at
            if here and when == "before":
                crash()
            if here and when == "halfway" and name == "write":
                location, write_to = arguments
                target = storage.local(location)
                target.parent.mkdir(parents=True, exist_ok=True)
                with (target.parent / f".{target.name}.tmp").open("wb") as file:
                    write_to(file)
                    file.truncate(file.tell() // 2)
                crash()
            result = originals[name](*arguments, **more)
            if here:
                crash()
            return result

        for module in (storage, files):
            monkeypatch.setattr(module, name, wrapped)
    return counter


def story(place: Place) -> Iterator[dict[str, Any]]:
    """A table's life: new files, twins, nothing new, changed bytes, another model."""
    yield place.score()
    place.put("cat/copy-a.jpg", "twins")
    place.put("dog/copy-b.jpg", "twins")
    place.put("bad.jpg", "bad content")
    yield place.score()
    yield place.score()


def check_reader(place: Place) -> None:
    """Whoever reads the table at any moment sees whole files, and no outcome twice."""
    outcomes = place.outcomes()
    assert len(outcomes) == len(set(outcomes))


@pytest.mark.slow
@pytest.mark.parametrize(
    "when", ["halfway", *(pytest.param(when, marks=pytest.mark.long) for when in ("before", "after"))]
)
def test_a_crash_at_any_step_and_the_same_command_again_is_as_if_there_had_been_none(
    when: str, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        counter = inject(patch, -1, when, lambda: None)
        list(story(place))
    expected, num_operations = place.outcomes(), counter[0]
    assert num_operations > 15

    def crash() -> None:
        raise Crash

    import shutil

    for at in range(1, num_operations + 1):
        for name in ("table", "cache", "input"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        fill(place)
        place.computed.clear()
        crashed = False
        with monkeypatch.context() as patch:
            inject(patch, at, when, crash)
            try:
                for _ in story(place):
                    check_reader(place)
            except Crash:
                crashed = True
        assert crashed
        check_reader(place)
        # A process that crashes is gone; this one is not, and would be taken for the holder.
        (place.table / "_tlearn" / "lease.json").unlink(missing_ok=True)
        chunks_done = len(place.computed)
        for _ in story(place):
            check_reader(place)
        assert place.outcomes() == expected, at
        # At most the chunk that the crash fell into was computed twice.
        assert len(place.computed) <= 32 + 8, (at, chunks_done)
        assert Ledger(str(place.table)).verify() == []
        assert not list((place.table / "_tlearn").rglob("plan.parquet"))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "halfway"])
@pytest.mark.parametrize("at", [2, 9, 11])
def test_a_process_that_ends_at_a_step_is_made_up_for_by_another(at: int, when: str, place: Place) -> None:
    code = f"import test_scoring; test_scoring.end_at({at}, {when!r}, {str(place.root)!r}, {place.model!r})"
    here = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, text=True)
    assert done.returncode == 137, done.stderr
    check_reader(place)
    summary = place.score()  # the dead process holds the lease still; its id tells that it is dead
    assert summary["listed"] == 30
    assert [row["path"] for row in sorted(place.rows(), key=lambda row: str(row["path"]))] == sorted(
        path.relative_to(place.root / "input").as_posix() for path in (place.root / "input").rglob("*.jpg")
    )
    assert Ledger(str(place.table)).verify() == []


def end_at(at: int, when: str, root: str, model: str) -> None:
    """Score in this process, which ends at an operation as one does that is killed."""
    place = Place(Path(root), model)
    with pytest.MonkeyPatch.context() as patch:
        install(place, patch)
        inject(patch, at, when, lambda: os._exit(137))
        place.score()


def test_a_run_that_goes_on_keeps_its_plan_while_the_folder_grows(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash() -> None:
        raise Crash

    with monkeypatch.context() as patch:
        inject(patch, 4, "after", crash)
        with pytest.raises(Crash):
            place.score()
    (place.table / "_tlearn" / "lease.json").unlink(missing_ok=True)
    done = list(place.computed)
    assert done
    place.put("cat/late.jpg", "late")
    summary = place.score()
    assert summary["added"] == 31 and len(list(place.table.glob("*.parquet"))) == 2
    assert not set(done[:-8]) & set(place.computed[len(done) :])
    assert sorted(row["path"] for row in place.rows()) == sorted({row["path"] for row in place.rows()})


def test_no_room_ends_with_7_and_goes_on_afterwards(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise StorageError("could not write: no space left on device")

    for at in (2, 2, 3, 3):
        with monkeypatch.context() as patch:
            inject(patch, at, "before", full)
            with pytest.raises(StorageError) as raised:
                place.score()
            assert raised.value.code == 7
    assert place.score()["added"] == 30
    assert len(place.rows()) == 30


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1_000, 4_500, 6_000])
def test_files_that_may_not_grow_end_with_7_and_nothing_is_lost(limit: int, place: Place) -> None:
    """A limit on the size of files fails in the same place as a full disk: the index, a chunk, the merged file."""
    code = f"import test_scoring; test_scoring.score_limited({limit}, {str(place.root)!r}, {place.model!r})"
    here = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert not list(place.table.glob("*.parquet")) and not list(place.table.rglob("*.tmp"))
    assert place.score()["added"] == 30


def score_limited(limit: int, root: str, model: str) -> None:
    import resource

    place = Place(Path(root), model)
    with pytest.MonkeyPatch.context() as patch:
        install(place, patch)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            place.score()
        except StorageError as error:
            sys.exit(error.code)


def test_a_file_that_changes_while_it_is_scored_says_so_and_is_scored_next_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile() -> None:
        place.put("cat/01.jpg", "replaced with more bytes")
        (place.root / "input" / "cat" / "03.jpg").unlink()
        place.put("cat/later.jpg", "not in this run")

    with monkeypatch.context() as patch:
        instant.before_chunks(patch, meanwhile)
        assert place.score()["statuses"] == {"scored": 28, "changed": 1, "missing": 1}
    assert place.score()["statuses"] == {"scored": 2}
    newest = {row["path"]: row["status"] for row in table.latest(str(place.table)).to_pylist()}
    assert newest["cat/01.jpg"] == newest["cat/later.jpg"] == "scored" and newest["cat/03.jpg"] == "missing"


def test_the_view_in_sql_is_the_view_in_python(place: Place) -> None:
    import duckdb

    place.score()
    place.put("cat/01.jpg", "other")
    place.score()
    rows = duckdb.sql(f"select path from ({table.LATEST.format(folder=place.table)})").fetchall()
    assert sorted(str(row[0]) for row in rows) == sorted(table.latest(str(place.table))["path"].to_pylist())
    assert len(rows) == 30


def test_nothing_new_loads_neither_ray_nor_torch(place: Place) -> None:
    place.score()
    words = ["score", "--model", place.model, "--input", f"{place.root}/input", "--output", f"{place.table}/"]
    words += ["--cache", f"{place.root}/cache"]
    code = (
        "import sys; from tlearn.cli import main; code = main(sys.argv[1:]); print({'ray', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert "30 unchanged, 0 rows added" in done.stdout and done.stdout.endswith("set()\n")


def test_ray_starts_while_many_new_files_are_listed_and_not_otherwise(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    monkeypatch.setattr(planning, "start_ray", lambda: started.append(1))
    place.score()
    assert not started, "few do without it"
    monkeypatch.setattr(planning, "FEW_IMAGES", 1)
    place.score()
    path = place.root / "input" / "cat" / "01.jpg"
    os.utime(path, (1, 1))
    place.score()
    assert not started, "neither an unchanged nor a touched file is a reason"
    place.put("new.jpg", "new")
    place.put("newer.jpg", "newer")
    place.score()
    assert len(started) == 1


@pytest.mark.parametrize(
    ("num_images", "size"), [(1, 8), (120, 8), (500, 32), (2000, 64), (65_536, 64), (200_000, 195), (10**9, 1024)]
)
def test_chunks_are_small_where_the_pool_would_idle_and_large_where_they_are_many(num_images: int, size: int) -> None:
    assert chunk_size(num_images) == size


def test_a_run_logs_its_plan_and_its_commit(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TLEARN_LOG", "json")
    run = place.score()["run"]
    planned, committed = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (planned["event"], planned["run"], planned["listed"], planned["compute"]) == ("planned", run, 30, 30)
    assert (committed["event"], committed["run"], committed["rows"], committed["scored"]) == ("committed", run, 30, 30)
