"""Throughput of this machine beside its limits, on the same pictures in one run.

arithmetic    the best product of two matrices in torch or in our engine, in the precision of our jobs, divided by the
              35.3 GFLOP of one image: no bound for an engine that needs fewer multiplications (Winograd)
reading       the bytes of the files alone, one thread a core
decoding      reading, decoding and resizing, one thread a core
plain loop    decode, then the convolutions, with torch, in one process with all cores: what a person writes first;
              measured before and after our jobs, because machines are shared
features      our pass over training images, on Ray
scoring       our scoring job, on Ray; with start-up: from the call to the table, Ray being up
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import BenchConfig, Precision, ScoreConfig, digest
from tlearn.console import Progress
from tlearn.data import listing
from tlearn.data.fetch import fetch
from tlearn.data.manifest import File
from tlearn.demo import drawings
from tlearn.distributed import decoders, launch
from tlearn.distributed.nodes import Here
from tlearn.errors import InputError
from tlearn.features import compute as features
from tlearn.features.cache import ranges
from tlearn.features.cut import Cut
from tlearn.network import arithmetic, engine, model, weights
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Draft
from tlearn.network.frozen import Frozen
from tlearn.network.trainable import Trainable
from tlearn.recipes import RECIPES
from tlearn.scoring import job as scoring
from tlearn.scoring.summary import Scored
from tlearn.training.streams import generator

GFLOP_PER_IMAGE = 35.3
"""Of VGG16's convolutions at 240x240, a multiplication and an addition counted as two."""

_BATCH_SIZE = 16


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured, and with what."""

    images_per_second: dict[str, float]
    """By the names that the module's docstring explains."""
    num_images: int
    plain_loop: str
    """Engine and precision of the plain loop."""
    arithmetic: str
    """Engine and precision of our jobs."""
    device: str
    seconds_ray: float
    """That Ray took to start."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def run(config: BenchConfig) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        _fill(pictures, config)
        started = time.monotonic()
        launch.start_ray()
        seconds_ray = time.monotonic() - started
        plain = arithmetic.plain(config.engine, config.precision, on_gpu=launch.nodes().has_gpus)
        tensors = weights.load("imagenet", config.cache)
        frozen = Frozen(5, RECIPES["frozen"].preprocess, Arithmetic("torch", plain.precision), tensors=tensors)
        files = [File("train", name, "", 0, 0, storage.sha256_file(pictures / name)) for name in _names(pictures)]
        ours = plain
        if arithmetic.may_quantize(plain, config.precision):
            decode = decoders.decoder(str(pictures), frozen.preprocess, Here(os.cpu_count() or 1), 1)
            ours = Arithmetic("openvino", "int8", ranges(files, frozen, folder, decode))
        rates = _rates(config, Path(folder), files, frozen, ours, tensors)
    return Figures(
        images_per_second={name: round(rate, 2) for name, rate in rates.items()},
        num_images=config.num_images,
        plain_loop=f"torch-{plain.precision}",
        arithmetic=f"{ours.engine}-{ours.precision}",
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPUs",
        seconds_ray=round(seconds_ray, 2),
    )


def _rates(
    config: BenchConfig,
    folder: Path,
    files: list[File],
    frozen: Frozen,
    ours: Arithmetic,
    tensors: dict[str, torch.Tensor],
) -> dict[str, float]:
    """Images per second by name; `frozen` computes as the plain loop does, `ours` is what our jobs compute with."""
    pictures = folder / "pictures"
    best_product = max(_matrix_product(frozen.arithmetic.precision), _matrix_product_of_engine(ours))
    rates = {
        "arithmetic": best_product / GFLOP_PER_IMAGE,
        "reading": _reading(pictures),
        "decoding": _decoding(pictures),
    }
    before = _plain_loop(pictures, frozen)
    rates["features"] = _features(files, ours, tensors, folder)
    scored = _scoring(ours, tensors, config, folder)
    after = _plain_loop(pictures, frozen)
    rates["plain loop"] = 2 / (1 / before + 1 / after)
    rates["scoring"] = scored.images_per_second
    rates["scoring with start-up"] = scored.listed / scored.seconds_total
    return rates


def lines(figures: Figures) -> Iterator[str]:
    """The figures for a person."""
    rates = figures.images_per_second
    yield f"{figures.num_images} pictures, {figures.device}"
    yield f"plain loop in {figures.plain_loop}, features and scoring in {figures.arithmetic}"
    yield f"{'':<24}{'images/s':>9}{'of plain loop':>15}{'of arithmetic':>15}"
    for name, rate in sorted(rates.items(), key=lambda pair: -pair[1]):
        yield f"{name:<24}{rate:>9.1f}{rate / rates['plain loop']:>15.2f}{rate / rates['arithmetic']:>15.2f}"


def _fill(pictures: Path, config: BenchConfig) -> None:
    """Copies of the user's files, or drawings, in a folder without anything else."""
    pictures.mkdir()
    if config.input is None:
        for number in range(config.num_images):
            rng = np.random.default_rng([0, number])
            picture = drawings.draw("cat" if number % 2 else "dog", rng)
            picture.convert("RGB").save(pictures / f"{number:05}.jpg", quality=90)
        return
    entries = list(listing.pictures(config.input))
    if not entries:
        raise InputError(f"expected images in {config.input}, found none")
    for number in range(config.num_images):
        entry = entries[number % len(entries)]
        suffix = os.path.splitext(entry.path)[1]
        # A byte of its own at the end, so that a file that is used twice is not recognised as the same.
        data = storage.read_listed(config.input, entry.path).data + number.to_bytes(4, "little")
        (pictures / f"{number:05}{suffix}").write_bytes(data)


def _matrix_product(precision: Precision) -> float:
    """Best GFLOP/s of products of 2,048 x 2,048 matrices in torch (8,192 on a GPU)."""
    device, size = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 2048)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.randn(size, size, device=device, dtype=dtype)

    def multiply() -> None:
        matrix @ matrix
        if device == "cuda":
            torch.cuda.synchronize()

    return _best_rate(multiply, size)


def _matrix_product_of_engine(arithmetic: Arithmetic) -> float:
    """The same in OpenVINO; 0.0 where it is not used."""
    if arithmetic.engine == "torch":
        return 0.0
    size = 2048
    product = engine.load_product(size, arithmetic, os.cpu_count() or 1)
    values = np.random.default_rng(0).random((size, size), np.float32)
    return _best_rate(lambda: product(values), size)


def _best_rate(multiply: Callable[[], object], size: int) -> float:
    """GFLOP/s of the fastest of five calls, after one that does not count."""
    seconds = []
    for _ in range(6):
        started = time.monotonic()
        multiply()
        seconds.append(time.monotonic() - started)
    return 2 * size**3 / min(seconds[1:]) / 1e9


def _names(pictures: Path) -> list[str]:
    return sorted(path.name for path in pictures.iterdir())


def _reading(pictures: Path) -> float:
    names = _names(pictures)
    started = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(lambda name: storage.read(str(pictures / name)), names))
    return len(names) / (time.monotonic() - started)


def _decoding(pictures: Path) -> float:
    names, preprocess = _names(pictures), RECIPES["frozen"].preprocess
    started = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(lambda name: fetch(str(pictures), name, preprocess), names))
    return len(names) / (time.monotonic() - started)


def _plain_loop(pictures: Path, frozen: Frozen) -> float:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    extract = frozen.prepare(device)
    names = _names(pictures)[:64]

    def one_pass(names: list[str]) -> None:
        for start in range(0, len(names), _BATCH_SIZE):
            fetched = [fetch(str(pictures), name, frozen.preprocess) for name in names[start : start + _BATCH_SIZE]]
            pixels = [file.pixels for file in fetched if file.pixels is not None]
            extract(torch.stack(pixels).to(device)).cpu()

    one_pass(names[:_BATCH_SIZE])
    started = time.monotonic()
    one_pass(names)
    return len(names) / (time.monotonic() - started)


def _features(files: list[File], arithmetic: Arithmetic, tensors: dict[str, torch.Tensor], folder: Path) -> float:
    recipe, pictures = RECIPES["frozen"], folder / "pictures"
    frozen = Frozen(5, recipe.preprocess, arithmetic, tensors=tensors)
    # The actors load them from here, wherever the cache is.
    weights_file = folder / "weights.safetensors"
    weights_file.write_bytes(save_safetensors(tensors))
    cut = Cut(str(weights_file), str(folder / "cache"), 5, recipe.preprocess, arithmetic, frozen.digest())
    plan = features.plan([(files, ("plain",))], cut)
    actors = launch.nodes().pool(None, len(plan))
    with Progress("features", len(files), num_parallel=actors.num_actors) as progress:
        features.run(plan, str(pictures), cut, actors, progress)
        return progress.rate()


def _scoring(arithmetic: Arithmetic, tensors: dict[str, torch.Tensor], config: BenchConfig, folder: Path) -> Scored:
    recipe = RECIPES["frozen"]
    trainable = Trainable(5, recipe.preprocess, recipe.head, 1)
    trainable.head.initialize(generator(0))
    draft = Draft(
        classes=Classes(("cat", "dog")),
        frozen_blocks=5,
        preprocess=recipe.preprocess,
        head=recipe.head,
        arithmetic=arithmetic,
        training={"recipe": digest(recipe), "num_train": 0, "num_val": 0},
        metrics={"val_accuracy": 0.0, "val_loss": 0.0},
        reference={},
    )
    model.save(folder / "model", tensors, trainable, draft)
    score = ScoreConfig(
        model=str(folder / "model"),
        input=str(folder / "pictures"),
        output=str(folder / "scores.parquet"),
        engine=config.engine,
        precision=config.precision,
    )
    return scoring.score(score)
