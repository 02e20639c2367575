"""The commands of the README on real photographs of cats and dogs, with the figures that it promises.

Left out of `make test`, because it takes a quarter of an hour on two cores: pytest -m photographs.
"""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest

import tlearn
from tlearn.cli import main
from tlearn.data import images
from tlearn.demo import drawings

PHOTOGRAPHS = Path(os.environ.get("TLEARN_PHOTOGRAPHS", "../shared/catdog"))

pytestmark = [
    pytest.mark.photographs,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"no photographs at {PHOTOGRAPHS}"),
]


def train(recipe: str, run: Path, cache: Path, *more: str) -> dict[str, Any]:
    assert main(["train", recipe, "--data", str(PHOTOGRAPHS), "--output", str(run), "--cache", str(cache), *more]) == 0
    summary: dict[str, Any] = json.loads((run / "summary.json").read_bytes())
    return summary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("photographs")


@pytest.fixture(scope="module")
def run(folder: Path, cache: Path) -> Path:
    train("frozen", folder / "frozen", cache)
    return folder / "frozen"


def test_frozen_reaches_98_percent_of_the_validation_photographs(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_bytes())
    assert (summary["num_train"], summary["num_val"]) == (1600, 500)
    assert summary["features_computed"] + summary["features_reused"] == 2 * 1600 + 500
    assert summary["val_accuracy"] >= 0.98


def test_another_learning_rate_computes_no_features(run: Path, folder: Path, cache: Path) -> None:
    summary = train("frozen", folder / "second", cache, "--optim.lr", "5e-5")
    assert summary["features_computed"] == 0
    assert summary["val_accuracy"] >= 0.98


def test_scores_agree_with_the_key_of_the_test_photographs(run: Path, folder: Path) -> None:
    output = folder / "scores.parquet"
    assert main(["score", "--model", f"{run}/model", "--input", f"{PHOTOGRAPHS}/test", "--output", str(output)]) == 0
    with (PHOTOGRAPHS / "test_labels.csv").open(newline="") as file:
        key = {Path(row[0]).name: row[1] for row in csv.reader(file)}
    rows = pq.read_table(output).to_pylist()
    assert len(rows) == 500
    num_right = sum(row["prediction"] == key[row["path"]] for row in rows)
    print(f"\ntest accuracy {num_right / 500:.4f}")
    assert num_right >= 0.98 * 500
    assert sum(row["status"] == "unknown" for row in rows) <= 0.015 * 500
    of_small = {row["path"]: row["prediction"] for row in rows if row["stage"] == 128}
    print(f"{len(of_small)} of 500 answered at 128 px")
    assert len(of_small) >= 0.6 * 500
    large = tlearn.load(run / "model", cascade="off")
    answers = large.predict([PHOTOGRAPHS / "test" / path for path in of_small])
    changed = sum(row.prediction != before for row, before in zip(answers, of_small.values(), strict=True))
    assert changed <= 1


def test_drawings_are_unknown(run: Path, folder: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [folder / f"drawn-{number}.png" for number in range(30)]
    for number, path in enumerate(paths):
        drawings.draw(("cat", "dog", "rabbit")[number % 3], rng).save(path)
    rows = list(tlearn.load(run / "model").predict(paths))
    assert sum(row.status == "unknown" for row in rows) >= 27


def test_an_onnx_file_says_what_the_model_says_of_100_photographs(run: Path, folder: Path) -> None:
    file = folder / "model.onnx"
    assert main(["export", f"{run}/model", "--to", "onnx", "--output", str(file)]) == 0
    session = onnxruntime.InferenceSession(file)
    paths = sorted((PHOTOGRAPHS / "test").glob("*.jpg"))[::5]
    assert len(paths) == 100
    rows = tlearn.load(run / "model", engine="torch", precision="fp32", cascade="off").predict(paths)
    gaps = []
    for path, row in zip(paths, rows, strict=True):
        pixels = images.decode(path.read_bytes(), max_pixels=10**8).pixels[None].contiguous()
        (said,) = session.run(None, {"images": pixels.numpy()})
        gaps.append(abs(said[0] - np.array(list(row.probabilities.values()))).max())
    print(f"\nlargest difference {max(gaps):.1e}")
    assert max(gaps) < 1e-4


def test_the_notebook_s_mistakes_cost_what_the_readme_says(folder: Path, cache: Path) -> None:
    as_it_is = train("notebook", folder / "notebook", cache)
    shuffled = train("notebook", folder / "shuffled", cache, "--shuffle")
    print(f"\nnotebook {as_it_is['val_accuracy']:.4f}, with --shuffle {shuffled['val_accuracy']:.4f}")
    assert as_it_is["val_accuracy"] < shuffled["val_accuracy"] < 0.95
