"""A probe tells classes apart that a plane parts, and never judges what it was fitted on."""

import pytest
import torch

from tlearn.evaluation import probe


def clusters(num_classes: int, count: int, distance: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % num_classes
    centres = distance * torch.randn(num_classes, 32, generator=generator)
    return probe.points((torch.randn(count, 32, generator=generator) + centres[labels]).relu()), labels


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_what_a_plane_parts_is_told_apart(num_classes: int) -> None:
    points, labels = clusters(num_classes, 210)
    judge = probe.probe(points[:140], labels[:140], num_classes)
    assert (judge(points[140:]).argmax(1) == labels[140:]).all()
    assert torch.equal(judge(points[140:150]), judge(points[140:])[:10])


def test_each_picture_is_judged_by_those_of_other_groups() -> None:
    points, labels = clusters(3, 60, distance=0.5)
    groups = torch.arange(60) // 2
    found = probe.out_of_fold(points, labels, 3, groups)
    for group in (0, 7):
        changed = labels.clone()
        changed[groups == group] = (labels[groups == group] + 1) % 3
        assert torch.equal(probe.out_of_fold(points, changed, 3, groups)[groups == group], found[groups == group])


def test_features_of_noise_are_no_better_than_chance() -> None:
    generator = torch.Generator().manual_seed(1)
    points, labels = probe.points(torch.rand(600, 32, generator=generator)), torch.arange(600) % 3
    found = probe.out_of_fold(points, labels, 3, torch.arange(600))
    assert (found.argmax(1) == labels).double().mean() < 0.42


def test_constant_features_and_a_class_without_a_picture_are_no_error() -> None:
    points = probe.points(torch.ones(6, 4))
    assert probe.probe(points, torch.tensor([0, 0, 0, 0, 1, 1]), 3)(points[:2]).argmax(1).tolist() == [0, 0]


def test_points_have_unit_length_and_of_nothing_there_is_none() -> None:
    points = probe.points(torch.tensor([[4.0, 0.0, 9.0], [0.0, 0.0, 0.0]]))
    assert points[0].tolist() == pytest.approx([2 / 13**0.5, 0.0, 3 / 13**0.5]) and not points[1].any()
