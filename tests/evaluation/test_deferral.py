"""The small network answers only where that changes next to nothing, for what was seen and for what is expected."""

import pytest
import torch
from torch import Tensor

from tlearn.classes import Classes
from tlearn.evaluation import deferral

CLASSES = Classes(("cat", "dog"))


def networks(count: int, small_noise: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a small and of a large network, both calibrated about their own margins, and labels."""
    generator = torch.Generator().manual_seed(seed)
    truth = 12 * torch.randn(count, 1, generator=generator)
    labels = (torch.rand(count, generator=generator) < truth[:, 0].sigmoid()).long()
    noise = small_noise * torch.randn(count, 1, generator=generator)
    return (truth + noise) / (1 + small_noise**2 / 144), truth, labels


def judged(small: Tensor, large: Tensor, labels: Tensor) -> deferral.Deferral | None:
    return deferral.judge(small, large, labels, torch.ones(len(labels), dtype=torch.bool), CLASSES)


def test_it_answers_most_where_both_say_the_same() -> None:
    small, large, labels = networks(500, 1.0)
    found = judged(small, large, labels)
    assert found is not None and found.answered > 0.6 and found.changed == 0 and found.passes


@pytest.mark.parametrize("seed", range(5))
def test_of_new_images_next_to_no_prediction_changes(seed: int) -> None:
    found = judged(*networks(500, 4.0, seed))
    small, large, _ = networks(20_000, 4.0, seed + 100)
    assert found is not None
    answers = deferral.margins(small) >= found.limit
    changed = (deferral.together(small, large, answers) > 0) != (large > 0)
    assert answers.double().mean() > 0.2 and changed.double().mean() < 0.003


def test_a_small_network_that_is_worse_answers_less() -> None:
    shares = [found.answered if (found := judged(*networks(500, noise))) else 0.0 for noise in (0.5, 3.0, 8.0)]
    assert shares[0] > shares[1] > shares[2]


def test_one_that_is_confidently_wrong_answers_nothing() -> None:
    small, large, labels = networks(500, 1.0)
    assert judged(-small, large, labels) is None


def test_where_it_may_not_answer_it_does_not() -> None:
    small, large, labels = networks(500, 1.0)
    found = deferral.judge(small, large, labels, torch.arange(500) % 2 == 0, CLASSES)
    assert found is not None and found.answered <= 0.5


@pytest.mark.parametrize("count", [1, 199])
def test_too_few_images_say_nothing(count: int) -> None:
    assert judged(*networks(count, 0.1)) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_say_nothing(value: float) -> None:
    small, large, labels = networks(300, 0.1)
    small[7] = value
    assert judged(small, large, labels) is None


def test_the_margin_of_several_classes_is_that_between_the_two_largest() -> None:
    assert deferral.margins(torch.tensor([[1.0, 5.0, 3.0], [2.0, 2.0, 0.0]])).tolist() == [2.0, 0.0]
    assert deferral.margins(torch.tensor([[-3.0], [1.0]])).tolist() == [3.0, 1.0]
