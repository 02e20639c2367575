"""A folder of drawn cats and dogs, and the faults that tests plant in it."""

import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from tlearn.demo import drawings


def drawn(folder: Path, *, num_train: int, num_val: int, num_test: int, seed: int = 0) -> Path:
    """Cats and dogs in train/, val/ and a flat test/, none of them drawn dark on purpose; all JPEG."""
    counts = {"train/cat": num_train, "train/dog": num_train, "val/cat": num_val, "val/dog": num_val, "test": num_test}
    for place, (into, count) in enumerate(counts.items()):
        (folder / into).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng([seed, place, number])
            kind = "dog" if into.endswith("dog") or (into == "test" and number % 2) else "cat"
            picture = drawings.draw(kind, rng).convert("RGB")
            while np.percentile(np.asarray(picture), 99) < 120:
                picture = drawings.draw(kind, rng).convert("RGB")
            picture.save(folder / into / f"{number:03}.jpg", quality=int(rng.integers(60, 95)))
    return folder


def copy(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def copied(source: Path, target: Path) -> None:
    shutil.copy(source, target)


def mirrored(source: Path, target: Path) -> None:
    Image.open(source).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(target, quality=80)


def rescaled(source: Path, target: Path) -> None:
    picture = Image.open(source)
    picture.resize((picture.width // 2, picture.height // 2)).save(target, quality=50)


def recompressed(source: Path, target: Path) -> None:
    Image.open(source).save(target, quality=10)


def cropped(source: Path, target: Path, share: float = 0.8) -> None:
    picture = Image.open(source)
    left, top = (int(side * (1 - share) / 2) for side in picture.size)
    picture.crop((left, top, left + int(picture.width * share), top + int(picture.height * share))).save(target)


def squeezed(source: Path, target: Path) -> None:
    picture = Image.open(source)
    picture.resize((picture.width, picture.height // 2)).save(target)


def grey(source: Path, target: Path) -> None:
    Image.open(source).convert("L").save(target)


def brightened(source: Path, target: Path) -> None:
    Image.open(source).point(lambda value: min(255, int(1.2 * value + 10))).save(target)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def blank(path: Path) -> None:
    noise = np.random.default_rng(0).integers(-6, 7, (240, 300, 3))
    Image.fromarray((130 + noise).astype(np.uint8)).save(path)


def blurred(path: Path) -> None:
    Image.open(path).filter(ImageFilter.GaussianBlur(8)).save(path)


def dark(path: Path) -> None:
    Image.open(path).point(lambda value: value // 5).save(path)


def bright(path: Path) -> None:
    Image.open(path).point(lambda value: 200 + value // 5).save(path)


def tiny(path: Path) -> None:
    Image.open(path).resize((24, 20)).save(path)


def long(path: Path) -> None:
    picture = Image.open(path)
    picture.crop((0, 0, picture.width, picture.width // 5)).resize((750, 150)).save(path)


def as_png(folder: Path) -> None:
    """Every picture of a folder, its name kept but for the suffix."""
    for path in sorted(folder.glob("*.jpg")):
        content = path.read_bytes()
        path.unlink()
        Image.open(io.BytesIO(content)).save(path.with_suffix(".png"))


def moved(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)


def of_one_size(path: Path) -> None:
    Image.open(path).resize((250, 210)).save(path)


def framed(path: Path) -> None:
    picture = Image.open(path)
    ImageOps.expand(picture, picture.width // 8, "white").save(path)


def of_one_camera(path: Path) -> None:
    picture = Image.open(path)
    exif = picture.getexif()
    exif[0x010F], exif[0x0110] = "Maker", "Model 1"
    picture.save(path, exif=exif)
