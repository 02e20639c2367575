"""Whether int8 features may stand for plain ones: what the trained model says of validation images in both."""

import torch
from torch import Tensor

from tlearn.evaluation import metrics
from tlearn.training import loop

MAX_IMAGES = 500


def compare(plain: Tensor, int8: Tensor, labels: Tensor) -> dict[str, float]:
    """Log-loss and accuracy of both logits, (N, num_logits), and the share of equal predictions."""
    gate: dict[str, float] = {"gate_num_val": len(labels)}
    for name, logits in (("plain", plain), ("int8", int8)):
        gate[f"{name}_val_loss"], gate[f"{name}_val_accuracy"] = loop.measure(logits, labels).rates()
    same = metrics.predictions(plain) == metrics.predictions(int8)
    return gate | {"agreement": same.to(torch.float64).mean().item()}


def passes(gate: dict[str, float]) -> bool:
    """Whether int8 costs nothing: half a point, 1% of the predictions (or one of them), 0.01 of the log-loss."""
    one = 1.0001 / gate["gate_num_val"]
    return (
        gate["int8_val_accuracy"] >= gate["plain_val_accuracy"] - max(0.005, one)
        and gate["agreement"] >= 1 - max(0.01, one)
        and gate["int8_val_loss"] <= gate["plain_val_loss"] + 0.01
    )


def sentence(gate: dict[str, float]) -> str:
    return (
        f"int8 features change the predictions for {1 - gate['agreement']:.1%} of {gate['gate_num_val']} validation "
        f"images (log-loss {gate['int8_val_loss']:.4f}, otherwise {gate['plain_val_loss']:.4f})"
    )
