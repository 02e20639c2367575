"""The wall of pictures: read from pictures.parquet, and as the script of the page wants them."""

import base64
import contextlib
import dataclasses
import io
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageOps

from tlearn import storage

_MIME = {b"\xff\xd8": "image/jpeg", b"\x89P": "image/png", b"RI": "image/webp"}
"""By the first two bytes; nothing else is shown."""
_MAX_THUMBNAIL_BYTES = 4_800_000
_MAX_LAYER_BYTES = 1_200_000
"""All thumbnails, all figures of layers: as base64 they and 5,000 rows stay under 10 MB."""
_NUM_FROM_FILES = 24
"""Thumbnails that are made here where a run has none."""
_TOP = 5
"""Classes of a picture whose probability is shown."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A row of pictures.parquet; None and empty where a run does not know."""

    path: str
    split: str = "val"
    label: str | None = None
    prediction: str | None = None
    probability: float | None = None
    probabilities: Mapping[str, float] = dataclasses.field(default_factory=dict)
    raw: Mapping[str, float] | None = None
    status: str = "scored"
    width: int | None = None
    height: int | None = None
    format: str | None = None
    brightness: float | None = None
    contrast: float | None = None
    sharpness: float | None = None
    typicality: float | None = None
    nearest: Sequence[Mapping[str, Any]] = ()
    cluster: int | None = None
    attention: bytes | None = None
    attention_rows: int | None = None
    thumbnail: bytes | None = None

    @property
    def is_wrong(self) -> bool:
        return self.label is not None and self.prediction is not None and self.label != self.prediction

    @property
    def doubt(self) -> float:
        """How likely the label is wrong, from 0 to 1: how much more probable the prediction is than the label.

        Nearest training pictures that have the label of the picture speak for it.
        """
        if not self.is_wrong:
            return 0.0
        margin = (self.probability or 0.0) - self.probabilities.get(str(self.label), 0.0)
        labels = [of["label"] for of in self.nearest]
        return max(margin, 0.0) * (1 - labels.count(self.label) / (len(labels) + 1))


_FIELDS = {field.name for field in dataclasses.fields(Picture)}


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures that a part of the page is about, as places in the wall."""

    kind: str
    name: str
    members: Sequence[int]


def read(location: str) -> list[Picture] | None:
    """What pictures.parquet says; None where there is no such file."""
    rows = rows_of(storage.join(location, "pictures.parquet"))
    return None if rows is None else [picture(row) for row in rows]


def rows_of(location: str) -> list[dict[str, Any]] | None:
    """The rows of a Parquet file; None where there is none."""
    try:
        with storage.open_input(location) as source:
            return pq.read_table(source).to_pylist()  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None


def picture(row: Mapping[str, Any]) -> Picture:
    known = {name: row[name] for name in _FIELDS & row.keys() if row[name] is not None}
    for name in ("probabilities", "raw"):
        known |= {name: dict(known[name])} if name in known else {}
    return Picture(**known)


def of_validation(rows: Sequence[Mapping[str, Any]], data: str) -> list[Picture]:
    """The wall of a run that left no pictures.parquet: thumbnails of the surest mistakes, where the files are."""
    pictures = [picture(row) for row in rows]
    surest = sorted(range(len(rows)), key=lambda n: (not pictures[n].is_wrong, -(pictures[n].probability or 0), n))
    for n in surest[:_NUM_FROM_FILES]:
        if pictures[n].is_wrong:
            pictures[n] = dataclasses.replace(pictures[n], thumbnail=_from_file(data, pictures[n].path))
    return pictures


def _from_file(folder: str, path: str) -> bytes | None:
    """A thumbnail of a picture of the data folder, or nothing if it cannot be had."""
    if path.startswith("/") or ".." in path.split("/"):
        return None
    # The page must come about whatever a file holds, and Pillow raises exceptions of every kind.
    with (
        contextlib.suppress(Exception),
        warnings.catch_warnings(action="ignore"),
        Image.open(io.BytesIO(storage.read_listed(folder, path).data)) as image,
    ):
        upright, buffer = ImageOps.exif_transpose(image), io.BytesIO()
        upright.thumbnail((160, 160))
        # Pillow would copy the photograph's comment.
        upright.convert("RGB").save(buffer, "JPEG", quality=80, comment=b"")
        return buffer.getvalue()
    return None


def _fitting(images: Sequence[bytes | None], max_bytes: int) -> list[bytes | None]:
    """The images: as small WebP where all together are too large, without the last ones where that is not enough."""
    if sum(len(image) for image in images if image) <= max_bytes:
        return list(images)
    smaller = [_as_webp(image) if image else None for image in images]
    sums = itertools.accumulate(len(image) if image else 0 for image in smaller)
    return [image if total <= max_bytes else None for image, total in zip(smaller, sums, strict=True)]


def _as_webp(data: bytes) -> bytes | None:
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "WEBP", quality=50, method=2)
        return buffer.getvalue()
    return None


def _data_uri(image: bytes | None) -> str | None:
    kind = _MIME.get(image[:2]) if image else None
    return f"data:{kind};base64,{base64.b64encode(image).decode()}" if image and kind else None


def content(pictures: Sequence[Picture], classes: Sequence[str], doubts: Mapping[str, float]) -> dict[str, Any]:
    """Columns of the wall for the script, small: classes are numbers, probabilities are millionths.

    `doubts` is what the doctor says of labels, by path; it counts more than what one model says.
    """
    names = list(dict.fromkeys([*classes, *(name for of in pictures for name in _names(of))]))
    index = {name: place for place, name in enumerate(names)}
    places = {of.path: place for place, of in enumerate(pictures)}
    thumbnails = _fitting([of.thumbnail for of in pictures], _MAX_THUMBNAIL_BYTES)
    return {
        "classes": names,
        "path": [of.path for of in pictures],
        "split": [of.split for of in pictures],
        "status": [of.status for of in pictures],
        "label": [index.get(of.label or "", -1) for of in pictures],
        "prediction": [index.get(of.prediction or "", -1) for of in pictures],
        "probability": [_parts(of.probability, 1e6) for of in pictures],
        "top": [_top(of, index) for of in pictures],
        "typical": [_parts(of.typicality, 1e4) for of in pictures],
        "doubt": [_parts(of.doubt + doubts.get(of.path, 0.0), 1e3) for of in pictures],
        "nearest": [_nearest(of, places, index) for of in pictures],
        "size": [f"{of.width} \u00d7 {of.height}" if of.width and of.height else "" for of in pictures],
        "looks": [[_parts(value, 1e3) for value in (of.brightness, of.contrast, of.sharpness)] for of in pictures],
        "attention": [base64.b64encode(of.attention).decode() if of.attention else None for of in pictures],
        "rows": [of.attention_rows or 0 for of in pictures],
        "thumbnail": [_data_uri(image) for image in thumbnails],
    }


def _names(of: Picture) -> list[str]:
    return [name for name in (of.label, of.prediction, *(near["label"] for near in of.nearest)) if name is not None]


def _parts(value: float | None, scale: float) -> int | None:
    return None if value is None or not math.isfinite(value) else round(value * scale)


def _top(of: Picture, index: Mapping[str, int]) -> list[int]:
    """Class and millionths of the most probable classes, one after the other."""
    known = [(name, part) for name, value in of.probabilities.items() if (part := _parts(value, 1e6)) is not None]
    most = sorted(known, key=lambda pair: -pair[1])[:_TOP]
    return [number for name, part in most if name in index for number in (index[name], part)]


def _nearest(of: Picture, places: Mapping[str, int], index: Mapping[str, int]) -> list[list[Any]]:
    """Place in the wall (or the path, where it is not there), class and thousandths of similarity of each."""
    return [
        [places.get(near["path"], near["path"]), index.get(near["label"], -1), _parts(near["similarity"], 1e3)]
        for near in of.nearest
    ]


def layers(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of layers.parquet for the script."""
    images = _fitting([row["image"] for row in rows], _MAX_LAYER_BYTES)
    return [
        {
            **{name: row[name] for name in ("view", "block", "channel", "rank", "path")},
            "value": _parts(row["value"], 1e3),
            "image": uri,
        }
        for row, image in zip(rows, images, strict=True)
        if (uri := _data_uri(image))
    ]
