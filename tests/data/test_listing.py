"""What of a folder is listed, as which split and class, and what is said of the rest."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.exceptions import InvalidPathError
from pyarrow import fs

from tlearn.data.listing import hold_out, pictures, read
from tlearn.data.manifest import File, Listing
from tlearn.data.names import Ignored
from tlearn.data.splits import held_out
from tlearn.errors import InputError
from tlearn.storage import stores

SPLITS = ("train", "val", "test")


def put(root: Path, *names: str) -> Path:
    """Files; a name "a -> b" is a link."""
    for name in names:
        name, _, target = name.partition(" -> ")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if target:
            os.symlink(target, path)
        else:
            path.write_text(name)
    return root


def folders(split: str, *classes: str, count: int = 3) -> list[str]:
    return [f"{split}/{name}/{number}.jpg".lstrip("/") for name in classes for number in range(count)]


def paths(listing: Listing) -> dict[str, set[str]]:
    return {split: {file.path for file in listing.of(split)} for split in SPLITS}


def said(listing: Listing) -> str:
    return "\n".join(listing.remarks)


PLAIN = [*folders("train", "cat", "dog"), *folders("val", "cat", "dog", count=1)]


@pytest.mark.parametrize(
    ("litter", "says"),
    [
        ("train/cat/._0.jpg", "._* 1"),
        ("train/__MACOSX/cat/._0.jpg", "__MACOSX/ 1"),
        ("train/@eaDir/0.jpg/thumb.jpg", "@eaDir/ 1"),
        ("train/cat/@eaDir/0.jpg/thumb.jpg", "@eaDir/ 1"),
        ("val/$RECYCLE.BIN/S-1-5-18/$R1.jpg", "$RECYCLE.BIN/ 1"),
        ("val/.ipynb_checkpoints/0.jpg", ".ipynb_checkpoints/ 1"),
        ("train/cat/.cache/0.jpg", ".cache/ 1"),
        ("train/cat/Thumbs.db", "Thumbs.db 1"),
        ("train/cat/0.jpg:Zone.Identifier", "*:Zone.Identifier 1"),
        ("train/labels.csv", ".csv 1"),
    ],
)
def test_litter_and_other_files_are_named_and_change_nothing(litter: str, says: str, tmp_path: Path) -> None:
    listing = read(str(put(tmp_path, *PLAIN, litter)))
    assert paths(listing) == {"train": set(PLAIN[:6]), "val": set(PLAIN[6:]), "test": set()}
    assert says in said(listing) and listing.classes.names == ("cat", "dog")


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ("train/fox -> ../train/cat", "links to folders are not followed: train/fox"),
        ("train/cat/more -> ..", "links to folders are not followed: train/cat/more"),
        ("train/fox -> nowhere", "links that lead nowhere: train/fox"),
        ("val/fox -> fox", "links that lead nowhere: val/fox"),
        ("extra -> train", "not used: extra/"),
    ],
)
def test_a_link_to_a_folder_is_not_followed_and_named(link: str, says: str, tmp_path: Path) -> None:
    listing = read(str(put(tmp_path, *PLAIN, link)))
    assert paths(listing)["train"] == set(PLAIN[:6]) and said(listing) == says


def test_the_data_folder_and_its_splits_may_be_links(tmp_path: Path) -> None:
    put(tmp_path, *(f"far/{name}" for name in PLAIN), "data/train -> ../far/train", "data/val -> ../far/val")
    put(tmp_path, "link -> far", "data/train-old -> nowhere")
    for name in ("far", "link", "data"):
        assert paths(read(str(tmp_path / name))) == {"train": set(PLAIN[:6]), "val": set(PLAIN[6:]), "test": set()}


def test_a_folder_that_cannot_be_read_is_named_and_one_that_has_just_gone_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, *PLAIN, "train/cat/closed/1.jpg", "train/dog/gone/1.jpg")
    failures = {b"closed": PermissionError(13, "Permission denied"), b"gone": FileNotFoundError(2, "No such folder")}
    scandir = os.scandir

    def scan(path: bytes) -> Any:
        for name, failure in failures.items():
            if name in os.fsencode(path):
                raise failure
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    ignored = Ignored()
    assert {entry.path for entry in pictures(str(tmp_path), ignored)} == set(PLAIN)
    assert ignored.remarks() == ["folders that cannot be read: train/cat/closed"]
    with pytest.raises(InputError, match="folders that cannot be read: train/cat/closed"):
        read(str(tmp_path))


def test_a_link_to_a_picture_is_a_picture_and_one_that_leads_nowhere_is_missing(tmp_path: Path) -> None:
    put(tmp_path, *PLAIN, "train/cat/link.jpg -> 0.jpg", "train/cat/dead.jpg -> nowhere")
    sizes = {file.path: file.size for file in read(str(tmp_path)).of("train")}
    assert sizes["train/cat/link.jpg"] > 0 and sizes["train/cat/dead.jpg"] == -1


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Train", "train"), ("TRAINING", "train"), ("valid", "val"), ("validation", "val"), ("Val", "val"),
        ("VALID", "val"), ("Test", "test"), ("testing", "test"),
    ],
)  # fmt: skip
def test_a_split_has_several_names(name: str, split: str, tmp_path: Path) -> None:
    names = {one: name if one == split else one for one in SPLITS}
    listing = read(str(put(tmp_path, *(path for one in names.values() for path in folders(one, "cat", "dog")))))
    assert paths(listing) == {one: set(folders(names[one], "cat", "dog")) for one in SPLITS}
    assert said(listing) == f"{name}/ is taken as {split}/"


def test_folders_that_are_no_split_are_named(tmp_path: Path) -> None:
    listing = read(str(put(tmp_path, *PLAIN, *folders("dev", "cat", "dog"), "old stuff/notes.txt", ".git/HEAD")))
    assert said(listing) == "not used: dev/, old stuff/" and len(listing.files) == len(PLAIN)


def test_class_folders_without_train_are_train(tmp_path: Path) -> None:
    listing = hold_out(read(str(put(tmp_path, *folders("", "cat", "dog", count=5), "notes.txt"))), 0.2, 0)
    assert set.union(*paths(listing).values()) == set(folders("", "cat", "dog", count=5))
    assert Counter(file.split for file in listing.files) == {"train": 8, "val": 2}
    assert "no train/" in said(listing) and "no val/: 2 of 10" in said(listing) and ".txt 1" in said(listing)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([*PLAIN, *folders("valid", "cat", "dog")], ["val/ and valid/"]),
        ([*PLAIN, *folders("Train", "cat", "dog")], ["Train/ and train/"]),
        ([f"photos/{name}" for name in PLAIN], ["--data ", "/photos"]),
        ([f"train/{name}" for name in PLAIN], ["found train, val", "--data ", "/train"]),
        (folders("train/train", "cat", "dog"), ["found train", "--data ", "/train"]),
        ([*PLAIN[:6], *folders("val/val", "cat", "dog")], ["/val, found val: move up what is in it"]),
        (folders("train/photos", "cat", "dog"), ["found 1 (photos)", "holds cat, dog", "move them up"]),
        (folders("photos", "cat", "dog"), ["found 1 (photos)", "holds cat, dog", "--data ", "/photos"]),
        (["bus/1.jpg", "car/1.jpg", "train/1.jpg"], ["1 pictures that lie loose", "not used: bus/, car/"]),
        (["train/1.jpg", "train/2.jpg", "train/labels.csv"], ["2 pictures that lie loose", "class", ".csv 1"]),
        (["1.jpg", "2.png", "labels.csv"], ["2 pictures that lie loose", "train/<class>/", ".csv 1"]),
        (["train/a/1.xyz", "train/b/1.xyz"], ["none in a, b", ".xyz 2"]),
        ([*folders("train", "cat"), "x/dog/1.jpg", "train/dog -> ../x/dog"], ["found 1 (cat)", "followed: train/dog"]),
        ([*folders("train", "cat"), "train/dog -> nowhere"], ["found 1 (cat)", "nowhere: train/dog"]),
        ([*PLAIN[:6], "val -> nowhere"], ["val", "a link that leads nowhere"]),
        (["train -> nowhere"], ["train", "a link that leads nowhere"]),
        (folders("val", "cat", "dog"), ["a folder train/", "found val/"]),
        ([*PLAIN, "val/fox/1.jpg", "x/1.jpg", "train/fox -> ../x"], ["also fox", "followed: train/fox"]),
        ([*PLAIN, "val/Cat/1.jpg"], ["'Cat' (not the same as 'cat')"]),
        ([*PLAIN, "val/cat /1.jpg"], ["'cat ' (not the same as 'cat')"]),
        ([*PLAIN, "train/café/1.jpg", "val/cafe\u0301/1.jpg"], [r"'cafe\u0301' (not the same as 'caf\xe9')"]),
        ([*PLAIN, "val/a\nb/1.jpg"], [r"also a\nb"]),
    ],
)
def test_what_cannot_be_trained_on_is_said_with_what_was_found(
    names: list[str], says: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        read(str(put(tmp_path, *names)))
    message = str(caught.value)
    assert message.startswith("expected ") and "\n" not in message
    for part in says:
        assert part in message


def test_many_classes_make_no_long_line(tmp_path: Path) -> None:
    put(tmp_path, *(f"train/a long class name, number {number}/1.jpg" for number in range(100)), "val/fox/1.jpg")
    with pytest.raises(InputError) as caught:
        read(str(tmp_path))
    assert len(str(caught.value)) < 700


def test_a_class_that_val_lacks_is_a_note_with_or_without_its_folder(tmp_path: Path) -> None:
    for number in range(2):
        root = put(tmp_path / str(number), *folders("train", "cat", "dog", "fox"), *folders("val", "cat", "dog"))
        (root / "val" / ("fox" if number else "wolf")).mkdir()  # empty either way
        listing = read(str(root))
        assert said(listing) == "val/ has no images of fox: its figures say nothing of them"
        assert len(listing.of("val")) == 6


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (("Cat", "cat"), "'Cat' and 'cat'"),
        (("cat", "cat "), "'cat' and 'cat '"),
        (("café", "cafe\u0301"), r"'cafe\u0301' and 'caf\xe9'"),
    ],
)
def test_classes_that_look_alike_are_pointed_out(classes: tuple[str, ...], says: str, tmp_path: Path) -> None:
    names = [*classes, "dog"]
    listing = read(str(put(tmp_path, *folders("train", *names), *folders("val", *names))))
    assert said(listing) == f"class names that look alike: {says}" and len(listing.classes.names) == 3


def test_classes_that_all_hold_the_same_folders_are_pointed_out(tmp_path: Path) -> None:
    put(tmp_path / "grouped", *folders("train/indoor", "cat", "dog"), *folders("train/outdoor", "cat", "dog"))
    assert "every class holds the folders cat, dog" in said(read(str(tmp_path / "grouped")))
    put(tmp_path / "tiny", *folders("train/cat", "images"), *folders("train/dog", "images"))
    put(tmp_path / "mixed", *folders("train/cat", "a", "b"), *folders("train/dog", "a", "b"), "train/dog/1.jpg")
    for name in ("tiny", "mixed"):
        assert said(read(str(tmp_path / name))) == ""


def test_the_class_is_the_outermost_folder(tmp_path: Path) -> None:
    listing = read(str(put(tmp_path, *PLAIN, "train/dog/cat/0.jpg", "val/dog/with cat/0.jpg")))
    assert {file.label for file in listing.files if file.path.count("/") > 2} == {"dog"}


def test_of_test_the_classes_of_train_are_listed_and_others_named(tmp_path: Path) -> None:
    extra = ["test/fox/1.jpg", "test/Cat/1.jpg", "test/loose.jpg"]
    listing = read(str(put(tmp_path, *PLAIN, *folders("test", "cat", "dog"), *extra)))
    assert paths(listing)["test"] == set(folders("test", "cat", "dog"))
    assert {file.path for file in listing.unlabelled} == set(extra)
    assert said(listing) == "folders of test/ that are no class of train/: 'Cat' (not the same as 'cat'), fox"
    assert listing.files == [*listing.of("train"), *listing.of("val"), *listing.of("test")]


@st.composite
def contents(draw: st.DrawFn) -> list[File]:
    """Files of two or three classes, some of them copies; each class has two pictures that no other class has."""
    files = []
    for label in ("cat", "dog", "fox")[: draw(st.integers(2, 3))]:
        own = [0, 1, *draw(st.lists(st.integers(0, 5), max_size=12))]
        shared = draw(st.lists(st.integers(0, 1), max_size=2))
        for number, sha256 in enumerate([*(f"{label} {one}" for one in own), *(f"shared {one}" for one in shared)]):
            files.append(File("train", f"train/{label}/{number}.jpg", label, 1, 1, sha256))
    return files


@settings(deadline=None)
@given(contents(), st.floats(0.05, 0.95), st.integers(0, 5))
def test_copies_of_one_picture_stay_on_one_side_and_both_sides_have_every_class(
    files: list[File], fraction: float, seed: int
) -> None:
    val = held_out(files, fraction, seed)
    train = [file for file in files if file.path not in {file.path for file in val}]
    assert not {file.sha256 for file in train} & {file.sha256 for file in val}
    assert {file.label for file in train} == {file.label for file in val} == {file.label for file in files}
    assert {file.split for file in val} == {"val"}


@settings(deadline=None)
@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 3))
def test_without_copies_the_smallest_hashes_are_held_out(count: int, fraction: float, seed: int) -> None:
    files = [File("train", path, path.split("/")[1], 1, 1, path) for path in folders("train", "a", "b", count=count)]

    def draw(path: str) -> bytes:
        return hashlib.sha256(f"{seed}/{path}".encode()).digest()

    wanted = []
    for label in ("a", "b"):
        ordered = sorted((file.path for file in files if file.label == label), key=draw)
        wanted += ordered[: min(max(round(count * fraction), 1), count - 1)]
    assert [file.path for file in held_out(files, fraction, seed)] == sorted(wanted)


def test_a_class_of_copies_of_one_picture_cannot_be_split() -> None:
    files = [File("train", path, path.split("/")[1], 1, 1, path) for path in folders("train", "a", "b")]
    copies = [File("train", f"train/c/{number}.jpg", "c", 1, 1, "same") for number in range(3)]
    with pytest.raises(InputError, match="different images of class c to hold one out, found 1"):
        held_out([*files, *copies], 0.2, 0)


KEYS = [
    "//r.jpg", "/a.jpg", "./k.jpg", "a/../b.jpg", "a/./c.jpg", "a//2.jpg", "a/1.jpg", "p//q//3.jpg", "a..jpg",
]  # fmt: skip
MARKERS = ["_SUCCESS", "x_$folder$", "a/.hid/x.jpg", "a/.hid/y.jpg", "_temporary/0/part.jpg", "notes.txt"]


@dataclass
class Store:
    """The keys of an S3 bucket as obstore lists them, which ends at a key that it refuses, and as pyarrow does, which
    makes folders of every part of a key, empty ones too."""

    keys: list[str]

    def list(self, prefix: str, offset: str | None, chunk_size: int) -> Iterator[list[dict[str, Any]]]:
        keys = sorted(key.removeprefix("bucket/") for key in self.keys if key.startswith(f"bucket/{prefix}/"))
        for page in (keys[start : start + 2] for start in range(0, len(keys), 2)):
            for key in page:
                if {"", ".", ".."} & set(key.split("/")):
                    raise InvalidPathError(f"Encountered object with invalid path: {key}")
            now = datetime.now(UTC)
            yield [{"path": key, "size": 1, "last_modified": now, "e_tag": "e", "version": None} for key in page]

    def list_with_delimiter(self, prefix: str) -> dict[str, Any]:
        objects = [
            meta for page in self.list(prefix, None, 2) for meta in page if "/" not in meta["path"][len(prefix) + 1 :]
        ]
        below = {key[len(f"bucket/{prefix}/") :] for key in self.keys}
        return {"objects": objects, "common_prefixes": [f"{prefix}/{name.partition('/')[0]}" for name in below]}

    def get_file_info(self, asked: fs.FileSelector) -> Any:
        keys = [key for key in self.keys if key.startswith(f"{asked.base_dir}/")]
        if not asked.recursive:
            start = len(asked.base_dir) + 1
            made = {key[:start] + key[start:].partition("/")[0] for key in keys}
            kinds = {path: fs.FileType.File if path in keys else fs.FileType.Directory for path in made}
            return [fs.FileInfo(path.rstrip("/"), kind) for path, kind in kinds.items()]
        made = {key.rsplit("/", depth)[0] for key in keys for depth in range(1, key.count("/") + 1)} - {"bucket"}
        files = [fs.FileInfo(key, fs.FileType.File, size=1) for key in keys]
        return [*files, *(fs.FileInfo(folder, fs.FileType.Directory) for folder in made)]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store([])
    monkeypatch.setattr(stores, "_store", lambda scheme, bucket: store)
    monkeypatch.setattr(stores, "_filesystem", lambda scheme, bucket: store)
    return store


def test_every_key_of_a_bucket_is_listed_once_and_its_markers_are_ignored(store: Store) -> None:
    keys = [*KEYS, *(f"!{number}.jpg" for number in range(5))]  # and these come before what obstore refuses
    store.keys = [f"bucket/in/{key}" for key in [*keys, *MARKERS]]
    ignored = Ignored()
    assert sorted(entry.path for entry in pictures("s3://bucket/in", ignored)) == sorted(keys)
    expected = {"_SUCCESS": 1, "*_$folder$": 1, ".hid/": 1, "_temporary/": 1, ".txt": 1}
    assert dict(ignored.names) == expected


def test_a_key_has_a_class_where_its_first_part_is_a_name(store: Store) -> None:
    store.keys = [f"bucket/in/train/{key}" for key in KEYS] + [f"bucket/in/val/{name}/1.jpg" for name in "ap"]
    listing = read("s3://bucket/in")
    classes = {file.path.removeprefix("train/"): file.label for file in listing.of("train")}
    assert classes == {key: key[0] for key in KEYS if key.startswith(("a/", "p/"))}
    assert len(classes) == 5 and "4 pictures lie loose in train/" in listing.remarks[-1]
