"""The files that a page shows pictures from: pictures.parquet, a row a picture; layers.parquet, a row an image.

A row of `pictures` is what is known of a picture without opening it, and what opening it once more gives: its looks and
a thumbnail, of the square that the network sees. A file that is gone by then has a row without them.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from tlearn.config import PreprocessConfig
from tlearn.data import looks
from tlearn.data.fetch import fetch
from tlearn.data.thumbnails import thumbnail
from tlearn.errors import StorageError

_LEAST_SHOWN, _MOST_SHOWN = 500, 5000
"""Pictures of a wall; a page of 5,000 stays below 10 MB."""
_NUM_PROBABILITIES = 250_000
"""Of all pictures and classes together, beyond which fewer are shown."""
_THUMBNAIL_BYTES = 4_500_000
"""Of all thumbnails together; in a page they take a third more."""

PICTURES = pa.schema(
    [
        ("path", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("prediction", pa.string()),
        ("probability", pa.float32()),
        ("probabilities", pa.map_(pa.string(), pa.float32())),
        ("raw", pa.map_(pa.string(), pa.float32())),
        ("status", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("format", pa.string()),
        ("brightness", pa.float32()),
        ("contrast", pa.float32()),
        ("sharpness", pa.float32()),
        ("typicality", pa.float32()),
        ("nearest", pa.list_(pa.struct({"path": pa.string(), "label": pa.string(), "similarity": pa.float32()}))),
        ("cluster", pa.int32()),
        ("attention", pa.binary()),
        ("attention_rows", pa.int16()),
        ("thumbnail", pa.binary()),
    ]
)
OPENED = ("width", "height", "bytes", "format", "brightness", "contrast", "sharpness", "thumbnail")
"""Those that follow from the content of a file."""
LAYERS = pa.schema(
    [
        ("view", pa.string()),
        ("block", pa.int8()),
        ("channel", pa.int32()),
        ("rank", pa.int16()),
        ("path", pa.string()),
        ("value", pa.float32()),
        ("image", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is known of a picture without opening it."""

    path: str
    split: str
    """train, val, test or scored."""
    label: str | None = None
    prediction: str | None = None
    """None for a picture that is shown only because others are like it."""
    probability: float | None = None
    """Of the prediction."""
    probabilities: dict[str, float] | None = None
    """Calibrated, of every class."""
    raw: dict[str, float] | None = None
    """The same before calibration."""
    status: str = "scored"
    typicality: float | None = None
    """Mean cosine of its features to those of the 10 most similar pictures of its predicted class."""
    nearest: tuple[dict[str, Any], ...] = ()
    """Path, label and similarity of the most similar training pictures, the most similar first."""
    cluster: int | None = None
    attention: np.ndarray[Any, Any] | None = None
    """(rows, columns) uint8: where the network sees what speaks for the prediction."""


def most_shown(num_classes: int) -> int:
    """How many pictures a wall has at most."""
    return max(min(_NUM_PROBABILITIES // num_classes, _MOST_SHOWN), _LEAST_SHOWN)


def worth_showing(certainty: np.ndarray[Any, Any], most: int) -> np.ndarray[Any, Any]:
    """Rows of at most so many pictures, in their order: half of them the least certain, half spread over the rest."""
    if len(certainty) <= most:
        return np.arange(len(certainty))
    order = np.argsort(certainty, kind="stable")
    first, rest = order[: most // 2], np.sort(order[most // 2 :])
    spread = rest[np.arange(most - len(first)) * len(rest) // (most - len(first))]
    return np.sort(np.concatenate([first, spread]))


def table(
    pictures: Sequence[Picture],
    folder: str,
    preprocess: PreprocessConfig,
    known: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> pa.Table:
    """In PICTURES, of pictures of a folder. What is not `known` of them by path, `opened` gives."""
    missing = [picture.path for picture in pictures if picture.path not in known]
    looks = {**known, **opened(missing, folder, preprocess, len(pictures))}
    return pa.Table.from_pylist([_row(picture) | looks[picture.path] for picture in pictures], PICTURES)


def opened(paths: Sequence[str], folder: str, preprocess: PreprocessConfig, count: int) -> dict[str, dict[str, Any]]:
    """By path the columns that opening a picture gives, in threads; its thumbnail is one of so many on a page."""
    max_bytes = _THUMBNAIL_BYTES // max(count, 1)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        looks = threads.map(lambda path: _opened(folder, path, preprocess, max_bytes), paths)
        return dict(zip(paths, looks, strict=True))


def _row(picture: Picture) -> dict[str, Any]:
    row = {name: getattr(picture, name) for name in Picture.__slots__}
    seen = picture.attention
    return row | {
        "attention": None if seen is None else seen.tobytes(),
        "attention_rows": None if seen is None else len(seen),
    }


def _opened(folder: str, path: str, preprocess: PreprocessConfig, max_bytes: int) -> dict[str, Any]:
    """The columns that opening a picture gives; none where it cannot be opened."""
    try:
        fetched = fetch(folder, path, preprocess)
    except StorageError:  # which is no reason to have no page
        return {}
    if fetched.pixels is None:
        return {}
    return {
        "width": fetched.width,
        "height": fetched.height,
        "bytes": fetched.size,
        "format": fetched.kind,
        "brightness": looks.brightness(fetched.pixels),
        "contrast": looks.contrast(fetched.pixels),
        "sharpness": looks.sharpness(fetched.pixels),
        "thumbnail": thumbnail(fetched.pixels, max_bytes),
    }
