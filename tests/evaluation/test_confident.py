"""Doubt about labels, judged by cleanlab on the same probabilities, and on points whose classes are known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tlearn.evaluation import confident, probe

cleanlab_filter = pytest.importorskip("cleanlab.filter")


def clouds(num_classes: int, per_class: int, seed: int, apart: float = 3.0) -> tuple[Tensor, Tensor]:
    """Points (N, channels) around a centre for each class, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_classes).repeat(per_class)
    centres = apart * torch.eye(num_classes, 24)
    pooled = centres[labels] + torch.rand(len(labels), 24, generator=generator)
    return probe.points(pooled), labels


def swapped(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    wrong = labels.clone()
    wrong[rows] = (wrong[rows] + 1) % (int(labels.max()) + 1)
    return wrong, rows


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("count", [1, 12])
def test_swapped_labels_are_doubted_and_no_others(num_classes: int, count: int) -> None:
    points, labels = clouds(num_classes, 60, seed=count)
    given, rows = swapped(labels, count, seed=1)
    scores = probe.out_of_fold(points, given, num_classes, torch.arange(len(given)))
    judged = confident.judge(scores, given)
    assert judged is not None
    assert set((judged.classes != given).nonzero()[:, 0].tolist()) == set(rows.tolist())
    assert torch.equal(judged.classes[rows], labels[rows]) and (judged.sure[rows] > 0.5).all()


def test_right_labels_are_not_doubted() -> None:
    points, labels = clouds(3, 50, seed=0)
    judged = confident.judge(probe.out_of_fold(points, labels, 3, torch.arange(150)), labels)
    assert judged is not None and torch.equal(judged.classes, labels)


@pytest.mark.parametrize("seed", range(4))
def test_what_tells_no_classes_apart_doubts_nothing(seed: int) -> None:
    points, _ = clouds(2, 60, seed, apart=0.0)
    labels = torch.randint(2, (120,), generator=torch.Generator().manual_seed(seed))
    assert confident.judge(probe.out_of_fold(points, labels, 2, torch.arange(120)), labels) is None


def test_a_copy_does_not_vouch_for_the_label_of_its_original() -> None:
    points, labels = clouds(2, 40, seed=0)
    given = labels.clone()
    given[0] = 1 - labels[0]
    points, given = torch.cat([points, points[:1].repeat(30, 1)]), torch.cat([given, given[:1].repeat(30)])
    groups = torch.cat([torch.arange(80), torch.zeros(30, dtype=torch.long)])
    scores = probe.out_of_fold(points, given, 2, groups)
    assert scores[0].argmax() == labels[0]
    alone = probe.out_of_fold(points, given, 2, torch.arange(110))
    assert alone[0].argmax() == given[0]  # where the copies are in other folds, they do


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_confident_classes_are_those_of_cleanlab(num_classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(300) % num_classes)
    probabilities = rng.dirichlet(np.ones(num_classes), 300)
    shown = np.where(rng.random(300) < 0.15, (labels + 1) % num_classes, labels)
    probabilities[np.arange(300), shown] += 1.0
    probabilities /= probabilities.sum(1, keepdims=True)
    theirs = cleanlab_filter.find_label_issues(labels, probabilities, filter_by="confident_learning", n_jobs=1)
    ours = confident.confident_classes(torch.from_numpy(probabilities), torch.from_numpy(labels)).numpy()
    assert theirs.sum() > 3 and np.array_equal((ours >= 0) & (ours != labels), theirs)


def test_where_labels_are_good_more_is_asked_of_a_doubt() -> None:
    """The same picture between two classes is doubted among many wrong labels, and not among few."""
    points, labels = clouds(2, 300, seed=0)
    centres = torch.stack([points[labels == label].mean(0) for label in (0, 1)])
    between = torch.nn.functional.normalize(0.36 * centres[:1] + 0.64 * centres[1:])
    doubted = []
    for count in (2, 100):
        given, _ = swapped(labels, count, seed=2)
        given = torch.cat([given, torch.tensor([0])])
        scores = probe.out_of_fold(torch.cat([points, between]), given, 2, torch.arange(601))
        judged = confident.judge(scores, given)
        assert judged is not None
        doubted.append(int(judged.classes[-1]))
    assert doubted == [0, 1]
