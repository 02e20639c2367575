"""How well the status `unknown` finds pictures of other things than the classes: strangers that are drawn here.

python tests/benchmarks/strangers.py runs/a/model photos/test

Each kind of stranger is compared with the pictures of the folder by `novelty` (area under the ROC curve), and its
share with the status `unknown` is counted beside the share of the folder that is lost. Blurred, inverted and turned
pictures of the folder itself are reported too: these are no strangers, and hard.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps

import tlearn
from tlearn.demo import drawings
from tlearn.evaluation.quality import roc_area
from tlearn.scoring.predict import Predictor

_NUM_OF_KIND = 60
_SIDE = 320

Rng = np.random.Generator
Draw = Callable[[Rng], Image.Image]


def _field(rng: Rng, scale: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """(side, side) from 0 to 1: smooth noise whose grains are `scale` pixels long."""
    small = Image.fromarray(rng.random((max(_SIDE // scale, 2),) * 2).astype(np.float32))
    field = np.asarray(small.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))
    return (field - field.min()) / max(float(np.ptp(field)), 1e-6)


def _coloured(rng: Rng, field: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Image.Image:
    low, high = rng.integers(0, 256, (2, 3))
    return Image.fromarray((low + field[..., None] * (high - low).astype(np.float32)).astype(np.uint8))


def texture(rng: Rng) -> Image.Image:
    """Cloud, wood, weave or fur: noise of several grain sizes, bent, crossed or stretched."""
    field = sum((_field(rng, scale) / 2**i for i, scale in enumerate((96, 32, 12, 4))), np.zeros((_SIDE, _SIDE)))
    match rng.integers(4):
        case 0:
            field = np.sin(field * rng.uniform(10, 40)) / 2 + 0.5
        case 1:
            y, x = np.mgrid[:_SIDE, :_SIDE] / rng.uniform(3, 12)
            field = np.sin(x + field) * np.sin(y + field) / 2 + 0.5
        case 2:
            strands = Image.fromarray(rng.random((_SIDE, _SIDE // 16)).astype(np.float32))
            field = np.asarray(strands.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)) + field / 2
    return _coloured(rng, (field / field.max()).astype(np.float32))


def text(rng: Rng) -> Image.Image:
    """A page of made-up words."""
    image = Image.new("RGB", (_SIDE, _SIDE), tuple(rng.integers(200, 256, 3).tolist()))
    draw, size = ImageDraw.Draw(image), int(rng.integers(10, 34))
    letters = np.array(list("etaoinshrdlucmfwypvbgkETAOIN0123456789"))
    for y in range(8, _SIDE, int(size * 1.4)):
        words = ["".join(rng.choice(letters, int(rng.integers(2, 9)))) for _ in range(12)]
        draw.text((8, y), " ".join(words), fill=tuple(rng.integers(0, 90, 3).tolist()), font_size=size)
    return image


def wall(rng: Rng) -> Image.Image:
    """One colour, unevenly lit, with a little of a camera's noise."""
    light = 0.8 + 0.2 * _field(rng, 160)
    colour = rng.integers(60, 256, 3)
    pixels = colour * light[..., None] + rng.normal(0, rng.uniform(0, 4), (_SIDE, _SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def noise(rng: Rng) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8))


def things(rng: Rng) -> Image.Image:
    """Boxes and balls on a floor, with shadows."""
    image = _coloured(rng, _field(rng, 120))
    for _ in range(int(rng.integers(2, 7))):
        x, y = rng.integers(20, _SIDE - 60, 2).tolist()
        width, height = rng.integers(40, 140, 2).tolist()
        shade = Image.new("L", image.size)
        ImageDraw.Draw(shade).ellipse((x, y + height - 12, x + width + 20, y + height + 16), fill=120)
        image.paste((20, 20, 20), mask=shade.filter(ImageFilter.GaussianBlur(6)))
        draw, colour = ImageDraw.Draw(image), tuple(rng.integers(0, 256, 3).tolist())
        outline = draw.rectangle if rng.random() < 0.5 else draw.ellipse
        outline((x, y, x + width, y + height), fill=colour)
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.5))))


def _drawn(kind: drawings.Kind) -> Draw:
    return lambda rng: drawings.draw(kind, rng)


STRANGERS: dict[str, Draw] = {
    "drawn cats": _drawn("cat"),
    "drawn dogs": _drawn("dog"),
    "drawn rabbits": _drawn("rabbit"),
    "textures": texture,
    "text": text,
    "blank walls": wall,
    "noise": noise,
    "things": things,
}
ALTERED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(min(image.size) / 40)),
    "inverted": ImageOps.invert,
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "upside down": lambda image: image.transpose(Image.Transpose.ROTATE_180),
}


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def kinds(folder: Path) -> Iterator[tuple[str, list[Image.Image]]]:
    """Each kind of stranger, then each way in which pictures of the folder are altered."""
    for name, draw in STRANGERS.items():
        rng = np.random.default_rng(0)
        yield name, [draw(rng) for _ in range(_NUM_OF_KIND)]
    pictures = [Image.open(path).convert("RGB") for path in _pictures(folder)[:_NUM_OF_KIND]]
    for name, alter in ALTERED.items():
        yield name, list(map(alter, pictures))


def judged(model: Predictor, paths: list[Path]) -> tuple[torch.Tensor, float]:
    """Novelty of each picture that was scored, and the share of them that is unknown."""
    rows = [row for row in model.predict(paths) if row.novelty is not None]
    return torch.tensor([row.novelty for row in rows]), sum(row.status == "unknown" for row in rows) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    model = tlearn.load(options.model)
    known, lost = judged(model, _pictures(options.folder))
    print(f"{len(known)} pictures of {options.folder}: {lost:.1%} unknown")
    print(f"{'':<22} {'AUROC':>7} {'unknown':>8}")
    for name, images in kinds(options.folder):
        with tempfile.TemporaryDirectory() as temporary:
            paths = [Path(temporary) / f"{number}.png" for number in range(len(images))]
            for image, path in zip(images, paths, strict=True):
                image.save(path)
            strange, found = judged(model, paths)
        novelty = torch.cat([known, strange])
        is_strange = torch.arange(len(novelty)) >= len(known)
        print(f"{name:<22} {roc_area(novelty, is_strange):>7.4f} {found:>8.1%}")


if __name__ == "__main__":
    main()
