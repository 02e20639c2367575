"""From which margin a small network may answer in the place of a large one, and what that does to the answers.

What some hundreds of validation images show of answers that are wrong one time in a thousand is next to nothing. So
beside what is seen on them it counts what a calibrated network expects of itself: at a margin m one answer in
1 + e^m is wrong. Most of these images the large network has wrong too: on 16 random splits of 2,600 photographs of
cats and dogs 0.15% of expected mistakes were 0.04% of changed predictions, and 0.0019 more log-loss.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tlearn.classes import Classes
from tlearn.evaluation import metrics, quality

LEAST_IMAGES = 200
"""Validation images; fewer say too little."""
_MAX_CHANGED, _MAX_EXPECTED_WRONG = 0.001, 0.0015
"""Shares of the images."""
_MAX_LOG_LOSS_RISE, _MAX_CALIBRATION_ERROR_RISE = 0.0015, 0.003
"""That of the log-loss is half of what is wanted of new images."""
_NUM_LIMITS = 200


@dataclass(frozen=True, slots=True)
class Deferral:
    """What a limit does to the answers for the validation images, against those of the large network alone."""

    limit: float
    """Margin from which the small network answers."""
    answered: float
    """Share of the images that it answers."""
    changed: float
    """Share of the predictions that change."""
    expected_wrong: float
    """Share of all images for which the small network expects its answers to be wrong."""
    log_loss_rise: float
    calibration_error_rise: float

    @property
    def passes(self) -> bool:
        return (
            self.changed <= _MAX_CHANGED
            and self.expected_wrong <= _MAX_EXPECTED_WRONG
            and self.log_loss_rise <= _MAX_LOG_LOSS_RISE
            and self.calibration_error_rise <= _MAX_CALIBRATION_ERROR_RISE
        )


def margins(logits: Tensor) -> Tensor:
    """(N,) float32: by how much the largest logit (N, num_logits) exceeds the second; the size of a single one."""
    if logits.shape[1] == 1:
        return logits[:, 0].abs()
    first, second = logits.topk(2).values.unbind(1)
    return first - second


def together(small: Tensor, large: Tensor, answers: Tensor) -> Tensor:
    """(N, num_logits): the logits of the small network where it answers (N,), else those of the large one."""
    return torch.where(answers[:, None], small, large)


def judge(small: Tensor, large: Tensor, labels: Tensor, may_answer: Tensor, classes: Classes) -> Deferral | None:
    """The lowest limit that passes, of calibrated logits (N, num_logits) of both networks for labels (N,).

    Above it all others pass too. `may_answer` (N,) is False for images that the small network passes on whatever its
    margin. None where no limit passes, or where there are too few images.
    """
    if len(labels) < LEAST_IMAGES or not (small.isfinite().all() and large.isfinite().all()):
        return None
    alone, margin = quality.measure(large, labels, classes), margins(small)
    assert alone.log_loss is not None and alone.calibration_error is not None
    wrong = 1 - metrics.probabilities(small).amax(1)
    lowest = None
    for limit in margin.quantile(torch.linspace(1, 0, _NUM_LIMITS)).unique().flip(0).tolist():
        answers = may_answer & (margin >= limit)
        logits = together(small, large, answers)
        both = quality.measure(logits, labels, classes)
        assert both.log_loss is not None and both.calibration_error is not None
        found = Deferral(
            limit=limit,
            answered=answers.double().mean().item(),
            changed=(metrics.predictions(logits) != metrics.predictions(large)).double().mean().item(),
            expected_wrong=(wrong * answers).double().mean().item(),
            log_loss_rise=both.log_loss - alone.log_loss,
            calibration_error_rise=both.calibration_error - alone.calibration_error,
        )
        if not found.passes:
            break
        lowest = found
    return lowest
