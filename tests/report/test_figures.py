"""The figures of the page: equal to scikit-learn's on the same predictions, and to what is counted by hand."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tlearn.report import figures
from tlearn.report.figures import Judged

CASES = ["binary", "four", "ties", "a class without images", "never predicted"]


def judged(case: str) -> Judged:
    """300 predictions that are right more often than not."""
    rng = np.random.default_rng(len(case))
    k = 2 if case in ("binary", "ties") else 4
    labels = rng.integers(k - (case == "a class without images"), size=300)
    logits = rng.normal(size=(300, k)) + 1.5 * np.eye(k)[labels]
    if case == "never predicted":
        logits[:, 1] -= 100
    if case == "ties":
        logits = logits.round()
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Judged(tuple("abcd"[:k]), labels, probabilities.argmax(1), probabilities)


@pytest.mark.parametrize("case", CASES)
def test_precision_recall_f1_and_confusion_are_those_of_scikit_learn(case: str) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    of = judged(case)
    names = range(len(of.classes))
    assert_allclose(of.confusion(), metrics.confusion_matrix(of.labels, of.predictions, labels=list(names)))
    theirs = metrics.precision_recall_fscore_support(of.labels, of.predictions, labels=list(names), zero_division=0.0)
    rows = figures.per_class(of.classes, of.confusion())
    ours = [[row.precision.value or 0, row.recall.value or 0, row.f1.value or 0, row.count] for row in rows]
    assert_allclose(np.transpose(ours), theirs)
    for row in rows:
        for rate in (row.precision, row.recall, row.f1):
            assert rate.value is None or 0 <= rate.low <= rate.value <= rate.high <= 1
    assert all((row.recall.value is None) == (row.count == 0) for row in rows)


@pytest.mark.parametrize("case", CASES)
def test_curves_and_their_areas_are_those_of_scikit_learn(case: str) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    of = judged(case)
    found = figures.curves(of)
    assert [each.name for each in found] == [
        name for index, name in enumerate(of.classes) if (of.labels == index).any() and (index or len(of.classes) > 2)
    ]
    for each in found:
        index = of.classes.index(each.name)
        is_it, scores = of.labels == index, of.probabilities[:, index]
        false, true, _ = metrics.roc_curve(is_it, scores, drop_intermediate=False)
        assert_allclose([each.false_positives, each.true_positives], [false, true])
        precisions, recalls, _ = metrics.precision_recall_curve(is_it, scores)
        # Theirs run the other way.
        assert_allclose([each.precisions, each.true_positives], [precisions[::-1], recalls[::-1]])
        assert_allclose(each.roc_area, metrics.roc_auc_score(is_it, scores))
        assert_allclose(each.average_precision, metrics.average_precision_score(is_it, scores))


@pytest.mark.parametrize("case", CASES)
def test_reliability_is_the_calibration_curve_of_scikit_learn(case: str) -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    of = judged(case)
    bins = figures.reliability(of.confidences, of.is_right)
    shares, means = calibration.calibration_curve(of.is_right, of.confidences, n_bins=10)
    assert_allclose([each.accuracy.value for each in bins], shares)
    assert_allclose([each.confidence for each in bins], means)
    assert sum(each.accuracy.count for each in bins) == len(of.labels)


@pytest.mark.parametrize("k", [2, 5])
def test_probabilities_before_calibration_are_found_again(k: int) -> None:
    logits = np.random.default_rng(0).normal(size=(50, k)) * 3

    def softmax(z: np.ndarray) -> np.ndarray:
        return np.exp(z) / np.exp(z).sum(1, keepdims=True)

    assert_allclose(figures.before_calibration(softmax(logits / 1.7), 1.7), softmax(logits))


def test_a_higher_threshold_keeps_fewer_and_counts_what_is_right() -> None:
    confidences, is_right = np.array([0.5, 0.7, 0.9, 1.0]), np.array([False, False, True, True])
    kept = {each.threshold: (each.count, each.right) for each in figures.abstaining(confidences, is_right, 2)}
    assert kept[0.5] == (4, 2)
    assert kept[0.7] == (3, 2) and kept[0.71] == (2, 2)
    assert kept[0.9999] == (1, 1)
    assert [each.right for each in figures.abstaining(confidences, None, 2)] == [0] * len(kept)


def test_a_slice_is_named_only_where_chance_does_not_explain_it() -> None:
    rng = np.random.default_rng(3)
    is_right = rng.random(1000) > 0.05
    groups = {f"random {n}": rng.random(1000) < 0.2 for n in range(40)}
    assert figures.weakest(is_right, groups) == []
    weak = np.arange(1000) < 60
    is_right[:60] = np.arange(60) % 2 == 0
    (found,) = figures.weakest(is_right, groups | {"weak": weak, "nobody": np.zeros(1000, bool)})
    assert (found.name, found.accuracy.value, found.accuracy.count) == ("weak", 0.5, 60)
    assert found.chance < 1e-9


def test_the_chance_of_a_slice_is_that_of_fishers_exact_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    is_right = np.arange(100) >= 12
    of = (np.arange(100) < 8) | (np.arange(100) > 92)
    (found,) = figures.weakest(is_right, {"weak": of})
    assert_allclose(found.chance, stats.fisher_exact([[8, 7], [4, 81]], alternative="greater").pvalue)
