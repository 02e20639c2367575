"""Every picture of a folder decoded once, and what the doctor keeps of it: a few numbers and a small grey picture."""

import dataclasses
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tlearn.config import PreprocessConfig
from tlearn.console import Progress
from tlearn.data import images, kinds, looks, reading
from tlearn.data.manifest import File

SMALL = 64
"""Pixels on each side of the small grey picture, whatever the picture's aspect."""
_WHOLE = PreprocessConfig(image_size=SMALL, resize="squash")
_MAKER, _MODEL = 0x010F, 0x0110
_BORDER_SHARE = 20
"""The border is as wide as this part of the picture."""

Grey = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A picture as it was decoded."""

    file: File
    width: int
    """In pixels as stored, like the height."""
    height: int
    format: str
    """JPEG, PNG, ..."""
    camera: str
    """Maker and model in its EXIF; empty where there are none."""
    brightness: float
    sharpness: float
    darkest: float
    """Under which a hundredth of its grey lies, from 0 to 1."""
    lightest: float
    """Over which a hundredth of its grey lies."""
    border: tuple[float, float, float]
    """Mean colour of its border, from 0 to 1."""
    small: Grey
    """(SMALL, SMALL) uint8: the grey of the whole picture."""

    @property
    def contrast(self) -> float:
        """Of the small picture, in which noise is averaged away: 0 is one colour."""
        return float(self.small.std()) / 255


def look(data: str, files: Sequence[File], preprocess: PreprocessConfig) -> tuple[list[File], list[Seen]]:
    """The files with their sha256, or why they give no picture; and what is seen of the others, in their order."""
    judged, seen = [], []
    with ThreadPoolExecutor(os.cpu_count()) as threads, Progress("checked", len(files)) as progress:
        for file in threads.map(lambda file: _look(data, file, preprocess), files):
            progress.advance(1)
            judged.append(file.file if isinstance(file, Seen) else file)
            seen += [file] if isinstance(file, Seen) else []
    return judged, seen


def again(data: str, files: Sequence[File], preprocess: PreprocessConfig) -> Iterator[Seen | None]:
    """The same of some files, in their order; None where one can no longer be read."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for file in threads.map(lambda file: _look(data, file, preprocess), files):
            yield file if isinstance(file, Seen) else None


def _look(data: str, file: File, preprocess: PreprocessConfig) -> Seen | File:
    """What is seen of a file; the file with the reason where it gives no picture."""
    content = reading.read(data, file.path, preprocess.max_bytes)
    if isinstance(content, reading.NotRead):
        return dataclasses.replace(file, status=content.status, error=content.error)
    sha256 = content.sha256 if len(content.data) <= preprocess.max_bytes else None
    file = dataclasses.replace(file, sha256=sha256)
    try:
        return _seen(file, content.data, images.decode_for(content.data, preprocess), preprocess)
    except images.ImageError as error:
        return dataclasses.replace(file, status=error.status, error=str(error))
    except (MemoryError, RuntimeError) as error:  # want of memory, in the words of Python and of torch
        return dataclasses.replace(file, status="unreadable", error=reading.reason(error))


def _seen(file: File, data: bytes, picture: images.Picture, preprocess: PreprocessConfig) -> Seen:
    pixels = images.resize(picture.pixels, preprocess)
    darkest, lightest = np.percentile(looks.grey(pixels), (1, 99))
    whole = images.resize(picture.pixels, _WHOLE).numpy()
    wide = max(SMALL // _BORDER_SHARE, 1)
    inner = np.zeros((SMALL, SMALL), bool)
    inner[wide:-wide, wide:-wide] = True
    red, green, blue = (whole[:, ~inner].mean(1) / 255).tolist()
    return Seen(
        file=file,
        width=picture.width,
        height=picture.height,
        format=kinds.of(data).name,
        camera=_camera(data),
        brightness=looks.brightness(pixels),
        sharpness=looks.sharpness(pixels),
        darkest=float(darkest),
        lightest=float(lightest),
        border=(red, green, blue),
        small=np.rint(255 * looks.grey(whole)).astype(np.uint8),
    )


def _camera(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif()
    except Exception:  # what Pillow cannot open has no EXIF that it could read; damaged EXIF is as good as none
        return ""
    return " ".join(str(exif[tag]).strip("\0 ") for tag in (_MAKER, _MODEL) if tag in exif)
