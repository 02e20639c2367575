"""Scoring with the small network first, without it, and with a plain loop in torch, by turns on the same pictures.

python tests/benchmarks/cascade.py runs/a/model photos/test
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

import tlearn
from tlearn.config import PreprocessConfig
from tlearn.data.fetch import fetch
from tlearn.network import weights
from tlearn.network.arithmetic import native_precision
from tlearn.network.vgg import convolutions, normalize
from tlearn.scoring.predict import Predictor
from tlearn.scoring.table import Row
from tlearn.storage import default_cache

_BATCH = 16


def plain_loop(paths: list[Path], preprocess: PreprocessConfig) -> None:
    """One process, all cores: decode a batch, then VGG16's convolutions."""
    dtype = torch.bfloat16 if native_precision() == "bf16" else torch.float32
    layers = convolutions(1, 5).eval().requires_grad_(False)
    layers.load_state_dict(weights.load("imagenet", default_cache()))
    layers = layers.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode():
        for start in range(0, len(paths), _BATCH):
            fetched = [fetch(str(path.parent), path.name, preprocess).pixels for path in paths[start : start + _BATCH]]
            pixels = torch.stack([each for each in fetched if each is not None])
            layers(normalize(pixels, preprocess, dtype).contiguous(memory_format=torch.channels_last)).mean((2, 3))


def rate(count: int, work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return count / (time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    first, alone = tlearn.load(options.model), tlearn.load(options.model, cascade="off")

    def scored(model: Predictor) -> list[Row]:
        return list(model.predict(paths))

    rows, others = scored(first), scored(alone)
    size = alone.large.preprocess.image_size
    share = sum(row.stage == size for row in rows) / len(rows)
    changed = sum(row.prediction != other.prediction for row, other in zip(rows, others, strict=True))
    print(f"{len(paths)} pictures, {share:.3f} go on to {size} px, {changed} predictions changed")
    works: dict[str, Callable[[], object]] = {
        "small first": lambda: scored(first),
        "large alone": lambda: scored(alone),
        "plain loop": lambda: plain_loop(paths[: len(paths) // 4], alone.large.preprocess),
    }
    counts = {"small first": len(paths), "large alone": len(paths), "plain loop": len(paths) // 4}
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.rounds):
        for name, work in works.items():
            rates[name].append(rate(counts[name], work))
    for name, found in rates.items():
        ratios = [first / other for first, other in zip(rates["small first"], found, strict=True)]
        times = f"small first is {median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:<12} {median(found):6.1f} images/s ({min(found):.1f} to {max(found):.1f}); {times}")


if __name__ == "__main__":
    main()
