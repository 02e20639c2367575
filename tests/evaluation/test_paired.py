"""What is said of two models on the same pictures is what statistics says of pairs."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from tlearn.evaluation.paired import Counts, mean_interval

TABLES = [
    Counts(num_images, only_a, only_b)
    for num_images, only_a, only_b in (
        (1, 0, 0), (1, 1, 0), (5, 0, 5), (20, 3, 3), (21, 7, 1), (44, 1, 0), (161, 16, 6), (500, 0, 0), (500, 2, 5),
        (500, 250, 250), (100_000, 900, 1000), (10**6, 1, 0),
    )
]  # fmt: skip


@pytest.mark.parametrize(
    ("counts", "interval", "p_value"),
    [
        # Airway reactivity before and after a transplantation, complete response before and after a therapy:
        # Fagerland, Lydersen and Laake, Statistics in Medicine 33, 2014, 2850-2875.
        (Counts(21, 7, 1), (-0.517, -0.026), 0.0703),
        (Counts(161, 16, 6), (-0.1240, -0.0054), 0.0525),
    ],
)
def test_published_examples_come_out(counts: Counts, interval: tuple[float, float], p_value: float) -> None:
    assert counts.interval() == pytest.approx(interval, abs=0.0005)
    assert counts.mcnemar() == pytest.approx(p_value, abs=0.00005)


@pytest.mark.parametrize("counts", TABLES, ids=str)
def test_mcnemars_test_is_the_binomial_test(counts: Counts) -> None:
    total = counts.only_a + counts.only_b
    expected = stats.binomtest(counts.only_a, total).pvalue if total else 1.0
    assert counts.mcnemar() == pytest.approx(expected, rel=1e-8)


def score(counts: Counts, difference: float) -> float:
    """Tango's, with the likelihood of the table made greatest by search instead of by its formula."""
    only_a, only_b, num_images = counts.only_a, counts.only_b, counts.num_images

    def loss(share: float) -> float:
        shares = np.maximum([share, share + difference, 1 - 2 * share - difference], 1e-300)
        return -float(np.dot([only_a, only_b, num_images - only_a - only_b], np.log(shares)))

    least, most = max(0.0, -difference), (1 - difference) / 2
    share = optimize.minimize_scalar(loss, bounds=(least, most), method="bounded", options={"xatol": 1e-12}).x
    return (only_b - only_a - num_images * difference) / math.sqrt(
        num_images * (2 * share + difference * (1 - difference))
    )


@pytest.mark.parametrize("counts", [of for of in TABLES if of.num_images < 10**5], ids=str)
def test_the_interval_ends_where_the_score_is_what_95_per_cent_allow(counts: Counts) -> None:
    low, high = counts.interval()
    assert -1 <= low < counts.difference < high <= 1 or abs(counts.difference) == 1
    for end, expected in ((low, 1.96), (high, -1.96)):
        if abs(end) < 1:
            assert score(counts, end) == pytest.approx(expected, abs=0.001)
    assert Counts(counts.num_images, counts.only_b, counts.only_a).interval() == (-high, -low)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    tables = generator.multinomial(200, [0.93, 0.02, 0.05], 1000)
    intervals = [Counts(200, int(only_a), int(only_b)).interval() for _, only_a, only_b in tables]
    assert 0.93 < np.mean([low <= 0.03 <= high for low, high in intervals]) < 0.98


@pytest.mark.parametrize("margin", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("counts", [of for of in TABLES if of.num_images < 1000], ids=str)
def test_as_many_pictures_are_needed_as_make_the_interval_narrow_enough(counts: Counts, margin: float) -> None:
    needed = counts.images_needed(margin)
    if needed is None:
        assert counts.difference <= -margin
        return
    times = needed / counts.num_images
    for factor, is_enough in ((math.ceil(times), True), (math.ceil(times) - 1, False)):
        if factor:
            many = Counts(*(factor * count for count in (counts.num_images, counts.only_a, counts.only_b)))
            assert (many.interval()[0] >= -margin) == is_enough


def test_without_a_difference_the_number_needed_is_exact() -> None:
    needed = Counts(10, 0, 0).images_needed(0.005)
    assert needed == 765
    assert Counts(764, 0, 0).interval()[0] < -0.005 <= Counts(765, 0, 0).interval()[0]


def test_no_number_of_pictures_makes_what_is_worse_good_enough() -> None:
    assert Counts(100, 0, 0).images_needed(0.0) is None
    assert Counts(100, 1, 0).images_needed(0.01) is None
    assert Counts(100, 50, 49).images_needed(0.01000001) is None  # not in a thousand million


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3, 2, 50)
    expected = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)
    assert mean_interval(values[:1]) is None
