"""What each command does, and what it prints. Nothing heavy is imported before it is used."""

import json
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from tlearn import errors
from tlearn.cli.ending import say
from tlearn.cli.parsing import Command, Submit, Train, given, job_start
from tlearn.config import (
    BenchConfig,
    CheckConfig,
    CompareConfig,
    EvaluateConfig,
    ExportConfig,
    PublishConfig,
    ReportConfig,
    ScoreConfig,
    ScoresConfig,
    TrainConfig,
    VerifyConfig,
    WeightsConfig,
)
from tlearn.data.findings import many
from tlearn.errors import InputError, IntegrityError
from tlearn.recipes import checked_as

if TYPE_CHECKING:
    from tlearn.scoring.summary import Scored

_LEAST_FOR_A_RATE = 100


def _train(command: Command) -> int:
    from tlearn.data import splits
    from tlearn.distributed import child, guard, places

    config: TrainConfig = command.settings.config
    splits.find(config.data, config.labels)  # what follows takes seconds to import
    if guard.is_child() and places.cluster() is None:
        child.warm("tlearn.training.alone")  # so does this, beside it

    from tlearn.training.job import train

    summary = train(config, given(command.words)).summary
    for line in [json.dumps(summary.to_json())] if config.json else summary.lines(config.output):
        print(line)
    return errors.DONE


def _score(command: Command) -> int:
    from tlearn.scoring.job import score

    config: ScoreConfig = command.settings
    scored = score(config)
    code = _judged(scored, config.max_error_rate, f"the rows are in {config.output}, with the reasons")
    if scored.not_published is not None:
        code = say(scored.not_published, errors.StorageError.code)
    if config.json:
        print(json.dumps(scored.to_json()))
        return code
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(scored.statuses.items()))
    print(
        f"{many(scored.listed, 'file', 'files')} listed, {scored.unchanged:,} unchanged, "
        f"{many(scored.added, 'row', 'rows')} added "
        f"({statuses or 'nothing new'}): {config.output}; {_pace(scored)}"
    )
    if scored.accuracy is not None and scored.accuracy_interval is not None:
        low, high = scored.accuracy_interval
        print(f"accuracy {scored.accuracy:.4f} of {scored.labelled:,} labelled, 95% sure: {low:.3f} to {high:.3f}")
    if scored.drift is not None:
        print(f"drift {scored.drift:.2f}: {scored.drift_sentence}")
    if scored.report is not None:
        print(f"report: {shlex.quote(scored.report)}")
    if scored.added and not config.output.endswith(".csv"):
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
    return say(
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
    if evaluated.scored.report is not None and not config.json:
        print(f"report: {shlex.quote(evaluated.scored.report)}")
    reasons = f"in {config.output}" if config.output else "with --output NAME.parquet"
    return _judged(evaluated.scored, config.max_error_rate, f"the reasons are in the rows, {reasons}")


def _compare(command: Command) -> int:
    from tlearn import storage
    from tlearn.scoring.compare import compare

    config: CompareConfig = command.settings
    with storage.reached():
        comparison = compare(config)
    for line in [json.dumps(comparison.to_json())] if config.json else comparison.lines():
        print(line)
    if comparison.is_good_enough is False:
        return say(comparison.verdict(), errors.NOT_AS_GOOD)
    if comparison.is_good_enough and not config.json:
        print(comparison.verdict())
    return errors.DONE


def _submit(command: Command) -> int:
    from tlearn.distributed import submit

    settings: Submit = command.settings
    job = settings.job.config if isinstance(settings.job, Train) else settings.job
    return submit.run(settings.config, job, command.words[job_start(command.words) :])


def _scores(command: Command) -> int:
    from tlearn import storage
    from tlearn.scoring import table

    config: ScoresConfig = command.settings
    with storage.reached():
        newest = table.newest(config.table)
        if config.output is not None:
            table.write(newest, config.output, config.top_k)
        shown = newest.table(config.num_rows)
    for line in table.lines(shown, config.top_k):
        print(line)
    print(f"{many(len(newest.order), 'path', 'paths')}: {config.output or config.table}")
    return errors.DONE


def _verify(command: Command) -> int:
    from tlearn import storage
    from tlearn.scoring import repair
    from tlearn.scoring.ledger import FOLDER, Ledger
    from tlearn.storage.lease import Lease

    config: VerifyConfig = command.settings
    ledger = Ledger(storage.absolute(config.table.rstrip("/")))
    with storage.reached():
        if FOLDER not in storage.folders(ledger.output) and not (config.repair and ledger.unrecorded()):
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
        found = many(len(problems), "difference", "differences")
        raise IntegrityError(
            f"expected a table that is as its ledger says, found {found}: the lines above say what to do"
        )
    print(f"{many(len(ledger.records()), 'file', 'files')}, as the ledger says")
    return errors.DONE


def _publish(command: Command) -> int:
    from tlearn import storage
    from tlearn.scoring.publish import publish

    config: PublishConfig = command.settings
    with storage.reached():
        published = publish(config.table)
    print(json.dumps(published.to_json()) if config.json else published.line(config.table))
    return errors.DONE


def _check(command: Command) -> int:
    from tlearn import storage
    from tlearn.doctor import check

    config: CheckConfig = command.settings
    checked = check.check(checked_as(config), quick=config.quick)
    if config.output is not None:
        with storage.reached():
            storage.write_bytes(config.output, checked.to_csv())
    if config.json:
        print(json.dumps(checked.to_json()))
    else:
        output = shlex.quote(config.output) if config.output is not None else None
        for line in [*check.lines(checked), *check.following(checked, shlex.quote(config.data), output)]:
            print(line)
    if checked.refusal:
        return say(f"tlearn train would end with {checked.code}: {checked.refusal}", checked.code)
    if config.strict and checked.to_change:
        return say(
            f"expected no file to exclude or to relabel (--strict), found {checked.to_change:,}: "
            "--output NAME.csv lists them",
            errors.TOO_MANY_BAD_FILES,
        )
    return errors.DONE


def _report(command: Command) -> int:
    from tlearn.report import page

    config: ReportConfig = command.settings
    print(page.write_report(config.run))
    return errors.DONE


def _export(command: Command) -> int:
    from tlearn.scoring.export import export

    config: ExportConfig = command.settings
    exported = export(config)
    print(json.dumps(exported.to_json()) if config.json else exported.line())
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


RUN: dict[str, Callable[[Command], int]] = {
    "train": _train,
    "score": _score,
    "evaluate": _evaluate,
    "compare": _compare,
    "submit": _submit,
    "scores": _scores,
    "verify": _verify,
    "publish": _publish,
    "check": _check,
    "report": _report,
    "export": _export,
    "weights": _weights,
    "demo": _demo,
    "bench": _bench,
}
