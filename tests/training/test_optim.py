"""The learning rate as a function of the step, and which parameters decay."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tlearn.config import HeadConfig, OptimConfig, PreprocessConfig
from tlearn.network.trainable import Trainable
from tlearn.training import optim
from tlearn.training.optim import optimizer

PREPROCESS = PreprocessConfig(image_size=32, short_side=32)


def network() -> Trainable:
    torch.manual_seed(0)
    return Trainable(5, PREPROCESS, HeadConfig(width=8), 1)


def factors(num_epochs: int, config: OptimConfig, val_losses: tuple[float, ...] = ()) -> list[float]:
    """Of every step, three an epoch; every epoch knows the losses before it."""
    return [optim.lr_factor(step, 3, val_losses[: step // 3], config) for step in range(3 * num_epochs)]


def factors_of_torch(num_epochs: int, make: Callable[[torch.optim.Optimizer], Any], per_epoch: bool) -> list[float]:
    plain = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(plain)
    found = []
    for step in range(3 * num_epochs):
        found.append(plain.param_groups[0]["lr"])
        plain.step()
        if not per_epoch or step % 3 == 2:
            schedule.step()
    return found


def test_a_constant_rate_is_constant() -> None:
    assert set(factors(4, OptimConfig(schedule="constant"))) == {1.0}


def test_a_cosine_goes_from_its_peak_through_half_to_zero() -> None:
    found = factors(4, OptimConfig(schedule="cosine", num_epochs=4))
    assert found[0] == 1 and found[6] == pytest.approx(0.5) and 0 < found[-1] < 0.02
    assert found == sorted(found, reverse=True)


def test_cosine_and_steps_are_those_of_torch() -> None:
    schedulers = torch.optim.lr_scheduler
    expected = factors_of_torch(4, lambda plain: schedulers.CosineAnnealingLR(plain, T_max=12), per_epoch=False)
    assert factors(4, OptimConfig(schedule="cosine", num_epochs=4)) == pytest.approx(expected)
    expected = factors_of_torch(7, lambda plain: schedulers.StepLR(plain, 2, gamma=0.3), per_epoch=True)
    assert factors(7, OptimConfig(schedule="step", decay_epochs=2, decay_factor=0.3)) == pytest.approx(expected)


def test_a_plateau_lowers_the_rate_and_an_improvement_does_not() -> None:
    config = OptimConfig(schedule="plateau", decay_epochs=2, decay_factor=0.1)
    losses = (1.0, 0.9, 0.95, 0.91, 0.8, 0.85, 0.81)
    assert factors(8, config, losses)[::3] == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01])


def test_warming_up_rises_to_the_peak_and_the_cosine_starts_there() -> None:
    found = factors(4, OptimConfig(schedule="cosine", num_epochs=4, warmup_epochs=2 / 3))
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert found[2:] == sorted(found[2:], reverse=True) and found[-1] < 0.03


@pytest.mark.parametrize(
    ("losses", "stops"), [((), False), ((1.0, 0.9), False), ((0.9, 1.0, 1.1), True), ((0.9, 1.0, 0.9), True)]
)
def test_training_stops_when_the_lowest_loss_is_as_old_as_the_patience(losses: tuple[float, ...], stops: bool) -> None:
    assert optim.should_stop(losses, OptimConfig(patience=2)) is stops
    assert not optim.should_stop(losses, OptimConfig())


def test_pretrained_layers_have_their_own_rate() -> None:
    with torch.device("meta"):
        trainable = Trainable(4, PREPROCESS, HeadConfig(width=8), 1)
    made = optimizer(trainable, OptimConfig(lr=0.1, pretrained_lr=0.01))
    rates = {id(p): group["peak_lr"] for group in made.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in trainable.head.parameters()} == {0.1}
    assert {rates[id(p)] for p in trainable.layers.parameters()} == {0.01}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("frozen_blocks", [4, 5])
def test_every_trainable_parameter_is_in_one_group_once(name: Any, frozen_blocks: int) -> None:
    with torch.device("meta"):
        trainable = Trainable(frozen_blocks, PREPROCESS, HeadConfig(width=8), 1)
    trainable.head.last.bias.requires_grad_(False)
    made = optimizer(trainable, OptimConfig(name=name, weight_decay=0.3))
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
    made = optimizer(trainable, OptimConfig(name=name, lr=0.1, weight_decay=0.5))
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
    made = optimizer(trainable, config)
    for _ in range(2):
        for parameter in trainable.parameters():
            parameter.grad = torch.ones_like(parameter)
        made.step()
    # Steps of 1 and of 1 + 0.5 times the learning rate.
    torch.testing.assert_close(trainable.head.last.weight.detach(), before - 0.25 * 2.5)


def test_adamw_is_adamw() -> None:
    made = optimizer(network(), OptimConfig(name="adamw", lr=0.01))
    assert isinstance(made, torch.optim.AdamW)
    assert all(group["lr"] == 0.01 for group in made.param_groups)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lr": 0.0}, "learning rates"),
        ({"head_lr": -1e-4}, "learning rates"),
        ({"pretrained_lr": 0.0}, "learning rates"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"global_batch_size": 0}, "global_batch_size"),
    ],
)
def test_settings_that_cannot_train_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(OptimConfig(), **change)
