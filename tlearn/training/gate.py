"""Whether int8 features may stand for plain ones: what the trained model says of validation images in both."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tlearn.evaluation import metrics
from tlearn.training import loop

MAX_IMAGES = 500


@dataclass(frozen=True, slots=True)
class Gate:
    """Log-loss and accuracy with plain features and with int8 ones."""

    gate_num_val: int
    """Images that were compared."""
    plain_val_loss: float
    plain_val_accuracy: float
    int8_val_loss: float
    int8_val_accuracy: float
    agreement: float
    """The share of equal predictions."""

    @property
    def passes(self) -> bool:
        """Whether int8 costs nothing: half a point, 1% of the predictions (or one of them), 0.01 of the log-loss."""
        one_image = 1.0001 / self.gate_num_val
        return (
            self.int8_val_accuracy >= self.plain_val_accuracy - max(0.005, one_image)
            and self.agreement >= 1 - max(0.01, one_image)
            and self.int8_val_loss <= self.plain_val_loss + 0.01
        )

    def __str__(self) -> str:
        return (
            f"int8 features change the predictions for {1 - self.agreement:.1%} of {self.gate_num_val} validation "
            f"images (log-loss {self.int8_val_loss:.4f}, otherwise {self.plain_val_loss:.4f})"
        )


def compare(plain: Tensor, int8: Tensor, labels: Tensor) -> Gate:
    """Of both logits, (N, num_logits), against labels (N,)."""
    same = metrics.predictions(plain) == metrics.predictions(int8)
    return Gate(
        len(labels),
        *loop.measure(plain, labels).rates(),
        *loop.measure(int8, labels).rates(),
        same.to(torch.float64).mean().item(),
    )
