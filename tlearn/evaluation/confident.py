"""Which labels are probably wrong, by what a fast classifier says of pictures that it has not learned from.

Confident learning (Northcutt, Jiang and Chuang, 2021) counts how often a picture of one label is surely of another
class. The counts say how often labels are wrong, and with that Bayes' rule says of every picture which class it has,
given its features and its label: where labels are good, more is asked of a picture before its own is doubted.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tlearn.evaluation import metrics, quality

_SCALE = 4.0
"""By which scores are logits, about; the temperature finds the rest."""
_NUM_FITTED = 2000
"""Pictures, about, that a temperature is fitted on."""
DOUBT = 0.35
"""So probable is a class that is taken for the right one of a picture with another label."""
_SEPARABLE = 0.5
"""Share of what chance leaves that the classifier has to get right before it may doubt a label."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What is thought of labels."""

    classes: Tensor
    """(N,) int64: the probable class of each picture; its label, where that is not doubted."""
    sure: Tensor
    """(N,) float64: how probable it is."""


def judge(scores: Tensor, labels: Tensor) -> Judged | None:
    """Of out-of-fold scores (N, classes) and labels (N,); None where the scores hardly tell the classes apart."""
    chance = labels.bincount().max().item() / len(labels)
    right = (scores.argmax(1) == labels).double().mean().item()
    if right - chance < _SEPARABLE * (1 - chance):
        return None
    confident = confident_classes(calibrated(scores, labels), labels)
    is_sure = confident >= 0
    counts = torch.zeros(scores.shape[1], scores.shape[1], dtype=torch.float64)
    counts.index_put_((labels[is_sure], confident[is_sure]), torch.ones(1, dtype=torch.float64), accumulate=True)
    labelled = counts / counts.sum(0).clamp(min=1)  # [i, j]: how often a picture of class j is labelled i
    weights = calibrated(scores, labels, (confident == labels) | ~is_sure) * labelled[labels]
    shares = weights / weights.sum(1, keepdim=True).clamp(min=1e-300)
    other = shares.scatter(1, labels[:, None], 0.0).max(1)
    is_doubted = other.values >= DOUBT
    return Judged(
        torch.where(is_doubted, other.indices, labels), torch.where(is_doubted, other.values, 1 - other.values)
    )


def calibrated(scores: Tensor, labels: Tensor, among: Tensor | None = None) -> Tensor:
    """(N, classes) probabilities from scores, with the temperature that fits the labels best.

    `among` (N,) are the pictures whose labels count; of many of them every so manyth does.
    """
    rows = torch.arange(len(labels)) if among is None else among.nonzero()[:, 0]
    rows = rows[:: max(len(rows) // _NUM_FITTED, 1)]
    logits = _SCALE * scores
    return metrics.probabilities(logits / quality.fit_temperature(logits[rows], labels[rows]))


def confident_classes(probabilities: Tensor, labels: Tensor) -> Tensor:
    """(N,) int64: of which class each picture surely is; -1 where of none.

    Surely: at least as probable as that class is on average among the pictures with its label.
    """
    num_classes = probabilities.shape[1]
    own = probabilities.gather(1, labels[:, None])[:, 0]
    counts = labels.bincount(minlength=num_classes)
    means = torch.zeros(num_classes, dtype=probabilities.dtype).index_add(0, labels, own) / counts
    above = probabilities.masked_fill(~(probabilities >= means), -1.0)  # of a class without labels: no number
    best = above.max(1)
    return best.indices.where(best.values >= 0, torch.tensor(-1))
