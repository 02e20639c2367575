"""Pictures unlike those that were trained on are far from them, and told as a percentile."""

import pytest
import torch

from tlearn.evaluation import novelty


def group(centre: int, count: int, seed: int) -> torch.Tensor:
    """(count, 16): around one of 16 axes."""
    noise = torch.rand(count, 16, generator=torch.Generator().manual_seed(seed)) / 4
    return noise + torch.eye(16)[centre]


def test_what_lies_elsewhere_is_beyond_all_that_was_validated_on() -> None:
    points = novelty.points(group(0, 200, 0))
    known = novelty.reference(novelty.distances(points, group(0, 100, 1)))
    alike, strange = (novelty.percentiles(known, novelty.distances(points, group(axis, 50, 2))) for axis in (0, 1))
    assert strange.eq(strange.max()).all() and strange.max().item() == pytest.approx(100 * 100 / 101)
    assert alike.mean().item() == pytest.approx(50, abs=10)


def test_a_validation_image_has_the_share_that_is_nearer() -> None:
    distances = torch.rand(500, generator=torch.Generator().manual_seed(0))
    known = novelty.reference(distances)
    assert list(known) == sorted(known) and len(known) == 500
    found = novelty.percentiles(known, torch.tensor([known[0] - 1e-3, known[250] + 1e-7, known[-1] + 1e-3]))
    assert (
        found[0] == 0
        and found[1].item() == pytest.approx(50, abs=0.5)
        and found[2].item() == pytest.approx(100 * 500 / 501)
    )


def test_brightness_and_length_of_the_features_do_not_matter() -> None:
    points, pooled = novelty.points(group(0, 30, 0)), group(1, 5, 1)
    torch.testing.assert_close(novelty.distances(points, pooled), novelty.distances(points, 1000 * pooled))


@pytest.mark.parametrize("count", [1, 3, 9, 10, 5000, 5001, 12_345])
def test_of_any_number_of_training_images_at_most_5000_are_kept(count: int) -> None:
    points = novelty.points(torch.rand(count, 4, generator=torch.Generator().manual_seed(0)))
    assert len(points) == min(count, 5000) and points.dtype == torch.float16
    assert novelty.distances(points, points.float()).isfinite().all()


def test_too_few_validation_images_say_nothing_and_of_many_quantiles_are_kept() -> None:
    assert novelty.reference(torch.rand(19)) == ()
    assert len(novelty.reference(torch.rand(20))) == 20 and len(novelty.reference(torch.rand(5000))) == 1000


@pytest.mark.parametrize("count", [20, 50, 98, 99, 500])
def test_no_more_of_the_same_lie_beyond_a_limit_than_it_says(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    beyond = []
    for _ in range(200):
        known = novelty.reference(torch.rand(count, generator=generator))
        beyond.append(novelty.percentiles(known, torch.rand(50, generator=generator)) > 99)
    assert torch.cat(beyond).double().mean() <= 0.013
