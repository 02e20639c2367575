"""How far a picture is from what was trained on: the mean cosine distance of its features to the 10 nearest ones.

Sun et al., Out-of-distribution detection with deep nearest neighbors, 2022. The distance is told as a percentile of
the validation images: 99.5 means that 99.5% of them are nearer. The new image itself counts among them, so that no more
images of the classes lie beyond a limit than it says, however few were validated on (split conformal prediction).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_POINTS = 5000
"""Training images that a model keeps."""
_LEAST_IMAGES = 20
"""Validation images; fewer say too little."""
_NUM_NEAREST = 10
_MAX_DISTANCES = 1000


def points(pooled: Tensor) -> Tensor:
    """(at most 5,000, channels) float16 of unit length: evenly chosen of pooled features (N, channels)."""
    chosen = torch.linspace(0, len(pooled) - 1, min(len(pooled), MAX_POINTS)).round().long()
    return F.normalize(pooled[chosen].float()).half()


def distances(points: Tensor, pooled: Tensor) -> Tensor:
    """(N,) float32 from 0 to 1, of pooled features (N, channels) to points (M, channels)."""
    cosines = F.normalize(pooled.float()) @ points.float().T
    return 1 - cosines.topk(min(_NUM_NEAREST, len(points)), 1).values.mean(1)


def reference(distances: Tensor) -> tuple[float, ...]:
    """The distances of validation images (N,), sorted; of more than 1,000 their quantiles. () for too few."""
    if len(distances) < _LEAST_IMAGES:
        return ()
    ordered = distances.double().sort().values
    chosen = torch.linspace(0, len(ordered) - 1, min(len(ordered), _MAX_DISTANCES)).round().long()
    return tuple(round(distance, 7) for distance in ordered[chosen].tolist())


def percentiles(reference: tuple[float, ...], distances: Tensor) -> Tensor:
    """(N,) float32 from 0 to below 100: the share of the reference that is nearer than each distance (N,)."""
    ordered = torch.tensor(reference, dtype=torch.float64)
    return (100 * torch.searchsorted(ordered, distances.double().cpu()) / (len(ordered) + 1)).float()
