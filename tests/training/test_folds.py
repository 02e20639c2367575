"""Cross-validation from end to end in one process: what it leaves, that it changes nothing else, that it goes on."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from alone import draw, train, without_ray

DATA = {"train/cat": 9, "train/dog": 9, "val/cat": 3, "val/dog": 3}
QUICK: dict[str, Any] = {"optim": {"num_epochs": 2, "global_batch_size": 8}, "head": {"width": 8}}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def test_every_image_is_judged_once_and_the_model_is_the_same_without(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", DATA)
    plain = train(data, tmp_path / "plain", **QUICK)
    run = train(data, tmp_path / "run", folds=3, **QUICK)
    print(run.summary.folds, run.summary.lines("x"))
    rows = pq.read_table(tmp_path / "run/folds.parquet").to_pylist()
    assert len(rows) == 24
    print(rows[0])
    assert run.summary.model_digest == plain.summary.model_digest
