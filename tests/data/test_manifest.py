"""What is listed, how it is split, what is opened."""

import dataclasses
import os
from pathlib import Path

import pytest

from tlearn import storage
from tlearn.data import copies, manifest
from tlearn.data.listing import hold_out
from tlearn.data.listing import read as listed


def put(root: Path, name: str, content: str = "") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or name)
    os.utime(path, (1_000_000, 1_000_000))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        for number in range(20):
            put(tmp_path, f"train/{name}/{number:02}.jpg")
    return tmp_path


def read(data: Path, seed: int = 0) -> manifest.Listing:
    return hold_out(listed(str(data)), 0.2, seed)


def test_without_val_each_class_gives_a_share_and_nothing_is_lost_or_doubled(data: Path) -> None:
    listing = read(data)
    paths = [file.path for file in listing.files]
    assert len(paths) == len(set(paths)) == 40
    assert [sum(file.label == name for file in listing.of("val")) for name in ("cat", "dog")] == [4, 4]
    assert {f.path for f in read(data).of("val")} == {f.path for f in listing.of("val")}
    assert {f.path for f in read(data, 1).of("val")} != {f.path for f in listing.of("val")}


def test_a_new_file_moves_at_most_one_other_between_the_splits(data: Path) -> None:
    before = {file.path for file in read(data).of("val")}
    put(data, "train/cat/new.jpg")
    after = {file.path for file in read(data).of("val")}
    assert len(before - after) <= 1


def test_the_order_is_that_of_the_bytes_of_the_path(tmp_path: Path) -> None:
    in_order = [
        b"train/%FF/1.jpg",
        b"train/a b/1.jpg",
        b"train/a-b/1.jpg",
        b"train/a.d/1.jpg",
        b"train/a/1 .jpg",
        b"train/a/1-.jpg",
        b"train/a/1.d/2.jpg",
        b"train/a/1.jpg",
        b"train/a/1/2.jpg",
        b"train/a/10.jpg",
        b"train/a/B.jpg",
        b"train/a/a.jpg",
        "train/a/\N{LATIN SMALL LETTER E WITH ACUTE}.jpg".encode(),
        "train/a/\N{CAT FACE}.jpg".encode(),
        b"train/a/\xff.jpg",
        b"train/a0/1.jpg",
        b"train/b\xff\xfe/1.jpg",
        b"train/\xff/1.jpg",
    ]
    assert in_order == sorted(in_order)
    for path in reversed(in_order):
        file = os.path.join(os.fsencode(tmp_path), path)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "wb"):
            pass
    for label in ("a", "a0"):
        put(tmp_path, f"val/{label}/1.jpg")
    files = read(tmp_path).of("train")
    assert [storage.decode_name(file.path) for file in files] == in_order


def test_names_decide_what_is_a_picture_and_folders_what_it_shows(data: Path) -> None:
    for name in ("a/b/deep.PNG", "no-suffix", ".hidden", "notes.txt", "Thumbs.db", "photo.HEIC"):
        put(data, f"train/cat/{name}")
    put(data, "train/loose.jpg")
    put(data, "val/cat/1.jpg")
    put(data, "val/dog/1.jpg")
    listing = read(data)
    extra = {f.path for f in listing.of("train")} - {f"train/{c}/{n:02}.jpg" for c in ("cat", "dog") for n in range(20)}
    assert extra == {"train/cat/a/b/deep.PNG", "train/cat/no-suffix", "train/cat/photo.HEIC"}
    assert {f.label for f in listing.files} == {"cat", "dog"} and listing.ignored.total() == 4


def test_class_names_may_be_anything_but_hidden(data: Path) -> None:
    put(data, "train/_x/1.jpg")
    put(data, "train/_x/2.jpg")
    put(data, "train/Ünï/1.jpg")
    put(data, "train/Ünï/2.jpg")
    put(data, "train/.ipynb_checkpoints/1.jpg")
    assert read(data).classes.names == ("_x", "cat", "dog", "Ünï")


def test_unchanged_files_are_not_opened_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = storage.read_listed

    def counted(folder: str, path: str, max_bytes: int | None = None) -> storage.Content:
        opened.append(path)
        return original(folder, path, max_bytes)

    monkeypatch.setattr(storage, "read_listed", counted)
    cache = str(tmp_path / "cache")
    first = manifest.add_hashes(str(data), read(data).files, cache)
    assert len(opened) == 40
    opened.clear()
    again = manifest.add_hashes(str(data), read(data).files, cache)
    assert opened == [] and [file.sha256 for file in again] == [file.sha256 for file in first]
    put(data, "train/cat/00.jpg", "other bytes")
    (data / "train" / "dog" / "00.jpg").touch()  # now: may change again within the resolution of its time
    for _ in range(2):
        opened.clear()
        manifest.add_hashes(str(data), read(data).files, cache)
        assert "train/dog/00.jpg" in opened
    assert "train/cat/00.jpg" not in opened


def test_a_file_that_vanishes_has_a_status(data: Path, tmp_path: Path) -> None:
    files = read(data).files
    (data / files[0].path).unlink()
    files = manifest.add_hashes(str(data), files, str(tmp_path / "cache"))
    assert (files[0].status, files[0].sha256) == ("missing", None)
    table = manifest.table(files)
    assert table.schema == manifest.SCHEMA and table.num_rows == 40


def test_the_same_bytes_in_two_splits_or_classes_are_remarked_on(data: Path, tmp_path: Path) -> None:
    put(data, "val/cat/copy.jpg", "train/cat/00.jpg")
    put(data, "val/dog/copy.jpg", "train/cat/01.jpg")
    files = manifest.add_hashes(str(data), read(data).files, str(tmp_path / "cache"))
    assert [remark.split(" images ")[0] for remark in copies.remarks(copies.find(files))] == ["2", "1"]


def test_outcomes_of_some_files_leave_the_others_and_the_order(data: Path) -> None:
    listing = read(data)
    bad = [dataclasses.replace(file, status="unreadable", error="no") for file in listing.of("train")[3:5]]
    judged = listing.with_outcomes(reversed(bad))
    assert [file.path for file in judged.files] == [file.path for file in listing.files]
    assert [file for file in judged.files if file.status != "ok"] == bad
    assert judged.usable("train") == [file for file in listing.of("train") if file.path not in {b.path for b in bad}]
    assert judged.usable("val") == listing.of("val")
