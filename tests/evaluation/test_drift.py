"""Like and unlike the validation set, as a number that a scheduler can alarm on."""

import json
from typing import Any

import numpy as np
import pytest

from tlearn.errors import IntegrityError
from tlearn.evaluation import drift
from tlearn.evaluation.drift import Reference


def sample(seed: int, count: int, shift: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    second = 1 / (1 + np.exp(-generator.normal(shift * 2, 2, count)))
    return drift.series(np.stack([1 - second, second], 1), generator.normal(1 + shift, 1, (count, 64)))


def test_images_like_the_validation_set_do_not_drift_whatever_their_number() -> None:
    known = Reference.from_json(json.loads(json.dumps(Reference.of(sample(0, 500)).to_json())))
    assert known == Reference.of(sample(0, 500))
    for count in (30, 100, 1000, 10_000):
        values = [drift.judge(known, known.count(sample(s, count)))[0] for s in range(1, 20)]
        assert sum(value is not None and value < 0.1 for value in values) >= 17, count


def test_images_unlike_it_do() -> None:
    known = Reference.of(sample(0, 500))
    value, sentence = drift.judge(known, known.count(sample(1, 200, shift=1.0)))
    assert value is not None and value > 0.25 and "differ" in sentence


def test_too_few_images_say_nothing() -> None:
    known = Reference.of(sample(0, 500))
    value, sentence = drift.judge(known, known.count(sample(1, 29, shift=1.0)))
    assert value is None and "too few" in sentence
    assert drift.judge(None, [])[0] is None and Reference.from_json({}) is None


def test_histograms_of_chunks_add_up_to_that_of_all() -> None:
    known, values = Reference.of(sample(0, 500)), sample(1, 100)
    parts = drift.add(None, {"small": known.count(values[:, :40])})
    both = drift.add(parts, {"small": known.count(values[:, 40:])})
    assert both == {"small": known.count(values)}
    mixed = drift.add(both, {"large": known.count(values[:, :30])})
    assert mixed["small"] == both["small"] and drift.chief(mixed) == ("small", both["small"])
    assert drift.chief(None) == drift.chief({}) == ("large", [])


def test_the_index_is_zero_for_equal_histograms_and_grows_with_distance() -> None:
    assert drift.psi([50] * 10, [50] * 10) == 0.0
    near, far = [60, 40] * 5, [100, 0] * 5
    assert 0 < drift.psi([500] * 10, near) < drift.psi([500] * 10, far)


def test_projections_are_the_same_for_ever() -> None:
    matrix = drift.projections(512)
    assert matrix.shape == (512, 8) and set(matrix.ravel()) == {-1.0, 1.0}
    assert matrix[0].tolist() == [-1.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0, -1.0]


@pytest.mark.parametrize(
    "change",
    [
        {"edges": None}, {"counts": [[1, 2]]}, {"edges": [["a"] * 9] * 9}, {"counts": 3}, {"more": 1},
        {"edges": [[]] * 9}, {"counts": [[[1]] * 10] * 9},
    ],
)  # fmt: skip
def test_a_reference_that_no_version_has_written_is_refused(change: dict[str, Any]) -> None:
    values = Reference.of(sample(0, 500)).to_json()
    with pytest.raises(IntegrityError, match=r"expected histograms in the reference of model\.json"):
        Reference.from_json(values | change)
    with pytest.raises(IntegrityError):
        Reference.from_json({"edges": values["edges"]})
