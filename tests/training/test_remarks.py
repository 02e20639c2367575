"""What is said of a training that went otherwise than it should, and of one that went well."""

import pytest

from tlearn.evaluation.quality import ClassQuality, Quality
from tlearn.training.checkpoint import Epoch
from tlearn.training.remarks import remarks

GOOD = Quality(0.9, 0.3, 0.1, 0.02, 0.95, {"cat": ClassQuality(0.9, 0.9, 20), "dog": ClassQuality(0.9, 0.9, 30)})


def history(*figures: tuple[int, float, float]) -> list[Epoch]:
    """Of (phase, validation loss, accuracy)."""
    return [
        Epoch(phase, number, 0.1, 20, 0.5, 0.5, loss, accuracy, 1, 2.0)
        for number, (phase, loss, accuracy) in enumerate(figures, 1)
    ]


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        (history((1, 0.5, 0.8), (1, 0.3, 0.9)), []),
        (history((1, 0.3, 0.9), (2, 0.6, 0.6), (2, 0.29, 0.9)), []),
        (history((1, 0.3, 0.9), (2, 0.31, 0.9)), []),  # in one of two figures: chance
        (history((1, 0.3, 0.9), (2, 0.2, 0.95), (2, 0.4, 0.85)), ["phase 2 ended worse than it began"]),
        (history((1, 0.3, 0.9), (1, 0.4, 0.8)), ["phase 1 ended worse than it began"]),
        (history((1, 0.2, 0.9), (1, 0.3, 0.8), (2, 0.4, 0.7), (2, 0.4, 0.7)), ["phase 1", "phase 2"]),
    ],
)
def test_a_phase_that_ends_worse_than_it_began_is_named(epochs: list[Epoch], said: list[str]) -> None:
    found = remarks(epochs, epochs[0], GOOD, "finetune")
    assert len(found) == len(said)
    assert all(remark.startswith(start) and "epoch 1:" in remark for remark, start in zip(found, said, strict=True))


@pytest.mark.parametrize(
    ("accuracy", "counts", "is_said"),
    [
        (0.61, (20, 30), False),
        (0.60, (20, 30), True),
        (0.35, (20, 20, 20), False),
        (1 / 3, (20, 20, 20), True),
        (1.0, (30, 0), False),  # one class alone says nothing
    ],
)
def test_a_model_no_better_than_the_largest_class_is_named(
    accuracy: float, counts: tuple[int, ...], is_said: bool
) -> None:
    per_class = {f"class {number}": ClassQuality(None, None, count) for number, count in enumerate(counts)}
    quality = Quality(accuracy, None, None, None, None, per_class)
    found = remarks(history((1, 0.3, 0.9)), history((1, 0.3, 0.9))[0], quality, "frozen")
    assert [f"class {counts.index(max(counts))}, always" in remark for remark in found] == [True] * is_said
    assert not any("recipe frozen" in remark for remark in found)  # which it is
