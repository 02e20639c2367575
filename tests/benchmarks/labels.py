"""How many swapped labels the doctor finds, and how many it names wrongly, beside cleanlab on the same probabilities.

    python tests/benchmarks/labels.py --data DIR --cache CACHE

Labels of train/ are swapped at random; the features are those that `tlearn check DIR --cache CACHE` has left.
A label that was wrong before counts as named wrongly, unless --wrong PATH=CLASS says so.
"""

import argparse
import random
import time

import torch
from cleanlab.filter import find_label_issues

from tlearn.config import CheckConfig
from tlearn.data import listing, manifest
from tlearn.distributed.launch import start_ray
from tlearn.doctor import features
from tlearn.evaluation import confident, probe
from tlearn.recipes import checked_as


def swapped(labels: torch.Tensor, among: list[int], share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels with a share of these rows in another class, and which rows that is."""
    rows = random.Random(seed).sample(among, round(share * len(among)))
    is_swapped = torch.zeros(len(labels), dtype=torch.bool)
    is_swapped[rows] = True
    num_classes = int(labels.max()) + 1
    shift = torch.randint(1, num_classes, labels.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(is_swapped, (labels + shift) % num_classes, labels), is_swapped


def figures(named: torch.Tensor, is_swapped: torch.Tensor) -> str:
    hits = int((named & is_swapped).sum())
    return f"{hits / max(int(named.sum()), 1):9.3f} {hits / int(is_swapped.sum()):6.3f}"


def at_recall(doubt: torch.Tensor, is_swapped: torch.Tensor, recall: float) -> float:
    """Precision of the most doubtful labels, as many as have this share of the swapped ones."""
    hits = is_swapped[doubt.argsort(descending=True)].cumsum(0)
    count = int((hits >= recall * is_swapped.sum()).nonzero()[0]) + 1
    return int(hits[count - 1]) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--wrong", nargs="*", default=[], help="PATH=CLASS of labels that are known to be wrong")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.02, 0.05, 0.1, 0.2])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    config = checked_as(CheckConfig(data=arguments.data, cache=arguments.cache))
    start_ray()
    read = listing.read(config.data)
    files = manifest.add_hashes(config.data, read.of("train", "val"), config.cache)
    cut = features.computed(config, read.with_outcomes(files), files)
    numbers, points = features.points(files, cut)
    truth = torch.tensor([read.classes.indices[files[number].label] for number in numbers])
    known = {path: read.classes.indices[label] for path, label in (each.rsplit("=", 1) for each in arguments.wrong)}
    for row, number in enumerate(numbers):
        truth[row] = known.get(files[number].path, int(truth[row]))
    train = [row for row, number in enumerate(numbers) if files[number].split == "train"]
    groups = torch.arange(len(truth))
    print("                 doctor           at recall 0.9    cleanlab (by noise rate)  (confident learning)")
    print("share seed   precision recall     precision      precision recall       precision recall  seconds")
    for share in arguments.shares:
        for seed in range(arguments.seeds):
            labels, is_swapped = swapped(truth, train, share, seed)
            started = time.monotonic()
            scores = probe.out_of_fold(points, labels, int(truth.max()) + 1, groups)
            judged = confident.judge(scores, labels)
            seconds = time.monotonic() - started
            assert judged is not None
            own = scores.gather(1, labels[:, None])[:, 0]
            doubt = scores.scatter(1, labels[:, None], -9.0).amax(1) - own
            probabilities = confident.calibrated(scores, labels).numpy()
            theirs = [
                torch.from_numpy(find_label_issues(labels.numpy(), probabilities, filter_by=name, n_jobs=1))
                for name in ("prune_by_noise_rate", "confident_learning")
            ]
            cells = [figures(named, is_swapped) for named in (judged.classes != labels, *theirs)]
            best = at_recall(doubt, is_swapped, 0.9)
            print(f"{share:5} {seed:4}   {cells[0]}    {best:9.3f}       {cells[1]}       {cells[2]}  {seconds:7.1f}")


if __name__ == "__main__":
    main()
