"""Loss and accuracy as sums and a count, added over batches and workers, divided once."""

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor


def sample_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each sample, (batch,): of a sigmoid for (batch, 1) logits, of a softmax for more.

    `label_smoothing` is the share of the target that is spread over all classes.
    """
    if logits.shape[1] == 1:
        targets = labels.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits[:, 0], targets, reduction="none")
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


def probabilities(logits: Tensor) -> Tensor:
    """(batch, classes) that sum to 1; one logit is the second class's."""
    if logits.shape[1] == 1:
        second = torch.sigmoid(logits)
        return torch.cat([1 - second, second], 1)
    return torch.softmax(logits, 1)


def predictions(logits: Tensor) -> Tensor:
    """(batch,) int64: the most probable class."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


class Totals:
    """What is added up, on the device; `rates` divides."""

    def __init__(self, device: torch.device, sums: tuple[float, ...] = (0.0, 0.0, 0.0)):
        self.sums = torch.tensor(sums, dtype=torch.float64, device=device)  # loss, correct, count

    @property
    def count(self) -> int:
        return int(self.sums[2].item())

    def add(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.sums[0] += losses.detach().double().sum()
        self.sums[1] += (predictions(logits) == labels).sum()
        self.sums[2] += len(labels)

    def reduced(self) -> "Totals":
        """The sum over all workers."""
        totals = Totals(self.sums.device)
        totals.sums += self.sums
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals.sums)
        return totals

    def rates(self) -> tuple[float, float]:
        """Mean loss and accuracy."""
        loss, correct, count = self.sums.tolist()
        return loss / count, correct / count
