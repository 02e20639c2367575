"""test/ is evaluated by the finished model and by nothing else; tlearn evaluate says the same of the same pictures."""

import json
import shutil
from pathlib import Path

import alone
import pytest

import tlearn
from tlearn.distributed import launch
from tlearn.scoring import planning

COUNTS = {f"{split}/{name}": count for split, count in (("train", 8), ("val", 12)) for name in ("cat", "dog", "yak")}


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    alone.without_ray(monkeypatch)
    monkeypatch.setattr(launch, "start_ray", lambda: None)
    monkeypatch.setattr(launch, "require_shared", lambda files, folders: None)
    monkeypatch.setattr(planning, "start_ray", lambda: None)


@pytest.mark.parametrize("recipe", ["frozen", "finetune"])
def test_the_figures_of_test_are_those_of_the_model_and_change_nothing(tmp_path: Path, recipe: str) -> None:
    data = alone.draw(tmp_path / "data", COUNTS)
    few = {"optim": {"num_epochs": 2, "head_epochs": 1 if recipe == "finetune" else 0}}
    without = alone.train(data, tmp_path / "without", recipe, **few).summary
    shutil.copytree(data / "val", data / "test")
    run = alone.train(data, tmp_path / "run", recipe, **few)
    assert without.test is None and run.summary.model_digest == without.model_digest
    test, val = run.summary.test, run.summary.quality
    assert test is not None and test.per_class == val.per_class and val == without.quality
    # Workers may convolve in bf16.
    assert test.log_loss == pytest.approx(val.log_loss, abs=0 if recipe == "frozen" else 0.01)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test"] == test.to_json()
    assert "Test accuracy" in (tmp_path / "run" / "report.html").read_text()
    assert alone.train(data, tmp_path / "run", recipe, **few).summary == run.summary
    found = tlearn.evaluate(run.model, data, cache=str(tmp_path / "cache"), engine="torch", precision="fp32")
    assert Path(found.folder).name == "test" and found.num_images == 36
    assert found.quality.per_class == test.per_class
    assert found.quality.log_loss == pytest.approx(test.log_loss, abs=1e-3)
