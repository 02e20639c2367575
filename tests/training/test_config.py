"""Settings are checked when they are made, whichever way they come."""

import dataclasses
import math
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest

from tlearn import _dotted, config
from tlearn.cli import given, parse
from tlearn.config import HeadConfig, OptimConfig, TrainConfig, values
from tlearn.errors import UsageError
from tlearn.recipes import RECIPES, configured
from tlearn.training import auto

CONFIGS: list[Any] = [
    kind(
        **{
            field.name: next(iter(get_args(field.type) if get_origin(field.type) is Literal else "a"))
            for field in dataclasses.fields(kind)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
    )
    for name, kind in vars(config).items()
    if name.endswith("Config")
]
FIELDS = [(each, field.name) for each in CONFIGS for field in dataclasses.fields(each)]


def is_of_numbers(kind: Any) -> bool:
    return kind is float or float in getattr(kind, "__args__", ())


NUMBERS = [(each, field.name) for each in CONFIGS for field in dataclasses.fields(each) if is_of_numbers(field.type)]


def test_every_number_of_every_config_is_finite() -> None:
    assert len(NUMBERS) >= 20
    for each, name in NUMBERS:
        value = getattr(each, name)
        for odd in (math.nan, math.inf, -math.inf):
            with pytest.raises(UsageError, match=rf"{name} must be .*number"):
                dataclasses.replace(each, **{name: {"a": odd} if isinstance(value, dict) else odd})


def test_every_setting_has_its_type() -> None:
    for each, name in FIELDS:
        for odd in (object(), [1], b"a"):
            with pytest.raises(UsageError, match=f"{name} must be "):
                dataclasses.replace(each, **{name: odd})


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (int, [0, -1], [True, 1.0, "1", None]),
        (float, [0, 1.5], [True, math.nan, "1"]),
        (str | None, ["", None], [0, b""]),
        (Literal["a", "b"], ["a"], ["c", 0, None]),
        (Annotated[str, "help"], ["a"], [1]),
        (str | tuple[str, ...], ["a", ("a", "b"), ["a"]], [1, ("a", 1)]),
        (dict[str, float], [{}, {"a": 1}], [{"a": math.inf}, {"a": "b"}, [1.0]]),
        (OptimConfig, [OptimConfig()], [{}, HeadConfig(), None]),
    ],
)
def test_a_value_fits_a_type_or_not(kind: Any, good: list[Any], bad: list[Any]) -> None:
    assert [values.fits(value, kind) for value in good + bad] == [True] * len(good) + [False] * len(bad)
    assert values.described(kind)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optim": {"lr": "x"}}, "optim.lr must be a finite number, got 'x'"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"workers": 1.5}, "workers must be a whole number or text or None, got 1.5"),
        ({"augment": "flop"}, "augment must be none or flip or full, got 'flop'"),
        ({"head": {"unit_length": 1}}, "head.unit_length must be True or False, got 1"),
        ({"optim": "adamw"}, "optim must be settings"),
        ({"optim": {"momentum": 1}}, "optim.momentum must be 0 or more and below 1, got 1"),
        ({"optim": {"warmup_epochs": 12.5}}, "at most the 10 epochs of training .*, got 12.5"),
        ({"frozen_blocks": 4, "optim": {"head_epochs": 2, "warmup_epochs": 3}}, "at most the 2 epochs"),
    ],
)
def test_what_does_not_fit_is_refused_in_python_with_what_was_expected(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        configured("frozen", "data", "run", settings)


def test_a_path_may_be_any_that_python_has(tmp_path: Any) -> None:
    assert configured("frozen", "data", "run", {"cache": tmp_path}).cache == str(tmp_path)


@pytest.mark.parametrize("words", [["frozen", "--recipe", "notebook"], ["--recipe", "notebook"], ["--recipe=auto"]])
def test_a_recipe_is_a_word_and_no_flag(words: list[str]) -> None:
    with pytest.raises(UsageError, match="the recipe as the first word"):
        parse(["train", *words, "--data", "data", "--output", "run"])


@pytest.mark.parametrize("words", [["--frozen-blocks", "5"], ["--frozen_blocks=5"], ["--optim.lr", "0.0001"]])
def test_auto_leaves_what_a_flag_says_though_the_recipe_says_it_too(words: list[str]) -> None:
    command = parse(["train", "auto", "--data", "data", "--output", "run", *words])
    chosen = auto.choose(command.settings.config, 5000, 2500, 0.4, given(command.words)).config
    name = words[0].removeprefix("--").partition("=")[0].replace("-", "_")
    decided = auto.choose(command.settings.config, 5000, 2500, 0.4).config
    if name == "frozen_blocks":
        assert (chosen.frozen_blocks, decided.frozen_blocks) == (5, 0)
    else:
        assert (chosen.optim.lr, decided.optim.lr) == (1e-4, 4e-5)


@pytest.mark.parametrize("optim", [{"lr": 1e-4}, OptimConfig()])
def test_auto_leaves_what_python_says_as_a_mapping_or_whole(optim: Any) -> None:
    named = _dotted({"optim": optim})
    chosen = auto.choose(configured("auto", "data", "run", {"optim": optim}), 5000, 2500, 0.4, named).config
    assert chosen.optim.lr == 1e-4 != RECIPES["finetune"].optim.lr


def test_recipes_say_what_they_are() -> None:
    assert all(isinstance(recipe, TrainConfig) and recipe.recipe == name for name, recipe in RECIPES.items())
