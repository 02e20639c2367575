"""The command line: parse, call, one line for what went wrong, exit code.

Nothing heavy is imported before it is used.
"""

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TypeVar

import tyro

from tlearn import errors
from tlearn.config import (
    BenchConfig,
    CheckConfig,
    DemoConfig,
    ScoreConfig,
    ScoresConfig,
    SubmitConfig,
    TrainConfig,
    WeightsConfig,
)
from tlearn.console import event
from tlearn.errors import UsageError
from tlearn.recipes import RECIPES

Config = TypeVar("Config")

_USAGE = """usage: tlearn COMMAND [flags]      (tlearn COMMAND --help for its flags)

  train [RECIPE] --data DIR --output RUN       fine-tune a pretrained VGG16; recipes: {recipes}
  score --model RUN/model --input DIR --output NAME.parquet
                                               score a folder of images into Parquet
  submit [flags] train|score ...               the same on a Ray cluster, as a job
  scores DIR                                   the newest row of every path of a table
  verify DIR                                   whether a table is as its ledger says
  check --data DIR                             what is in this folder, what is wrong with it
  report RUN                                   write RUN/report.html again
  weights                                      fetch and verify the pretrained weights
  demo                                         the whole way, on pictures that it draws itself
  bench                                        throughput beside the limits of this machine
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE.format(recipes=", ".join(RECIPES)), end="")
        return errors.DONE if words else UsageError.code
    command = _COMMANDS.get(words[0])
    if command is None:
        print(f"tlearn: expected one of {', '.join(_COMMANDS)}, got {words[0]}", file=sys.stderr)
        return UsageError.code
    started = time.monotonic()
    code = None
    event("started", command=words[0])
    try:
        code = _run(command, words[1:])
    finally:
        event("ended", code=code, seconds=round(time.monotonic() - started, 2))
    return code


def _run(command: Callable[[list[str]], int], words: list[str]) -> int:
    """The command's exit code, or that of what stopped it."""
    received: list[int] = []

    def terminate(number: int, frame: FrameType | None) -> None:
        # Unwinds like Ctrl-C, so that temporary files and the lease go; and nothing else ends what waits in ray.get.
        received.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    try:
        return command(words)
    except KeyboardInterrupt:
        what, code = ("terminated", errors.TERMINATED) if received else ("stopped", errors.INTERRUPTED)
        return _say(f"{what}; the same command goes on from here", code)
    except (ValueError, OSError, RuntimeError) as error:
        if not hasattr(error, "code") and (os.environ.get("TLEARN_DEBUG") or not isinstance(error, ValueError)):
            raise
        return _say(str(error), getattr(error, "code", errors.InputError.code))


def _say(text: str, code: int) -> int:
    print(f"tlearn: {' '.join(text.split())}", file=sys.stderr, flush=True)
    event("error", code=code, error=text)
    return code


def _parse(kind: type[Config], command: str, words: list[str], default: Config | None = None) -> Config:
    if default is None:
        return tyro.cli(kind, prog=f"tlearn {command}", args=words)
    return tyro.cli(kind, prog=f"tlearn {command}", args=words, default=default)


def _train_config(words: list[str]) -> TrainConfig:
    name = words[0] if words and not words[0].startswith("-") else "frozen"
    if name not in RECIPES:
        raise UsageError(f"expected a recipe ({', '.join(RECIPES)}), got {name}")
    rest = words[1:] if words and words[0] == name else words
    default = dataclasses.replace(RECIPES[name], data=tyro.MISSING, output=tyro.MISSING)
    return _parse(TrainConfig, f"train {name}", rest, default)


def _train(words: list[str]) -> int:
    config = _train_config(words)
    from tlearn.training import job as training

    summary = training.train(config)
    if config.json:
        print(json.dumps(summary.to_json()))
    else:
        print(
            f"val_accuracy {summary.val_accuracy:.4f}, val_loss {summary.val_loss:.4f} "
            f"(epoch {summary.best_epoch} of {summary.epochs}, {summary.num_val} images)"
            f": {config.output}/model"
        )
    return errors.DONE


def _score(words: list[str]) -> int:
    config = _parse(ScoreConfig, "score", words)
    from tlearn.scoring import job as scoring

    summary, code = scoring.score(config)
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(summary["statuses"].items()))
    if code == errors.TOO_MANY_BAD_FILES:
        _say(
            f"expected at most {config.max_error_rate:.1%} of the files without a score, got {summary['failed']} of "
            f"{summary['failed'] + summary['scored']}; the rows are in {config.output}, with the reasons",
            code,
        )
    if config.json:
        print(json.dumps(summary))
    else:
        print(
            f"{summary['listed']} files listed, {summary['unchanged']} unchanged, {summary['added']} rows added "
            f"({statuses or 'nothing new'}): {config.output}"
        )
        if summary["drift"] is not None:
            print(f"drift {summary['drift']:.2f}: {summary['drift_sentence']}")
    return code


def _submit(words: list[str]) -> int:
    count = next((number for number, word in enumerate(words) if word in ("train", "score")), len(words))
    config = _parse(SubmitConfig, "submit [flags] train|score ...", words[:count])
    command, rest = words[count : count + 1], words[count + 1 :]
    if not command:
        return _say("expected train or score, with its flags: tlearn submit [flags] train|score ...", UsageError.code)
    job = _train_config(rest) if command == ["train"] else _parse(ScoreConfig, "score", rest)
    from tlearn.distributed import submit

    return submit.run(config, job, [*command, *rest])


def _scores(words: list[str]) -> int:
    if not words or words[0].startswith("-"):
        return _say("expected a table: tlearn scores DIR", UsageError.code)
    config = _parse(ScoresConfig, "scores DIR", words[1:])
    from tlearn import storage
    from tlearn.scoring import table

    latest = table.latest(storage.local(words[0]))
    if config.output is not None:
        table.write(latest, config.output)
    for line in table.lines(latest.slice(0, config.num_rows)):
        print(line)
    print(f"{latest.num_rows} paths: {config.output or words[0]}")
    return errors.DONE


def _verify(words: list[str]) -> int:
    if len(words) != 1 or words[0].startswith("-"):
        return _say("expected one table: tlearn verify DIR", UsageError.code)
    from tlearn import storage
    from tlearn.scoring.ledger import Ledger

    ledger = Ledger(storage.absolute(words[0].rstrip("/")))
    problems = ledger.verify()
    for problem in problems:
        print(problem)
    if problems:
        return _say(f"expected a table that is as its ledger says, found {len(problems)} differences", 6)
    print(f"{len(ledger.records())} files, as the ledger says")
    return errors.DONE


def _check(words: list[str]) -> int:
    config = _parse(CheckConfig, "check", words)
    from tlearn.data import check

    summary = check.check(config)
    if config.json:
        print(json.dumps(summary))
    else:
        for line in check.lines(summary):
            print(line)
    return errors.DONE


def _report(words: list[str]) -> int:
    if len(words) != 1 or words[0].startswith("-"):
        return _say("expected one run folder: tlearn report RUN", UsageError.code)
    from tlearn import storage
    from tlearn.evaluation import report

    print(report.write_report(storage.local(words[0])))
    return errors.DONE


def _weights(words: list[str]) -> int:
    config = _parse(WeightsConfig, "weights", words)
    from tlearn.network import weights

    tensors = weights.load(config.weights, config.cache, config.arch)
    count = sum(tensor.numel() for tensor in tensors.values())
    digest = weights.tensors_digest(tensors)
    print(f"{config.weights} {config.arch}: {len(tensors)} tensors, {count:,} numbers, digest {digest}")
    return errors.DONE


def _demo(words: list[str]) -> int:
    config = _parse(DemoConfig, "demo", words)
    from tlearn.demo import run as demo

    return demo.run(config)


def _bench(words: list[str]) -> int:
    config = _parse(BenchConfig, "bench", words)
    from tlearn.demo import bench

    figures = bench.run(config)
    if config.json:
        print(json.dumps(figures))
    else:
        for line in bench.lines(figures):
            print(line)
    return errors.DONE


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "score": _score,
    "submit": _submit,
    "scores": _scores,
    "verify": _verify,
    "check": _check,
    "report": _report,
    "weights": _weights,
    "demo": _demo,
    "bench": _bench,
}
