"""MLflow and Weights & Biases, each fed in a process of its own from the files of a run's folder.

python -m tlearn.training.trackers mlflow FOLDER ID NAME: goes on until stdin says how the run has ended, or closes.
"""

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlearn.config.values import flat

_LOOK_SECONDS = 1.0
_WAIT_SECONDS = 20
"""For an answer, so that what did not answer can still be said by the one who asked."""
_ARTIFACTS = ("report.html", "model/README.md")
_MAX_PARAMS = 100
"""That MLflow takes at once."""


@dataclass(slots=True)
class Followed:
    """A run, as the files of its folder tell it."""

    folder: Path
    identity: str
    """The same for all starts of the run."""
    name: str
    is_finished: bool = False

    def epochs(self) -> Iterator[dict[str, Any]]:
        """Each line of metrics.jsonl once it is there, until the run has ended; again where it is written anew."""
        seen: list[str] = []
        has_ended = False
        while not has_ended:
            has_ended = bool(select.select([sys.stdin], [], [], _LOOK_SECONDS)[0])
            lines = self._read("metrics.jsonl").splitlines()
            yield from (json.loads(line) for number, line in enumerate(lines) if [line] != seen[number : number + 1])
            seen = lines
        self.is_finished = sys.stdin.readline().strip() == "finished"

    def settings(self) -> dict[str, Any]:
        """What is trained, by dotted names."""
        content = json.loads(self._read("config.json"))
        return flat(content["config"]) | {name: content[name] for name in ("command", "git_commit")}

    def figures(self) -> dict[str, float]:
        """The numbers of a finished run, without those of single classes."""
        return {
            f"final/{name}": value
            for name, value in flat(json.loads(self._read("summary.json"))).items()
            if isinstance(value, int | float) and ".per_class." not in name and not name.startswith("ignored_names.")
        }

    def artifacts(self) -> list[Path]:
        return [path for path in (self.folder / name for name in _ARTIFACTS) if path.exists()]

    def _read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.exists() else ""


def to_mlflow(run: Followed) -> None:
    """An MLflow run that is found again by a tag. What the server has no answer to is sent again with what follows."""
    # Files are the store that needs no server and no database.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_WAIT_SECONDS))
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = _mlflow_experiment(client)
    found = client.search_runs([experiment], f"tags.tlearn_id = '{run.identity}'", max_results=1)
    made = found[0] if found else client.create_run(experiment, tags={"tlearn_id": run.identity}, run_name=run.name)
    run_id = made.info.run_id
    client.update_run(run_id, status="RUNNING")
    known = {(metric.step, metric.value) for metric in client.get_metric_history(run_id, "val_loss")}
    waiting: list[dict[str, Any]] = []
    for epoch in run.epochs():
        if (epoch["epoch"], epoch["val_loss"]) not in known:
            waiting.append(epoch)
            with contextlib.suppress(MlflowException):
                _mlflow_log(client, run_id, run, waiting)
                waiting = []
    if waiting:
        _mlflow_log(client, run_id, run, waiting)
    if run.is_finished:
        _mlflow_metrics(client, run_id, run.figures(), 0)
        for path in run.artifacts():
            client.log_artifact(run_id, str(path))
    client.set_terminated(run_id, "FINISHED" if run.is_finished else "FAILED")


def _mlflow_log(client: Any, run_id: str, run: Followed, epochs: list[dict[str, Any]]) -> None:
    from mlflow.entities import Param

    there = client.get_run(run_id).data.params  # they cannot be changed, and a later start may have others
    params = [Param(name, str(value)) for name, value in run.settings().items() if name not in there]
    for start in range(0, len(params), _MAX_PARAMS):
        client.log_batch(run_id, params=params[start : start + _MAX_PARAMS])
    for epoch in epochs:
        _mlflow_metrics(client, run_id, epoch, epoch["epoch"])


def _mlflow_metrics(client: Any, run_id: str, figures: dict[str, Any], step: int) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    client.log_batch(run_id, [Metric(name, value, now, step) for name, value in numbers.items()])


def _mlflow_experiment(client: Any) -> str:
    """The one that MLflow's variables name, else tlearn."""
    if identity := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return identity
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "tlearn")
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def to_wandb(run: Followed) -> None:
    """A run of Weights & Biases. Every start sends all epochs, so that each of several offline runs is whole."""
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        x_disable_stats=True,  # of this process, which does nothing
        init_timeout=_WAIT_SECONDS,
        finish_timeout=_WAIT_SECONDS,
    )
    project = os.environ.get("WANDB_PROJECT", "tlearn")
    board: Any = wandb.init(project=project, id=run.identity, resume="allow", name=run.name, settings=settings)
    board.define_metric("epoch")
    board.define_metric("*", step_metric="epoch")
    for epoch in run.epochs():
        board.config.update(run.settings(), allow_val_change=True)
        board.log(epoch)
    if run.is_finished:
        board.summary.update(run.figures())
        artifact = wandb.Artifact(f"run-{run.identity}", type="report")
        for path in run.artifacts():
            artifact.add_file(str(path), name=path.relative_to(run.folder).as_posix())
        board.log_artifact(artifact)
    board.finish(exit_code=0 if run.is_finished else 1)


def main(name: str, *words: str) -> int:
    folder, identity, title = words
    try:
        {"mlflow": to_mlflow, "wandb": to_wandb}[name](Followed(Path(folder), identity, title))
    except Exception as error:  # the last line on stderr is what a person is told
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
