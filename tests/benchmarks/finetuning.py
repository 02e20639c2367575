"""What each way of fine-tuning gives: python tests/benchmarks/finetuning.py --data DIR --runs RUNS [--rows NAME ...]

Accuracy and log-loss, calibrated, of the images of val/ and test/ together: the mean over seeds, the lowest and the
highest accuracy; then the same with the mirror image averaged in. DIR/test is flat, with its classes in
DIR/test_labels.csv. Seconds are those of the epochs; features, which rows share, come before them. What is in RUNS
already is not trained again.
"""

import argparse
import csv
import json
from pathlib import Path
from statistics import mean

import torch

from tlearn import storage
from tlearn.cli import main as tlearn
from tlearn.data.fetch import fetch
from tlearn.network import model
from tlearn.training import loop

_AT_240 = ["--preprocess.image-size", "240", "--preprocess.short-side", "264"]
_AT_320 = ["--preprocess.image-size", "320", "--preprocess.short-side", "352"]
ROWS: dict[str, list[str]] = {
    "frozen, no mirror images": ["frozen", "--augment", "none"],
    "frozen": ["frozen"],
    "frozen, moving average": ["frozen", "--optim.ema-decay", "0.99"],
    "frozen, 320 pixels": ["frozen", *_AT_320],
    "finetune, 240 pixels": ["finetune", *_AT_240],
    "finetune": ["finetune"],
    "frozen_blocks 3, 240 pixels": ["finetune", *_AT_240, "--frozen-blocks", "3"],
    "frozen_blocks 0, 240 pixels": ["finetune", *_AT_240, "--frozen-blocks", "0", "--optim.num-epochs", "2"],
}


def images(data: str) -> list[tuple[str, str]]:
    """(path, class) of every image of val/ and test/."""
    with Path(data, "test_labels.csv").open(newline="") as file:
        found = [(f"test/{row[0]}", row[1]) for row in csv.reader(file)][1:]
    for label in storage.folders(f"{data}/val"):
        found += [(f"val/{label}/{path.name}", label) for path in sorted(Path(data, "val", label).iterdir())]
    return found


def figures(run: Path, data: str) -> list[tuple[float, float]]:
    """(log-loss, accuracy) of the images as they are, and with their mirror images averaged in."""
    kept = run / "figures.json"
    if not kept.exists():
        trained, found = model.load(str(run / "model")).large.prepare(), images(data)
        description = trained.description
        labels = torch.tensor([description.classes.indices[label] for _, label in found])
        plain, mirrored = [], []
        for start in range(0, len(found), 8):
            fetched = [fetch(data, path, description.preprocess).pixels for path, _ in found[start : start + 8]]
            pixels = torch.stack([one for one in fetched if one is not None])
            plain.append(trained.outputs(pixels)[0].clone())
            mirrored.append(trained.outputs(pixels.flip(3))[0].clone())
        both = (torch.cat(plain), (torch.cat(plain) + torch.cat(mirrored)) / 2)
        kept.write_text(json.dumps([loop.measure(logits, labels).rates() for logits in both]))
    return [(loss, accuracy) for loss, accuracy in json.loads(kept.read_text())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--num-seeds", type=int, default=3)
    arguments = parser.parse_args()
    lines = [f"{'':<28}{'n':>2}  {'accuracy':<24} {'log-loss':>8}   {'mirrored':>8} {'log-loss':>8}   {'seconds':>7}"]
    for name in arguments.rows:
        of_seeds, seconds = [], []
        for seed in range(arguments.num_seeds):
            run = Path(arguments.runs, f"{name.replace(' ', '-').replace(',', '')}-{seed}")
            flags = [*ROWS[name], "--data", arguments.data, "--output", str(run), "--seed", str(seed), "--quiet"]
            if code := tlearn(["train", *flags]):
                raise SystemExit(code)
            of_seeds.append(figures(run, arguments.data))
            epochs = (run / "metrics.jsonl").read_text().splitlines()
            seconds.append(sum(json.loads(line)["seconds"] for line in epochs))
        accuracies = [plain[1] for plain, _ in of_seeds]
        loss, mirrored_loss = (mean(pair[view][0] for pair in of_seeds) for view in (0, 1))
        lines.append(
            f"{name:<28}{len(of_seeds):>2}  {mean(accuracies):.4f} "
            f"{f'({min(accuracies):.3f} to {max(accuracies):.3f})':<17} {loss:>8.4f}   "
            f"{mean(mirrored[1] for _, mirrored in of_seeds):>8.4f} {mirrored_loss:>8.4f}   {mean(seconds):>7.0f}"
        )
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
