"""Which pictures are one: crops of any place and shape, and different pictures that are not."""

from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from PIL import Image

from tlearn.config import PreprocessConfig
from tlearn.data.manifest import File
from tlearn.doctor import seen, twins
from tlearn.doctor.seen import Seen


def looked(folder: Path) -> list[Seen]:
    files = [File("train", path.name, "", path.stat().st_size, 0) for path in sorted(folder.iterdir())]
    return seen.look(str(folder), files, PreprocessConfig())[1]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.drawn(tmp_path_factory.mktemp("drawn") / "data", num_train=0, num_val=0, num_test=6) / "test"


def pairs(pictures: list[Seen], proposed: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(pair.first, pair.second) for pair in twins.verified(proposed, lambda n: {i: pictures[i] for i in n})]


@pytest.mark.parametrize("side", [0.65, 0.85])
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_crop_is_found_in_its_original_and_in_no_other(
    pictures: Path, tmp_path: Path, side: float, is_mirrored: bool
) -> None:
    rng = np.random.default_rng(1)
    for path in sorted(pictures.iterdir()):
        picture = Image.open(path)
        width, height = (int(side * length) for length in picture.size)
        left, top = (int(rng.uniform(0, 1 - side) * length) for length in picture.size)
        crop = picture.crop((left, top, left + width, top + height))
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if is_mirrored else crop
        crop.resize((2 * width // 3, 2 * height // 3)).save(tmp_path / path.name, quality=70)
    originals, crops = looked(pictures), looked(tmp_path)
    every = [(i, len(originals) + j) for i in range(6) for j in range(6)]
    found = pairs([*originals, *crops], every)
    right = {(i, 6 + i) for i in range(6)}
    assert set(found) <= right and len(found) >= 5  # one may have nothing but sky


def test_different_pictures_are_not_one(pictures: Path) -> None:
    every = looked(pictures)
    assert twins.by_grey(every) == [] or pairs(every, twins.by_grey(every)) == []
    assert pairs(every, [(i, j) for i in range(6) for j in range(i)]) == []


def test_two_pictures_on_one_background_are_not_one(tmp_path: Path) -> None:
    """Alike in all that is smooth, as X-rays are; their edges are elsewhere."""
    rows, columns = np.mgrid[:200, :200]
    for number in range(4):
        rng = np.random.default_rng(number)
        marks = rng.random((25, 25)).repeat(8, 0).repeat(8, 1) > 0.5
        pixels = (rows / 2 + columns / 2) + 22 * marks
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
    every = looked(tmp_path)
    assert twins.by_grey(every)
    assert pairs(every, [(i, j) for i in range(4) for j in range(i)]) == []


def test_pictures_without_contrast_are_no_copies(tmp_path: Path) -> None:
    for number in range(5):
        Image.new("RGB", (60, 40), (30 * number,) * 3).save(tmp_path / f"{number}.png")
    every = looked(tmp_path)
    assert twins.by_grey(every) == [] and pairs(every, [(0, 1), (1, 2)]) == []


def test_groups_follow_from_pairs_in_any_order() -> None:
    chain = [(0, 1), (2, 1), (2, 5), (3, 4)]
    for order in (chain, chain[::-1]):
        assert twins.groups(7, order) == [0, 0, 0, 3, 3, 0, 6]


def test_points_are_compared_in_blocks_and_name_their_copies() -> None:
    points = torch.nn.functional.normalize(torch.randn(3000, 64, generator=torch.Generator().manual_seed(0)))
    points[2500] = points[7]
    assert twins.by_features(points) == [(7, 2500)]
    assert twins.by_features(points[:0]) == [] and twins.by_features(points[:1]) == []


def test_a_file_that_is_gone_is_passed_over(pictures: Path) -> None:
    every = looked(pictures)
    assert twins.verified([(0, 0), (0, 1)], lambda numbers: {0: every[0]})[0].second == 0
