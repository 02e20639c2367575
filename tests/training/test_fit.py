"""What a person sees of a training run while it goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tlearn.training import fit

CODE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from tlearn.training import fit
from tlearn.storage import workplace

folder = Path(sys.argv[1])
phase = SimpleNamespace(optim=SimpleNamespace(num_epochs=1))
config = SimpleNamespace(quiet=False)
job = SimpleNamespace(metrics_path=f"{folder}/attempt/metrics.jsonl", phases=[phase], config=config)
with workplace(f"{folder}/run") as run, fit._live_metrics(job, run, 0):
    pass
"""


@pytest.mark.slow
def test_every_epoch_is_passed_on_and_tensorboard_does_without_tensorflow(tmp_path: Path) -> None:
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    line = json.dumps({"phase": 1, "epoch": 1, "seconds": 2.0} | dict.fromkeys(names, 0.5)) + "\n"
    (tmp_path / "attempt").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "attempt" / "metrics.jsonl").write_text(line)
    (tmp_path / "tensorflow.py").write_text("raise AssertionError('tensorflow is imported')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("epoch   1 of 1: train loss 0.5000") and said.stderr == ""
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == line
    (events,) = (tmp_path / "run").glob("events.out.tfevents.*")
    assert b"val_accuracy" in events.read_bytes()


def test_a_run_that_is_stopped_waits_for_a_checkpoint_within_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = iter([("epoch", 0), ("within", 3)])

    def sleep(_: float) -> None:
        name, start = next(coming)
        (tmp_path / name).mkdir()
        content = {"digest": "", "start": start, "sums": [0, 0, 0], "history": [], "sha256": {}}
        (tmp_path / name / "progress.json").write_text(json.dumps(content))

    monkeypatch.setattr(fit.time, "sleep", sleep)
    job: Any = SimpleNamespace(stop_location=str(tmp_path / "stop"))
    fit._checkpoint_and_stop(job, str(tmp_path))
    assert next(coming, None) is None and (tmp_path / "stop").exists()
