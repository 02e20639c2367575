"""A command from its words: its name and its flags, or help."""

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, Union

import tyro
from tyro.conf import OmitSubcommandPrefixes, PositionalMetavarFromFieldName, arg, subcommand

from tlearn import config, errors
from tlearn.cli.words import arranged, is_path
from tlearn.config import (
    BenchConfig,
    CheckConfig,
    CompareConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    PublishConfig,
    ReportConfig,
    ScoreConfig,
    ScoresConfig,
    SubmitConfig,
    TrainConfig,
    VerifyConfig,
    WeightsConfig,
)
from tlearn.errors import UsageError
from tlearn.recipes import RECIPES, SUMMARIES, known

_STYLE = (OmitSubcommandPrefixes, PositionalMetavarFromFieldName)
_DEFAULT_RECIPE = "frozen"
_DESCRIPTION = "Fine-tune a pretrained VGG16 on a folder of images, and score folders of images into Parquet."

# The recipes, without the paths that they lack.
_DEFAULTS = {
    name: dataclasses.replace(recipe, data=tyro.MISSING, output=tyro.MISSING) for name, recipe in RECIPES.items()
}
AnyRecipe: TypeAlias = Union[  # type: ignore[valid-type]  # noqa: UP007
    tuple(
        Annotated[TrainConfig, subcommand(name, default=default, description=SUMMARIES[name], prefix_name=False)]
        for name, default in _DEFAULTS.items()
    )
]


@dataclass(frozen=True)
class Train:
    """Fine-tune a pretrained VGG16 on a folder of images.

    A recipe is a set of defaults; any flag overrides it. Without one it is `frozen`. Its flags: tlearn train RECIPE -h

    tlearn train photos/ --output runs/a
    """

    config: AnyRecipe


@dataclass(frozen=True)
class Submit:
    """Run train or score as a job of a Ray cluster, follow it to its end and end with its exit code.

    Ctrl-C and SIGTERM stop the job, as they stop tlearn train here; where only the connection is lost, the same command
    follows it again. The token is Ray's: RAY_AUTH_MODE=token, with RAY_AUTH_TOKEN or ~/.ray/auth_token.

    tlearn submit --address http://HOST:8265 train --data s3://b/photos --output s3://b/runs/a
    """

    config: Annotated[SubmitConfig, arg(name="")]
    job: (
        Annotated[Train, subcommand("train", prefix_name=False)]
        | Annotated[ScoreConfig, subcommand("score", prefix_name=False)]
    )


@dataclass(frozen=True)
class Command:
    """A command as it was written."""

    name: str
    settings: Any
    """An instance of what COMMANDS has for its name."""
    words: tuple[str, ...]
    """All of them, with the recipe that goes without saying."""

    @property
    def config(self) -> Any:
        """What a job is run with; of the other commands all there is."""
        return self.settings.config if isinstance(self.settings, Train) else self.settings


@dataclass(frozen=True)
class Kind:
    """What the words behind a command's name may be."""

    flags: Any
    """A config."""
    positions: tuple[str, ...] = ()
    """Of these flags the values may stand by position."""


COMMANDS = {
    "train": Kind(Train, ("data",)),
    "score": Kind(ScoreConfig, ("model", "input")),
    "evaluate": Kind(EvaluateConfig, ("model", "data")),
    "compare": Kind(CompareConfig, ("a", "b")),
    "submit": Kind(Submit),
    "scores": Kind(ScoresConfig, ("table",)),
    "verify": Kind(VerifyConfig, ("table",)),
    "publish": Kind(PublishConfig, ("table",)),
    "check": Kind(CheckConfig, ("data",)),
    "report": Kind(ReportConfig, ("run",)),
    "export": Kind(ExportConfig, ("model",)),
    "weights": Kind(WeightsConfig, ("weights",)),
    "demo": Kind(DemoConfig, ("output",)),
    "bench": Kind(BenchConfig, ("input",)),
}


def parse(words: Sequence[str]) -> Command:
    """Raises UsageError for a command or recipe that there is none of, SystemExit for flags and for help."""
    words = list(words)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        raise SystemExit(errors.DONE if words else UsageError.code)
    if words[0].startswith("-"):  # the shell's completion, of all commands
        every = [Annotated[kind.flags, subcommand(name)] for name, kind in COMMANDS.items()]
        _parsed(Union[tuple(every)], "tlearn", words)  # noqa: UP007
    name = known(words[0], COMMANDS, "a command")
    words = _arranged(_with_recipe(words))
    if name == "train" and words[1] in _DEFAULTS:  # only the recipe that is meant: its help, its suggestions
        prog = f"tlearn train {words[1]}"
        config = _parsed(TrainConfig, prog, words[2:], default=_DEFAULTS[words[1]])
        return Command(name, Train(config), tuple(words))
    settings = _parsed(COMMANDS[name].flags, f"tlearn {name}", words[1:])
    return Command(name, settings, tuple(words))


def _parsed(kind: Any, prog: str, words: Sequence[str], **options: Any) -> Any:
    """What tyro makes of the words. What it says of a wrong value in a box is a UsageError here, of one line."""
    if not words or words[0] == "--help":
        _join_help()
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(kind, prog=prog, args=words, config=_STYLE, **options)
    except SystemExit as ended:
        if not ended.code:
            raise
        raise _cause(ended) or UsageError(f"{_first_part(box.getvalue())}: {prog} --help") from None


def _join_help() -> None:
    """Let the help of a setting be one paragraph: tyro keeps the line breaks that a docstring has in the source."""
    for group in (kind for kind in vars(config).values() if isinstance(kind, type)):
        (source,) = ast.parse(inspect.getsource(group)).body
        assert isinstance(source, ast.ClassDef)
        hints = group.__annotations__
        for field, text in itertools.pairwise(source.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                name = ast.unparse(field.target)
                hints[name] = Annotated[hints[name], arg(help=" ".join(str(text.value.value).split()))]


def _cause(error: BaseException | None) -> UsageError | None:
    """What a config has raised of its values, from which tyro made its own error."""
    while error is not None and not isinstance(error, UsageError):
        error = error.__cause__ or error.__context__
    return error


def _first_part(box: str) -> str:
    """The text of a box of tyro's up to its first line across."""
    text = " ".join(line.strip("│ ") for line in box.splitlines()[1:])
    return " ".join(text.partition("──")[0].split())


def _overview() -> str:
    lines = [f"  {name:<9}{(kind.flags.__doc__ or '').partition(chr(10))[0]}" for name, kind in COMMANDS.items()]
    usage = "usage: tlearn COMMAND [flags]     tlearn COMMAND --help: its flags     tlearn --version"
    return "\n".join([usage, "", _DESCRIPTION, "", *lines])


def _with_recipe(words: list[str]) -> list[str]:
    """`train --data DIR` is `train frozen --data DIR`."""
    start = job_start(words)
    following = words[start + 1 : start + 2]
    if words[start : start + 1] != ["train"] or following in (["-h"], ["--help"]):
        return words
    if not following or following[0].startswith("-") or (following[0] not in RECIPES and is_path(following[0])):
        return [*words[: start + 1], _DEFAULT_RECIPE, *words[start + 1 :]]
    known(following[0], RECIPES, "a folder that is there, or a recipe")
    return words


def _arranged(words: list[str]) -> list[str]:
    """The words with a flag before each path. Raises UsageError for what is no flag of the command, or is missing."""
    start = job_start(words)
    job = [] if start == len(words) else _arranged_job(words[start], words[start + 1 :])
    if words[0] != "submit":
        return job
    own = arranged(words[1:start], SubmitConfig, (), "tlearn submit")
    if not job and own != ["--help"]:
        raise UsageError("expected a job (train or score) for tlearn submit, got none: tlearn submit --help")
    return ["submit", *own, *job]


def _arranged_job(name: str, words: list[str]) -> list[str]:
    if name == "train" and words[0] not in _DEFAULTS:  # the help of all recipes
        return [name, *words]
    recipe = [words.pop(0)] if name == "train" else []
    if recipe and any(word.partition("=")[0] == "--recipe" for word in words):
        raise UsageError(f"expected the recipe as the first word, got --recipe: tlearn train {_DEFAULT_RECIPE}")
    kind = COMMANDS[name]
    config = TrainConfig if recipe else kind.flags
    return [name, *recipe, *arranged(words, config, kind.positions, " ".join(["tlearn", name, *recipe]))]


def job_start(words: Sequence[str]) -> int:
    """Where `train` or `score` stands. Behind a flag of `submit` it is a value: --submission-id train."""
    if words[0] != "submit":
        return 0
    pairs = enumerate(itertools.pairwise(words), 1)
    places = (place for place, (before, word) in pairs if word in ("train", "score") and not before.startswith("--"))
    return next(places, len(words))


def given(words: Sequence[str]) -> frozenset[str]:
    """The names of the settings that these flags set, dotted, as {"optim.lr", "frozen_blocks"}."""
    names = {word.removeprefix("--").partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    return frozenset(name for written in names for name in (written, _without_no(written)))


def _without_no(name: str) -> str:
    """`--head.no-unit-length` sets head.unit_length."""
    group, dot, last = name.rpartition(".")
    return f"{group}{dot}{last.removeprefix('no_')}"
