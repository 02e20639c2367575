"""The loop in one process (and once in two), on random features: who sees what, and that nothing else matters."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from tlearn.config import HeadConfig, OptimConfig, PreprocessConfig
from tlearn.evaluation.metrics import Totals, sample_losses
from tlearn.network.frozen import Frozen
from tlearn.network.trainable import Trainable
from tlearn.network.vgg import feature_shape, load_pretrained
from tlearn.training import loop, optim
from tlearn.training.loop import Learner, Worker
from tlearn.training.samples import Samples, class_weights
from tlearn.training.streams import Stream, generator

PREPROCESS = PreprocessConfig(image_size=32, short_side=32)
CPU = torch.device("cpu")


def network(num_logits: int = 3, frozen_blocks: int = 5, **head: Any) -> Trainable:
    trainable = Trainable(frozen_blocks, PREPROCESS, HeadConfig(width=16, **head), num_logits)
    trainable.head.initialize(generator(0, Stream.HEAD))
    return trainable


def epoch_of(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    epoch: int,
    config: OptimConfig,
    *,
    seed: int,
    shuffle: bool,
    worker: Worker,
) -> Totals:
    """One whole epoch; the sums of all workers."""
    totals = Totals(CPU)
    learner = Learner(network, optimizer, config, seed, shuffle, worker)
    for _ in loop.train_epoch(learner, samples, epoch, totals):
        pass
    return totals.reduced()


def samples(count: int, num_classes: int = 3, shape: tuple[int, int, int] = (512, 1, 1)) -> Samples:
    generator = torch.Generator().manual_seed(count)
    features = torch.rand(count, *shape, generator=generator).half()
    return Samples(features.__getitem__, torch.randint(0, num_classes, (count,), generator=generator))


class Recorder(torch.optim.SGD):
    """Keeps the gradients of every step and leaves the weights as they are."""

    def __init__(self, trainable: Trainable):
        super().__init__([{"params": list(trainable.parameters()), "peak_lr": 0.5}], lr=1.0)
        self.gradients: list[list[Tensor]] = []
        self.rates: list[float] = []

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        parameters = self.param_groups[0]["params"]
        self.gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters])
        self.rates.append(self.param_groups[0]["lr"])


@given(st.integers(1, 5), st.integers(0, 200))
def test_shares_cover_everything_once_and_differ_by_one_at_most(num_workers: int, count: int) -> None:
    shares = [range(count)[Worker(rank, num_workers).share(count)] for rank in range(num_workers)]
    assert [i for share in shares for i in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_orders_are_permutations_that_differ_by_epoch_and_seed() -> None:
    orders = [loop.epoch_order(50, seed, epoch, True).tolist() for seed in range(4) for epoch in range(4)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(map(tuple, orders))) == len(orders)
    assert loop.epoch_order(50, 0, 0, True).tolist() == orders[0]
    assert loop.epoch_order(50, 1, 2, False).tolist() == list(range(50))


def test_generators_differ_by_every_key() -> None:
    keys = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1), (0, 1, 0), (0, 0, 1), (1, 0, 0), (2**31, 1)]
    drawn = [torch.rand(1, generator=generator(*key)).item() for key in keys]
    assert len(set(drawn)) == len(keys)
    assert torch.rand(1, generator=generator(0, 1)).item() == drawn[4]


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_sees_every_sample_once_in_its_order(shuffle: bool) -> None:
    data = samples(23)
    for num_workers in (1, 3):
        gathered: list[list[int]] = [[] for _ in range(6)]
        for rank in range(num_workers):
            steps = iter(gathered)

            def gather(rows: Tensor, steps: Any = steps) -> Tensor:
                next(steps).extend(rows.tolist())
                return data.gather(rows)

            watched = Samples(gather, data.labels)
            trainable = network()
            epoch_of(
                trainable,
                Recorder(trainable),
                watched,
                2,
                OptimConfig(global_batch_size=4),
                seed=5,
                shuffle=shuffle,
                worker=Worker(rank, num_workers),
            )
        assert [row for batch in gathered for row in batch] == loop.epoch_order(23, 5, 2, shuffle).tolist()
        assert [len(batch) for batch in gathered] == [4, 4, 4, 4, 4, 3]


def test_the_learning_rate_follows_the_step_through_all_epochs() -> None:
    config = OptimConfig(global_batch_size=4, num_epochs=3, schedule="cosine", lr=0.5)
    recorder = Recorder(trainable := network())
    for epoch in range(3):
        epoch_of(trainable, recorder, samples(10), epoch, config, seed=0, shuffle=True, worker=Worker())
    assert recorder.rates == [0.5 * optim.lr_factor(step, 3, (), config) for step in range(9)]


@pytest.mark.parametrize("head", [{}, {"kind": "dense"}, {"kind": "linear"}, {"dropout": 0.0}])
@pytest.mark.parametrize("num_workers", [2, 3, 4])
def test_gradients_of_several_workers_average_to_those_of_one(num_workers: int, head: dict[str, Any]) -> None:
    # Batches of 7, 7 and 2: not divisible, and the last one smaller than the number of workers.
    data, config = samples(16), OptimConfig(global_batch_size=7)

    def gradients(worker: Worker) -> tuple[list[list[Tensor]], Tensor]:
        recorder = Recorder(trainable := network(**head))
        totals = epoch_of(trainable, recorder, data, 1, config, seed=3, shuffle=True, worker=worker)
        return recorder.gradients, totals.sums

    expected, sums = gradients(Worker())
    every = [gradients(Worker(rank, num_workers)) for rank in range(num_workers)]
    assert len(expected) == 3
    for step in range(3):
        for position, whole in enumerate(expected[step]):
            average = torch.stack([found[step][position] for found, _ in every]).mean(0)
            torch.testing.assert_close(average, whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.stack([part for _, part in every]).sum(0), sums, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("frozen_blocks", [4, 5])
def test_a_worker_without_samples_has_a_gradient_of_zeros(frozen_blocks: int) -> None:
    shape = (512, 2, 2) if frozen_blocks == 4 else (512, 1, 1)
    recorder = Recorder(trainable := network(frozen_blocks=frozen_blocks))
    epoch_of(trainable, recorder, samples(1, shape=shape), 0, OptimConfig(), seed=0, shuffle=True, worker=Worker(0, 2))
    assert all(parameter.grad is not None for parameter in trainable.parameters())
    assert all(gradient.eq(0).all() for gradient in recorder.gradients[0])


def test_the_gradient_is_that_of_the_mean_loss_under_the_drawn_dropout() -> None:
    data = samples(6)
    recorder = Recorder(trainable := network())
    epoch_of(trainable, recorder, data, 0, OptimConfig(), seed=9, shuffle=False, worker=Worker())
    plain = network().train()
    keep = plain.head.dropout.draw(generator(9, 1, 0), 6, slice(None), 16)
    sample_losses(plain(data.gather(torch.arange(6)), keep), data.labels).mean().backward()
    for gradient, parameter in zip(recorder.gradients[0], plain.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-6, atol=1e-7)


def trained(
    config: OptimConfig, epochs: range, data: Samples, state: bytes | None = None
) -> tuple[Trainable, torch.optim.Optimizer, list[tuple[float, float]]]:
    """Fresh objects, filled from a checkpoint as bytes where there is one, trained for these epochs."""
    trainable = network()
    loop.fit_scale(trainable, data, 0)
    optimizer = optim.optimizer(trainable, config)
    if state is not None:
        weights, inner = torch.load(io.BytesIO(state), weights_only=True)
        trainable.load_state_dict(weights)
        optimizer.load_state_dict(inner)
    rates = []
    for epoch in epochs:
        totals = epoch_of(trainable, optimizer, data, epoch, config, seed=1, shuffle=True, worker=Worker())
        rates.append(totals.rates())
        loop.evaluate(trainable, data, 8, Worker())
    return trainable, optimizer, rates


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(name: Any) -> None:
    config, data = OptimConfig(name=name, num_epochs=5, global_batch_size=8, lr=1e-3), samples(30)
    whole, optimizer, rates = trained(config, range(5), data)
    first, inner, early = trained(config, range(2), data)
    buffer = io.BytesIO()
    torch.save((first.state_dict(), inner.state_dict()), buffer)
    second, resumed, late = trained(config, range(2, 5), data, buffer.getvalue())
    assert early + late == rates and rates[-1][0] < rates[0][0]
    left, right = whole.state_dict(), second.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)
    one, other = optimizer.state_dict()["state"], resumed.state_dict()["state"]
    assert all(torch.equal(one[i][key], other[i][key]) for i in one for key in one[i] if one[i][key] is not None)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_training_learns_what_can_be_learned(num_classes: int) -> None:
    plain = samples(60, num_classes)
    features = plain.gather(torch.arange(60)).clone()
    features[torch.arange(60), plain.labels] += 8
    data = Samples(features.__getitem__, plain.labels)
    trainable = network(1 if num_classes == 2 else 3)
    config = OptimConfig(lr=1e-2, global_batch_size=20, num_epochs=30)
    optimizer = optim.optimizer(trainable, config)
    rates = []
    for epoch in range(30):
        totals = epoch_of(trainable, optimizer, data, epoch, config, seed=0, shuffle=True, worker=Worker())
        rates.append(totals.rates())
    assert rates[-1][0] < 0.5 * rates[0][0]
    measured = loop.measure(loop.evaluate(trainable, data, 16, Worker()), data.labels).rates()
    assert measured[1] > 0.95


@pytest.mark.slow
def test_two_processes_make_the_weights_and_figures_that_one_makes(tmp_path: Path) -> None:
    start_processes(_in_a_process, (tmp_path,), nprocs=2, start_method="spawn")
    expected = _run(Worker(), lambda trainable: trainable)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-6)


def _in_a_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/init", rank=rank, world_size=2)
    torch.save(_run(Worker(rank, 2), DistributedDataParallel), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def _run(worker: Worker, wrap: Callable[[Trainable], torch.nn.Module]) -> dict[str, Tensor]:
    """Two epochs with batches of 6, 6 and 1 on one worker's process; the state, the sums, the logits."""
    wrapped, data, config = wrap(trainable := network()), samples(13), OptimConfig(global_batch_size=6, lr=1e-2)
    optimizer = optim.optimizer(trainable, dataclasses.replace(config, name="sgd"))
    for epoch in range(2):
        totals = epoch_of(wrapped, optimizer, data, epoch, config, seed=0, shuffle=True, worker=worker)
    logits = loop.evaluate(wrapped, data, 4, worker)
    return {**trainable.state_dict(), "sums": totals.sums, "logits": logits}


@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 4, 11])
def test_every_sample_is_evaluated_once(count: int, num_workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    data, trainable = samples(count), network()
    seen: list[int] = []

    def gather(rows: Tensor) -> Tensor:
        seen.extend(rows.tolist())
        return data.gather(rows)

    watched = Samples(gather, data.labels)
    parts = [loop.evaluate(trainable, watched, 3, Worker(rank, num_workers)) for rank in range(num_workers)]
    assert seen == list(range(count))
    assert sum(part.any(1).long() for part in parts).tolist() == [1] * count  # type: ignore[union-attr]
    with torch.no_grad():
        expected = trainable.eval()(data.gather(torch.arange(count)))
    torch.testing.assert_close(torch.stack(parts).sum(0), expected)
    assert not parts[0].requires_grad


def test_evaluation_drops_no_units_and_training_does_again_afterwards() -> None:
    trainable, data = network(), samples(12)
    first = loop.evaluate(trainable, data, 5, Worker())
    assert not trainable.training
    recorder = Recorder(trainable)
    epoch_of(trainable, recorder, data, 0, OptimConfig(), seed=0, shuffle=True, worker=Worker())
    assert trainable.training
    assert torch.equal(loop.evaluate(trainable, data, 5, Worker()), first)


def test_measuring_is_a_mean_over_all_samples() -> None:
    logits, labels = torch.randn(20, 3), torch.randint(0, 3, (20,))
    loss, accuracy = loop.measure(logits, labels).rates()
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)
    assert accuracy == (logits.argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_no_number_is_named_with_step_and_epoch(value: float) -> None:
    data, trainable = samples(20), network()
    features = data.gather(torch.arange(20)).clone()
    features[17, 0] = value
    before = {name: tensor.clone() for name, tensor in trainable.state_dict().items()}
    with pytest.raises(FloatingPointError, match=r"loss is nan in step 14 \(epoch 3\)"):
        epoch_of(
            trainable,
            Recorder(trainable),
            Samples(features.__getitem__, data.labels),
            2,
            OptimConfig(global_batch_size=4),
            seed=0,
            shuffle=False,
            worker=Worker(),
        )
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainable.state_dict().items())


@pytest.mark.parametrize("kind", ["pooled", "dense"])
@pytest.mark.parametrize("count", [3, 150])
def test_the_scale_is_the_deviation_of_what_the_head_sees(count: int, kind: str) -> None:
    data = samples(count, shape=(512, 2, 2))
    trainable = network(kind=kind)
    loop.fit_scale(trainable, data, 0)
    trunk = trainable.trunk(data.gather(torch.arange(count)))
    assert trunk.shape == (count, 512, *((1, 1) if kind == "pooled" else (2, 2)))
    seen = trainable.head.inputs(trunk)
    assert trainable.head.scale.item() == pytest.approx(torch.std(seen.double(), correction=0).item(), rel=1e-6)
    assert (seen / trainable.head.scale).std().item() == pytest.approx(1, abs=1e-3)


def test_the_scale_is_estimated_on_8192_samples_at_most() -> None:
    gathered: list[int] = []

    def gather(rows: Tensor) -> Tensor:
        gathered.extend(rows.tolist())
        return rows.view(-1, 1, 1, 1).expand(-1, 512, 1, 1) / 9000

    trainable = network(kind="pooled", unit_length=False)
    loop.fit_scale(trainable, Samples(gather, torch.zeros(9000, dtype=torch.int64)), 0)
    assert len(gathered) == len(set(gathered)) == 8192
    assert trainable.head.scale.item() == pytest.approx(12**-0.5, rel=0.02)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e-3, 12345.678])
def test_features_that_do_not_vary_keep_their_scale(value: float) -> None:
    trainable = network()
    loop.fit_scale(trainable, Samples(lambda rows: torch.full((len(rows), 512, 1, 1), value), torch.zeros(77)), 0)
    assert trainable.head.scale.item() == 1


def learner(trainable: Trainable, config: OptimConfig, worker: Worker | None = None) -> Learner:
    average = None
    if config.ema_decay is not None:
        average = AveragedModel(trainable, multi_avg_fn=optim.averaging(config.ema_decay))
    return Learner(trainable, optim.optimizer(trainable, config), config, 1, True, worker or Worker(), average)


def test_parts_of_a_batch_make_the_update_of_the_whole() -> None:
    data, states = samples(13), []
    for parts in (1, 3):
        trainable = network()
        config = OptimConfig(name="sgd", global_batch_size=5, lr=0.1, accumulation_steps=parts, mixup=0.3)
        for _ in loop.train_epoch(learner(trainable, config), data, 0, Totals(CPU)):
            pass
        states.append(trainable.state_dict())
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-5, atol=1e-6)


def test_an_epoch_goes_on_from_any_update_with_all_its_sums() -> None:
    config, data = OptimConfig(global_batch_size=4, mixup=0.2, ema_decay=0.9), samples(22)
    whole, totals = learner(network(), config), Totals(CPU)
    assert list(loop.train_epoch(whole, data, 1, totals)) == [1, 2, 3, 4, 5, 6]
    stopped, sums = learner(network(), config), Totals(CPU)
    for start in loop.train_epoch(stopped, data, 1, sums):
        if start == 2:
            break
    assert list(loop.train_epoch(stopped, data, 1, sums, start=2)) == [3, 4, 5, 6]
    assert sums.count == 22 and torch.equal(sums.sums, totals.sums)
    for kept, network_of_whole in whole.candidates.items():
        for name, tensor in network_of_whole.state_dict().items():
            assert torch.equal(tensor, stopped.candidates[kept].state_dict()[name])


@pytest.mark.parametrize("decay", [0.2, 0.99])
def test_the_average_follows_the_weights_closely_at_first_and_then_with_its_decay(decay: float) -> None:
    averaged = learner(trainable := network(), OptimConfig(global_batch_size=4, lr=0.1, ema_decay=decay))
    weight = averaged.candidates["average"].head.last.weight
    expected, num_updates = None, 0
    for _ in loop.train_epoch(averaged, samples(20), 0, Totals(CPU)):
        learned = trainable.head.last.weight.detach().clone()
        share = 1 - min(decay, (1 + num_updates) / (10 + num_updates))
        expected = learned if expected is None else expected + share * (learned - expected)
        num_updates += 1
        torch.testing.assert_close(weight, expected)
    assert num_updates == 5 and not torch.equal(weight, trainable.head.last.weight)


def test_a_clipped_gradient_has_the_norm_asked_for() -> None:
    trainable = network()
    config = OptimConfig(global_batch_size=8, clip_norm=1e-3)
    recorder = Recorder(trainable)
    for _ in loop.train_epoch(Learner(trainable, recorder, config), samples(8), 0, Totals(CPU)):
        pass
    norm = torch.stack([gradient.norm() for gradient in recorder.gradients[0]]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_mixed_samples_have_mixed_features_and_losses() -> None:
    data, seen = samples(8), []
    trainable = network(dropout=0.0)
    trainable.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    config = OptimConfig(global_batch_size=8, mixup=0.4)
    totals = epoch_of(trainable, Recorder(trainable), data, 0, config, seed=3, shuffle=False, worker=Worker())
    mixing = loop._mixing(8, 3, 0, 0.4)
    assert mixing is not None
    share, partners = mixing
    assert 0 < share < 1 and sorted(partners.tolist()) == list(range(8))
    features = data.gather(torch.arange(8)).float()
    torch.testing.assert_close(seen[0], share * features + (1 - share) * features[partners])
    logits = trainable(seen[0])
    expected = share * sample_losses(logits, data.labels) + (1 - share) * sample_losses(logits, data.labels[partners])
    assert totals.sums[0].item() == pytest.approx(expected.sum().item(), rel=1e-5)


@pytest.mark.parametrize("num_logits", [1, 3])
def test_smoothed_labels_are_targets_spread_over_all_classes(num_logits: int) -> None:
    num_classes = max(num_logits, 2)
    logits, labels = torch.randn(5, num_logits), torch.arange(5) % num_classes
    full = torch.cat([torch.zeros(5, 1), logits], 1) if num_logits == 1 else logits
    expected = torch.nn.functional.cross_entropy(full, labels, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(sample_losses(logits, labels, 0.2), expected)


def test_balanced_weights_give_every_class_the_same_sum() -> None:
    labels = torch.tensor([0] * 9 + [1] * 3 + [2])
    weights = class_weights(labels, 3)
    sums = [weights[labels == label].sum().item() for label in range(3)]
    assert sums == pytest.approx([13 / 3] * 3) and weights.mean().item() == pytest.approx(1)


def test_sample_weights_scale_the_loss() -> None:
    data = samples(6)
    doubled = dataclasses.replace(data, weights=torch.full((6,), 2.0))
    totals = [
        epoch_of(trained := network(), Recorder(trained), one, 0, OptimConfig(), seed=0, shuffle=True, worker=Worker())
        for one in (data, doubled)
    ]
    assert totals[1].sums[0].item() == pytest.approx(2 * totals[0].sums[0].item(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("frozen_blocks", [3, 4])
def test_learning_on_features_equals_learning_with_the_frozen_layers_in_the_step(
    pretrained: dict[str, Tensor], frozen_blocks: int
) -> None:
    preprocess = PreprocessConfig(image_size=64, short_side=64)
    images = torch.randint(0, 256, (24, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extract = Frozen(frozen_blocks, preprocess, tensors=pretrained).prepare()
    labels, losses = torch.arange(24) % 2, []
    cached = extract(images)
    for data in (
        Samples(cached.__getitem__, labels),
        Samples(images.__getitem__, labels, augment=lambda pixels, rows, epoch: pixels, frozen=extract),
    ):
        trainable = Trainable(frozen_blocks, preprocess, HeadConfig(width=16), 1)
        load_pretrained(trainable.layers, pretrained)
        trainable.head.initialize(generator(0, 3))
        loop.fit_scale(trainable, data, 0)
        totals = Totals(CPU)
        for _ in loop.train_epoch(learner(trainable, OptimConfig(global_batch_size=8)), data, 0, totals):
            pass
        losses.append(totals.rates()[0])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:CUDA is not available", "ignore:Accessing the data pointer")
@pytest.mark.parametrize("mixup", [0.0, 0.2])
@pytest.mark.parametrize("frozen_blocks", [3, 5])
def test_nothing_of_an_epoch_on_a_gpu_is_left_on_the_processor(
    mixup: float, frozen_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By tensors without values, which raise where two devices meet."""
    monkeypatch.setattr(Tensor, "item", lambda tensor: 0.5)
    monkeypatch.setattr(Tensor, "backward", lambda tensor: None)
    monkeypatch.setattr(loop, "_ahead", map)
    config = OptimConfig(global_batch_size=8, mixup=mixup, label_smoothing=0.1, clip_norm=1.0, accumulation_steps=2)
    worker = Worker(device=torch.device("cuda"))
    with FakeTensorMode():
        with worker.device:
            trainable = Trainable(frozen_blocks, PREPROCESS, HeadConfig(width=16), 3, "vgg_tiny")
        for parameter in trainable.parameters():
            parameter.grad = torch.zeros_like(parameter)
        features = torch.rand(20, *feature_shape(frozen_blocks, 32, "vgg_tiny"))
        data = Samples(lambda rows: features[rows], torch.zeros(20, dtype=torch.int64), torch.ones(20))
        learner = Learner(trainable, optim.optimizer(trainable, config), config, worker=worker)
        totals = Totals(worker.device, (1.0, 2.0, 3.0))
        loop.fit_scale(trainable, data, 0)
        assert list(loop.train_epoch(learner, data, 0, totals)) == [1, 2, 3]
        assert totals.sums.device.type == "cuda"
        assert loop.evaluate(trainable, data, 8, worker).device.type == "cpu"
