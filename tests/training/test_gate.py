"""The gate for int8: the verdict of all images from few of them, and which of them are asked."""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import CLASSES, build
from torch import Tensor

from tlearn.config import HeadConfig, PreprocessConfig, TrainConfig
from tlearn.data.manifest import File, Listing
from tlearn.training import gate, job
from tlearn.training.gate import Gate

PREPROCESS = PreprocessConfig(image_size=32, short_side=32)
Rng = np.random.Generator
Array = np.ndarray[Any, Any]


class Images:
    """Plain logits, int8 logits and labels; counts what is asked."""

    def __init__(self, plain: Array, int8: Array, labels: Array):
        self.plain, self.int8 = (torch.tensor(each, dtype=torch.float32) for each in (plain, int8))
        self.labels = torch.tensor(labels)
        self.unreadable: set[int] = set()
        self.rounds: list[list[int]] = []

    def ask(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.rounds.append(rows.tolist())
        found = torch.tensor([row for row in rows.tolist() if row not in self.unreadable], dtype=torch.int64)
        return found, self.plain[found]

    def judged(self) -> Gate:
        return gate.judge(self.int8, self.labels, self.ask)

    def whole(self) -> Gate:
        return gate.compare(self.plain, self.int8, self.labels)

    @property
    def asked(self) -> list[int]:
        return [row for rows in self.rounds for row in rows]


def drawn(rng: Rng, count: int, num_logits: int, noise: float = 0.35, scale: float = 8.0) -> tuple[Array, Array]:
    """Plain logits and labels of a model that is mostly right."""
    labels = rng.integers(max(num_logits, 2), size=count)
    truth = (2 * labels - 1)[:, None] if num_logits == 1 else np.eye(num_logits)[labels]
    return scale * (truth + noise * rng.normal(size=(count, num_logits))), labels


DIFFERENCES: dict[str, Callable[[Rng, Array], Array]] = {
    "none": lambda rng, plain: np.zeros_like(plain),
    "normal": lambda rng, plain: rng.normal(size=plain.shape),
    "of heavy tails": lambda rng, plain: rng.standard_t(2, size=plain.shape),
    "of the heaviest tails": lambda rng, plain: rng.standard_cauchy(size=plain.shape),
    "that grow with the margin": lambda rng, plain: rng.normal(size=plain.shape) * np.abs(plain),
    "in proportion": lambda rng, plain: plain * rng.normal() * 0.3,
    "with a bias": lambda rng, plain: 0.3 * rng.normal(size=plain.shape) + rng.normal(size=(1, plain.shape[1])),
    "of a tenth of the images": lambda rng, plain: (
        0.1 * rng.normal(size=plain.shape) + 30 * (rng.random((len(plain), 1)) < 0.1) * rng.normal(size=plain.shape)
    ),
}


@pytest.mark.parametrize("num_logits", [1, 3, 10])
@pytest.mark.parametrize("kind", DIFFERENCES)
def test_the_verdict_is_that_of_all_images(kind: str, num_logits: int) -> None:
    rng, verdicts, num_early = np.random.default_rng(num_logits), set(), 0
    for _ in range(40):
        noise, scale, size = 10 ** rng.uniform((-0.9, -0.6, -2.5), (0.3, 1.2, 0.5))
        plain, labels = drawn(rng, int(rng.choice([150, 300, 500])), num_logits, noise, scale)
        images = Images(plain, plain + size * DIFFERENCES[kind](rng, plain), labels)
        found = images.judged()
        assert found.passes is images.whole().passes, images.whole()
        assert found.gate_num_asked == len(images.asked) == len(set(images.asked))
        assert found.gate_num_asked in (100, 200, len(labels)) and found.gate_num_val == len(labels)
        verdicts.add(found.passes)
        num_early += found.gate_num_asked < len(labels)
    assert num_early > 10 and verdicts == ({True} if kind == "none" else {True, False})


@pytest.mark.parametrize("num_logits", [1, 3])
def test_nothing_within_three_times_the_largest_difference_could_change_the_verdict(num_logits: int) -> None:
    rng, num_early = np.random.default_rng(0), 0
    for size in 10 ** rng.uniform(-2, 0, size=100):
        plain, labels = drawn(rng, 500, num_logits)
        images = Images(plain, plain + size * rng.standard_t(3, size=plain.shape), labels)
        found = images.judged()
        rest = torch.tensor(sorted(set(range(500)) - set(images.asked)), dtype=torch.int64)
        if not len(rest):
            continue
        num_early += 1
        seen = (images.plain - images.int8)[images.asked]
        largest = float((seen.amax(1) - seen.amin(1)).max()) if num_logits > 1 else float(seen.abs().max())
        direction = (2 * images.labels - 1)[:, None] if num_logits == 1 else torch.eye(num_logits)[images.labels]
        for share in (-2.99, 2.99, *rng.uniform(-2.99, 2.99, size=5)):
            images.plain[rest] = images.int8[rest] + share * largest * direction[rest]
            assert images.whole().passes is found.passes
    assert num_early > 30


def usual(rng: Rng, size: float = 0.1) -> Images:
    """As of 500 photographs of cats and dogs: a few mistakes, margins far above the differences."""
    plain, labels = drawn(rng, 500, 1, noise=0.4)
    return Images(plain, plain + size * rng.normal(size=plain.shape), labels)


def test_a_hundred_images_are_asked_in_the_usual_case() -> None:
    images = usual(np.random.default_rng(0))
    found, whole = images.judged(), images.whole()
    assert found.passes and [len(rows) for rows in images.rounds] == [100]
    assert (found.gate_num_val, found.gate_num_asked, found.agreement) == (500, 100, whole.agreement)
    assert found.plain_val_accuracy == whole.plain_val_accuracy and found.int8_val_loss == whole.int8_val_loss
    assert found.plain_val_loss == pytest.approx(whole.plain_val_loss, abs=1e-3)


def test_asked_first_are_the_least_sure_the_most_wrong_and_some_of_every_margin() -> None:
    images = usual(np.random.default_rng(1))
    images.judged()
    margins = images.int8[:, 0].abs()
    asked, by_margin = set(images.rounds[0]), margins.argsort().tolist()
    wrong = ((images.int8[:, 0] > 0).long() != images.labels).nonzero()[:, 0].tolist()
    assert 0 < len(wrong) <= 25 and set(wrong) | set(by_margin[:50]) <= asked
    assert by_margin[-1] in asked
    assert all(len(asked & set(by_margin[start : start + 50])) >= 2 for start in range(0, 500, 50))


def bad_everywhere(rng: Rng, images: Images) -> None:
    images.int8 = torch.tensor(rng.normal(size=(500, 1)), dtype=torch.float32)


def bad_where_sure(rng: Rng, images: Images) -> None:
    """The least sure half as it was: what looks at no other sees nothing."""
    sure = images.int8[:, 0].abs() > images.int8[:, 0].abs().median()
    images.plain[sure] = -images.int8[sure]


def bad_of_few(rng: Rng, images: Images) -> None:
    few = torch.tensor(rng.choice(500, 12, replace=False))
    images.int8[few] = -images.plain[few]


def bad_to_one_side(rng: Rng, images: Images) -> None:
    images.int8 = images.plain + 6


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("plant", [bad_everywhere, bad_where_sure, bad_of_few, bad_to_one_side])
def test_a_bad_quantisation_fails_with_few_images(plant: Callable[[Rng, Images], None], seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = usual(rng)
    plant(rng, images)
    found = images.judged()
    assert not found.passes and not images.whole().passes
    assert found.gate_num_asked <= 200 or plant is not bad_everywhere
    assert f"of 500 validation images, {found.gate_num_asked} of them asked" in str(found)


@pytest.mark.parametrize("is_more", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_at_its_limits_the_verdict_is_that_of_all_images(seed: int, is_more: bool) -> None:
    rng = np.random.default_rng(seed)
    plain, labels = drawn(rng, 500, 1, noise=0.2)
    labels = (plain[:, 0] > 0).astype(int)
    changed = np.abs(plain[:, 0]).argsort()[: 6 if is_more else 5]
    labels[changed[::2]] = 1 - labels[changed[::2]]  # of some int8 is right
    int8 = plain + 0.01 * rng.normal(size=plain.shape)
    int8[changed] = -0.01 * plain[changed]
    images = Images(plain, int8, labels)
    found, whole = images.judged(), images.whole()
    assert found.agreement == whole.agreement and found.passes is whole.passes
    assert found.passes is False or not is_more

    sizes = np.linspace(0, 2, 400)  # the loss alone, around its limit of 0.01
    losses = [Images(plain, plain * (1 - size / 3), labels).whole() for size in sizes]
    last = max(i for i, one in enumerate(losses) if one.int8_val_loss <= one.plain_val_loss + 0.01)
    images = Images(plain, plain * (1 - sizes[last + is_more] / 3), labels)
    assert images.judged().passes is images.whole().passes


@pytest.mark.parametrize("num_logits", [1, 4])
@pytest.mark.parametrize("count", [1, 2, 20, 99, 100, 101, 130])
def test_of_few_images_all_are_asked(count: int, num_logits: int) -> None:
    rng = np.random.default_rng(count)
    plain, labels = drawn(rng, count, num_logits, noise=1.0, scale=1.0)
    images = Images(plain, plain + 0.3 * rng.normal(size=plain.shape), labels)
    found = images.judged()
    assert found.passes is images.whole().passes
    assert len(images.rounds) == 1 if count <= 100 else len(images.rounds) <= 2
    if found.gate_num_asked == count:
        assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(images.whole()))


@pytest.mark.parametrize("num_logits", [1, 4])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["int8", "plain", "both"])
def test_logits_that_are_no_numbers_do_not_pass(where: str, value: float, num_logits: int) -> None:
    plain, labels = drawn(np.random.default_rng(0), 500, num_logits)
    images = Images(plain, plain, labels)
    row = int(gate._margins(images.int8).argmin())
    for logits in {"int8": [images.int8], "plain": [images.plain], "both": [images.int8, images.plain]}[where]:
        logits[row, 0] = value if images.labels[row] != 0 or num_logits > 1 else -value
        logits[row, 0] *= -1 if num_logits == 1 else 1  # against the label
    found = images.judged()
    assert found.passes is images.whole().passes
    assert not found.passes or (where == "plain" and value == np.inf)


def test_what_cannot_be_read_is_left_out() -> None:
    images = usual(np.random.default_rng(2))
    images.unreadable = set(range(0, 500, 3))
    found = images.judged()
    readable = sorted(set(range(500)) - images.unreadable)
    kept = Images(images.plain[readable].numpy(), images.int8[readable].numpy(), images.labels[readable].numpy())
    assert found.passes is kept.whole().passes and found.gate_num_asked == len(set(images.asked) - images.unreadable)
    assert found.gate_num_val == 500 - len(set(images.asked) & images.unreadable)


def test_the_job_computes_plain_features_of_the_images_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    _, trainable = build(5, PREPROCESS, HeadConfig(kind="linear"), 1, "vgg_tiny")
    trainable.head.initialize(torch.Generator().manual_seed(0))
    files = [
        File("val", f"val/{name}/{n}.jpg", name, 1, 1, f"{n * 7 % 300:03}{name}")
        for name in CLASSES.names
        for n in range(300)
    ]
    features = {
        file.path: each
        for file, each in zip(files, torch.rand(600, 16, 1, 1, generator=torch.Generator().manual_seed(1)), strict=True)
    }
    computed: list[File] = []

    def usable(config: TrainConfig, wanted: list[File], cut: int, *what: str) -> Any:
        computed.extend(wanted)
        readable = wanted[:-1]
        gather = torch.stack([features[file.path] for file in readable]).__getitem__
        return SimpleNamespace(files=readable, features=SimpleNamespace(gather=gather))

    monkeypatch.setattr(job, "usable", usable)
    with torch.no_grad():
        trainable.head.last.weight *= 100
        plain = trainable.eval()(torch.stack(list(features.values())))
        trainable.head.last.bias -= plain.median()
    plain = plain - plain.median()
    labels = (plain[:, 0] > 0).long()
    learned: Any = SimpleNamespace(
        trainable=trainable, val_files=files, val_logits=plain + 1e-3, val_labels=lambda indices: labels
    )
    task = job._Task(TrainConfig(data="d", output="o", preprocess=PREPROCESS), Listing(files, CLASSES), {}, ())
    found = job._gate(task, learned, 5)  # type: ignore[arg-type]
    assert found.passes and (found.gate_num_asked, found.gate_num_val) == (99, 499) and len(computed) == 100
    assert found.plain_val_loss != found.int8_val_loss == pytest.approx(found.plain_val_loss, abs=1e-3)
    among = sorted(files, key=lambda file: file.sha256 or "")[:500]
    assert {file.path for file in computed} <= {file.path for file in among}
