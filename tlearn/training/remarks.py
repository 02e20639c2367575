"""What a person should hear of a training that did not do what it should have done."""

from collections.abc import Sequence

from tlearn.evaluation.quality import Quality
from tlearn.training.checkpoint import Epoch


def remarks(history: Sequence[Epoch], best: Epoch, quality: Quality, recipe: str) -> tuple[str, ...]:
    """One line each, of the epochs of all phases, the one whose weights are the model's, and the model's figures."""
    others = [name for name in ("frozen", "auto") if name != recipe]
    found = [_worse_phase(history, phase, best, others) for phase in sorted({epoch.phase for epoch in history})]
    return tuple(remark for remark in [*found, _untaught(quality, others)] if remark)


def _worse_phase(history: Sequence[Epoch], phase: int, best: Epoch, others: Sequence[str]) -> str | None:
    """A phase begins with what the one before it has kept; the first with its first epoch."""
    epochs = [epoch for epoch in history if epoch.phase == phase]
    before = [epoch for epoch in history if epoch.phase < phase]
    began, ended = (before or epochs)[-1 if before else 0], epochs[-1]
    # Where only one of the two is worse it may be chance.
    if ended.val_loss <= began.val_loss or ended.val_accuracy >= began.val_accuracy:
        return None
    return (
        f"phase {phase} ended worse than it began (validation loss {ended.val_loss:.4f} after {began.val_loss:.4f}, "
        f"accuracy {ended.val_accuracy:.3f} after {began.val_accuracy:.3f}); the model is that of epoch {best.epoch}: "
        f"try a lower learning rate, or recipe {others[0]}"
    )


def _untaught(quality: Quality, others: Sequence[str]) -> str | None:
    counts = {name: figures.count for name, figures in quality.per_class.items()}
    largest, total = max(counts, key=counts.__getitem__), sum(counts.values())
    if counts[largest] == total or quality.accuracy > counts[largest] / total:
        return None
    return (
        f"the model is no better than to name the largest class, {largest}, always (validation accuracy "
        f"{quality.accuracy:.3f}, {counts[largest] / total:.3f} by that): add images, or try recipe "
        + " or ".join(others)
    )
