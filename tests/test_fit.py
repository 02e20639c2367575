"""What a person sees of a training run while it goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from tlearn import fit
from tlearn.storage import workplace

folder = Path(sys.argv[1])
phase = SimpleNamespace(optim=SimpleNamespace(num_epochs=1))
config = SimpleNamespace(quiet=False)
job = SimpleNamespace(metrics_path=f"{folder}/attempt/metrics.jsonl", phases=[phase], config=config)
with workplace(f"{folder}/run") as run, fit._live_metrics(job, run, 0):
    pass
"""


def test_every_epoch_is_passed_on_and_tensorboard_does_without_tensorflow(tmp_path: Path) -> None:
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    line = json.dumps({"phase": 1, "epoch": 1, "seconds": 2.0} | dict.fromkeys(names, 0.5)) + "\n"
    (tmp_path / "attempt").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "attempt" / "metrics.jsonl").write_text(line)
    (tmp_path / "tensorflow.py").write_text("raise AssertionError('tensorflow is imported')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"}
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("epoch   1 of 1: train loss 0.5000") and said.stderr == ""
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == line
    (events,) = (tmp_path / "run").glob("events.out.tfevents.*")
    assert b"val_accuracy" in events.read_bytes()
