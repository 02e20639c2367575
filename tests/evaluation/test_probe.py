"""A probe tells classes apart that a plane parts, and never judges what it was fitted on."""

import pytest
import torch

from tlearn.evaluation import probe


def clusters(num_classes: int, count: int, distance: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % num_classes
    centres = distance * torch.randn(num_classes, 32, generator=generator)
    return torch.randn(count, 32, generator=generator).abs() + centres[labels], labels


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_what_a_plane_parts_is_told_apart(num_classes: int) -> None:
    pooled, labels = clusters(num_classes, 210)
    judge = probe.probe(pooled[:140], labels[:140], num_classes)
    probabilities = judge(pooled[140:])
    assert (probabilities.argmax(1) == labels[140:]).all() and (probabilities > 0).all()
    assert torch.allclose(probabilities.sum(1), torch.ones(70, dtype=torch.float64))
    assert torch.equal(judge(pooled[140:150]), probabilities[:10])


@pytest.mark.parametrize("num_folds", [2, 5, 60])
def test_each_fold_is_judged_by_the_others(num_folds: int) -> None:
    pooled, labels = clusters(3, 60, distance=0.5)
    folds = torch.arange(60) % num_folds
    found = probe.out_of_fold(pooled, labels, 3, folds)
    held = folds == 1
    others = probe.probe(pooled[~held], labels[~held], 3)
    assert torch.allclose(found[held], others(pooled[held]), atol=1e-3)
    labels[held] = (labels[held] + 1) % 3  # its own labels say nothing of it
    assert torch.equal(probe.out_of_fold(pooled, labels, 3, folds)[held], found[held])


def test_features_of_noise_are_no_better_than_chance() -> None:
    generator = torch.Generator().manual_seed(1)
    pooled, labels = torch.randn(600, 32, generator=generator), torch.arange(600) % 3
    found = probe.out_of_fold(pooled, labels, 3, torch.arange(600) // 120)
    assert (found.argmax(1) == labels).double().mean() < 0.42


def test_constant_features_and_a_class_without_a_picture_are_no_error() -> None:
    found = probe.probe(torch.ones(6, 4), torch.tensor([0, 0, 0, 0, 1, 1]), 3)(torch.ones(2, 4))
    assert found.argmax(1).tolist() == [0, 0] and found[0, 2] < 0.01
