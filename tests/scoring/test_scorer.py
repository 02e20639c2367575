"""The scoring actor's class, called as the plain class it is: one row for every listed file, whatever it is."""

import contextlib
import dataclasses
import datetime
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import encode, picture
from PIL import Image
from support import CLASSES, save_model

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import PreprocessConfig, ScoreConfig
from tlearn.data.fetch import Fetched, fetch
from tlearn.data.manifest import File
from tlearn.distributed.chunks import Chunk, ChunkResult
from tlearn.distributed.nodes import Here, Threads
from tlearn.errors import IntegrityError, StorageError
from tlearn.evaluation import metrics
from tlearn.features.cache import Features, outcomes
from tlearn.features.compute import Compute
from tlearn.features.compute import Task as FeaturesTask
from tlearn.features.compute import plan as planned_features
from tlearn.features.cut import Cut
from tlearn.network import description, model
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.device import Device
from tlearn.scoring import actor, compute, plan, predict, table
from tlearn.scoring.actor import Score
from tlearn.scoring.inputs import Input
from tlearn.scoring.planning import Places
from tlearn.scoring.table import Row
from tlearn.scoring.task import Limits, Task
from tlearn.storage import Entry

PREPROCESS = PreprocessConfig(image_size=64, short_side=72, max_bytes=40_000, max_pixels=20_000)


def listed(folder: Path) -> list[Entry]:
    return storage.in_order(storage.stream(str(folder)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored") / "model"
    save_model(folder, PREPROCESS)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good, broken, too large in two ways, in folders and out of them."""
    root = tmp_path / "images"
    for name, data in {
        "a.png": picture(0),
        "broken.png": picture(1)[:700],
        "cat/1.png": picture(2),
        "cat/heavy.png": picture(3, (120, 120)),
        "dog/2.png": picture(4),
        "dog/empty.png": b"",
        "dog/wide.png": encode(Image.new("RGB", (20_001, 1)), "PNG"),
        "ü %e4.png": picture(6),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "zz.png").symlink_to(root / "nowhere")
    return root


def score(folder: Path, saved: Path, parts: Path, batch_size: int = 3, **more: Any) -> Score:
    task = Task(
        model=str(saved),
        model_digest=description.describe(str(saved)).digest,
        arithmetic=Arithmetic(),
        input=str(folder),
        runs=str(parts.parent),
        batch_size=batch_size,
    )
    decode_threads, how = more.pop("decode_threads", 1), more.pop("fetch", fetch)
    return Score(dataclasses.replace(task, **more), Threads(1, Here(decode_threads)), how)


def rows_of(scoring: Score, entries: list[Entry]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(row) for row in scoring.rows(entries).rows]


def planned(parts: Path, entries: list[Entry]) -> Chunk:
    """The chunk of a plan that has one."""
    columns = {name: [getattr(entry, name) for entry in entries] for name in ("path", "size", "modified")}
    columns |= {name: [None] * len(entries) for name in ("same_as", "result")}
    parts.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns, schema=plan.SCHEMA), parts / "plan.parquet")
    return Chunk(f"{parts.name}/000000", pa.table({}))


def test_every_listed_file_has_one_row_in_its_order(folder: Path, saved: Path, tmp_path: Path) -> None:
    (folder / "dog" / "gone.png").write_bytes(picture(7))
    (folder / "dog" / "longer.png").write_bytes(picture(8))
    (folder / "dog" / "newer.png").write_bytes(picture(9))
    entries = listed(folder)
    (folder / "dog" / "gone.png").unlink()
    (folder / "dog" / "longer.png").write_bytes(picture(8) + b" ")
    os.utime(folder / "dog" / "newer.png", (1, 1))
    scoring = score(folder, saved, tmp_path / "parts")
    rows = rows_of(scoring, entries)
    assert [row["path"] for row in rows] == [entry.path for entry in entries]
    assert {row["path"]: (row["status"], row["label"]) for row in rows} == {
        "a.png": ("scored", None),
        "broken.png": ("unreadable", None),
        "cat/1.png": ("scored", "cat"),
        "cat/heavy.png": ("too_large", "cat"),
        "dog/2.png": ("scored", "dog"),
        "dog/empty.png": ("unreadable", "dog"),
        "dog/gone.png": ("missing", "dog"),
        "dog/longer.png": ("changed", "dog"),
        "dog/newer.png": ("changed", "dog"),
        "dog/wide.png": ("too_large", "dog"),
        "ü %25e4.png": ("scored", None),
        "zz.png": ("missing", None),
    }
    sizes = {entry.path: entry.size for entry in entries}
    for row in rows:
        assert row["model"] == scoring.task.model_digest and row["run"] is None
        assert row["scored_at"].tzinfo is datetime.UTC
        if row["status"] == "scored":
            assert row["error"] is None and (row["width"], row["height"]) == (80, 90)
            assert row["probability"] == max(row["probabilities"].values()) >= 0.5
            assert row["probabilities"][row["prediction"]] == row["probability"]
            assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-6)
            data = (folder / os.fsdecode(storage.decode_name(row["path"]))).read_bytes()
            assert row["sha256"] == hashlib.sha256(data).hexdigest()
            assert row["bytes"] == sizes[row["path"]]
        else:
            assert row["prediction"] is row["probability"] is row["probabilities"] is None
            assert row["error"] and len(row["error"].splitlines()) == 1
    longer = next(row for row in rows if row["path"] == "dog/longer.png")
    assert longer["bytes"] == len(picture(8)) + 1 and str(len(picture(8))) in longer["error"]


def test_a_row_below_the_limit_is_uncertain_and_keeps_its_prediction(folder: Path, saved: Path, tmp_path: Path) -> None:
    entries = listed(folder)
    plain = rows_of(score(folder, saved, tmp_path / "parts"), entries)
    limit = sorted(row["probability"] for row in plain if row["status"] == "scored")[2]
    rows = rows_of(score(folder, saved, tmp_path / "parts", limits=Limits(limit)), entries)
    assert [row["status"] for row in rows].count("uncertain") == 2
    for row, other in zip(rows, plain, strict=True):
        is_uncertain = other["status"] == "scored" and other["probability"] < limit
        assert row["status"] == ("uncertain" if is_uncertain else other["status"])
        for name in ("prediction", "probability", "probabilities", "error"):
            assert row[name] == other[name]


def test_the_hash_of_a_file_is_that_of_all_its_bytes_or_none(folder: Path, saved: Path, tmp_path: Path) -> None:
    entries = [entry for entry in listed(folder) if entry.path in ("cat/heavy.png", "dog/wide.png")]
    heavy, wide = rows_of(score(folder, saved, tmp_path / "parts"), entries)
    assert heavy["bytes"] > PREPROCESS.max_bytes and heavy["sha256"] is None
    assert wide["sha256"] == hashlib.sha256((folder / "dog" / "wide.png").read_bytes()).hexdigest()
    assert (wide["width"], wide["height"]) == (20_001, 1)


def test_the_batch_size_does_not_change_the_probabilities(folder: Path, saved: Path, tmp_path: Path) -> None:
    for seed in range(20, 34):
        (folder / f"more-{seed}.png").write_bytes(picture(seed))
    entries = listed(folder)
    scored = [
        {
            row["path"]: row["probabilities"]["dog"]
            for row in rows_of(score(folder, saved, tmp_path / "parts", size, decode_threads=threads), entries)
            if row["status"] == "scored"
        }
        for size, threads in ((1, 1), (3, 4), (16, 1))
    ]
    assert len(scored[0]) == 18
    assert scored[0] == pytest.approx(scored[1], abs=1e-5)
    assert scored[0] == pytest.approx(scored[2], abs=1e-5)
    assert len({round(value, 4) for value in scored[0].values()}) > 9


def test_probabilities_are_those_of_the_cached_features(folder: Path, saved: Path, tmp_path: Path) -> None:
    rows = rows_of(score(folder, saved, tmp_path / "parts"), listed(folder))
    scored = [row for row in rows if row["status"] == "scored"]
    loaded = model.load(str(saved))
    digest = loaded.large.convolutions.digest()
    cut = Cut("none", str(tmp_path / "cache"), 5, PREPROCESS, Arithmetic(), digest, loaded.description.arch)
    files = [File("val", row["path"], "cat", row["bytes"], 0, row["sha256"]) for row in scored]
    (todo,) = planned_features([(files, ("plain",))], cut)
    Compute(FeaturesTask(str(folder), cut), Threads(1, Here(1)))(todo)
    held = Features(outcomes(files, "plain", cut).places, cut.shape)
    with torch.no_grad():
        expected = metrics.probabilities(loaded.large.head(held.gather(range(len(files))).float()))
    for row, values in zip(scored, expected.tolist(), strict=True):
        assert list(row["probabilities"].values()) == pytest.approx(values, abs=1e-4)


def test_files_anywhere_have_without_ray_the_rows_that_an_actor_makes(
    folder: Path, saved: Path, tmp_path: Path
) -> None:
    paths = [entry.path for entry in listed(folder)]
    expected = rows_of(score(folder, saved, tmp_path / "parts", batch_size=8), listed(folder))
    assert [row["status"] for row in expected].count("scored") == 4
    there = [f"{folder}/{os.fsdecode(storage.decode_name(path))}" for path in paths]
    there[0] = Path(there[0]).as_uri()
    model = predict.load(str(saved), "torch", "fp32")
    rows = list(model.predict(there))
    assert [row.path for row in rows] == there
    for row, other in zip(rows, expected, strict=True):
        for name in ("status", "prediction", "error", "width", "height", "bytes", "modified", "sha256", "model"):
            assert getattr(row, name) == other[name]
        if row.status == "scored":
            assert row.probabilities == pytest.approx(other["probabilities"], abs=1e-6)
    assert list(model.predict([])) == []


def test_the_first_rows_come_before_later_files_are_read(
    folder: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = dataclasses.replace(predict.load(str(saved), "torch", "fp32"), device=Device.here(1, batch_size=2))
    read: list[str] = []

    def counted(folder: str, path: str, config: PreprocessConfig) -> Fetched:
        read.append(path)
        return fetch(folder, path, config)

    monkeypatch.setattr(predict, "fetch", counted)
    monkeypatch.setattr(predict.os, "cpu_count", lambda: 2)
    paths = [str(folder / name) for name in ("a.png", "none.png")] * 50
    rows = predictor.predict(paths)
    assert next(rows).path == paths[0] and len(read) <= 16 + 4 * 2 + 2
    assert [row.path for row in rows] == paths[1:]


def test_plan_table_ledger_and_prediction_do_not_load_ray() -> None:
    names = "index, waves, output, parts, plan, predict, summary, table, task, ledger"
    code = f"import sys; from tlearn.scoring import {names}; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_three_classes_have_three_probabilities(folder: Path, tmp_path: Path) -> None:
    classes = Classes(("a b", "cat", "dog"))
    save_model(tmp_path / "model", PREPROCESS, classes)
    scoring = score(folder, tmp_path / "model", tmp_path / "parts")
    scoring(planned(tmp_path / "parts", listed(folder)))
    part = pq.read_table(tmp_path / "parts" / "000000.parquet")
    row = part.to_pylist(maps_as_pydicts="strict")[0]
    assert list(row["probabilities"]) == ["a b", "cat", "dog"]
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("cat/1.png", "cat"),
        ("dog/x/cat/y/1.png", "dog"),
        ("cat/dog/1.png", "cat"),
        ("test/dog/cat/1.png", "dog"),
        ("dog/dog/1.png", "dog"),
        ("1.png", None),
        ("cat", None),
        ("x/cat", None),
        ("cats/1.png", None),
        ("Cat/1.png", None),
    ],
)
def test_the_label_is_the_outermost_folder_named_as_a_class(path: str, label: str | None) -> None:
    assert table.label_of(path, CLASSES) == label


def test_a_part_has_the_schema_and_a_row_for_each_file(folder: Path, saved: Path, tmp_path: Path) -> None:
    entries = listed(folder)
    chunk = planned(tmp_path / "parts", entries)
    assert score(folder, saved, tmp_path / "parts")(chunk) == ChunkResult(chunk.id, 9, 5)
    part = pq.read_table(tmp_path / "parts" / "000000.parquet")
    assert part.schema.equals(table.SCHEMA)
    assert part["path"].to_pylist() == [entry.path for entry in entries]
    for row, entry in zip(part.to_pylist(), entries, strict=True):
        if row["modified"] is not None:
            assert round(row["modified"].timestamp() * 1e6) == entry.modified
        assert (row["probabilities"] is None) == (row["status"] != "scored")


def test_a_chunk_whose_part_exists_is_not_computed_again(
    folder: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = planned(tmp_path / "parts", listed(folder))
    scoring = score(folder, saved, tmp_path / "parts")
    first = scoring(chunk)
    path = tmp_path / "parts" / "000000.parquet"
    before = (path.stat().st_mtime_ns, path.read_bytes())

    def refuse(self: Score, *_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Score, "rows", refuse)
    assert scoring(chunk) == first
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    path.unlink()
    with pytest.raises(AssertionError, match="computed again"):
        scoring(chunk)


def poison(folder: str, path: str, preprocess: PreprocessConfig) -> Fetched:
    """Ends its process at one picture, as a decoder with a fault would."""
    if path == "dog/2.png":
        os.abort()
    return fetch(folder, path, preprocess)


@pytest.mark.slow
def test_a_picture_that_kills_its_decoder_costs_one_row(folder: Path, saved: Path, tmp_path: Path) -> None:
    chunk = planned(tmp_path / "parts", listed(folder))
    score(folder, saved, tmp_path / "parts")(chunk)
    undisturbed = pq.read_table(tmp_path / "parts" / "000000.parquet").to_pylist()
    (tmp_path / "parts" / "000000.parquet").unlink()  # the file that says "started" is there: an actor died here
    score(folder, saved, tmp_path / "parts", fetch=poison)(chunk)
    rows = pq.read_table(tmp_path / "parts" / "000000.parquet").to_pylist()
    assert [row["path"] for row in rows] == [row["path"] for row in undisturbed]
    for row, other in zip(rows, undisturbed, strict=True):
        if row["path"] == "dog/2.png":
            assert (row["status"], row["error"]) == ("decoder_crash", "the process that decoded it died")
        else:
            assert (row["status"], row["prediction"]) == (other["status"], other["prediction"])
            assert row["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_a_model_that_was_replaced_is_refused(folder: Path, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="it was replaced"):
        score(folder, saved, tmp_path / "parts", model_digest="0" * 16)


def test_the_schema_names_what_the_readme_of_a_table_needs() -> None:
    assert table.SCHEMA.names[:4] == ["path", "status", "prediction", "probability"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_gives_no_numbers_gives_no_rows(value: float, folder: Path, saved: Path, tmp_path: Path) -> None:
    """Loading refuses such weights; what is left is an overflow on the way."""
    scoring = score(folder, saved, tmp_path / "parts")
    for parameter in scoring.predictor.large.head.parameters():
        parameter.data.fill_(value)
    with pytest.raises(IntegrityError, match="no number"):
        rows_of(scoring, listed(folder))


def test_a_disk_or_a_store_that_fails_an_actor_is_an_error_of_storage(
    folder: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = planned(tmp_path / "parts", listed(folder))
    scoring = score(folder, saved, tmp_path / "parts")

    def fail(location: str) -> bool:
        raise OSError("AWS Error ACCESS_DENIED")

    monkeypatch.setattr(storage, "exists", fail)
    with pytest.raises(StorageError, match="ACCESS_DENIED"):
        scoring(chunk)


def test_one_file_alone_gets_the_row_that_a_chunk_gives_it(saved: Path, folder: Path) -> None:
    config = ScoreConfig(model=str(saved), input=str(folder), output="", engine="torch", precision="fp32")
    places = Places(config, description.describe(str(saved)), Input.of(str(folder)), "")
    entries = {entry.path: entry for entry in listed(folder)}
    row = compute.one(places, entries["a.png"])
    predicted = next(predict.load(str(saved), "torch", "fp32").predict([folder / "a.png"]))
    assert (row.status, row.path) == ("scored", "a.png")
    assert row.probabilities == pytest.approx(predicted.probabilities, abs=1e-5)
    assert compute.one(places, entries["broken.png"]).status == "unreadable"


@pytest.mark.parametrize(
    ("folder", "statuses", "raised", "ends"),
    [
        ("s3://bucket/inbox", ["io_error"] * 3, OSError("AWS Error ACCESS_DENIED"), True),
        ("s3://bucket/inbox", ["io_error"] * 3, ValueError("Empty path component"), False),
        ("s3://bucket/inbox", ["io_error"] * 3, None, False),
        ("s3://bucket/inbox", ["io_error", "missing"], OSError("no"), False),
        ("s3://bucket/inbox", ["io_error"], OSError("no"), False),
        ("inbox", ["io_error"] * 3, PermissionError("no"), False),
    ],
)
def test_a_store_that_gives_nothing_at_all_ends_the_job(
    folder: str, statuses: list[Any], raised: Exception | None, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        if raised:
            raise raised

    monkeypatch.setattr(storage, "read_listed", read)
    now = datetime.datetime.now(datetime.UTC)
    rows = [Row(path=f"a//{i}.jpg", status=status, model="", scored_at=now) for i, status in enumerate(statuses)]
    with pytest.raises(StorageError, match="3 in a row could not be: AWS Error") if ends else contextlib.nullcontext():
        actor._require_storage(folder, rows)
