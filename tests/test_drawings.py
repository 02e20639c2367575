"""The drawn data folder: repeatable, laid out as a real one, and worth learning from."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlearn.drawings import Kind, draw, draw_folder


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


def test_cats_and_dogs_differ_in_their_mean_picture() -> None:
    def mean(kind: Kind, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        pictures = [draw(kind, rng).convert("L").resize((16, 16)) for _ in range(40)]
        return np.asarray(np.mean([np.asarray(picture, np.float64) for picture in pictures], 0))

    # The same seed for both kinds: what is left apart from the animal is mostly the same.
    assert np.abs(mean("cat", 0) - mean("dog", 0)).mean() > 2


@pytest.mark.parametrize("counts", [(3, 2), (2, 3), (-2, 2)])
def test_counts_that_cannot_be_halved_are_rejected(counts: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected an even num_(train|val)"):
        draw_folder(tmp_path / "data", num_train=counts[0], num_val=counts[1], num_test=0, seed=0)
    assert not (tmp_path / "data").exists()
