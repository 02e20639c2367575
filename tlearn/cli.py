"""The command line: parse, call, say how it ended, exit code.

Nothing heavy is imported before it is used.
"""

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import json
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, Union

import tyro
from tyro.conf import OmitSubcommandPrefixes, PositionalMetavarFromFieldName, arg, subcommand

from tlearn import __version__, config, console, errors
from tlearn.config import (
    BenchConfig,
    CheckConfig,
    DemoConfig,
    EvaluateConfig,
    ReportConfig,
    ScoreConfig,
    ScoresConfig,
    SubmitConfig,
    TrainConfig,
    VerifyConfig,
    WeightsConfig,
)
from tlearn.distributed import guard
from tlearn.errors import InputError, IntegrityError, Stopped, StorageError, TlearnError, UsageError, printable
from tlearn.recipes import RECIPES, SUMMARIES, known
from tlearn.words import arranged, check_paths, is_path

if TYPE_CHECKING:
    from tlearn.scoring.summary import Scored

_STYLE = (OmitSubcommandPrefixes, PositionalMetavarFromFieldName)
_DEFAULT_RECIPE = "frozen"
_LEAST_FOR_A_RATE = 100
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
    """An instance of what _COMMANDS has for its name."""
    words: tuple[str, ...]
    """All of them, with the recipe that goes without saying."""

    @property
    def config(self) -> Any:
        """What a job is run with; of the other commands all there is."""
        return self.settings.config if isinstance(self.settings, Train) else self.settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code. Without `arguments` this process is the command's own, and takes its words.

    Such a process may come back from here twice, parent and child (guard.py): it ends with what is returned.
    """
    is_process = arguments is None
    if is_process:
        console.prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["--version"], ["-V"]):
        print(f"tlearn {__version__}")
        return errors.DONE
    try:
        command = parse(words)
    except UsageError as error:
        return _failed(error)
    except SystemExit as ended:  # tyro has printed help, or what is wrong with the flags
        return ended.code if isinstance(ended.code, int) else errors.DONE
    except BrokenPipeError:
        return _unread()
    quiet, verbose = getattr(command.config, "quiet", False), getattr(command.config, "verbose", False)
    started, result = time.monotonic(), None
    console.event("started", command=command.name)
    try:
        with console.shown(quiet=quiet, verbose=verbose):
            result = _printed((_guarded if is_process and command.name in _WITH_RAY else _run)(command))
    finally:
        if not guard.is_child():
            console.event("ended", code=result, seconds=round(time.monotonic() - started, 2))
    return result


def parse(words: Sequence[str]) -> Command:
    """Raises UsageError for a command or recipe that there is none of, SystemExit for flags and for help."""
    words = list(words)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        raise SystemExit(errors.DONE if words else UsageError.code)
    if words[0].startswith("-"):  # the shell's completion, of all commands
        every = [Annotated[does.kind, subcommand(name)] for name, does in _COMMANDS.items()]
        _parsed(Union[tuple(every)], "tlearn", words)  # noqa: UP007
    name = known(words[0], _COMMANDS, "a command")
    words = _arranged(_with_recipe(words))
    if name == "train" and words[1] in _DEFAULTS:  # only the recipe that is meant: its help, its suggestions
        prog = f"tlearn train {words[1]}"
        config = _parsed(TrainConfig, prog, words[2:], default=_DEFAULTS[words[1]])
        return Command(name, Train(config), tuple(words))
    settings = _parsed(_COMMANDS[name].kind, f"tlearn {name}", words[1:])
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
    for group in ast.parse(inspect.getsource(config)).body:
        if not isinstance(group, ast.ClassDef):
            continue
        hints = getattr(config, group.name).__annotations__
        for field, text in itertools.pairwise(group.body):
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
    lines = [f"  {name:<9}{(does.kind.__doc__ or '').partition(chr(10))[0]}" for name, does in _COMMANDS.items()]
    usage = "usage: tlearn COMMAND [flags]     tlearn COMMAND --help: its flags     tlearn --version"
    return "\n".join([usage, "", _DESCRIPTION, "", *lines])


def _with_recipe(words: list[str]) -> list[str]:
    """`train --data DIR` is `train frozen --data DIR`."""
    start = _job_start(words)
    following = words[start + 1 : start + 2]
    if words[start : start + 1] != ["train"] or following in (["-h"], ["--help"]):
        return words
    if not following or following[0].startswith("-") or (following[0] not in RECIPES and is_path(following[0])):
        return [*words[: start + 1], _DEFAULT_RECIPE, *words[start + 1 :]]
    known(following[0], RECIPES, "a folder that is there, or a recipe")
    return words


def _arranged(words: list[str]) -> list[str]:
    """The words with a flag before each path. Raises UsageError for what is no flag of the command, or is missing."""
    start = _job_start(words)
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
    does = _COMMANDS[name]
    config = TrainConfig if recipe else does.kind
    return [name, *recipe, *arranged(words, config, does.positions, " ".join(["tlearn", name, *recipe]))]


def _job_start(words: Sequence[str]) -> int:
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


def _guarded(command: Command) -> int:
    """The exit code of the process that runs the command, or that of what ended it."""
    keep_stderr = console.is_verbose() or "TLEARN_DEBUG" in os.environ
    try:
        return guard.run(lambda: _run(command), keep_stderr=keep_stderr)
    except Stopped as stop:
        return _stopped(stop)
    except TlearnError as error:
        return _failed(error)


def _run(command: Command) -> int:
    """The command's exit code, or that of what stopped it."""
    try:
        check_paths(command.config)
        with _stopped_by_signals(), errors.of_the_machine():
            return _COMMANDS[command.name].run(command)
    except Stopped as stop:
        return _stopped(stop)
    except BrokenPipeError:
        return _unread()
    except TlearnError as error:
        return _failed(error)
    except Exception as error:
        code = _say(
            f"this is a fault of tlearn, not of yours ({type(error).__name__}): please report it with the lines below, "
            f"tlearn {__version__}",
            errors.FAULT,
        )
        traceback.print_exc()
        return code


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Within, a signal raises Stopped; in a process of our own only the first. The handlers of a host are put back."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1 or not guard.is_child():
            raise KeyboardInterrupt  # the one exception that ends what waits in ray.get, which raises a new one

    before = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
        # What is ignored stays so: nohup, and the background of a script.
        before = {number: signal.getsignal(number) for number in Stopped.WORDS}
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        raise Stopped(signal.Signals(received[0]) if received else signal.SIGINT) from error
    finally:
        for number, handler in before.items():  # a process of our own is ending: nothing may come in between
            signal.signal(number, signal.SIG_IGN if guard.is_child() else handler)


def _stopped(stop: Stopped) -> int:
    return _say(f"{stop.word}; the same command goes on from here", stop.code)


def _unread() -> int:
    """Whoever read what is printed has seen enough (tlearn scores TABLE | head)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return errors.DONE


def _printed(code: int) -> int:
    """What is still to be printed leaves now: at its end Python would fail with words and a code of its own."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _unread()
    except OSError as error:
        _unread()
        return code or _failed(StorageError(f"could not print all of it: {error.strerror}"))
    return code


def _failed(error: TlearnError) -> int:
    if os.environ.get("TLEARN_DEBUG"):
        traceback.print_exception(error)
    return _say(str(error), error.code)


def _say(text: str, code: int) -> int:
    print(f"tlearn: {printable(' '.join(text.split()))}", file=sys.stderr, flush=True)
    console.event("error", code=code, error=text)
    return code


def _train(command: Command) -> int:
    from tlearn.training.job import train

    config: TrainConfig = command.settings.config
    summary = train(config, given(command.words)).summary
    for line in [json.dumps(summary.to_json())] if config.json else summary.lines(config.output):
        print(line)
    return errors.DONE


def _score(command: Command) -> int:
    from tlearn.scoring.job import score

    config: ScoreConfig = command.settings
    scored = score(config)
    code = _judged(scored, config.max_error_rate, f"the rows are in {config.output}, with the reasons")
    if config.json:
        print(json.dumps(scored.to_json()))
        return code
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(scored.statuses.items()))
    print(
        f"{scored.listed} files listed, {scored.unchanged} unchanged, {scored.added} rows added "
        f"({statuses or 'nothing new'}): {config.output}; {_pace(scored)}"
    )
    if scored.accuracy is not None and scored.accuracy_interval is not None:
        low, high = scored.accuracy_interval
        print(f"accuracy {scored.accuracy:.4f} of {scored.labelled:,} labelled, 95% sure: {low:.3f} to {high:.3f}")
    if scored.drift is not None:
        print(f"drift {scored.drift:.2f}: {scored.drift_sentence}")
    if scored.added:
        print(f"next: tlearn scores {shlex.quote(config.output)}")
    return code


def _pace(scored: "Scored") -> str:
    """How long it took. A rate of a handful of images would be that of the start, or of nothing."""
    is_steady = scored.computed >= _LEAST_FOR_A_RATE and scored.images_per_second
    return f"{scored.seconds_total:.0f} seconds" + (f", {scored.images_per_second:.1f} images/s" if is_steady else "")


def _judged(scored: "Scored", max_error_rate: float, reasons: str) -> int:
    """The exit code, and a line where more files than this share have no score: where the reasons are."""
    if not scored.exceeds(max_error_rate):
        return errors.DONE
    return _say(
        f"expected at most {max_error_rate:.1%} of the files without a score, got {scored.failed} of "
        f"{scored.failed + scored.scored}; {reasons}",
        errors.TOO_MANY_BAD_FILES,
    )


def _evaluate(command: Command) -> int:
    from tlearn.scoring.evaluate import evaluate

    config: EvaluateConfig = command.settings
    evaluated = evaluate(config)
    for line in [json.dumps(evaluated.to_json())] if config.json else evaluated.lines():
        print(line)
    reasons = f"in {config.output}" if config.output else "with --output NAME.parquet"
    return _judged(evaluated.scored, config.max_error_rate, f"the reasons are in the rows, {reasons}")


def _submit(command: Command) -> int:
    from tlearn.distributed import submit

    settings: Submit = command.settings
    job = settings.job.config if isinstance(settings.job, Train) else settings.job
    return submit.run(settings.config, job, command.words[_job_start(command.words) :])


def _scores(command: Command) -> int:
    from tlearn import storage
    from tlearn.scoring import table

    config: ScoresConfig = command.settings
    with storage.reached():
        latest = table.latest(config.table)
        if config.output is not None:
            table.write(latest, config.output)
    for line in table.lines(latest.slice(0, config.num_rows)):
        print(line)
    print(f"{latest.num_rows} paths: {config.output or config.table}")
    return errors.DONE


def _verify(command: Command) -> int:
    from tlearn import storage
    from tlearn.scoring import repair
    from tlearn.scoring.ledger import FOLDER, Ledger
    from tlearn.storage.lease import Lease

    config: VerifyConfig = command.settings
    ledger = Ledger(storage.absolute(config.table.rstrip("/")))
    with storage.reached():
        if FOLDER not in storage.folders(ledger.output) and not (config.repair and ledger.lost()):
            raise InputError(
                f"expected a table that grows, found no ledger in {ledger.output}: give the DIR of tlearn score"
            )
        if config.repair:
            with Lease(ledger.folder):
                for line in repair.repair(ledger):
                    print(line)
        problems = ledger.verify()
    for problem in problems:
        print(problem)
    if problems:
        raise IntegrityError(f"expected a table that is as its ledger says, found {len(problems)} differences")
    print(f"{len(ledger.records())} files, as the ledger says")
    return errors.DONE


def _check(command: Command) -> int:
    from tlearn.data import check

    config: CheckConfig = command.settings
    checked = check.check(config.data)
    if config.json:
        print(json.dumps(checked.to_json()))
    else:
        for line in check.lines(checked):
            print(line)
    if checked.refusal:
        return _say(f"tlearn train would end with {checked.code}: {checked.refusal}", checked.code)
    return errors.DONE


def _report(command: Command) -> int:
    from tlearn.evaluation import report

    config: ReportConfig = command.settings
    print(report.write_report(config.run))
    return errors.DONE


def _weights(command: Command) -> int:
    from tlearn.network import weights

    config: WeightsConfig = command.settings
    tensors = weights.load(config.weights, config.cache, config.arch)
    count = sum(tensor.numel() for tensor in tensors.values())
    digest = weights.tensors_digest(tensors)
    print(f"{config.weights} {config.arch}: {len(tensors)} tensors, {count:,} numbers, digest {digest}")
    return errors.DONE


def _demo(command: Command) -> int:
    from tlearn.demo import run

    return run.run(command.settings)


def _bench(command: Command) -> int:
    from tlearn.demo import bench

    config: BenchConfig = command.settings
    figures = bench.run(config)
    if config.json:
        print(json.dumps(figures.to_json()))
    else:
        for line in bench.lines(figures):
            print(line)
    return errors.DONE


@dataclass(frozen=True)
class _Does:
    """What a command is."""

    kind: Any
    """Its flags."""
    run: Callable[[Command], int]
    positions: tuple[str, ...] = ()
    """Of these flags the values may stand by position."""


_COMMANDS = {
    "train": _Does(Train, _train, ("data",)),
    "score": _Does(ScoreConfig, _score, ("model", "input")),
    "evaluate": _Does(EvaluateConfig, _evaluate, ("model", "data")),
    "submit": _Does(Submit, _submit),
    "scores": _Does(ScoresConfig, _scores, ("table",)),
    "verify": _Does(VerifyConfig, _verify, ("table",)),
    "check": _Does(CheckConfig, _check, ("data",)),
    "report": _Does(ReportConfig, _report, ("run",)),
    "weights": _Does(WeightsConfig, _weights, ("weights",)),
    "demo": _Does(DemoConfig, _demo, ("output",)),
    "bench": _Does(BenchConfig, _bench, ("input",)),
}
_WITH_RAY = ("train", "score", "demo", "bench")
