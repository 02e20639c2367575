"""How far probabilities can be trusted: the temperature that calibrates them, and figures of their quality."""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_auroc,
    multiclass_calibration_error,
    multiclass_stat_scores,
)

from tlearn import metrics
from tlearn.classes import Classes

MIN_IMAGES = 20
"""Fewer say too little for a temperature."""

_PRIOR_DEVIATION = 0.5
_NUM_BINS = 15


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The number above 0 by which logits (images, num_logits) are divided for the lowest log-loss of labels (images,).

    Guo et al., On calibration of modern neural networks, 2017; here its logarithm has a normal prior around 0, without
    which images that are all predicted rightly would ask for a temperature of 0. It never raises the log-loss. 1.0 for
    fewer than MIN_IMAGES, and for logits that are no finite numbers.
    """
    if len(labels) < MIN_IMAGES or not logits.isfinite().all():
        return 1.0
    logits = logits.double()
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        losses = metrics.sample_losses(logits / log_temperature.exp(), labels)
        total = losses.sum() + (log_temperature / _PRIOR_DEVIATION).square() / 2
        total.backward()
        return total

    optimizer.step(loss)
    return math.exp(log_temperature.item())


def quality(logits: Tensor, labels: Tensor, classes: Classes) -> dict[str, Any]:
    """Figures of logits (images, num_logits) against labels (images,), as JSON; None where one is not defined.

    brier: squared distance to the truth, over all classes. calibration_error: of the probability of the prediction, in
    15 bins. roc_auc: of the second of two classes, or the mean of each of more against the rest.
    """
    logits = logits.double()
    num_classes = len(classes.names)
    probabilities, predictions = metrics.probabilities(logits), metrics.predictions(logits)
    scores = multiclass_stat_scores(predictions, labels, num_classes, average="none").double()
    right, wrong, _, _, counts = scores.T
    truth = torch.nn.functional.one_hot(labels, num_classes)
    calibration_error = area = torch.tensor(math.nan)
    # Of no numbers and of missing classes torchmetrics makes figures that look like any other.
    if probabilities.isfinite().all():
        calibration_error = multiclass_calibration_error(probabilities, labels, num_classes, n_bins=_NUM_BINS)
        if counts.all():
            if num_classes == 2:
                area = binary_auroc(probabilities[:, 1], labels)
            else:
                area = multiclass_auroc(probabilities, labels, num_classes)
    return {
        "accuracy": _number(right.sum() / counts.sum()),
        "log_loss": _number(metrics.sample_losses(logits, labels).mean()),
        "brier": _number((probabilities - truth).square().sum(1).mean()),
        "calibration_error": _number(calibration_error),
        "roc_auc": _number(area),
        "per_class": {
            name: {"precision": _number(precision), "recall": _number(recall), "count": int(count)}
            for name, precision, recall, count in zip(
                classes.names, right / (right + wrong), right / counts, counts, strict=True
            )
        },
    }


def _number(value: Tensor) -> float | None:
    return value.item() if value.isfinite() else None
