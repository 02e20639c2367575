"""The fit is the one optimum, and its logits are those of a head."""

import pytest
import torch
import torch.nn.functional as F

from tlearn.evaluation import logistic


def drawn(num_classes: int, count: int = 300, channels: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    labels = torch.arange(count) % num_classes
    centres = torch.randn(num_classes, channels, generator=generator)
    return centres[labels] + torch.randn(count, channels, generator=generator), labels


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_no_other_weights_have_a_lower_penalised_loss(num_classes: int) -> None:
    x, labels = drawn(num_classes)
    inputs = ((x.double() - x.double().mean(0)) / x.double().std()).requires_grad_(False)
    weight = torch.zeros(num_classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=2000, tolerance_grad=1e-10, tolerance_change=1e-14)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(inputs, weight, bias), labels, reduction="sum")
        value = value + logistic._PENALTY / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    with torch.no_grad():
        expected = F.linear(inputs, weight, bias).softmax(1)
    logits = logistic.fit(x, labels, num_classes)(x)
    found = torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1) if num_classes == 2 else logits.softmax(1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-3)


def test_the_same_pictures_give_the_same_head() -> None:
    x, labels = drawn(3)
    first, second = (logistic.fit(x, labels, 3) for _ in range(2))
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)


def test_a_class_without_a_picture_is_never_said() -> None:
    x, labels = drawn(2)
    assert not logistic.fit(x, labels * 2, 3)(x).argmax(1).eq(1).any()


def test_features_that_are_all_alike_say_how_frequent_the_classes_are() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10)
    logits = logistic.fit(torch.ones(40, 4), labels, 2)(torch.ones(1, 4))
    assert logits.sigmoid().item() == pytest.approx(0.25, abs=0.01)
