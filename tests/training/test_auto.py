"""The four cases: what is measured, what is chosen, and that a person's own settings stay."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from tlearn.config import HeadConfig, OptimConfig, TrainConfig
from tlearn.recipes import BETTER, RECIPES, advice
from tlearn.training import auto

AUTO = dataclasses.replace(RECIPES["auto"], data="data", output="run")


def classes(distance: float, count: int, num_classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise in 64 channels around centres that lie so far apart; nothing is negative."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % num_classes
    centres = torch.randn(num_classes, 64, generator=generator)
    return (torch.randn(count, 64, generator=generator) + distance * centres[labels]).relu(), labels


def test_separability_is_zero_by_chance_and_one_without_mistakes() -> None:
    assert auto.separability(*classes(0.0, 600), 3, 0) < 0.1
    assert auto.separability(*classes(3.0, 600), 3, 0) == 1.0
    between = auto.separability(*classes(0.3, 600), 3, 0)
    assert 0.2 < between < 0.98


def test_separability_does_not_flatter_a_frequent_class() -> None:
    pooled, labels = classes(0.0, 600)
    assert auto.separability(pooled, (labels == 0).long() * (torch.arange(600) % 9 == 0).long(), 2, 0) < 0.1


def test_separability_does_not_depend_on_the_scale_or_the_order_of_its_features() -> None:
    pooled, labels = classes(0.3, 300)
    expected = auto.separability(pooled, labels, 3, 0)
    assert auto.separability(1000 * pooled.flip(1), labels, 3, 0) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("smallest_class", "separability", "frozen_blocks", "augment"),
    [(800, 0.97, 5, "flip"), (5000, 0.97, 4, "full"), (300, 0.4, 3, "full"), (5000, 0.4, 0, "full")],
)
def test_each_case_has_its_boundary(smallest_class: int, separability: float, frozen_blocks: int, augment: str) -> None:
    choice = auto.choose(AUTO, 2 * smallest_class, smallest_class, separability)
    chosen = choice.config
    assert (chosen.frozen_blocks, chosen.augment) == (frozen_blocks, augment)
    assert (chosen.recipe, chosen.data, chosen.output) == ("auto", "data", "run")
    assert f"{smallest_class:,} in the smallest class" in choice.reason and f"{separability:.3f}" in choice.reason


@pytest.mark.parametrize("separability", [0.97, 0.4, 0.0])
@pytest.mark.parametrize("smallest_class", [1, 10, int(BETTER["finetune"].below) - 1])
def test_where_frozen_has_measured_better_than_finetune_it_is_chosen(smallest_class: int, separability: float) -> None:
    chosen = auto.choose(AUTO, 2 * smallest_class, smallest_class, separability).config
    assert (chosen.frozen_blocks, chosen.augment, chosen.optim.head_epochs) == (5, "flip", 0)
    assert chosen.preprocess == RECIPES["frozen"].preprocess


def test_a_recipe_says_that_another_has_measured_better_on_as_few_images() -> None:
    assert BETTER.keys() <= RECIPES.keys()
    for recipe, better in BETTER.items():
        said = advice(recipe, 3)
        assert said is not None and said.startswith(f"{recipe}:") and f"{better.recipe} has measured better" in said
        assert (advice(recipe, 10**6) is None) is math.isfinite(better.below)
        if math.isfinite(better.below):
            assert f"under {better.below} images a class" in said and advice(recipe, int(better.below)) is None
    assert advice("auto", 3) is None


@pytest.mark.parametrize("separability", [0.97, 0.4])
@pytest.mark.parametrize("num_images", [4, 20, 100, 300, 3000])
def test_few_images_are_seen_often_enough(num_images: int, separability: float) -> None:
    optim = auto.choose(AUTO, num_images, num_images // 2, separability).config.optim
    updates = (optim.head_epochs or optim.num_epochs) * math.ceil(2 * num_images / optim.global_batch_size)
    assert updates >= 100
    assert optim.global_batch_size == (64 if num_images == 3000 else 16) or updates < 200


@pytest.mark.parametrize(
    "change",
    [
        {"frozen_blocks": 2},
        {"augment": "none"},
        {"seed": 7},
        {"head": HeadConfig(kind="dense", width=33)},
        {"optim": OptimConfig(lr=0.5, num_epochs=3)},
    ],
)
def test_what_a_person_sets_stays_in_every_case(change: dict[str, Any]) -> None:
    config: TrainConfig = dataclasses.replace(AUTO, **change)
    for case in ((800, 0.97), (20, 0.97), (5000, 0.97), (300, 0.4), (5000, 0.4)):
        chosen = auto.choose(config, 2 * case[0], *case).config
        for name, value in change.items():
            if dataclasses.is_dataclass(value):
                default = getattr(AUTO, name)
                for field in dataclasses.fields(value):
                    if (mine := getattr(value, field.name)) != getattr(default, field.name):
                        assert getattr(getattr(chosen, name), field.name) == mine
            else:
                assert getattr(chosen, name) == value


@pytest.mark.parametrize("case", [(800, 0.97), (20, 0.97), (5000, 0.97), (300, 0.4), (5000, 0.4)])
def test_what_a_person_names_stays_though_it_is_what_the_recipe_has(case: tuple[int, float]) -> None:
    given = frozenset({"frozen_blocks", "optim.num_epochs", "optim.global_batch_size", "data"})
    chosen = auto.choose(AUTO, 2 * case[0], *case, given).config
    assert chosen.frozen_blocks == 5 and chosen.optim.num_epochs == 10 and chosen.optim.global_batch_size == 64
    unnamed = auto.choose(AUTO, 2 * case[0], *case).config
    assert (chosen.augment, chosen.preprocess) == (unnamed.augment, unnamed.preprocess)


def test_only_names_that_could_be_decided_otherwise_make_another_run() -> None:
    given = frozenset({"data", "output", "seed", "cache", "frozen_blocks", "optim.lr", "optim.momentum"})
    assert auto.told(AUTO, given) == ("frozen_blocks", "optim.lr")
    assert auto.told(dataclasses.replace(AUTO, frozen_blocks=2), given) == ("optim.lr",)
    assert auto.told(dataclasses.replace(AUTO, recipe="frozen"), given) == ()
