"""The learning rate as a function of the step, and which parameters decay."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from tlearn.config import HeadConfig, OptimConfig, PreprocessConfig
from tlearn.network import Trainable
from tlearn.optim import lr_at, optimizer

PREPROCESS = PreprocessConfig(image_size=32, short_side=32)


def network() -> Trainable:
    torch.manual_seed(0)
    return Trainable(5, PREPROCESS, HeadConfig(width=8), 1)


def test_a_constant_rate_is_constant() -> None:
    config = OptimConfig(lr=0.3, schedule="constant")
    assert {lr_at(step, 10, config) for step in range(11)} == {0.3}


def test_a_cosine_goes_from_its_peak_through_half_to_zero() -> None:
    config = OptimConfig(lr=0.3, schedule="cosine")
    assert lr_at(0, 10, config) == 0.3
    assert lr_at(5, 10, config) == pytest.approx(0.15)
    assert lr_at(10, 10, config) == pytest.approx(0, abs=1e-15)
    rates = [lr_at(step, 10, config) for step in range(11)]
    assert rates == sorted(rates, reverse=True) and rates[9] > 0


def test_a_cosine_equals_that_of_torch() -> None:
    config = OptimConfig(lr=0.3, schedule="cosine")
    plain = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(plain, T_max=10)
    for step in range(10):
        assert lr_at(step, 10, config) == pytest.approx(plain.param_groups[0]["lr"])
        plain.step()
        schedule.step()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("frozen_blocks", [4, 5])
def test_every_trainable_parameter_is_in_one_group_once(name: Any, frozen_blocks: int) -> None:
    with torch.device("meta"):
        trainable = Trainable(frozen_blocks, PREPROCESS, HeadConfig(width=8), 1)
    trainable.head.last.bias.requires_grad_(False)
    made = optimizer(trainable.parameters(), OptimConfig(name=name, weight_decay=0.3))
    held = [id(parameter) for group in made.param_groups for parameter in group["params"]]
    assert len(set(held)) == len(held)
    assert set(held) == {id(parameter) for parameter in trainable.parameters() if parameter.requires_grad}
    names = {id(parameter): name for name, parameter in trainable.named_parameters()}
    for group in made.param_groups:
        kinds = {names[id(parameter)].rpartition(".")[2] for parameter in group["params"]}
        assert kinds == ({"weight"} if group["weight_decay"] else {"bias"})
        assert group["weight_decay"] in (0.3, 0.0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weights_decay_and_biases_do_not(name: Any) -> None:
    trainable = network()
    before = {name: tensor.clone() for name, tensor in trainable.named_parameters()}
    made = optimizer(trainable.parameters(), OptimConfig(name=name, lr=0.1, weight_decay=0.5))
    for parameter in trainable.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    for key, parameter in trainable.named_parameters():
        factor = 1 - 0.1 * 0.5 if key.endswith("weight") else 1.0
        torch.testing.assert_close(parameter.detach(), before[key].detach() * factor)


def test_sgd_is_that_of_the_config() -> None:
    config = OptimConfig(name="sgd", lr=0.25, momentum=0.5, weight_decay=0.0)
    trainable = network()
    before = trainable.head.last.weight.detach().clone()
    made = optimizer(trainable.parameters(), config)
    for _ in range(2):
        for parameter in trainable.parameters():
            parameter.grad = torch.ones_like(parameter)
        made.step()
    # Steps of 1 and of 1 + 0.5 times the learning rate.
    torch.testing.assert_close(trainable.head.last.weight.detach(), before - 0.25 * 2.5)


def test_adamw_is_adamw() -> None:
    made = optimizer(network().parameters(), OptimConfig(name="adamw", lr=0.01))
    assert isinstance(made, torch.optim.AdamW)
    assert all(group["lr"] == 0.01 for group in made.param_groups)


@pytest.mark.parametrize("change", [{"lr": 0.0}, {"lr": math.nan}, {"weight_decay": -1.0}, {"global_batch_size": 0}])
def test_settings_that_cannot_train_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(OptimConfig(), **change)
