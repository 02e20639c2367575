"""Nearest, typical, alike: by the direction of features, whatever their length and number."""

import math

import pytest
import torch
import torch.nn.functional as F

from tlearn.evaluation import similar

GENERATOR = torch.Generator().manual_seed(0)
POINTS, OTHERS = torch.rand(50, 8, generator=GENERATOR), torch.rand(30, 8, generator=GENERATOR)
LABELS = torch.arange(30) % 3


@pytest.fixture(params=[7, 1024])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "_BLOCK", request.param)


@pytest.mark.usefixtures("blocks")
def test_the_nearest_are_those_of_the_largest_cosine() -> None:
    cosines, rows = similar.nearest(POINTS, 5 * OTHERS, 3)
    expected = F.cosine_similarity(POINTS[:, None], OTHERS[None], dim=2).sort(1, descending=True)
    torch.testing.assert_close(cosines, expected.values[:, :3])
    assert torch.equal(rows, expected.indices[:, :3])
    assert similar.nearest(POINTS, OTHERS[:2], 3)[0].shape == (50, 2)


@pytest.mark.usefixtures("blocks")
def test_typicality_is_the_mean_of_the_nearest_of_the_predicted_class() -> None:
    predicted = torch.arange(50) % 4  # of class 3 there is none
    found = similar.typicality(POINTS, predicted, OTHERS, LABELS)
    for row in (0, 1, 2, 48):
        of_class = OTHERS[predicted[row] == LABELS]
        best = F.cosine_similarity(POINTS[row, None], of_class, dim=1).topk(min(10, len(of_class))).values
        assert found[row].item() == pytest.approx(best.mean().item(), rel=1e-5)
    assert math.isnan(found[3])


@pytest.mark.usefixtures("blocks")
def test_without_others_a_picture_is_compared_with_all_but_itself() -> None:
    classes = torch.tensor([0, 0, 0, 1])
    points = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 1]])
    found = similar.typicality(points, classes, None, classes)
    assert found[:3].tolist() == pytest.approx([0.5, 0.5, 0]) and math.isnan(found[3])


@pytest.mark.parametrize("count", [1, 3, 8])
def test_clusters_are_groups_that_lie_together_whatever_the_seed(count: int) -> None:
    truth = torch.arange(count).repeat_interleave(torch.arange(count) + 5)
    points = torch.eye(8)[truth] + 0.05 * torch.rand(len(truth), 8, generator=GENERATOR)
    for seed in range(3):
        found = similar.clusters(points * torch.rand(len(truth), 1).clamp(min=0.1), 8 if count == 8 else count, seed)
        pairs = set(zip(truth.tolist(), found.tolist(), strict=True))
        assert len(pairs) == count and {group for _, group in pairs} == set(range(count))
        assert (found == 0).sum() == found.bincount().max()


@pytest.mark.parametrize("points", [torch.ones(5, 4), torch.zeros(3, 4), torch.rand(1, 4)])
def test_pictures_that_are_all_alike_are_one_cluster(points: torch.Tensor) -> None:
    assert similar.clusters(points, 8, 0).unique().numel() <= 1 + (len(points) == 1)
