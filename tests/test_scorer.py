"""The scoring actor's class, called as the plain class it is: one row for every listed file, whatever it is."""

import datetime
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from tlearn import features, metrics, model, network, scorer, storage
from tlearn.chunks import Chunk
from tlearn.classes import Classes
from tlearn.config import HeadConfig, PreprocessConfig
from tlearn.errors import IntegrityError
from tlearn.features import Cut, Features
from tlearn.manifest import File
from tlearn.model import Description
from tlearn.scorer import Score
from tlearn.storage import Entry

PREPROCESS = PreprocessConfig(image_size=64, short_side=72, max_bytes=40_000, max_pixels=20_000)
CLASSES = Classes(("cat", "dog"))


def picture(seed: int, size: tuple[int, int] = (90, 80)) -> bytes:
    generator = np.random.default_rng(seed)
    pixels = np.full((*size, 3), generator.integers(0, 256, 3)) // 2 + generator.integers(0, 128, (*size, 3))
    return encode(Image.fromarray(pixels.astype(np.uint8)))


def encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def save_model(folder: Path, pretrained: dict[str, Tensor], classes: Classes = CLASSES) -> str:
    frozen, trainable = network.build(5, PREPROCESS, HeadConfig(width=16), classes.num_logits)
    network.load_pretrained(frozen, pretrained)
    trainable.head.initialize(torch.Generator().manual_seed(0))
    description = Description(
        classes=classes,
        frozen_blocks=5,
        preprocess=PREPROCESS,
        head=HeadConfig(width=16),
        precision="fp32",
        weights_sha256="",
        training={"recipe": "frozen", "num_train": 1, "num_val": 1},
        metrics={"val_accuracy": 1.0, "val_loss": 0.0},
    )
    return model.save(folder, frozen.layers.state_dict(), trainable, description)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, pretrained: dict[str, Tensor]) -> Path:
    folder = tmp_path_factory.mktemp("scored") / "model"
    save_model(folder, pretrained)
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
        "dog/wide.png": encode(Image.new("RGB", (20_001, 1))),
        "ü %e4.png": picture(6),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "zz.png").symlink_to(root / "nowhere")
    return root


def score(folder: Path, saved: Path, parts: Path, batch_size: int = 3, **more: Any) -> Score:
    digest = model.describe(str(saved)).digest
    arguments = {"num_threads": 1, "decode_threads": 1, "run": "run-1", "model_digest": digest, **more}
    return Score(
        model_folder=str(saved),
        precision="fp32",
        folder=str(folder),
        parts=str(parts),
        batch_size=batch_size,
        **arguments,
    )


def whole(entries: list[Entry]) -> Chunk:
    (chunk,) = scorer.cut(entries) if len(entries) <= 8 else [scorer._chunk(0, entries)]
    return chunk


def test_every_listed_file_has_one_row_in_its_order(folder: Path, saved: Path, tmp_path: Path) -> None:
    (folder / "dog" / "gone.png").write_bytes(picture(7))
    (folder / "dog" / "longer.png").write_bytes(picture(8))
    (folder / "dog" / "newer.png").write_bytes(picture(9))
    entries = list(storage.walk(str(folder)))
    (folder / "dog" / "gone.png").unlink()
    (folder / "dog" / "longer.png").write_bytes(picture(8) + b" ")
    os.utime(folder / "dog" / "newer.png", (1, 1))
    scoring = score(folder, saved, tmp_path / "parts")
    rows = scoring.rows(whole(entries))
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


def test_the_hash_of_a_file_is_that_of_all_its_bytes_or_none(folder: Path, saved: Path, tmp_path: Path) -> None:
    entries = [entry for entry in storage.walk(str(folder)) if entry.path in ("cat/heavy.png", "dog/wide.png")]
    heavy, wide = score(folder, saved, tmp_path / "parts").rows(whole(entries))
    assert heavy["bytes"] > PREPROCESS.max_bytes and heavy["sha256"] is None
    assert wide["sha256"] == hashlib.sha256((folder / "dog" / "wide.png").read_bytes()).hexdigest()
    assert (wide["width"], wide["height"]) == (20_001, 1)


def test_the_batch_size_does_not_change_the_probabilities(folder: Path, saved: Path, tmp_path: Path) -> None:
    for seed in range(20, 34):
        (folder / f"more-{seed}.png").write_bytes(picture(seed))
    chunk = whole(list(storage.walk(str(folder))))
    scored = [
        {
            row["path"]: row["probabilities"]["dog"]
            for row in score(folder, saved, tmp_path / "parts", size, decode_threads=threads).rows(chunk)
            if row["status"] == "scored"
        }
        for size, threads in ((1, 1), (3, 4), (16, 1))
    ]
    assert len(scored[0]) == 18
    assert scored[0] == pytest.approx(scored[1], abs=1e-5)
    assert scored[0] == pytest.approx(scored[2], abs=1e-5)
    assert len({round(value, 4) for value in scored[0].values()}) > 9


def test_probabilities_are_those_of_the_cached_features(
    folder: Path, saved: Path, own_cache: Path, tmp_path: Path
) -> None:
    rows = score(folder, saved, tmp_path / "parts").rows(whole(list(storage.walk(str(folder)))))
    scored = [row for row in rows if row["status"] == "scored"]
    loaded = model.load(str(saved))
    cut = Cut("imagenet", str(own_cache), 5, PREPROCESS, "fp32", loaded.frozen.digest())
    files = [File("val", row["path"], "cat", row["bytes"], 0, row["sha256"]) for row in scored]
    (plan,) = features.plan(files, ("plain",), cut)
    features.Compute(str(folder), cut, plan.views, 1, 1)(plan.chunks[0])
    held = Features(features.collect(files, "plain", cut), cut.shape)
    with torch.no_grad():
        expected = metrics.probabilities(loaded.trainable(held.gather(range(len(files)))))
    for row, values in zip(scored, expected.tolist(), strict=True):
        assert list(row["probabilities"].values()) == pytest.approx(values, abs=1e-4)


def test_three_classes_have_three_probabilities(folder: Path, tmp_path: Path, pretrained: dict[str, Tensor]) -> None:
    classes = Classes(("a b", "cat", "dog"))
    save_model(tmp_path / "model", pretrained, classes)
    scoring = score(folder, tmp_path / "model", tmp_path / "parts")
    result = scoring(whole(list(storage.walk(str(folder)))))
    table = scorer.read_part(str(tmp_path / "parts" / f"{result['chunk']}.parquet"))
    row = table.to_pylist()[0]
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
    assert scorer.label_of(path, CLASSES) == label


def test_listings_are_cut_in_order_and_named_by_place_and_content() -> None:
    entries = [Entry(f"{i:04}.png", i, 2 * i) for i in range(300)]
    chunks = scorer.cut(entries)
    listed = [row for chunk in chunks for row in chunk.rows.to_pylist()]
    assert listed == [{"path": e.path, "size": e.size, "modified": e.modified} for e in entries]
    ids = [chunk.id for chunk in chunks]
    assert ids == sorted(set(ids)) == [chunk.id for chunk in scorer.cut(entries)]
    touched = [*entries[:150], Entry("0150.png", 150, 1), *entries[151:]]
    differ = [a.id != b.id for a, b in zip(chunks, scorer.cut(touched), strict=True)]
    assert sum(differ) == 1
    assert scorer.cut([]) == []


def test_a_part_has_the_schema_and_a_row_for_each_file(folder: Path, saved: Path, tmp_path: Path) -> None:
    chunk = whole(list(storage.walk(str(folder))))
    result = score(folder, saved, tmp_path / "parts")(chunk)
    assert result == {"chunk": chunk.id, "num_images": 9}
    (path,) = (tmp_path / "parts").iterdir()
    table = scorer.read_part(str(path))
    assert path.name == f"{chunk.id}.parquet" and table.schema.equals(scorer.schema(CLASSES))
    assert table["path"].to_pylist() == chunk.rows["path"].to_pylist()
    for row, listed in zip(table.to_pylist(), chunk.rows.to_pylist(), strict=True):
        if row["modified"] is not None:
            assert round(row["modified"].timestamp() * 1e6) == listed["modified"]
        assert (row["probabilities"] is None) == (row["status"] != "scored")


def test_a_chunk_whose_part_exists_is_not_computed_again(
    folder: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = whole(list(storage.walk(str(folder))))
    scoring = score(folder, saved, tmp_path / "parts")
    first = scoring(chunk)
    (path,) = (tmp_path / "parts").iterdir()
    before = (path.stat().st_mtime_ns, path.read_bytes())

    def refuse(self: Score, chunk: Chunk) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Score, "rows", refuse)
    assert scoring(chunk) == first
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    with pytest.raises(AssertionError, match="computed again"):
        scoring(Chunk("other", chunk.rows))
    assert [other.name for other in (tmp_path / "parts").iterdir()] == [path.name]


def test_a_model_that_was_replaced_is_refused(folder: Path, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="it was replaced"):
        score(folder, saved, tmp_path / "parts", model_digest="0" * 16)


def part(folder: Path, name: str, statuses: list[str]) -> str:
    rows = [{"path": f"{name}/{i}", "status": status} for i, status in enumerate(statuses)]
    pq.write_table(pa.Table.from_pylist(rows, schema=scorer.schema(CLASSES)), folder / f"{name}.parquet")
    return str(folder / f"{name}.parquet")


def test_merging_keeps_the_order_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "_PARTS_OF_ROW_GROUP", 2)
    statuses = {"c": ["scored", "missing"], "a": ["scored"], "b": [], "d": ["unreadable", "scored", "scored"]}
    parts = [part(tmp_path, name, found) for name, found in statuses.items()]
    output = tmp_path / "out.parquet"
    output.write_bytes(b"before")
    counts = scorer.merge(parts, str(output), CLASSES)
    assert counts == {"scored": 4, "missing": 1, "unreadable": 1}
    table = pq.read_table(output)
    assert table["path"].to_pylist() == ["c/0", "c/1", "a/0", "d/0", "d/1", "d/2"]
    assert table.schema.equals(scorer.schema(CLASSES))
    assert pq.ParquetFile(output).num_row_groups == 2
    assert not list(tmp_path.glob(".*"))


def test_merging_nothing_gives_a_table_without_rows(tmp_path: Path) -> None:
    assert scorer.merge([], str(tmp_path / "out.parquet"), CLASSES) == {}
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.num_rows == 0 and table.schema.equals(scorer.schema(CLASSES))


def test_a_failed_merge_leaves_what_was_there(tmp_path: Path) -> None:
    good, broken = part(tmp_path, "a", ["scored"]), tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 no")
    (tmp_path / "out.parquet").write_bytes(b"before")
    with pytest.raises((OSError, pa.ArrowException)):
        scorer.merge([good, str(broken)], str(tmp_path / "out.parquet"), CLASSES)
    assert (tmp_path / "out.parquet").read_bytes() == b"before"
    assert not list(tmp_path.glob(".*"))


def test_the_schema_names_what_the_readme_of_a_table_needs() -> None:
    names = scorer.schema(Classes(("a", "b", "c"))).names
    assert names[:4] == ["path", "status", "prediction", "probability"]
    assert json.dumps([field.name for field in scorer.schema(CLASSES).field("probabilities").type]) == '["cat", "dog"]'
