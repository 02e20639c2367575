"""Pictures that are one picture: mirrored, rescaled, recompressed, blurred or cropped.

Pairs are proposed by what is cheap to compare with all others, the grey of the whole picture or its features, and
looked at again: only where the grey of one is found in the other, and its edges too, they are one picture. Two
photographs of one kind look alike to a network; their edges are elsewhere.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tlearn.doctor.seen import SMALL, Seen

Grey = np.ndarray[Any, np.dtype[Any]]

_COARSE = 16
_GREY_ALIKE = 0.93
"""Correlation of the greys of two pictures in _COARSE x _COARSE from which they are looked at again. Of 2,600
photographs of cats and dogs no two different ones have more than 0.87."""
_FEATURES_ALIKE = 0.89
"""Cosine of the features from which they are. A crop of 70% of both sides has this or more."""
_NUM_NEAREST, _MAX_PAIRS = 2, 500
_BLOCK = 1024
_SCALES, _SCALES_BETWEEN = (1.0, 0.9, 0.8, 0.7, 0.6), (0.95, 0.85, 0.75, 0.65)
"""Share of the larger picture's side that a crop has; the others are tried where the first promise something."""
_WORTH_MORE = 0.75
_FOUND = 0.91
"""Correlation of the greys. Crops have 0.95 to 0.99, different photographs that a network finds alike 0.87 at most."""
_EDGES, _EDGES_INSIDE = 0.5, 0.35
"""Correlation of the edges all over, and in the middle."""
_PLAIN = 0.05
"""Edges that vary less are none."""
_FAINT = 0.01
"""An edge of this strength counts half; of grey from 0 to 1."""
_FLAT = 0.008
"""Contrast of a small picture, of one colour but for noise, that is no copy of any other."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures, by their number, that are one."""

    first: int
    second: int
    similarity: float


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """A part of a picture, and another picture, in its size, that was compared with it."""

    correlation: float
    whole: Grey
    part: Grey


Look = Callable[[Sequence[int]], Mapping[int, Seen]]
"""Numbers of pictures to what is seen of them, as far as they can be read."""


def by_grey(seen: Sequence[Seen]) -> list[tuple[int, int]]:
    """Pairs to look at again, whose greys are alike as they are or mirrored."""
    if not seen:
        return []
    small = torch.from_numpy(np.stack([one.small for one in seen])).float()[:, None]
    coarse = F.adaptive_avg_pool2d(small, _COARSE)
    keys, mirrored = _directions(coarse), _directions(coarse.flip(3))
    found: set[tuple[int, int]] = set()
    for others in (keys, mirrored):
        found |= {(i, j) for i, j, _ in _alike(keys, others, _GREY_ALIKE, _NUM_NEAREST)}
    return sorted(found)


def by_features(points: Tensor) -> list[tuple[int, int]]:
    """Pairs to look at again, the most alike: each picture with its nearest ones, of points (N, channels)."""
    pairs = sorted(_alike(points, points, _FEATURES_ALIKE, _NUM_NEAREST), key=lambda pair: -pair[2])
    return list(dict.fromkeys((i, j) for i, j, _ in pairs))[:_MAX_PAIRS]


def verified(pairs: Sequence[tuple[int, int]], look: Look) -> list[Pair]:
    """Those that are one picture."""
    seen = look(sorted({number for pair in pairs for number in pair}))
    found = []
    for i, j in pairs:
        if i in seen and j in seen:
            similarity = _similarity(seen[i], seen[j])
            found += [Pair(i, j, similarity)] if similarity else []
    return found


def groups(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Of each of so many pictures the smallest number of those that it is one picture with, by way of others too."""
    parent = list(range(count))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    for i, j in pairs:
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    return [root(number) for number in range(count)]


def _alike(keys: Tensor, others: Tensor, least: float, most: int) -> Iterator[tuple[int, int, float]]:
    """Of each of keys (N, channels) at most so many of others (N, channels), not itself, with their cosine."""
    for start in range(0, len(keys), _BLOCK):
        cosines = keys[start : start + _BLOCK] @ others.T
        rows = torch.arange(len(cosines))
        cosines[rows, rows + start] = -1.0
        best = cosines.topk(min(most, cosines.shape[1]))
        for row, column in (best.values >= least).nonzero().tolist():
            i, j = start + row, int(best.indices[row, column])
            yield min(i, j), max(i, j), float(best.values[row, column])


def _directions(images: Tensor) -> Tensor:
    """(N, pixels) of unit length and mean 0; zeros where there is no contrast."""
    flat = images.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    is_flat = flat.std(1, keepdim=True) < 255 * _FLAT
    return F.normalize(flat).masked_fill(is_flat, 0.0)


def _similarity(one: Seen, other: Seen) -> float:
    """How alike the greys are where one is found in the other, as it is or mirrored; 0.0 where it is not."""
    if min(one.contrast, other.contrast) < _FLAT:
        return 0.0
    a, b = (each.small.astype(np.float32) / 255 for each in (one, other))
    stretch = (one.width / one.height) / (other.width / other.height)
    views = [(b, a, stretch), (a, b, 1 / stretch)]
    return max(_found(whole, view, ratio) for whole, part, ratio in views for view in (part, part[:, ::-1]))


def _found(whole: Grey, part: Grey, stretch: float) -> float:
    """The best correlation of a picture with a window of another; both are (SMALL, SMALL).

    `stretch` is the aspect of the part by that of the whole: of this shape is a window in the squashed whole. Windows
    of the whole picture are tried too: what was squeezed into another shape is a copy as well.
    """
    best = _Window(0.0, part, part)
    for scales in (_SCALES, _SCALES_BETWEEN):
        sizes = [tuple(round(SMALL * scale * min(1.0, side)) for side in (1 / stretch, stretch)) for scale in scales]
        for height, width in dict.fromkeys([(SMALL, SMALL), *sizes]):
            if min(height, width) >= SMALL // 3:
                best = max(best, _window(whole, _scaled(part, height, width)), key=lambda window: window.correlation)
        if best.correlation < _WORTH_MORE:
            return 0.0
    return best.correlation if best.correlation >= _FOUND and _have_same_edges(best) else 0.0


def _have_same_edges(window: _Window) -> bool:
    """All over, and in the middle, unless there are none: two pictures may share a frame."""
    whole, part = _edges(window.whole), _edges(window.part)
    height, width = (side // 5 for side in part.shape)
    inner_whole, inner_part = (edges[height:-height, width:-width] for edges in (whole, part))
    is_plain = max(inner_whole.std(), inner_part.std()) < _PLAIN
    inside = _EDGES if is_plain else _correlations(inner_whole, inner_part).item()
    return _correlations(whole, part).item() >= _EDGES and inside >= _EDGES_INSIDE


def _window(whole: Grey, part: Grey) -> _Window:
    """Where the part correlates most."""
    correlations = _correlations(whole, part)
    row, column = divmod(int(correlations.argmax()), correlations.shape[1])
    window = whole[row : row + part.shape[0], column : column + part.shape[1]]
    return _Window(float(correlations[row, column]), window, part)


def _correlations(whole: Grey, part: Grey) -> Grey:
    """(rows, columns) of the correlations of a part with every window of the whole."""
    (height, width), size = part.shape, part.size
    template = part - part.mean()
    template /= max(float(np.linalg.norm(template)), 1e-6)
    spectrum = np.fft.rfft2(whole) * np.fft.rfft2(template, whole.shape).conj()
    rows, columns = whole.shape[0] - height + 1, whole.shape[1] - width + 1
    products = np.fft.irfft2(spectrum, whole.shape)[:rows, :columns]
    sums, squares = (_window_sums(values, height, width) for values in (whole, whole * whole))
    spread: Grey = np.sqrt(np.maximum(squares - sums * sums / size, 1e-6 * size))
    return products / spread


def _window_sums(values: Grey, height: int, width: int) -> Grey:
    """(rows, columns) of the sums of every window of this size."""
    sums = np.pad(values.astype(np.float64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    found: Grey = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    return found


def _scaled(image: Grey, height: int, width: int) -> Grey:
    scaled: Grey = np.asarray(
        Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR)
    )
    return scaled


def _edges(image: Grey) -> Grey:
    """(height - 2, width - 2) from -1 to 1: what is not smooth over three pixels, strong edges cut to size.

    So a frame that both pictures have does not outweigh what is in it.
    """
    rough = image[1:-1, 1:-1] - _window_sums(image, 3, 3) / 9
    return rough / (np.abs(rough) + _FAINT)
