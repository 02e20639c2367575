"""Which of the four cases a folder is: many or few images, like those of ImageNet or different.

    few, similar      only a head is trained, on the features of all five blocks
    many, similar     the last block is trained too, from here on on fresh crops
    few, different    the last two blocks are trained too: late features are too particular to ImageNet
    many, different   everything is trained

With very few images, like ImageNet's or not, only a head is trained: what more there is to train learns from too few
steps, and separability, measured on so few, says little.

The cases are those of Stanford's CS231n (Transfer learning). Both questions are answered by measuring: the images of
the smallest class, and how well a linear classifier without any training (ridge regression, cross-validated) tells
the classes apart by the pooled features.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tlearn.config import OptimConfig, TrainConfig
from tlearn.evaluation.probe import out_of_fold, points
from tlearn.recipes import BETTER, RECIPES
from tlearn.training.streams import Stream, generator

_MANY = 1000
"""Images of the smallest class."""
_SIMILAR = 0.8
"""Separability: 0 is chance, 1 is no mistake."""
_LEAST_UPDATES, _SMALL_BATCH, _UPDATES = 100, 16, 300
"""Where the head would get fewer updates than the first, it learns from batches of 16 instead, until it has had 300."""
_MAX_IMAGES = 10_000


@dataclass(frozen=True, slots=True)
class Choice:
    """A recipe's settings, and why."""

    config: TrainConfig
    reason: str


def separability(pooled: Tensor, labels: Tensor, num_classes: int, seed: int) -> float:
    """Cross-validated accuracy of ridge regression on pooled features (N, channels), as a share of what chance leaves.

    0 is as good as naming the most frequent class, 1 is no mistake.
    """
    order = torch.randperm(len(labels), generator=generator(seed, Stream.SEPARABILITY))[:_MAX_IMAGES]
    y = labels[order]
    scores = out_of_fold(points(pooled[order]), y, num_classes, torch.arange(len(y)))
    num_right = int((scores.argmax(1) == y).sum())
    chance = torch.bincount(y, minlength=num_classes).max().item() / len(y)
    return max((num_right / len(y) - chance) / max(1 - chance, 1e-12), 0.0)


def decide(
    config: TrainConfig, pooled: Tensor, labels: Tensor, num_classes: int, given: frozenset[str] = frozenset()
) -> Choice:
    """By what can be measured: pooled features (N, channels) of the training images and their labels (N,)."""
    counts = labels.bincount(minlength=num_classes)
    smallest_class = int(counts[counts > 0].min()) if len(labels) else 0
    return choose(config, len(labels), smallest_class, separability(pooled, labels, num_classes, config.seed), given)


def choose(
    config: TrainConfig,
    num_images: int,
    smallest_class: int,
    separability: float,
    given: frozenset[str] = frozenset(),
) -> Choice:
    """The settings of the case. What a person has set stays: the names `given`, and what differs from the recipe.

    The head has the same layers in every case: with 5 to 200 images a class its dropout and decay keep it ahead of a
    linear one (0.93 against 0.89 of 500 photographs of cats and dogs with 5 a class, 0.982 against 0.973 with 50), if
    only it is trained for long enough.
    """
    is_many, is_similar = smallest_class >= _MANY, separability >= _SIMILAR
    is_tiny = smallest_class < BETTER["finetune"].below
    match is_many, is_similar:
        case False, True:
            case = RECIPES["frozen"]
        case True, True:
            case = RECIPES["finetune"]
        case False, _ if is_tiny:
            case = RECIPES["frozen"]
        case False, False:
            case = dataclasses.replace(RECIPES["finetune"], frozen_blocks=3)
        case _:
            case = dataclasses.replace(RECIPES["finetune"], frozen_blocks=0)
    case = dataclasses.replace(case, optim=_enough(case, num_images))
    size = "many" if is_many else "very few" if is_tiny else "few"
    reason = (
        f"{size} images ({smallest_class:,} in the smallest class, {_MANY:,} are many), "
        f"{'similar to' if is_similar else 'different from'} ImageNet's (separability {separability:.3f} of pooled "
        f"features, {_SIMILAR} is similar): {case.frozen_blocks} blocks stay frozen, batches of "
        f"{case.optim.global_batch_size}, {case.optim.num_epochs} epochs"
    )
    return Choice(_overridden(case, config, given), reason)


def _enough(case: TrainConfig, num_images: int) -> OptimConfig:
    """As many updates as a head needs, from however few images."""
    optim, num_views = case.optim, 2 * num_images
    head_epochs = optim.head_epochs or optim.num_epochs
    if head_epochs * math.ceil(num_views / optim.global_batch_size) >= _LEAST_UPDATES:
        return optim
    num_epochs = math.ceil(_UPDATES / math.ceil(num_views / _SMALL_BATCH))
    changes = {"global_batch_size": _SMALL_BATCH, "head_epochs" if optim.head_epochs else "num_epochs": num_epochs}
    return dataclasses.replace(optim, **changes)  # type: ignore[arg-type]


def told(config: TrainConfig, given: frozenset[str]) -> tuple[str, ...]:
    """The given names that decide, and whose values are those of the recipe: what `config` alone does not say."""
    recipe = RECIPES["auto"]
    if config.recipe != recipe.recipe:
        return ()
    undecided = _equal(RECIPES["finetune"], recipe) - {"optim.global_batch_size", "optim.num_epochs"} | {"recipe"}
    return tuple(sorted((given & _equal(config, recipe)) - undecided))


def _overridden(case: TrainConfig, config: TrainConfig, given: frozenset[str]) -> TrainConfig:
    """`case`, but for what a person has set."""
    open_names = _equal(config, RECIPES["auto"]) - given
    merged = {}
    for field in dataclasses.fields(TrainConfig):
        ours, theirs = getattr(config, field.name), getattr(case, field.name)
        if dataclasses.is_dataclass(ours):
            inner_names = [inner.name for inner in dataclasses.fields(ours)]
            kept = {name: getattr(ours, name) for name in inner_names if f"{field.name}.{name}" not in open_names}
            merged[field.name] = dataclasses.replace(theirs, **kept)
        else:
            merged[field.name] = theirs if field.name in open_names else ours
    return TrainConfig(**merged | {"recipe": config.recipe})


def _equal(config: TrainConfig, other: TrainConfig) -> frozenset[str]:
    """The dotted names of settings that are alike."""
    names = []
    for field in dataclasses.fields(TrainConfig):
        left, right = getattr(config, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(left):
            inner_names = [inner.name for inner in dataclasses.fields(left)]
            names += [f"{field.name}.{name}" for name in inner_names if getattr(left, name) == getattr(right, name)]
        elif left == right:
            names.append(field.name)
    return frozenset(names)
