"""Calibration and figures of quality against factors that are known, hands and torchmetrics."""

import json
import math

import pytest
import torch
import torchmetrics.functional.classification as judge
from torch import Tensor

from tlearn.classes import Classes
from tlearn.evaluation import metrics
from tlearn.evaluation.quality import Quality, fit_temperature, measure


def honest(num_logits: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits, and labels drawn with the probabilities that they state."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, num_logits, generator=generator)
    return logits, torch.multinomial(metrics.probabilities(logits), 1, generator=generator)[:, 0]


def separated(num_logits: int, count: int, margin: float) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % max(num_logits, 2)
    logits = margin * (2 * torch.nn.functional.one_hot(labels, max(num_logits, 2)).float() - 1)
    return logits[:, -num_logits:], labels


def log_loss(logits: Tensor, labels: Tensor) -> float:
    return metrics.sample_losses(logits.double(), labels).mean().item()


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("num_logits", [1, 3])
def test_a_known_temperature_is_found(num_logits: int, factor: float) -> None:
    logits, labels = honest(num_logits, 8000)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)


@pytest.mark.parametrize("scale", [0.01, 1.0, 1e4])
@pytest.mark.parametrize("num_logits", [1, 3])
def test_predictions_stay_and_the_log_loss_never_rises(num_logits: int, scale: float) -> None:
    for seed in range(5):
        logits, labels = honest(num_logits, 60, seed)
        logits = scale * logits.roll(seed, 0)  # but for the first, labels that have nothing to do with them
        temperature = fit_temperature(logits, labels)
        assert math.isfinite(temperature) and temperature > 0
        assert log_loss(logits / temperature, labels) <= log_loss(logits, labels)
        assert torch.equal(metrics.predictions(logits / temperature), metrics.predictions(logits))
        assert fit_temperature(logits, labels) == temperature


def test_a_temperature_is_the_best_of_a_thousand() -> None:
    logits, labels = honest(1, 60)
    log_temperature = math.log(fit_temperature(3 * logits, labels))

    def objective(value: float) -> float:
        return 60 * log_loss(3 * logits / math.exp(value), labels) + value**2 / (2 * 0.5**2)

    best = min((step / 200 for step in range(-500, 500)), key=objective)
    assert log_temperature == pytest.approx(best, abs=0.005)


@pytest.mark.parametrize("margin", [0.5, 3.0, 30.0, 1e4])
@pytest.mark.parametrize("num_logits", [1, 3])
def test_twenty_images_without_a_mistake_do_not_make_it_certain(num_logits: int, margin: float) -> None:
    assert 1 / 5 <= fit_temperature(*separated(num_logits, 20, margin)) <= 1


def test_too_few_images_and_no_numbers_are_left_as_they_are() -> None:
    logits, labels = separated(1, 20, 0.5)
    assert fit_temperature(logits, labels) < 0.5
    assert fit_temperature(logits[:19], labels[:19]) == 1.0
    for value in (math.nan, math.inf):
        logits[3] = value
        assert fit_temperature(logits, labels) == 1.0


def test_figures_of_two_classes_are_those_computed_by_hand() -> None:
    second = torch.tensor([0.9, 0.6, 0.2, 0.7])
    figures = measure(second.logit()[:, None], torch.tensor([1, 1, 0, 0]), Classes(("cat", "dog")))
    found = figures.to_json()
    assert found == {
        "accuracy": 0.75,
        "log_loss": pytest.approx(-math.log(0.9 * 0.6 * 0.8 * 0.3) / 4),
        "brier": pytest.approx(2 * (0.1**2 + 0.4**2 + 0.2**2 + 0.7**2) / 4),
        # Each prediction, of probability 0.9, 0.6, 0.8 and 0.7, has a bin of its own; the last is wrong.
        "calibration_error": pytest.approx((0.1 + 0.4 + 0.2 + 0.7) / 4),
        # 0.9 is above both cats, 0.6 above one.
        "roc_auc": 0.75,
        "per_class": {
            "cat": {"precision": 1.0, "recall": 0.5, "count": 2},
            "dog": {"precision": pytest.approx(2 / 3), "recall": 1.0, "count": 2},
        },
    }
    assert list(found)[-1] == "per_class" and Quality.from_json(json.loads(json.dumps(found))) == figures


@pytest.mark.parametrize("num_logits", [1, 3])
def test_figures_are_those_of_torchmetrics(num_logits: int) -> None:
    logits, labels = honest(num_logits, 300)
    num_classes = max(num_logits, 2)
    names = ("a", "b", "c")[:num_classes]
    found = measure(logits, labels, Classes(names)).to_json()
    probabilities = metrics.probabilities(logits)
    many = {"num_classes": num_classes, "average": "none"}
    if num_logits == 1:
        area = judge.binary_auroc(probabilities[:, 1], labels)
    else:
        area = judge.multiclass_auroc(probabilities, labels, num_classes)
    assert found["roc_auc"] == pytest.approx(area.item(), abs=1e-6)
    assert found["log_loss"] == pytest.approx(log_loss(logits, labels))
    assert found["calibration_error"] == pytest.approx(
        judge.multiclass_calibration_error(probabilities, labels, num_classes, n_bins=15).item(), abs=1e-6
    )
    for name in ("precision", "recall"):
        expected = getattr(judge, f"multiclass_{name}")(probabilities, labels, **many).tolist()
        assert [found["per_class"][one][name] for one in names] == pytest.approx(expected)
    assert [found["per_class"][one]["count"] for one in names] == labels.bincount().tolist()


@pytest.mark.parametrize("num_logits", [1, 3])
def test_a_missing_class_has_no_recall_and_no_part_in_the_area_under_the_curves(num_logits: int) -> None:
    logits, labels = separated(num_logits, 30, 2.0)
    present = labels > 0
    found = measure(logits[present], labels[present], Classes(("a", "b", "c")[: max(num_logits, 2)])).to_json()
    assert found["roc_auc"] == (1.0 if num_logits == 3 else None)  # one class alone has no rest
    assert found["per_class"]["a"] == {"precision": None, "recall": None, "count": 0}
    assert found["accuracy"] == 1.0 and found["per_class"]["b"]["recall"] == 1.0


@pytest.mark.parametrize("num_logits", [1, 3])
def test_logits_that_are_no_numbers_have_no_figures(num_logits: int) -> None:
    _, labels = honest(num_logits, 30)
    found = measure(
        torch.full((30, num_logits), math.nan), labels, Classes(("a", "b", "c")[: max(num_logits, 2)])
    ).to_json()
    names = ("log_loss", "brier", "calibration_error", "roc_auc")
    assert {found[name] for name in names} == {None}
    json.dumps(found, allow_nan=False)
