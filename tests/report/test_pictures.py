"""Rows of pictures: what opening each gives, what cannot be opened, which of many are shown."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from pictures import BAD, encode, rgb
from PIL import Image

from tlearn.config import PreprocessConfig
from tlearn.errors import StorageError
from tlearn.report import pictures
from tlearn.report.pictures import PICTURES, Picture, most_shown, table, worth_showing

PREPROCESS = PreprocessConfig(image_size=32, short_side=32)
LOOKS = ("width", "height", "format", "brightness", "contrast", "sharpness", "thumbnail")


def test_what_cannot_be_opened_has_a_row_without_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.jpg").write_bytes(encode(rgb(), "WEBP"))
    for name, (data, _) in BAD.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    paths = ["good.jpg", "gone.jpg", *(f"{name}.jpg" for name in BAD)]
    found = table([Picture(path=path, split="val") for path in paths], str(tmp_path), PREPROCESS)
    good, *others = found.select(LOOKS).to_pylist()
    assert found.schema == PICTURES and (good["width"], good["height"], good["format"]) == (48, 32, "WebP")
    assert 0 < good["contrast"] < 0.5 and good["sharpness"] > 0 and good["thumbnail"]
    assert len(others) == len(BAD) + 1 and not any(value for row in others for value in row.values())

    def unreachable(*_: object) -> None:
        raise StorageError("no such bucket")

    monkeypatch.setattr(pictures, "fetch", unreachable)
    assert table([Picture(path="good.jpg", split="val")], str(tmp_path), PREPROCESS)["thumbnail"].to_pylist() == [None]


def test_thumbnails_share_their_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_THUMBNAIL_BYTES", 20_000)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(noise), "PNG"))
    preprocess = dataclasses.replace(PREPROCESS, image_size=200, short_side=200)
    for count in (1, 7, 40):
        found = table([Picture(path="a.png", split="val")] * count, str(tmp_path), preprocess)
        assert 0 < sum(len(data) for data in found["thumbnail"].to_pylist()) <= 20_000


def test_many_classes_leave_room_for_fewer_pictures() -> None:
    assert [most_shown(num_classes) for num_classes in (2, 50, 100, 10_000)] == [5000, 5000, 2500, 500]


def test_no_picture_at_all_is_a_table_without_rows(tmp_path: Path) -> None:
    assert table([], str(tmp_path), PREPROCESS).schema == PICTURES


@pytest.mark.parametrize("most", [1, 2, 9, 50, 99])
def test_of_many_half_are_the_least_certain_and_half_are_spread_over_the_rest(most: int) -> None:
    certainty = np.random.default_rng(0).permutation(100) / 100
    rows = worth_showing(certainty, most)
    assert len(set(rows)) == most and list(rows) == sorted(rows)
    assert set(np.argsort(certainty)[: most // 2]) <= set(rows)
    assert most < 9 or certainty[rows].max() > 0.7
    assert worth_showing(certainty, 100).tolist() == list(range(100)) and not len(worth_showing(certainty[:0], 9))
