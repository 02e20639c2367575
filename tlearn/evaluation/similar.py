"""Which pictures are alike: nearest ones, how typical each is, groups; by the cosine of their pooled features."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_NUM_TYPICAL = 10
_BLOCK = 1024
"""Pictures that are compared with all others at once."""
_NUM_STEPS = 20


def nearest(pooled: Tensor, others: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of features (N, channels) the most similar of others (M, channels): similarities and rows, (N, at most count).

    Both sorted, the most similar first.
    """
    blocks = [block.topk(min(count, len(others))) for block in _cosines(pooled, others)]
    return torch.cat([block.values for block in blocks]), torch.cat([block.indices for block in blocks])


def typicality(pooled: Tensor, predicted: Tensor, others: Tensor | None, labels: Tensor) -> Tensor:
    """(N,) float32: the mean cosine of each picture's features to the 10 most similar others of its predicted class.

    Of features (N, channels), predictions (N,), others (M, channels) and their classes (M,); without others to each
    other, none to itself. NaN where there is none of that class.
    """
    found, start = [], 0
    for block in _cosines(pooled, pooled if others is None else others):
        if others is None:
            block[torch.arange(len(block)), torch.arange(start, start + len(block))] = -torch.inf
        block[predicted[start : start + len(block), None] != labels] = -torch.inf
        best = block.topk(min(_NUM_TYPICAL, block.shape[1])).values
        found.append(best.masked_fill(best.isinf(), torch.nan).nanmean(1))
        start += len(block)
    return torch.cat(found)


def _cosines(pooled: Tensor, others: Tensor) -> Iterator[Tensor]:
    keys = F.normalize(others.float()).T
    for block in F.normalize(pooled.float()).split(_BLOCK):
        yield block @ keys


def clusters(pooled: Tensor, count: int, seed: int) -> Tensor:
    """(N,) int64: at most `count` groups of features (N, channels), by k-means of their directions.

    Seeded as k-means++ is (Arthur and Vassilvitskii, 2007); the largest group is 0.
    """
    points, generator = F.normalize(pooled.float()), torch.Generator().manual_seed(seed)
    centres = points[torch.randint(len(points), (1,), generator=generator)]
    while len(centres) < min(count, len(points)):
        gaps = (1 - points @ centres.T).amin(1).clamp(min=0)
        if gaps.max() < 1e-6:  # all that is left lies on a centre
            break
        centres = torch.cat([centres, points[torch.multinomial(gaps, 1, generator=generator)]])
    for _ in range(_NUM_STEPS):
        groups = (points @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add(0, groups, points)
        centres = torch.where(sums.any(1, keepdim=True), F.normalize(sums), centres)
    groups = (points @ centres.T).argmax(1)
    order = groups.bincount(minlength=len(centres)).argsort(descending=True, stable=True)
    return order.argsort()[groups]
