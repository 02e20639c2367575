"""A linear classifier on pooled features in closed form: ridge regression, which takes no training."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_PENALTY = 0.01
"""As a share of the mean square of a feature."""
_LEAST = 1e-3
"""Probability: least squares may say less than nothing."""


def probe(pooled: Tensor, labels: Tensor, num_classes: int) -> Callable[[Tensor], Tensor]:
    """Fit on pooled features (N, channels) and labels (N,); returns a function of features (M, channels).

    That gives (M, classes) float64 probabilities that sum to 1: the least squares of the indicator of each class,
    from 0.001 up. A class without a label has the least.
    """
    scale = _scale(pooled)
    weights = _solved(_scaled(pooled, scale), labels, num_classes)
    return lambda others: _probabilities(_scaled(others, scale) @ weights)


def out_of_fold(pooled: Tensor, labels: Tensor, num_classes: int, folds: Tensor) -> Tensor:
    """(N, classes) float64 probabilities, those of each fold by a probe that is fitted on all others.

    Of pooled features (N, channels), labels (N,) and the fold of each (N,), of which there are two at least.
    """
    x = _scaled(pooled, _scale(pooled))
    scores = torch.empty(len(x), num_classes, dtype=torch.float64)
    for fold in folds.unique():
        held = folds == fold
        scores[held] = x[held] @ _solved(x[~held], labels[~held], num_classes)
    return _probabilities(scores)


def _scale(pooled: Tensor) -> Tensor:
    return pooled.double().std().clamp(min=1e-12)


def _scaled(pooled: Tensor, scale: Tensor) -> Tensor:
    """(N, channels + 1) float64, with a constant."""
    return F.pad(pooled.double() / scale, (0, 1), value=1.0)


def _solved(x: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(channels + 1, classes) weights for targets of -1 and 1."""
    targets = F.one_hot(labels, num_classes).double() * 2 - 1
    gram = x.T @ x
    penalty = _PENALTY * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    weights: Tensor = torch.linalg.solve(gram + penalty, x.T @ targets)
    return weights


def _probabilities(scores: Tensor) -> Tensor:
    shares = ((scores + 1) / 2).clamp(min=_LEAST)
    return shares / shares.sum(1, keepdim=True)
