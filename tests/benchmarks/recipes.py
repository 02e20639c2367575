"""What each recipe gives from few photographs: python tests/benchmarks/recipes.py --data DIR --runs RUNS

Accuracy and log-loss of the images of val/, before calibration: mean and standard error over the seeds. Each seed draws
photographs of its own from train/, as many of every class; a smaller number is a part of a larger one. Seconds are
those of the epochs. All in bf16: int8 is calibrated on training images, so that each number would have features of its
own. What is in RUNS already is not trained again; `--show` trains nothing. "below frozen" is a log-loss that is higher
than that of the recipe frozen on the same photographs by more than the standard error of the difference.
"""

import argparse
import json
import random
from pathlib import Path
from statistics import mean, stdev

from tlearn import storage
from tlearn.cli import main as tlearn
from tlearn.recipes import RECIPES


def subset(data: Path, folder: Path, size: int, seed: int) -> Path:
    """A data folder of links: `size` photographs of train/, all of val/."""
    classes = storage.folders(str(data / "train"))
    for split in ("train", "val"):
        for label in classes:
            files = sorted((data / split / label).iterdir())
            if split == "train":
                files = random.Random(f"{seed} {label}").sample(files, len(files))[: size // len(classes)]
            target = folder / split / label
            target.mkdir(parents=True, exist_ok=True)
            for file in files:
                if not (target / file.name).is_symlink():
                    (target / file.name).symlink_to(file.resolve())
    return folder


def run(arguments: argparse.Namespace, recipe: str, size: int, seed: int) -> dict[str, float] | None:
    """Accuracy, log-loss and seconds; None where it is only to be shown and is not there."""
    output = Path(arguments.runs, f"{recipe}-{size}-{seed}")
    if not (output / "summary.json").exists():
        if arguments.show:
            return None
        folder = subset(Path(arguments.data), Path(arguments.runs, "data", f"{size}-{seed}"), size, seed)
        flags = ["--data", str(folder), "--output", str(output), "--seed", str(seed), "--precision", "bf16", "--quiet"]
        flags += ["--cache", arguments.cache] if arguments.cache else []
        if code := tlearn(["train", recipe, *flags]):
            raise SystemExit(code)
    summary = json.loads((output / "summary.json").read_text())
    epochs = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    figures = {"accuracy": summary["val_accuracy"], "log-loss": summary["val_loss"]}
    return figures | {"seconds": sum(epoch["seconds"] for epoch in epochs)}


def error(values: list[float]) -> float:
    """The standard error of their mean."""
    return float(stdev(values) / len(values) ** 0.5) if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True)
    parser.add_argument("--cache")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--sizes", nargs="+", type=int, default=[20, 40, 100, 245, 1600])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--show", action="store_true", help="only the table, of what is there")
    arguments = parser.parse_args()
    print(f"{'photographs':>11}  {'recipe':<9} {'n':>2}  {'accuracy':<17} {'log-loss':<17} {'seconds':>7}")
    for size in arguments.sizes:
        frozen: dict[int, float] = {}
        for recipe in sorted(arguments.recipes, key="frozen".__ne__):
            found = {seed: run(arguments, recipe, size, seed) for seed in arguments.seeds}
            runs = {seed: figures for seed, figures in found.items() if figures}
            if recipe == "frozen":
                frozen = {seed: figures["log-loss"] for seed, figures in runs.items()}
            if runs:
                print(f"{size:>11,}  {line(recipe, runs, frozen)}", flush=True)


def line(recipe: str, runs: dict[int, dict[str, float]], frozen: dict[int, float]) -> str:
    """Of these seeds, beside the log-loss of the recipe frozen."""
    columns = {name: [figures[name] for figures in runs.values()] for name in ("accuracy", "log-loss", "seconds")}
    cells = [f"{mean(columns[name]):.4f} +- {error(columns[name]):.4f}" for name in ("accuracy", "log-loss")]
    differences = [figures["log-loss"] - frozen[seed] for seed, figures in runs.items() if seed in frozen]
    is_worse = bool(differences) and mean(differences) > error(differences)
    text = f"{recipe:<9} {len(runs):>2}  {cells[0]:<17} {cells[1]:<17} {mean(columns['seconds']):>7.0f}"
    return text + ("  below frozen" if is_worse else "")


if __name__ == "__main__":
    main()
