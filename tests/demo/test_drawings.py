"""The drawn data folder: repeatable, laid out as a real one, and worth learning from."""

import csv
import itertools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tlearn.config import DemoConfig
from tlearn.demo import drawings
from tlearn.demo.drawings import KINDS, Kind, draw, draw_folder


def pictures_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*.*"))
        if path.suffix != ".csv"
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    draw_folder(folder, num_train=10, num_val=6, num_test=5, seed=3)
    return folder


def test_same_seed_gives_same_bytes(small: Path, tmp_path: Path) -> None:
    draw_folder(tmp_path, num_train=10, num_val=6, num_test=5, seed=3)
    assert pictures_of(tmp_path) == pictures_of(small)
    assert (tmp_path / "test_labels.csv").read_bytes() == (small / "test_labels.csv").read_bytes()


def test_other_seed_gives_other_pictures(small: Path, tmp_path: Path) -> None:
    draw_folder(tmp_path, num_train=2, num_val=0, num_test=0, seed=4)
    assert not set(pictures_of(tmp_path).values()) & set(pictures_of(small).values())


def test_layout_has_the_counts_asked_for_and_one_broken_file_in_train_and_test(small: Path) -> None:
    names = list(pictures_of(small))
    for place, count in (("train/cat", 5), ("train/dog", 5), ("val/cat", 3), ("val/dog", 3), ("test", 5)):
        numbers = [re.fullmatch(place + r"/(\d{4})\.(jpg|png|webp)", name) for name in names]
        assert [int(match[1]) for match in numbers if match] == list(range(1, count + 1))
    assert len(names) == 10 + 6 + 5 + 2
    assert {"train/cat/broken.jpg", "test/broken.jpg"} < set(names)
    with (small / "test_labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [name for name in names if re.match(r"test/\d", name)]
    assert {row["label"] for row in rows} <= {"cat", "dog"}


def test_only_the_broken_files_do_not_decode(small: Path) -> None:
    formats = set()
    for path in sorted(small.rglob("*.*")):
        if path.name == "broken.jpg":
            with Image.open(path) as picture, pytest.raises(OSError, match="truncated"):
                picture.load()
        elif path.suffix != ".csv":
            with Image.open(path) as picture:
                picture.load()
                formats.add(picture.format)
    assert formats == {"JPEG", "PNG", "WEBP"}


def test_longer_folder_begins_with_the_shorter_one(small: Path, tmp_path: Path) -> None:
    draw_folder(tmp_path, num_train=14, num_val=8, num_test=7, seed=3)
    assert pictures_of(small).items() <= pictures_of(tmp_path).items()


def test_three_classes_give_three_folders_and_a_key_with_three_labels(tmp_path: Path) -> None:
    draw_folder(tmp_path, num_train=6, num_val=4, num_test=12, seed=3, kinds=KINDS)
    for split, counts in (("train", [2, 2, 2]), ("val", [2, 1, 1])):
        assert sorted(path.name for path in (tmp_path / split).iterdir()) == ["cat", "dog", "rabbit"]
        assert [len(list((tmp_path / split / kind).glob("[0-9]*"))) for kind in KINDS] == counts
    with (tmp_path / "test_labels.csv").open(encoding="utf-8", newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} == set(KINDS)


def test_two_classes_are_drawn_unless_told(small: Path, tmp_path: Path) -> None:
    draw_folder(tmp_path, num_train=10, num_val=6, num_test=5, seed=3, kinds=("cat", "dog"))
    assert pictures_of(tmp_path) == pictures_of(small)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_in_every_pose(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Counter[str]()

    def counted(name: str) -> Callable[..., None]:
        draw_it = getattr(drawings, name)

        def count(*args: object) -> None:
            drawn[name] += 1
            draw_it(*args)

        return count

    poses = ("_sitting", "_standing", "_front_head", "_profile_head")
    for name in poses:
        monkeypatch.setattr(drawings, name, counted(name))
    for seed in range(20):
        draw(kind, np.random.default_rng(seed))
    assert set(drawn) == set(poses)


def test_rabbits_have_the_highest_ears() -> None:
    def top_px(kind: Kind) -> int:
        picture = Image.new("RGB", (400, 400))
        rng = np.random.default_rng(0)
        pen = drawings._Pen(ImageDraw.Draw(picture), np.array([[100, 0, 200], [0, 100, 300], [0, 0, 1]]), None)
        coat = drawings._Coat.of(kind, rng, odd=False)
        drawings._front_head(pen, coat, rng)
        box = picture.getbbox()
        assert box is not None
        return box[1]

    assert top_px("rabbit") < top_px("cat") - 50
    assert top_px("rabbit") < top_px("dog") - 50


def test_every_two_kinds_differ_in_their_mean_picture() -> None:
    def mean(kind: Kind, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        pictures = [draw(kind, rng).convert("L").resize((16, 16)) for _ in range(40)]
        return np.asarray(np.mean([np.asarray(picture, np.float64) for picture in pictures], 0))

    # The same seed for all kinds: what is left apart from the animal is mostly the same.
    for one, other in itertools.combinations([mean(kind, 0) for kind in KINDS], 2):
        assert np.abs(one - other).mean() > 2


@pytest.mark.parametrize("name", ["num_train", "num_val", "num_test"])
def test_counts_below_zero_are_rejected(name: str, tmp_path: Path) -> None:
    counts = {"num_train": 2, "num_val": 2, "num_test": 2, name: -1}
    with pytest.raises(ValueError, match=f"expected a {name} of 0 or more, got -1"):
        draw_folder(tmp_path / "data", **counts, seed=0)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("num_classes", [1, 4])
def test_the_demo_refuses_other_numbers_of_classes_than_two_and_three(num_classes: int) -> None:
    with pytest.raises(ValueError, match="num_classes must be from 2 to 3"):
        DemoConfig(num_classes=num_classes)
