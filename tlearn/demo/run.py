"""The whole way on pictures that it draws itself: draw, train, score, look at the table."""

import dataclasses
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.config import DemoConfig, EvaluateConfig
from tlearn.data.status import SCORED
from tlearn.demo import drawings
from tlearn.errors import DONE, UsageError
from tlearn.recipes import RECIPES
from tlearn.scoring import table
from tlearn.scoring.evaluate import evaluate
from tlearn.training import job as training

_NUM_SHOWN = 8


def run(config: DemoConfig) -> int:
    """Leave pictures, run and scores in config.output; return the exit code."""
    started = time.monotonic()
    if storage.is_remote(config.output):
        raise UsageError(f"expected a folder of this machine for --output, got {config.output}: Pillow draws there")
    folder = storage.local(config.output)
    pictures, scores = folder / "pictures", folder / "scores.parquet"
    animals = _draw(config, pictures)
    num_pictures = config.num_train + config.num_val + config.num_test
    print(f"drew {num_pictures} {animals} in {time.monotonic() - started:.0f} s: {pictures}\n", flush=True)

    train = dataclasses.replace(
        RECIPES["frozen"], data=str(pictures), output=str(folder / "run"), seed=config.seed, cache=config.cache
    )
    summary = training.train(train).summary
    tested = evaluate(
        EvaluateConfig(
            model=f"{train.output}/model",
            data=str(pictures / "test"),
            labels=str(pictures / "test_labels.csv"),
            output=str(scores),
            cache=config.cache,
        )
    )

    _show(pq.read_table(scores))
    print(f"\nvalidation accuracy {summary.val_accuracy:.3f} of {summary.num_val} pictures")
    print(
        f"test accuracy       {tested.accuracy:.3f} of {tested.num_images} pictures, {tested.scored.failed} unreadable"
    )
    print(f"\n  report  {train.output}/report.html\n  model   {train.output}/model\n  scores  {scores}")
    print(f"\n{time.monotonic() - started:.0f} seconds in all", flush=True)
    return DONE


def _draw(config: DemoConfig, pictures: Path) -> str:
    """Draw the pictures; returns what is on them. Raises UsageError for a folder with others."""
    kinds = drawings.KINDS[: config.num_classes]
    animals = f"{', '.join(f'{kind}s' for kind in kinds[:-1])} and {kinds[-1]}s"
    drawn = {path.name for path in pictures.glob("train/*")} if (pictures / "test_labels.csv").exists() else set()
    if pictures.exists() and drawn != set(kinds):
        raise UsageError(f"expected {pictures} to be new or the demo's own {animals}: choose another --output")
    drawings.draw_folder(
        pictures,
        num_train=config.num_train,
        num_val=config.num_val,
        num_test=config.num_test,
        seed=config.seed,
        kinds=kinds,
    )
    return animals


def _show(rows: pa.Table) -> None:
    """Print a few rows, those without a score first."""
    statuses = rows["status"].to_pylist()
    shown = sorted(range(rows.num_rows), key=lambda number: statuses[number] in SCORED)[:_NUM_SHOWN]
    print()
    for line in table.lines(rows.take(shown)):
        print(line)
