"""The whole way on pictures that it draws itself: draw, train, score, look at the table."""

import csv
import dataclasses
import time

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.config import DemoConfig, ScoreConfig
from tlearn.data.status import SCORED
from tlearn.demo import drawings
from tlearn.errors import UsageError
from tlearn.recipes import RECIPES
from tlearn.scoring import job as scoring
from tlearn.scoring import table
from tlearn.training import job as training

_NUM_SHOWN = 8


def run(config: DemoConfig) -> int:
    """Leave pictures, run and scores in config.output; return the exit code."""
    started = time.monotonic()
    folder = storage.local(config.output)
    pictures = folder / "pictures"
    kinds = drawings.KINDS[: config.num_classes]
    animals = f"{', '.join(f'{kind}s' for kind in kinds[:-1])} and {kinds[-1]}s"
    drawn = {path.name for path in pictures.glob("train/*")} if (pictures / "test_labels.csv").exists() else set()
    if pictures.exists() and drawn != set(kinds):
        raise UsageError(f"expected {pictures} to be new or the demo's own {animals}: choose another --output")
    sizes = {"num_train": config.num_train, "num_val": config.num_val, "num_test": config.num_test}
    drawings.draw_folder(pictures, seed=config.seed, kinds=kinds, **sizes)
    print(f"drew {sum(sizes.values())} {animals} in {time.monotonic() - started:.0f} s: {pictures}\n", flush=True)

    train = dataclasses.replace(
        RECIPES["frozen"], data=str(pictures), output=str(folder / "run"), seed=config.seed, cache=config.cache
    )
    summary = training.train(train)
    scores = folder / "scores.parquet"
    scored, code = scoring.score(
        ScoreConfig(model=f"{train.output}/model", input=str(pictures / "test"), output=str(scores))
    )

    rows = pq.read_table(scores).to_pylist()
    shown = sorted(rows, key=lambda row: row["status"] in SCORED)[:_NUM_SHOWN]
    print()
    for line in table.lines(pa.Table.from_pylist(shown)):
        print(line)
    with (pictures / "test_labels.csv").open(newline="") as file:
        labels = {row["path"]: row["label"] for row in csv.DictReader(file)}
    rows = [row for row in rows if row["status"] in SCORED]
    num_right = sum(labels.get(f"test/{row['path']}") == row["prediction"] for row in rows)

    print(f"\nvalidation accuracy {summary.val_accuracy:.3f} of {summary.num_val} pictures")
    print(f"test accuracy       {num_right / len(rows):.3f} of {len(rows)} pictures, {scored['failed']} unreadable")
    print(f"\n  report  {train.output}/report.html\n  model   {train.output}/model\n  scores  {scores}")
    print(f"\n{time.monotonic() - started:.0f} seconds in all", flush=True)
    return code
