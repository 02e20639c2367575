"""The gate for int8 beside one that asks all images: python tests/benchmarks/gate.py --data DIR --runs RUNS

A run of recipe frozen for every seed, then one whose int8 is bad because its ranges are a tenth of what was measured.
Of each: the verdict from the images that were asked and from all, how many were asked, how many predictions change,
what int8 adds to the log-loss, and the largest difference of logits among those asked and among the others.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from tlearn import storage
from tlearn.cli import main as tlearn
from tlearn.features import cache, choice
from tlearn.training import gate
from tlearn.training.gate import Ask, Gate

ROWS = [*map(str, range(9)), "bad"]
judge = gate.judge


def judged(int8: Tensor, labels: Tensor, ask: Ask) -> Gate:
    asked = []

    def noted(rows: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(rows)
        return ask(rows)

    found = judge(int8, labels, noted)
    rows, plain = ask(torch.arange(len(labels)))
    whole, differences = gate.compare(plain, int8[rows], labels[rows]), (plain - int8[rows]).abs().amax(1)
    was_asked = torch.isin(rows, torch.cat(asked))
    more = [figures.int8_val_loss - figures.plain_val_loss for figures in (found, whole)]
    largest = [float(differences[which].amax()) if which.any() else 0.0 for which in (was_asked, ~was_asked)]
    print(
        f"{'passes' if found.passes else 'fails':>7}{'passes' if whole.passes else 'fails':>7}{found.gate_num_asked:>7}"
        f"{(1 - found.agreement) * len(labels):>9.0f}{(1 - whole.agreement) * len(labels):>5.0f}"
        f"{more[0]:>+11.4f}{more[1]:>+9.4f}{largest[0]:>9.2f}{largest[1]:>8.2f}",
        flush=True,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True)
    parser.add_argument("--cache", default=storage.default_cache())
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    arguments = parser.parse_args()
    gate.judge = judged
    print("seed    verdict of all  asked  changed  all   log-loss      all  largest  others")
    for name in arguments.rows:
        if name == "bad":
            choice.ranges = lambda *of: tuple(0.1 * peak for peak in cache.ranges(*of))
        print(f"{name:<8}", end="", flush=True)
        run, seed = str(Path(arguments.runs, f"gate-{name}")), "0" if name == "bad" else name
        places = ["--data", arguments.data, "--output", run, "--cache", arguments.cache]
        if code := tlearn(["train", *places, "--precision", "int8", "--seed", seed, "--quiet"]):
            raise SystemExit(code)


if __name__ == "__main__":
    main()
