"""Fresh views of pictures: the same for any number of workers, others in every epoch; and decoding on demand."""

import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from tlearn.config import PreprocessConfig
from tlearn.data.fetch import fetch
from tlearn.data.manifest import File
from tlearn.errors import StorageError
from tlearn.features import compute as features
from tlearn.features import phases
from tlearn.features.cache import Pictures
from tlearn.features.cut import Cut
from tlearn.network.arithmetic import Arithmetic
from tlearn.training.samples import Augment

PREPROCESS = PreprocessConfig(image_size=32, short_side=40)


def pixels(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, 40, 40), dtype=torch.uint8, generator=generator)


def test_a_view_depends_on_seed_epoch_and_row_and_on_nothing_beside_it() -> None:
    pictures, rows = pixels(6), torch.tensor([5, 3, 8, 1, 0, 9])
    views = Augment(PREPROCESS, 1, 2)(pictures, rows, 4)
    assert views.shape == (6, 3, 32, 32) and views.dtype == torch.uint8
    other = Augment(PREPROCESS, 1, 1)
    assert torch.equal(views, torch.cat([other(pictures[:2], rows[:2], 4), other(pictures[2:], rows[2:], 4)]))
    for changed in (
        other(pictures, rows, 5),
        other(pictures, rows + 1, 4),
        Augment(PREPROCESS, 2, 1)(pictures, rows, 4),
    ):
        assert not any(torch.equal(one, view) for one, view in zip(changed, views, strict=True))


def test_no_pictures_have_no_views() -> None:
    assert len(Augment(PREPROCESS, 1, 1)(pixels(0), torch.arange(0), 0)) == 0


def test_views_show_half_of_a_picture_or_more_and_half_of_them_mirrored() -> None:
    # Brightness that rises from left to right says how much of the width is seen, and which way round.
    ramp = torch.linspace(40, 200, 40).to(torch.uint8).expand(3, 40, 40)
    views = Augment(PREPROCESS, 0, 1)(ramp.repeat(200, 1, 1, 1), torch.arange(200), 0).float().mean((1, 2))
    spans = (views[:, -1] - views[:, 0]) / 160
    assert 0.4 < (spans > 0).float().mean() < 0.6
    assert spans.abs().min() > 0.35 and spans.abs().max() < 1.45


def test_pictures_are_kept_larger_than_they_are_seen() -> None:
    assert phases.margin(PREPROCESS).image_size == 40
    assert phases.margin(PreprocessConfig(image_size=64, resize="squash", short_side=32)).image_size == 70


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for name in ("a.png", "b.png", "c.png"):
        values = torch.randint(0, 256, (50, 60, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(values.numpy()).save(tmp_path / name)
    return tmp_path


def test_decoding_on_demand_gives_the_pixels_of_the_cache_and_their_mirror_images(folder: Path) -> None:
    names = ["a.png", "b.png", "c.png"]
    pictures = pickle.loads(pickle.dumps(Pictures(str(folder), names, PREPROCESS, ("plain", "mirror"))))
    assert len(pictures) == 6
    expected = [fetch(str(folder), name, PREPROCESS).pixels for name in names]
    gathered = pictures.gather(torch.tensor([2, 0, 4]))
    assert all(pixels is not None for pixels in expected)
    wanted = (expected[2], expected[0], expected[1].flip(2))  # type: ignore[union-attr]
    assert all(torch.equal(one, other) for one, other in zip(gathered, wanted, strict=True))  # type: ignore[arg-type]
    assert pictures.gather(torch.arange(0)).shape == (0, 3, 32, 32)


def test_a_picture_that_is_gone_is_named(folder: Path) -> None:
    pictures = Pictures(str(folder), ["a.png", "b.png"], PREPROCESS, ("plain",))
    pictures.gather([0, 1])
    (folder / "b.png").unlink()
    with pytest.raises(StorageError, match=r"expected b\.png as it was listed, got no such file"):
        pictures.gather([0, 1])


def test_what_does_not_fit_on_the_disk_is_known_before_it_is_computed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Cut("imagenet", str(folder / "cache"), 0, PREPROCESS, Arithmetic(), "digest")
    plan = features.plan([([File("train", "a.png", "a", 1, 1, "hash")], ("plain", "mirror"))], cut)
    assert features.num_bytes(plan, cut) == 2 * 3 * 32 * 32
    assert features.fits(plan, cut)
    monkeypatch.setattr(features, "_USABLE", 1e-12)
    assert not features.fits(plan, cut) and features.fits([], cut)
