"""Optimiser and learning rate: parameter groups, and a pure function of the step."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from tlearn.config import OptimConfig


def lr_at(step: int, num_steps: int, config: OptimConfig) -> float:
    """Learning rate of update `step` (from 0) of `num_steps`."""
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """Weights decay, biases do not."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)
