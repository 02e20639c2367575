"""Optimiser, learning rate, early stopping: parameter groups, and pure functions of the step and of what was measured.

Nothing here has a state of its own, so there is none to save, and a resumed run decides as it would have.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tlearn.config import OptimConfig
from tlearn.network.columns import Columns
from tlearn.network.trainable import Trainable

_Tensors = tuple[Tensor, ...] | list[Tensor]


def lr_factor(step: int, steps_per_epoch: int, val_losses: Sequence[float], config: OptimConfig) -> float:
    """What every learning rate is multiplied by in update `step` (from 0); `val_losses` of the epochs before it."""
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    match config.schedule:
        case "constant":
            return 1.0
        case "cosine":
            num_steps = max(config.num_epochs * steps_per_epoch - warmup_steps, 1)
            return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / num_steps))
        case "step":
            return config.decay_factor ** (step // steps_per_epoch // config.decay_epochs)
        case "plateau":
            return _plateau(tuple(val_losses), config)


def _plateau(val_losses: tuple[float, ...], config: OptimConfig) -> float:
    """What torch's scheduler makes of these losses."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=config.decay_factor, patience=config.decay_epochs - 1, threshold=0.0
    )
    for loss in val_losses:
        scheduler.step(loss)
    return float(optimizer.param_groups[0]["lr"])


def should_stop(val_losses: Sequence[float], config: OptimConfig) -> bool:
    """Whether the lowest loss is `patience` epochs old; the losses are those of all workers, so all decide alike."""
    if config.patience is None or not val_losses:
        return False
    return len(val_losses) - 1 - min(range(len(val_losses)), key=val_losses.__getitem__) >= config.patience


def averaging(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """How a moving average takes up weights after n updates, for AveragedModel.

    The decay begins low, (1 + n) / (10 + n), as in timm and Ultralytics: after few updates an average of a constant
    decay would still be the first weights, which have learned nothing.
    """

    @torch.no_grad()
    def update(average: _Tensors, weights: _Tensors, num_updates: Tensor | int) -> None:
        n = int(num_updates)
        torch._foreach_lerp_(average, weights, 1 - min(decay, (1 + n) / (10 + n)))

    return update


def optimizer(trainable: Trainable, config: OptimConfig, columns: Columns | None = None) -> torch.optim.Optimizer:
    """Pretrained layers have a learning rate of their own; weights decay, biases (and batch norm) do not."""

    def chosen(part: nn.Module, is_weight: bool) -> list[nn.Parameter]:
        trained = [columns.trained(p) if columns else p for p in part.parameters()]
        return [p for p in trained if p.requires_grad and (p.dim() > 1) is is_weight]

    groups = [
        {"params": parameters, "weight_decay": decay, "peak_lr": lr, "lr": lr}
        for part, lr in ((trainable.head, config.lr), (trainable.layers, config.pretrained_lr))
        for decay, is_weight in ((config.weight_decay, True), (0.0, False))
        if (parameters := chosen(part, is_weight))
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)
