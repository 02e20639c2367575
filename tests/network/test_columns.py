"""A dense head on two workers that share its first layer: the same as on one, and its state as well."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tlearn.config import HeadConfig, OptimConfig, PreprocessConfig
from tlearn.evaluation.metrics import Totals
from tlearn.network.columns import Columns
from tlearn.network.trainable import Trainable
from tlearn.training import loop, optim
from tlearn.training.loop import Learner, Samples, Worker


def run(name: Any, worker: Worker, state: dict[str, Any] | None, epochs: range) -> dict[str, Any]:
    """Epochs with batches of 6, 6 and 1, and what a checkpoint then holds."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(13, 512, 2, 2, generator=generator).half()
    data = Samples(features.__getitem__, torch.arange(13) % 3)
    config = OptimConfig(name=name, lr=1e-2, global_batch_size=6, accumulation_steps=2, ema_decay=0.7)
    trainable = Trainable(5, PreprocessConfig(image_size=64, short_side=64), HeadConfig(kind="dense", width=16), 3)
    trainable.head.initialize(loop.generator(0, 3))
    average = AveragedModel(trainable, multi_avg_fn=get_ema_multi_avg_fn(0.7))
    network: torch.nn.Module = trainable
    first = trainable.head.hidden[0]
    assert isinstance(first, torch.nn.Linear)
    columns = Columns(first) if worker.num_workers > 1 else None
    optimizer = optim.optimizer(trainable, config, columns)
    if columns is not None:
        network = DistributedDataParallel(trainable)
        assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) < first.weight.numel()
    if state is not None:
        trainable.load_state_dict(state["trainable"])
        average.load_state_dict(state["average"])
        kept = copy.deepcopy(state["optimizer"])  # which torch would go on with, and change
        optimizer.load_state_dict(columns.own_state(optimizer, kept) if columns else kept)
    totals = Totals(worker.device)
    learner = Learner(network, optimizer, config, 0, True, worker, average, columns)
    for epoch in epochs:
        for _ in loop.train_epoch(learner, data, epoch, totals):
            pass
    if columns is not None:
        columns.complete(first)
        averaged = average.module.head.hidden[0]
        assert isinstance(averaged, torch.nn.Linear)
        columns.complete(averaged)
    return {
        "trainable": trainable.state_dict(),
        "average": average.state_dict(),
        "optimizer": columns.whole_state(optimizer) if columns else optimizer.state_dict(),
        "sums": totals.reduced().sums,
        "logits": loop.evaluate(average, data, 4, worker),
    }


def in_a_process(rank: int, folder: Path, name: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/init", rank=rank, world_size=2)
    first = run(name, Worker(rank, 2), None, range(1))
    second = run(name, Worker(rank, 2), first, range(1, 3))
    torch.save((first, second), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def require_close(found: Any, expected: Any) -> None:
    if isinstance(expected, Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            require_close(found[key], expected[key])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_two_workers_that_share_a_layer_make_what_one_makes_and_resume_as_one(tmp_path: Path, name: str) -> None:
    start_processes(in_a_process, (tmp_path, name), nprocs=2, start_method="spawn")
    first = run(name, Worker(), None, range(1))
    expected = run(name, Worker(), first, range(1, 3))
    for rank in range(2):
        stopped, found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        require_close(stopped, first)
        require_close(found, expected)
    # One worker goes on where two were.
    require_close(run(name, Worker(), stopped, range(1, 3)), expected)
