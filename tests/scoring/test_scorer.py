"""The scoring actor's class, called as the plain class it is: one row for every listed file, whatever it is."""

import dataclasses
import datetime
import hashlib
import json
import os
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
from tlearn.config import PreprocessConfig
from tlearn.data.fetch import Fetched, fetch
from tlearn.data.manifest import File
from tlearn.distributed.chunks import Chunk
from tlearn.errors import IntegrityError
from tlearn.evaluation import metrics
from tlearn.features import cache as features
from tlearn.features.cache import Cut, Features
from tlearn.network import description, model
from tlearn.network.arithmetic import Arithmetic
from tlearn.scoring import plan, table
from tlearn.scoring.actor import Score
from tlearn.storage import Entry

PREPROCESS = PreprocessConfig(image_size=64, short_side=72, max_bytes=40_000, max_pixels=20_000)


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
    digest = description.describe(str(saved)).digest
    arguments = {"num_threads": 1, "decode_threads": 1, "run": "run-1", "model_digest": digest, **more}
    return Score(
        model_folder=str(saved),
        arithmetic=Arithmetic(),
        folder=str(folder),
        run_folder=str(parts),
        batch_size=batch_size,
        **arguments,
    )


def rows_of(scoring: Score, entries: list[Entry], careful: bool = False) -> list[dict[str, Any]]:
    listed = [dataclasses.asdict(entry) for entry in entries]
    with scoring._decoder(careful) as decode:
        return scoring.rows(listed, decode)[0]


def planned(parts: Path, entries: list[Entry]) -> Chunk:
    """The chunk of a plan that has one."""
    columns = {name: [getattr(entry, name) for entry in entries] for name in ("path", "size", "modified")}
    columns |= {name: [None] * len(entries) for name in ("same_as", "result")}
    parts.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns, schema=plan.SCHEMA), parts / "plan.parquet")
    return Chunk("000000", pa.table({}))


def test_every_listed_file_has_one_row_in_its_order(folder: Path, saved: Path, tmp_path: Path) -> None:
    (folder / "dog" / "gone.png").write_bytes(picture(7))
    (folder / "dog" / "longer.png").write_bytes(picture(8))
    (folder / "dog" / "newer.png").write_bytes(picture(9))
    entries = list(storage.walk(str(folder)))
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
        assert row["model"] == scoring.model.description.digest and row["run"] == "run-1"
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
            assert row.keys().isdisjoint({"prediction", "probability", "probabilities"})
            assert row["error"] and len(row["error"].splitlines()) == 1
    longer = next(row for row in rows if row["path"] == "dog/longer.png")
    assert longer["bytes"] == len(picture(8)) + 1 and str(len(picture(8))) in longer["error"]


def test_a_row_below_the_limit_is_uncertain_and_keeps_its_prediction(folder: Path, saved: Path, tmp_path: Path) -> None:
    entries = list(storage.walk(str(folder)))
    plain = rows_of(score(folder, saved, tmp_path / "parts"), entries)
    limit = sorted(row["probability"] for row in plain if row["status"] == "scored")[2]
    rows = rows_of(score(folder, saved, tmp_path / "parts", abstain_below=limit), entries)
    assert [row["status"] for row in rows].count("uncertain") == 2
    for row, other in zip(rows, plain, strict=True):
        is_uncertain = other["status"] == "scored" and other["probability"] < limit
        assert row["status"] == ("uncertain" if is_uncertain else other["status"])
        for name in ("prediction", "probability", "probabilities", "error"):
            assert row.get(name) == other.get(name)


def test_the_hash_of_a_file_is_that_of_all_its_bytes_or_none(folder: Path, saved: Path, tmp_path: Path) -> None:
    entries = [entry for entry in storage.walk(str(folder)) if entry.path in ("cat/heavy.png", "dog/wide.png")]
    heavy, wide = rows_of(score(folder, saved, tmp_path / "parts"), entries)
    assert heavy["bytes"] > PREPROCESS.max_bytes and heavy["sha256"] is None
    assert wide["sha256"] == hashlib.sha256((folder / "dog" / "wide.png").read_bytes()).hexdigest()
    assert (wide["width"], wide["height"]) == (20_001, 1)


def test_the_batch_size_does_not_change_the_probabilities(folder: Path, saved: Path, tmp_path: Path) -> None:
    for seed in range(20, 34):
        (folder / f"more-{seed}.png").write_bytes(picture(seed))
    entries = list(storage.walk(str(folder)))
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
    rows = rows_of(score(folder, saved, tmp_path / "parts"), list(storage.walk(str(folder))))
    scored = [row for row in rows if row["status"] == "scored"]
    loaded = model.load(str(saved))
    digest = loaded.convolutions.digest()
    cut = Cut("none", str(tmp_path / "cache"), 5, PREPROCESS, Arithmetic(), digest, loaded.description.arch)
    files = [File("val", row["path"], "cat", row["bytes"], 0, row["sha256"]) for row in scored]
    (todo,) = features.plan([(files, ("plain",))], cut)
    features.Compute(str(folder), cut, 1, 1)(todo)
    held = Features(features.collect(files, "plain", cut), cut.shape)
    with torch.no_grad():
        expected = metrics.probabilities(loaded.head(held.gather(range(len(files))).float()))
    for row, values in zip(scored, expected.tolist(), strict=True):
        assert list(row["probabilities"].values()) == pytest.approx(values, abs=1e-4)


def test_three_classes_have_three_probabilities(folder: Path, tmp_path: Path) -> None:
    classes = Classes(("a b", "cat", "dog"))
    save_model(tmp_path / "model", PREPROCESS, classes)
    scoring = score(folder, tmp_path / "model", tmp_path / "parts")
    scoring(planned(tmp_path / "parts", list(storage.walk(str(folder)))))
    row = pq.read_table(tmp_path / "parts" / "000000.parquet").to_pylist()[0]
    assert list(row["probabilities"]) == ["a b", "cat", "dog"]
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("cat/1.png", "cat"),
        ("dog/x/cat/y/1.png", "cat"),
        ("cat/dog/1.png", "dog"),
        ("1.png", None),
        ("cat", None),
        ("x/cat", None),
        ("cats/1.png", None),
        ("Cat/1.png", None),
    ],
)
def test_the_label_is_the_innermost_folder_named_as_a_class(path: str, label: str | None) -> None:
    assert table.label_of(path, CLASSES) == label


def test_a_part_has_the_schema_and_a_row_for_each_file(folder: Path, saved: Path, tmp_path: Path) -> None:
    entries = list(storage.walk(str(folder)))
    chunk = planned(tmp_path / "parts", entries)
    assert score(folder, saved, tmp_path / "parts")(chunk) == {"chunk": chunk.id, "num_images": 9, "num_failed": 5}
    part = pq.read_table(tmp_path / "parts" / "000000.parquet")
    assert part.schema.equals(table.schema(CLASSES))
    assert part["path"].to_pylist() == [entry.path for entry in entries]
    for row, entry in zip(part.to_pylist(), entries, strict=True):
        if row["modified"] is not None:
            assert round(row["modified"].timestamp() * 1e6) == entry.modified
        assert (row["probabilities"] is None) == (row["status"] != "scored")


def test_a_chunk_whose_part_exists_is_not_computed_again(
    folder: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = planned(tmp_path / "parts", list(storage.walk(str(folder))))
    scoring = score(folder, saved, tmp_path / "parts")
    first = scoring(chunk)
    path = tmp_path / "parts" / "000000.parquet"
    before = (path.stat().st_mtime_ns, path.read_bytes())

    def refuse(self: Score, *_: Any) -> None:
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
    chunk = planned(tmp_path / "parts", list(storage.walk(str(folder))))
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
    names = table.schema(Classes(("a", "b", "c"))).names
    assert names[:4] == ["path", "status", "prediction", "probability"]
    assert json.dumps([field.name for field in table.schema(CLASSES).field("probabilities").type]) == '["cat", "dog"]'
