"""The training loop: plain torch, told who of how many workers it is, and otherwise ignorant of them.

    order of an epoch = randperm(N, seed, epoch)       the same for any number of workers
    global batch      = the next 64 of that order
    worker r of W     = its slice of every global batch

One worker and four therefore make the same updates, no sample is dropped or doubled, and a resumed run goes on as
if it had not stopped: order, dropout, mixing and learning rate are functions of (seed, step).
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from tlearn.config import OptimConfig
from tlearn.evaluation.metrics import Totals, sample_losses
from tlearn.network.columns import Columns
from tlearn.network.trainable import Trainable
from tlearn.training.optim import lr_factor
from tlearn.training.samples import Samples
from tlearn.training.streams import Stream, generator

_MAX_SCALED_FROZEN, _MAX_SCALED = 8192, 512
"""Samples from which the scale of the features is estimated, where all blocks are frozen and where not."""

Kept = Literal["weights", "average"]
"""What of an epoch is kept: the weights as they were learned, or their moving average."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Worker:
    """This process among those that train together."""

    rank: int = 0
    num_workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share(self, count: int) -> slice:
        """This worker's part of `count` samples; the parts cover them once, and differ by one at most."""
        return _part(slice(0, count), self.rank, self.num_workers)


def _part(rows: slice, number: int, num_parts: int) -> slice:
    count = rows.stop - rows.start
    return slice(rows.start + count * number // num_parts, rows.start + count * (number + 1) // num_parts)


@dataclass(frozen=True, slots=True)
class Learner:
    """What is trained, and how."""

    network: nn.Module
    """A Trainable, or DDP around one."""
    optimizer: torch.optim.Optimizer
    config: OptimConfig
    seed: int = 0
    shuffle: bool = True
    worker: Worker = field(default_factory=Worker)
    average: AveragedModel | None = None
    """The moving average of the weights."""
    columns: Columns | None = None
    """Where workers share the head's first layer."""

    @property
    def candidates(self) -> dict[Kept, Trainable]:
        """What an epoch may keep."""
        weights: dict[Kept, Trainable] = {"weights": unwrapped(self.network)}
        return weights if self.average is None else {**weights, "average": unwrapped(self.average)}


def epoch_order(num_samples: int, seed: int, epoch: int, shuffle: bool) -> Tensor:
    """(num_samples,) int64: the order in which epoch `epoch` (from 0) sees the samples."""
    return torch.randperm(num_samples, generator=generator(seed, epoch)) if shuffle else torch.arange(num_samples)


def train_epoch(
    learner: Learner, samples: Samples, epoch: int, totals: Totals, *, val_losses: Sequence[float] = (), start: int = 0
) -> Iterator[int]:
    """Update the network on every sample once, from update `start` on; yield the number of updates after each.

    `totals` takes up this worker's sums. Raises FloatingPointError, with the step, for a loss that is no finite number.
    """
    config, worker = learner.config, learner.worker
    trainable = unwrapped(learner.network).train()
    batches = epoch_order(len(samples), learner.seed, epoch, learner.shuffle).split(config.global_batch_size)
    first_step = epoch * len(batches)
    dropout, num_units = trainable.head.dropout, trainable.head.config.width

    def load(number: int) -> list[_Part]:
        return _load(learner, samples, batches[number], epoch, first_step + number)

    for number, parts in enumerate(_ahead(load, range(start, len(batches))), start):
        step, count = first_step + number, len(batches[number])
        factor = lr_factor(step, len(batches), val_losses, config)
        for group in learner.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        learner.optimizer.zero_grad()
        for part in parts:
            keep = dropout.draw(generator(learner.seed, Stream.DROPOUT, step), count, part.rows, num_units)
            with _gathering(learner.network, last=part is parts[-1]):
                logits = learner.network(part.features(trainable, samples.frozen, worker.device), keep, learner.columns)
                losses = part.losses(logits, config.label_smoothing)
                # DDP averages gradients over workers; their sum over the global batch, divided once, is what we want.
                loss = losses.sum() * (worker.num_workers / count)
                if not math.isfinite(loss.item()):  # .item() waits for the device
                    raise FloatingPointError(f"loss is {loss.item()} in step {step} (epoch {epoch + 1})")
                loss.backward()
            totals.add(losses, logits, part.labels.to(worker.device))
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(trainable.parameters(), config.clip_norm)
        learner.optimizer.step()
        if learner.average is not None:
            learner.average.update_parameters(trainable)
        yield number + 1


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of a global batch that go through the network together, with those that they are mixed with."""

    rows: slice
    gathered: Tensor  # (n, ...), or (2n, ...) where partners follow
    labels: Tensor  # (n,)
    weights: Tensor  # (n,)
    partner_labels: Tensor  # (n,) or (0,)
    share: float
    """What the sample itself has in the mixture."""

    def features(self, trainable: Trainable, frozen: Callable[[Tensor], Tensor] | None, device: torch.device) -> Tensor:
        features = self.gathered.to(device, non_blocking=True)
        if frozen is not None:
            features = frozen(features).to(device)
        if self.share == 1:
            return features
        own, partners = trainable.inputs(features).chunk(2)
        return self.share * own + (1 - self.share) * partners

    def losses(self, logits: Tensor, label_smoothing: float) -> Tensor:
        """(n,)"""
        losses = sample_losses(logits, self.labels.to(logits.device), label_smoothing)
        if self.share != 1:
            partner_losses = sample_losses(logits, self.partner_labels.to(logits.device), label_smoothing)
            losses = self.share * losses + (1 - self.share) * partner_losses
        return losses * self.weights.to(logits.device)


def _load(learner: Learner, samples: Samples, batch: Tensor, epoch: int, step: int) -> list[_Part]:
    """This worker's share of a global batch (n,), in as many parts as gradients are added up over."""
    mixing = _mixing(len(batch), learner.seed, step, learner.config.mixup)
    share, partners = mixing or (1.0, torch.arange(0))
    own_rows, num_parts, parts = learner.worker.share(len(batch)), learner.config.accumulation_steps, []
    for number in range(num_parts):
        rows = _part(own_rows, number, num_parts)
        own, others = batch[rows], batch[partners[rows]] if mixing else batch[:0]
        weights = torch.ones(len(own)) if samples.weights is None else samples.weights[own]
        gathered = samples.take(torch.cat([own, others]), epoch)
        parts.append(_Part(rows, gathered, samples.labels[own], weights, samples.labels[others], share))
    return parts


def _mixing(count: int, seed: int, step: int, alpha: float) -> tuple[float, Tensor] | None:
    """How a global batch is mixed (Zhang et al., mixup, 2018): the share of the sample itself, and its partner."""
    if not alpha:
        return None
    share = float(np.random.default_rng([seed, Stream.MIXUP, step]).beta(alpha, alpha))
    return share, torch.randperm(count, generator=generator(seed, Stream.MIXUP, step))


def _ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """What the function makes of each item, in a thread, one ahead of what is asked for."""
    with ThreadPoolExecutor(1) as thread:
        waiting = None
        for item in items:
            coming = thread.submit(function, item)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()


def _gathering(network: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[None]:
    """DDP adds up gradients over workers with the last part of a batch only."""
    if last or not isinstance(network, DistributedDataParallel):
        return contextlib.nullcontext()
    return network.no_sync()


@torch.no_grad()
def evaluate(network: nn.Module, samples: Samples, batch_size: int, worker: Worker) -> Tensor:
    """(N, num_logits) float32 on the CPU: the logits of every sample, on every worker."""
    trainable = unwrapped(network).eval()
    logits = torch.zeros(len(samples), trainable.head.last.out_features, device=worker.device)
    own_rows = torch.arange(len(samples))[worker.share(len(samples))]
    for rows in own_rows.split(batch_size):
        logits[rows.to(worker.device)] = trainable(samples.take(rows).to(worker.device))
    if worker.num_workers > 1:
        torch.distributed.all_reduce(logits)  # every other worker's rows are zero here
    return logits.cpu()


def measure(logits: Tensor, labels: Tensor) -> Totals:
    """The sums over all samples, from the logits of all samples."""
    totals = Totals(torch.device("cpu"))
    totals.add(sample_losses(logits, labels), logits, labels)
    return totals


@torch.no_grad()
def fit_scale(trainable: Trainable, samples: Samples, seed: int) -> None:
    """Set the head's scale to the standard deviation of what it sees, over some thousands of training samples.

    One number for all channels: one for each would make as much of the rarely active ones as of the telling ones
    (0.987 instead of 0.991 of 1,000 photographs of cats and dogs).
    """
    most = _MAX_SCALED if len(trainable.layers) else _MAX_SCALED_FROZEN
    rows = torch.randperm(len(samples), generator=generator(seed, Stream.SCALE))[:most]
    count, total, squares, device = 0, 0.0, 0.0, trainable.head.scale.device
    for part in rows.sort().values.split(64):
        features = samples.take(part, 0).to(device)
        trunk = trainable.trunk(samples.frozen(features).to(device) if samples.frozen else features)
        seen = trainable.head.inputs(trunk).double()
        count, total, squares = count + seen.numel(), total + seen.sum().item(), squares + seen.square().sum().item()
    deviation = math.sqrt(max(squares / count - (total / count) ** 2, 0.0))
    trainable.head.scale.fill_(deviation or 1.0)


def unwrapped(network: nn.Module) -> Trainable:
    """The network itself, without DDP or an average around it."""
    inner = getattr(network, "module", network)
    assert isinstance(inner, Trainable)
    return inner
