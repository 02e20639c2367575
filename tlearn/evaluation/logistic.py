"""A linear head in closed steps: penalised multinomial logistic regression, which has one optimum and takes no seed."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_PENALTY = 60.0
"""Of half the squared weights, for inputs whose standard deviation is 1: what it gives is nearly calibrated."""
_MAX_STEPS = 500
_TOLERANCE = 1e-4
"""Of a mean gradient over the samples."""


@dataclass(frozen=True, slots=True)
class Linear:
    """logits = x @ weight.T + bias, float32."""

    weight: Tensor  # (num_logits, channels)
    bias: Tensor  # (num_logits,)

    def __call__(self, x: Tensor) -> Tensor:
        """(N, channels) -> (N, num_logits)"""
        return F.linear(x.float(), self.weight, self.bias)

    def divided(self, temperature: float) -> "Linear":
        """Whose logits are divided by it."""
        return Linear(self.weight / temperature, self.bias / temperature)


def fit(x: Tensor, labels: Tensor, num_classes: int) -> Linear:
    """Fit to inputs (N, channels) and labels (N,). Of two classes there is one logit, the second's.

    Every step goes to the minimum of a quadratic function above the loss (Böhning, Multinomial logistic regression
    algorithm, 1992), whose matrix is the same in all steps; with Nesterov's momentum.
    """
    mean, deviation = x.double().mean(0), x.double().std().clamp(min=1e-12)
    inputs = F.pad((x.double() - mean) / deviation, (0, 1), value=1.0)
    penalty = torch.full((inputs.shape[1],), _PENALTY, dtype=torch.float64)
    penalty[-1] = 1e-6  # of the bias
    inverse = torch.linalg.inv(inputs.T @ inputs / 2 + torch.diag(penalty))
    targets = F.one_hot(labels, num_classes).double()
    weights = ahead = torch.zeros(inputs.shape[1], num_classes, dtype=torch.float64)
    momentum = 1.0
    for _ in range(_MAX_STEPS):
        gradient = inputs.T @ ((inputs @ ahead).softmax(1) - targets) + penalty[:, None] * ahead
        before, weights = weights, ahead - inverse @ gradient
        momentum, last = (1 + (1 + 4 * momentum**2) ** 0.5) / 2, momentum
        if (gradient * (weights - before)).sum() > 0:  # it has gone too far: start the momentum again
            momentum = 1.0
        ahead = weights + (last - 1) / momentum * (weights - before)
        if gradient.abs().max() < _TOLERANCE * len(x):
            break
    weight, bias = weights[:-1] / deviation, weights[-1] - mean @ weights[:-1] / deviation
    if num_classes == 2:
        weight, bias = weight[:, 1:] - weight[:, :1], bias[1:] - bias[:1]
    return Linear(weight.T.float().contiguous(), bias.float())
