"""Recipes: sets of defaults with a name; any flag overrides them."""

import dataclasses
import difflib
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tlearn.config import CheckConfig, HeadConfig, OptimConfig, PreprocessConfig, TrainConfig
from tlearn.errors import UsageError

Config = TypeVar("Config")

SUMMARIES = {
    "notebook": "the Keras notebook as it is, with its two mistakes: 240 px, one dense head, SGD, no shuffling",
    "frozen": "a small head on frozen convolutions: the default, 0.99 on cats and dogs after seconds of training",
    "finetune": "the head, then the last block with it, on fresh crops at 320 px: best, and slower",
    "auto": "looks at the data first and takes what suits it: few or many images, like ImageNet's or different",
}

RECIPES: dict[str, TrainConfig] = {
    # The Keras notebook as it is, with the two mistakes that hold it at 0.88: pixels that the weights were not
    # trained on, and no shuffling (--shuffle repairs the second).
    "notebook": TrainConfig(
        data="",
        output="",
        recipe="notebook",
        augment="none",
        shuffle=False,
        preprocess=PreprocessConfig(resize="squash", normalization="rescaled_bgr", jpeg_scaling=False),
        head=HeadConfig(kind="dense", scale_features=False),
        optim=OptimConfig(name="sgd", lr=1e-4, momentum=0.9, weight_decay=0.0, schedule="constant", num_epochs=5),
    ),
    # What serves best on a frozen base.
    "frozen": TrainConfig(data="", output="", recipe="frozen"),
    # The head first, then the last block with it, slowly, on fresh crops and larger.
    "finetune": TrainConfig(
        data="",
        output="",
        recipe="finetune",
        frozen_blocks=4,
        augment="full",
        preprocess=PreprocessConfig(image_size=320, short_side=352),
        optim=OptimConfig(
            head_epochs=5,
            head_lr=1e-4,
            num_epochs=6,
            lr=4e-5,
            pretrained_lr=2e-5,
            warmup_epochs=0.5,
            ema_decay=0.99,
        ),
    ),
    # One of the four cases of transfer learning, by what can be measured (tlearn/training/auto.py).
    "auto": TrainConfig(data="", output="", recipe="auto"),
}


@dataclass(frozen=True, slots=True)
class Better:
    """A recipe that has measured better than another one on few images (tlearn/training/README.md)."""

    recipe: str
    below: float
    """So many images in the smallest class."""


BETTER = {
    "notebook": Better("frozen", math.inf),
    "finetune": Better("auto", 100),
    "frozen": Better("auto", 100),
}


def advice(recipe: str, smallest_class: int) -> str | None:
    """What to say before training on so many images of the smallest class."""
    better = BETTER.get(recipe)
    if better is None or smallest_class >= better.below:
        return None
    where = "" if math.isinf(better.below) else f" under {better.below:,} images a class"
    return f"{recipe}:{where} {better.recipe} has measured better; the smallest class has {smallest_class:,} here"


def known(word: str, words: Collection[str], what: str) -> str:
    """The word, if it is one of these. Raises UsageError, with the likeliest other."""
    if word in words:
        return word
    word = str(word)
    alike = difflib.get_close_matches(word, words, 1)
    hint = f"; did you mean {alike[0]}?" if alike else ""
    raise UsageError(f"expected {what} ({', '.join(words)}), got {word}{hint}")


def configured(recipe: str, data: str, output: str, settings: Mapping[str, Any]) -> TrainConfig:
    """The recipe with some settings replaced; those of a group may be a mapping: optim={"lr": 2e-4}.

    Raises UsageError for a recipe or a setting that there is none of, and for values that do not fit.
    """
    start = RECIPES[known(recipe, RECIPES, "a recipe")]
    return replaced(start, {"data": data, "output": output, **settings})


def replaced(config: Config, settings: Mapping[str, Any]) -> Config:
    """The config with these settings. Raises UsageError for one that there is none of, or that has another type."""
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    changes = {}
    for name, value in settings.items():
        before = getattr(config, known(name, names, "a setting"))
        is_group = dataclasses.is_dataclass(before) and isinstance(value, Mapping)
        changes[name] = replaced(before, value) if is_group else _plain(value)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _plain(value: Any) -> Any:
    """Paths as text, numbers of numpy's as Python's."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    return value.item() if hasattr(value, "item") else value


def checked_as(config: CheckConfig) -> TrainConfig:
    """The training whose features a check computes: that of recipe frozen."""
    same = {name: getattr(config, name) for name in ("data", "labels", "groups", "exclude", "weights", "cache")}
    return dataclasses.replace(RECIPES["frozen"], **same)
