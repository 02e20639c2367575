"""Trackers get what a run leaves, under one name for all its starts, and nothing that befalls them touches it."""

import dataclasses
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import alone
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_run import CONFIG, EPOCH, SUMMARY

from tlearn import console
from tlearn.config import TrainConfig
from tlearn.errors import UsageError
from tlearn.training import board, checkpoint, track, trackers
from tlearn.training.run import opened

OUTSIDE = dataclasses.replace(CONFIG, track=("mlflow", "wandb"))
EPOCHS = [dataclasses.replace(EPOCH, epoch=number, val_loss=1 / number) for number in (1, 2, 3)]


def leave(folder: Path, num_epochs: int, *, is_finished: bool = False, seed: int = 0) -> None:
    """What a run leaves of its settings and so many epochs, and at its end."""
    config = dataclasses.asdict(dataclasses.replace(CONFIG, seed=seed))
    content = {"config": config, "command": "tlearn train", "git_commit": None}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text(checkpoint.lines(EPOCHS[:num_epochs]))
    if is_finished:
        (folder / "summary.json").write_text(json.dumps(SUMMARY.to_json() | {"ignored_names": {".txt": 1}}))
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / "README.md").write_text("card")
        (folder / "report.html").write_text("report")


@pytest.mark.slow
def test_a_run_that_is_stopped_and_resumed_is_one_run_offline_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("mlflow", "wandb"):
        pytest.importorskip(package)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(track, "_END_SECONDS", {"finished": 100.0, "stopped": 100.0})
    track.require(OUTSIDE.track)
    with console.shown(), opened(f"{tmp_path}/run") as run:
        with pytest.raises(RuntimeError), track.tracked(OUTSIDE, run):
            leave(run.path, 1)
            raise RuntimeError("the node is gone")
        with track.tracked(OUTSIDE, run):
            leave(run.path, 3, is_finished=True, seed=1)
    assert capsys.readouterr() == ("", "")
    identity = json.loads((tmp_path / "run" / "tracking.json").read_text())["id"]

    (mlflow,) = [path.parent for path in (tmp_path / "mlruns").glob("*/*/params")]
    values = [line.split()[1:] for line in (mlflow / "metrics" / "val_loss").read_text().splitlines()]
    assert [(float(value), int(step)) for value, step in values] == [(1.0, 1), (0.5, 2), (1 / 3, 3)]
    assert (mlflow / "tags" / "tlearn_id").read_text() == identity
    assert (mlflow / "params" / "seed").read_text() == "0"  # MLflow's parameters are those of the first start
    assert float((mlflow / "metrics" / "final" / "quality.accuracy").read_text().split()[1]) == 0.9
    assert {path.name for path in (mlflow / "artifacts").iterdir()} == {"report.html", "README.md"}
    assert "status: 3" in (mlflow / "meta.yaml").read_text()  # FINISHED

    first, second = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert b"val_loss" in first.read_bytes() and b"final/" not in first.read_bytes()
    for part in (b"val_loss", b"final/quality.accuracy", b"report.html", b"model/README.md"):
        assert part in second.read_bytes()


WANDB = "class Settings:\n    def __init__(self, **settings): pass\ndef init(**settings):\n    {}\n"
TROUBLE = {
    "raise ValueError('no key:\\n  log in')": "ValueError: no key: log in",
    "import time; time.sleep(100)": "it gave no answer",
    "import os; os._exit(9)": "it ended with 9",
    "import sys; sys.exit('bye')": "bye",
}


@pytest.mark.parametrize(("code", "says"), TROUBLE.items())
def test_a_tracker_that_fails_is_one_warning_and_costs_a_limited_time(
    code: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wandb.py").write_text(WANDB.format(code))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    limit = 1.0 if "sleep" in code else 100.0
    monkeypatch.setattr(track, "_END_SECONDS", {"finished": limit, "stopped": limit})
    with console.shown(quiet=True), opened(f"{tmp_path}/run") as run:
        with track.tracked(dataclasses.replace(CONFIG, track=("wandb",)), run):
            leave(run.path, 1, is_finished=True)
            started = time.monotonic()
        assert time.monotonic() - started < limit + 6
    assert capsys.readouterr().err == f"WARNING: --track wandb does not follow this run: {says}\n"


@pytest.mark.parametrize("found", [None, SimpleNamespace(origin=None)])
@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_package_that_is_lacking_is_said_before_anything_is_done(
    name: str, found: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = SimpleNamespace(origin="there")
    monkeypatch.setattr(track.importlib.util, "find_spec", lambda asked: found if asked == name else there)
    with pytest.raises(
        UsageError, match=rf"expected {name} for --track {name}, found none: pip install 'tlearn\[{name}\]'"
    ):
        alone.train(tmp_path / "nowhere", tmp_path / "run", track=("tensorboard", name))
    assert not [*tmp_path.iterdir()]


def test_mlflow_is_told_where_to_by_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track.importlib.util, "find_spec", lambda name: SimpleNamespace(origin="there"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UsageError, match="expected MLFLOW_TRACKING_URI for --track mlflow"):
        track.require(["mlflow"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    track.require(["mlflow", "wandb", "tensorboard"])


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The other end of a tracker's stdin."""
    reading, writing = os.pipe()
    monkeypatch.setattr(trackers, "_LOOK_SECONDS", 0.0)
    with os.fdopen(reading) as stdin, os.fdopen(writing, "w") as end:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield end


@pytest.mark.parametrize("word", ["finished", "stopped", ""])
def test_every_epoch_is_passed_on_once_and_again_where_it_is_another(word: str, tmp_path: Path, driver: Any) -> None:
    run = trackers.Followed(tmp_path, "id", "run")
    epochs = run.epochs()
    leave(tmp_path, 2)
    assert [next(epochs)["epoch"] for _ in range(2)] == [1, 2]
    (tmp_path / "metrics.jsonl").write_text(checkpoint.lines([EPOCHS[0], dataclasses.replace(EPOCHS[1], lr=9)]))
    assert next(epochs)["lr"] == 9
    leave(tmp_path, 2)
    driver.write(word)
    driver.close()
    assert [epoch["epoch"] for epoch in epochs] == [2]
    assert run.is_finished == (word == "finished")


class Server(Exception):
    """Stands for MlflowException."""


def test_what_mlflow_has_no_answer_to_is_sent_again_with_what_follows(
    tmp_path: Path, driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[float, int]] = []
    asked: list[str] = []

    def get_run(run_id: str) -> Any:
        asked.append(run_id)
        leave(tmp_path, min(len(asked) + 1, 3))  # training goes on
        if len(asked) == 3:
            driver.close()
        return SimpleNamespace(data=SimpleNamespace(params={}))

    def log_batch(run_id: str, metrics: Sequence[Any] = (), params: Sequence[Any] = ()) -> None:
        if len(asked) < 3:
            raise Server
        sent.extend((value, step) for name, value, _, step in metrics if name == "val_loss")

    others = dict.fromkeys(("update_run", "set_terminated"), lambda *words, **more: None)
    client = SimpleNamespace(
        log_batch=log_batch, get_run=get_run, get_experiment_by_name=lambda name: SimpleNamespace(experiment_id="1"),
        search_runs=lambda *words, **more: [SimpleNamespace(info=SimpleNamespace(run_id="1"))],
        get_metric_history=lambda *words: [], **others,
    )  # fmt: skip
    for name, content in {
        "mlflow": {},
        "mlflow.entities": {"Metric": lambda *words: words, "Param": lambda *words: words},
        "mlflow.exceptions": {"MlflowException": Server},
        "mlflow.tracking": {"MlflowClient": lambda: client},
    }.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    leave(tmp_path, 1)
    trackers.to_mlflow(trackers.Followed(tmp_path, "id", "run"))
    assert sent == [(1.0, 1), (0.5, 2), (1 / 3, 3)]


def shown(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_shows_the_result_of_a_run(tmp_path: Path) -> None:
    leave(tmp_path, 3, is_finished=True)
    said = [("cat", "cat"), ("cat", "dog"), ("dog", "dog"), ("dog", "cat")]
    labels, predictions = zip(*said, strict=True)
    pq.write_table(pa.table({"label": labels, "prediction": predictions}), tmp_path / "validation.parquet")
    thumbnail = io.BytesIO()
    Image.new("L", (30, 20), 99).save(thumbnail, "PNG")
    rows = [
        {"split": split, "label": label, "prediction": prediction, "probability": 0.9, "thumbnail": picture}
        for split, picture in (("val", thumbnail.getvalue()), ("val", None), ("test", thumbnail.getvalue()))
        for label, prediction in said
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pictures.parquet")
    board.write_result(tmp_path)
    found = shown(tmp_path)
    tags = found.Tags()
    assert tags["scalars"] == ["final/val_accuracy", "final/val_loss"]
    started = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"optim.lr" in started and b"frozen_blocks" in started
    assert tags["images"] == ["confusion matrix (true class, as what)", "mistakes/01", "mistakes/02"]
    assert "settings/text_summary" in tags["tensors"]
    assert [*tmp_path.glob("*/events*")] == []  # no other run beside it


@pytest.mark.slow
def test_what_is_tracked_is_no_part_of_what_a_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone.without_ray(monkeypatch)
    data = alone.draw(tmp_path / "data", {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    quick: dict[str, Any] = {"optim": {"num_epochs": 2}}
    plain = alone.train(data, tmp_path / "plain", **quick)
    tags = shown(tmp_path / "plain").Tags()
    assert {"val_loss", "val_accuracy"} <= {*tags["scalars"]} and len(tags["images"]) == 1
    none = alone.train(data, tmp_path / "none", track=(), **quick)
    assert none.summary.model_digest == plain.summary.model_digest
    assert not [*(tmp_path / "none").glob("events*")] and not (tmp_path / "none" / "tracking.json").exists()
    assert alone.train(data, tmp_path / "none", **quick) == none  # another start of the same run


def test_the_settings_of_a_run_are_numbers_and_words_by_dotted_names(tmp_path: Path) -> None:
    leave(tmp_path, 1, is_finished=True)
    run = trackers.Followed(tmp_path, "id", "run")
    assert run.settings()["optim.lr"] == TrainConfig(data="", output="").optim.lr
    assert run.figures()["final/quality.log_loss"] == 0.3
    assert not [name for name in run.figures() if "per_class" in name or "ignored" in name]
