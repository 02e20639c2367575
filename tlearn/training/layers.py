"""The figure of a run's page that shows what the layers respond to, block by block: layers.parquet.

view "picture"   a chosen validation picture and the channels of each block that stand out in it: the picture, lit where
                 the channel responds
view "channel"   of each block the channels that differ most between the classes, and the pictures that each responds to
                 most: cut out, what the strongest position sees
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tlearn.config import TrainConfig
from tlearn.data.fetch import fetch
from tlearn.data.thumbnails import encoded
from tlearn.errors import StorageError
from tlearn.evaluation import metrics
from tlearn.network import explain
from tlearn.report.pictures import LAYERS
from tlearn.training.gallery import Judged

if TYPE_CHECKING:
    from tlearn.training.fit import Learned

_NUM_PIXELS = 20 * 240 * 240
"""Of all pictures that run through the network: 20 of the usual size, which take two cores two seconds in bf16."""
_MAX_PICTURES = 64
_MAX_CHOSEN = 12
_CHANNELS_OF_PICTURE = 4
_CHANNELS_OF_BLOCK = 8
_PICTURES_OF_CHANNEL = 6
_PICTURE_SIDE, _CROP_SIDE = 96, 64
_BATCH_SIZE = 8
_DARK = 0.15
"""Brightness of a picture where a channel does not respond."""


def table(config: TrainConfig, learned: "Learned", val: Judged) -> pa.Table | None:
    """In LAYERS; None where the pictures are too large, or too few can be read."""
    size = config.preprocess.image_size
    most = min(_NUM_PIXELS // size**2, _MAX_PICTURES)
    order = _order(val, learned)[:most]
    pixels, labels, paths = [], [], []
    with ThreadPoolExecutor() as threads:
        files = [val.files[row] for row in order]
        for file, image in zip(files, threads.map(lambda file: _pixels(config, file.path), files), strict=True):
            if image is not None:
                pixels.append(image)
                labels.append(learned.listing.classes.indices[file.label])
                paths.append(file.path)
    if len(pixels) < 2:
        return None
    parts = (learned.frozen.layers, learned.trainable.layers)
    layers = nn.Sequential(OrderedDict(layer for part in parts for layer in part.named_children()))
    run = explain.responses(layers, config.preprocess)
    images = torch.stack(pixels)
    small = interpolate(images, (_PICTURE_SIDE, _PICTURE_SIDE), mode="bilinear", antialias=True)
    blocks = zip(*(run(batch) for batch in images.split(_BATCH_SIZE)), strict=True)
    rows: list[dict[str, Any]] = []
    for number, maps in enumerate(blocks, 1):
        block = _Block(number, torch.cat(maps), images, small, paths)
        rows += block.of_pictures(min(_MAX_CHOSEN, len(paths)))
        rows += block.of_channels(torch.tensor(labels), explain.Field.of(config.arch, number))
    return pa.Table.from_pylist(rows, LAYERS)


def _pixels(config: TrainConfig, path: str) -> Tensor | None:
    try:
        return fetch(config.data, path, config.preprocess).pixels
    except StorageError:
        return None


def _order(val: Judged, learned: "Learned") -> list[int]:
    """Rows of validation pictures, the ones to choose first: the surest mistakes, then the surest of class by class."""
    labels = val.labels(learned.listing.classes.indices)
    confidence = metrics.probabilities(val.logits).amax(1)
    is_wrong = metrics.predictions(val.logits) != labels
    surest = confidence.argsort(descending=True, stable=True).tolist()
    mistakes = [row for row in surest if is_wrong[row]][: _MAX_CHOSEN // 2]
    right: list[list[int]] = [[] for _ in learned.listing.classes.names]
    for row in surest:
        if not is_wrong[row]:
            right[int(labels[row])].append(row)
    turns = sorted((turn, label, row) for label, rows in enumerate(right) for turn, row in enumerate(rows))
    return [*mistakes, *(row for _, _, row in turns)]


@dataclass(frozen=True, slots=True)
class _Block:
    """What a block made of some pictures."""

    number: int
    """From 1."""
    maps: Tensor
    """(pictures, channels, side, side)"""
    images: Tensor
    """(pictures, 3, size, size) uint8"""
    small: Tensor
    """(pictures, 3, 96, 96) uint8: the same"""
    paths: Sequence[str]

    def of_pictures(self, count: int) -> Iterator[dict[str, Any]]:
        """The first so many pictures, each with the channels that respond to it most beyond their usual."""
        means = self.maps.float().mean((2, 3))
        beyond = (means - means.mean(0)) / means.std(0).clamp(min=1e-6)
        chosen = beyond[:count].topk(_CHANNELS_OF_PICTURE).indices
        lit = self._lit(chosen)
        for picture, channels in enumerate(chosen.tolist()):
            for rank, channel in enumerate(channels):
                yield self._row("picture", channel, rank, picture, encoded(lit[picture, rank], _PICTURE_SIDE))

    def of_channels(self, labels: Tensor, field: explain.Field) -> Iterator[dict[str, Any]]:
        """The channels whose mean differs most between the classes (pictures,), each with its strongest pictures."""
        telling = _between(self.maps.float().mean((2, 3)), labels)
        for channel in telling.topk(min(_CHANNELS_OF_BLOCK, len(telling))).indices.tolist():
            peaks = self.maps[:, channel].flatten(1).float().max(1)
            strongest = peaks.values.topk(min(_PICTURES_OF_CHANNEL, len(peaks.values))).indices.tolist()
            for rank, picture in enumerate(strongest):
                row, column = divmod(int(peaks.indices[picture]), self.maps.shape[3])
                top, left, side = field.square(row, column, self.images.shape[2])
                seen = self.images[picture, :, top : top + side, left : left + side]
                yield self._row("channel", channel, rank, picture, encoded(seen, _CROP_SIDE))

    def _row(
        self, view: Literal["picture", "channel"], channel: int, rank: int, picture: int, image: bytes
    ) -> dict[str, Any]:
        return {
            "view": view,
            "block": self.number,
            "channel": channel,
            "rank": rank,
            "path": self.paths[picture],
            "value": self.maps[picture, channel].max().item(),
            "image": image,
        }

    def _lit(self, chosen: Tensor) -> Tensor:
        """(pictures, n, 3, 96, 96) uint8: the first pictures, dark where channels (pictures, n) do not respond."""
        maps = self.maps[torch.arange(len(chosen))[:, None], chosen].float()
        response = interpolate(maps, self.small.shape[2:], mode="bilinear")
        # The root, because beside its peak little else would be seen.
        light = _DARK + (1 - _DARK) * (response / response.amax((2, 3), keepdim=True).clamp(min=1e-6)).sqrt()
        return (self.small[: len(chosen), None] * light[:, :, None]).round().to(torch.uint8)


def _between(values: Tensor, labels: Tensor) -> Tensor:
    """(channels,): the share of the variance of values (pictures, channels) that lies between the classes."""
    counts = labels.bincount().clamp(min=1)[:, None]
    centres = torch.zeros(len(counts), values.shape[1]).index_add(0, labels, values) / counts
    within, total = ((values - centre).square().mean(0) for centre in (centres[labels], values.mean(0)))
    return (total - within) / total.clamp(min=1e-12)
