"""Sums and counts over batches against torch and torchmetrics over the whole."""

import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor

from tlearn.evaluation import metrics
from tlearn.evaluation.metrics import Totals

N = 203


def samples(num_logits: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(N, num_logits, generator=generator)
    return logits, torch.randint(0, max(num_logits, 2), (N,), generator=generator)


@pytest.mark.parametrize("batch_size", [1, 50, N])
@pytest.mark.parametrize("num_logits", [1, 2, 5])
def test_batches_add_up_to_the_whole(num_logits: int, batch_size: int) -> None:
    logits, labels = samples(num_logits)
    totals = Totals(torch.device("cpu"))
    for some, their in zip(logits.split(batch_size), labels.split(batch_size), strict=True):
        totals.add(metrics.sample_losses(some, their), some, their)
    loss, accuracy = totals.reduced().rates()
    whole: Tensor
    if num_logits == 1:
        whole = F.binary_cross_entropy_with_logits(logits[:, 0].double(), labels.double())
        judge = torchmetrics.Accuracy(task="binary")
        share = judge(metrics.probabilities(logits)[:, 1], labels)
    else:
        whole = F.cross_entropy(logits.double(), labels)
        share = torchmetrics.Accuracy(task="multiclass", num_classes=num_logits, average="micro")(logits, labels)
    assert loss == pytest.approx(whole.item(), rel=1e-6)
    assert accuracy == pytest.approx(share.item(), rel=1e-6)
    assert totals.sums[2].item() == N
    assert totals.sums[1].item() == (metrics.predictions(logits) == labels).sum().item()


def test_sums_need_no_gradient() -> None:
    logits, labels = samples(1)
    totals = Totals(torch.device("cpu"))
    totals.add(metrics.sample_losses(logits.requires_grad_(), labels), logits, labels)
    assert not totals.sums.requires_grad and totals.sums.dtype == torch.float64


@pytest.mark.parametrize("num_logits", [1, 2, 5])
def test_probabilities_sum_to_one(num_logits: int) -> None:
    logits, _ = samples(num_logits)
    for scale in (1, 100):
        probabilities = metrics.probabilities(scale * logits)
        assert probabilities.shape == (N, max(num_logits, 2))
        assert probabilities.ge(0).all() and probabilities.le(1).all()
        torch.testing.assert_close(probabilities.sum(1), torch.ones(N), rtol=0, atol=1e-6)
        assert torch.equal(probabilities.argmax(1), metrics.predictions(logits))


def test_one_logit_is_a_softmax_of_zero_and_itself() -> None:
    logits, labels = samples(1)
    both = torch.cat([torch.zeros(N, 1), logits], 1)
    torch.testing.assert_close(metrics.probabilities(logits), metrics.probabilities(both), rtol=0, atol=1e-6)
    torch.testing.assert_close(metrics.sample_losses(logits, labels), metrics.sample_losses(both, labels))
    assert torch.equal(metrics.predictions(logits), metrics.predictions(both))


def test_certain_and_wrong_is_a_large_loss_and_no_infinite_one() -> None:
    for logits in (torch.tensor([[1e4], [-1e4]]), torch.tensor([[0.0, 1e4], [0.0, -1e4]])):
        torch.testing.assert_close(metrics.sample_losses(logits, torch.tensor([0, 1])), torch.tensor([1e4, 1e4]))
        torch.testing.assert_close(metrics.sample_losses(logits, torch.tensor([1, 0])), torch.zeros(2))


def test_no_samples_add_nothing() -> None:
    totals = Totals(torch.device("cpu"))
    for num_logits in (1, 3):
        empty, labels = torch.zeros(0, num_logits), torch.zeros(0, dtype=torch.int64)
        totals.add(metrics.sample_losses(empty, labels), empty, labels)
    assert totals.sums.tolist() == [0, 0, 0]
