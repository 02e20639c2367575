"""Whether int8 features may stand for plain ones: what the trained model says of validation images in both.

Plain features cost time, so they are asked for in rounds, of the images that tell most, until the verdict is clear:

    bound = 3 * the largest difference of plain and int8 logits among the images that were asked for
    clear = the verdict is the same whichever way the others differ within the bound

A prediction cannot change where the margin of its int8 logits is above the bound. The loss of such an image changes
little where it is right, and by the bound at most.

The factor is a choice, no theorem. It is clear of what the tails of differences make likely: the largest of 500 is 1.2
times the largest of 100 where they are normal, 1.4 times where they fall exponentially, 1.7 times where they fall with
the third power. Differences that grow with the margin are seen because some images are taken evenly from all margins,
the largest included. A few pictures of which int8 makes nothing are seen because those are asked for of which it is
most wrong.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tlearn.evaluation import metrics
from tlearn.training import loop

MAX_IMAGES = 500

_ROUNDS = (100, 200)
"""Images that are asked for until all are."""
_SAFETY = 3.0

Ask = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From rows, (n,) int64, to those of them that can be read, (m,), and their plain logits, (m, num_logits)."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Log-loss and accuracy with plain features and with int8 ones.

    Of images that were not asked for, what int8 says stands for what plain features would say.
    """

    gate_num_val: int
    """Images that the figures are of."""
    plain_val_loss: float
    plain_val_accuracy: float
    int8_val_loss: float
    int8_val_accuracy: float
    agreement: float
    """The share of equal predictions."""
    gate_num_asked: int
    """Images whose plain features were computed; the verdict does not hang on the others."""

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
            f"images, {self.gate_num_asked} of them asked (log-loss {self.int8_val_loss:.4f}, otherwise "
            f"{self.plain_val_loss:.4f})"
        )


def compare(plain: Tensor, int8: Tensor, labels: Tensor) -> Gate:
    """Of the int8 logits of all images, (N, num_logits), the plain ones of the first, (n, num_logits), labels (N,)."""
    num_asked = len(plain)
    plain = torch.cat([plain, int8[num_asked:]])
    same = metrics.predictions(plain) == metrics.predictions(int8)
    return Gate(
        len(labels),
        *loop.measure(plain, labels).rates(),
        *loop.measure(int8, labels).rates(),
        same.to(torch.float64).mean().item(),
        num_asked,
    )


def judge(int8: Tensor, labels: Tensor, ask: Ask) -> Gate:
    """The verdict on int8 logits, (N, num_logits), with labels (N,), from as few plain logits as make it clear.

    Images that cannot be read are left out.
    """
    known, plain, rest = torch.arange(0), int8[:0], torch.arange(len(labels))
    for size in (*_ROUNDS, len(labels)):
        asked = rest[_telling(int8[rest], labels[rest], size - len(known))]
        found, logits = ask(asked)
        known, plain = torch.cat([known, found]), torch.cat([plain, logits])
        rest = _without(rest, asked)
        rows = torch.cat([known, rest])
        if not len(rest) or (2 * len(known) > size and _is_clear(plain, int8[rows], labels[rows])):
            break
    return compare(plain, int8[rows], labels[rows])


def _telling(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Rows of `count` images: a quarter by largest loss, half by smallest margin, the others of all margins."""
    if count >= len(labels):
        return torch.arange(len(labels))
    by_margin = _margins(logits).argsort(stable=True)
    chosen = metrics.sample_losses(logits, labels).argsort(descending=True, stable=True)[: count // 4]
    chosen = torch.cat([chosen, _without(by_margin, chosen)[: count // 2]])
    others, num_spread = _without(by_margin, chosen), count - len(chosen)
    return torch.cat([chosen, others[torch.arange(num_spread) * (len(others) - 1) // max(num_spread - 1, 1)]])


def _without(rows: Tensor, some: Tensor) -> Tensor:
    return rows[~torch.isin(rows, some)]


def _margins(logits: Tensor) -> Tensor:
    """(N,): how far each image is from another prediction."""
    if logits.shape[1] == 1:
        return logits[:, 0].abs()
    first, second = logits.topk(2).values.unbind(1)
    return first - second


def _is_clear(plain: Tensor, int8: Tensor, labels: Tensor) -> bool:
    """Whether the images after those of the plain logits leave the verdict as it is, see above."""
    one_logit, others = int8.shape[1] == 1, int8[len(plain) :]
    differences = plain - int8[: len(plain)]
    # The same number added to all of several logits changes nothing.
    sizes = differences[:, 0].abs() if one_logit else differences.amax(1) - differences.amin(1)
    bound = _SAFETY * sizes.max()
    to_label = (2 * labels - 1)[:, None] if one_logit else torch.nn.functional.one_hot(labels, int8.shape[1])
    change = bound * to_label[len(plain) :]
    # Against int8 speaks most that plain features are right of all others; for it, that they are wrong.
    against, favour = (compare(torch.cat([plain, others + by]), int8, labels) for by in (change, -change))
    agreement, num_open = compare(plain, int8, labels).agreement, int((~(_margins(others) > bound)).sum())
    against = dataclasses.replace(against, agreement=agreement - num_open / len(labels))
    return against.passes == dataclasses.replace(favour, agreement=agreement).passes
