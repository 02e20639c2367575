"""The card of a run's model holds the figures of the run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from support import CLASSES, save_model

from tlearn.config import PreprocessConfig
from tlearn.data.manifest import File
from tlearn.evaluation import quality
from tlearn.network import description
from tlearn.training import job
from tlearn.training.run import opened


def test_a_run_writes_what_it_knows_and_the_model_stays_the_same(tmp_path: Path) -> None:
    files = [File("train", f"train/{name}/{n}.jpg", name, 1, 1) for name in ("cat", "dog", "dog") for n in range(3)]
    logits = torch.tensor([[-2.0], [1.0], [3.0], [-1.0]])
    val, test = (quality.measure(logits, torch.tensor(labels), CLASSES) for labels in ([0, 1, 1, 1], [0, 1, 1, 0]))
    task: Any = SimpleNamespace(config=SimpleNamespace(weights="imagenet"))
    learned: Any = SimpleNamespace(train_files=files)
    folder = tmp_path / "run" / "model"
    for tested in (test, None):
        with opened(str(tmp_path / "run")) as run:
            save_model(folder, PreprocessConfig(image_size=32, short_side=36))
            before = description.verify(str(folder))
            summary: Any = SimpleNamespace(quality=val, test=tested)
            job._write_card(task, run, learned, summary)
        assert description.verify(str(folder)) == before
        text = (folder / "README.md").read_text(encoding="utf-8")
        results = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"]
        assert [result["metrics"][0]["value"] for result in results] == ([0.75, 1.0] if tested else [0.75])
        assert (
            "| cat | 3 | 1 | 2 |\n| dog | 6 | 3 | 2 |\n" if tested else "| cat | 3 | 1 |\n| dog | 6 | 3 |\n"
        ) in text
        assert "| validation | 4 | 0.7500 (95% sure from 0.301 to 0.954) |" in text
