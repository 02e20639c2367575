"""The training loop: plain torch, told who of how many workers it is, and otherwise ignorant of them.

    order of an epoch = randperm(N, seed, epoch)       the same for any number of workers
    global batch      = the next 64 of that order
    worker r of W     = its slice of every global batch

One worker and four therefore make the same updates, no sample is dropped or doubled, and a resumed run goes on as
if it had not stopped: order, dropout and learning rate are functions of (seed, step).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed
from torch import Generator, Tensor, nn

from tlearn.config import OptimConfig
from tlearn.metrics import Totals, sample_losses
from tlearn.network import Trainable
from tlearn.optim import lr_at

_MAX_SCALED = 8192
"""Samples from which the scale of the features is estimated."""


@dataclass(frozen=True, slots=True)
class Worker:
    """This process among those that train together."""

    rank: int = 0
    num_workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share(self, count: int) -> slice:
        """This worker's part of `count` samples; the parts cover them once, and differ by one at most."""
        return slice(count * self.rank // self.num_workers, count * (self.rank + 1) // self.num_workers)


@dataclass(frozen=True, slots=True)
class Samples:
    """Features with labels. `gather` takes row numbers, (n,) int64, and gives (n, channels, height, width)."""

    gather: Callable[[Tensor], Tensor]
    labels: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        return self.gather(rows).to(device), self.labels[rows].to(device)


def generator(*keys: int) -> Generator:
    """A generator of its own for each combination of keys."""
    seed = 0
    for key in keys:
        seed = (seed * 6364136223846793005 + key + 1442695040888963407) % 2**63
    return Generator().manual_seed(seed)


def epoch_order(num_samples: int, seed: int, epoch: int, shuffle: bool) -> Tensor:
    """(num_samples,) int64: the order in which epoch `epoch` (from 0) sees the samples."""
    return torch.randperm(num_samples, generator=generator(seed, epoch)) if shuffle else torch.arange(num_samples)


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    epoch: int,
    config: OptimConfig,
    *,
    seed: int,
    shuffle: bool,
    worker: Worker,
) -> Totals:
    """Update `network` (a Trainable, or DDP around one) on every sample once; return the sums of all workers.

    Raises FloatingPointError, with the step, for a loss that is no finite number.
    """
    trainable = unwrapped(network).train()
    dropout, num_units = trainable.head.dropout, trainable.head.config.width
    totals = Totals(worker.device)
    batches = epoch_order(len(samples), seed, epoch, shuffle).split(config.global_batch_size)
    for step, batch in enumerate(batches, start=epoch * len(batches)):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, config.num_epochs * len(batches), config)
        mine = worker.share(len(batch))
        dropout.draw(generator(seed, 1, step), len(batch), mine, num_units)
        features, labels = samples.take(batch[mine], worker.device)
        logits = network(features)
        losses = sample_losses(logits, labels)
        # DDP averages gradients over workers; their sum over the global batch, divided once, is what we want.
        loss = losses.sum() * (worker.num_workers / len(batch))
        if not math.isfinite(loss.item()):  # .item() waits for the device
            raise FloatingPointError(f"loss is {loss.item()} in step {step} (epoch {epoch + 1})")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        totals.add(losses, logits, labels)
    return totals.reduce()


@torch.no_grad()
def evaluate(network: nn.Module, samples: Samples, batch_size: int, worker: Worker) -> Tensor:
    """(N, num_logits) float32 on the CPU: the logits of every sample, on every worker."""
    trainable = unwrapped(network).eval()
    logits = torch.zeros(len(samples), trainable.head.last.out_features, device=worker.device)
    mine = torch.arange(len(samples))[worker.share(len(samples))]
    for rows in mine.split(batch_size):
        features, _ = samples.take(rows, worker.device)
        logits[rows.to(worker.device)] = trainable(features)
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
    """Set the head's scale to the standard deviation of what it sees, over (at most 8,192) training samples.

    One number for all channels: one for each would make as much of the rarely active ones as of the telling ones
    (0.987 instead of 0.991 of 1,000 photographs of cats and dogs).
    """
    rows = torch.randperm(len(samples), generator=generator(seed, 2))[:_MAX_SCALED].sort().values
    count, total, squares = 0, 0.0, 0.0
    for part in rows.split(64):
        trunk = trainable.trunk(samples.gather(part)).double()
        count, total, squares = count + trunk.numel(), total + trunk.sum().item(), squares + trunk.square().sum().item()
    deviation = math.sqrt(max(squares / count - (total / count) ** 2, 0.0))
    trainable.head.scale.fill_(deviation or 1.0)


def unwrapped(network: nn.Module) -> Trainable:
    """The network itself, without DDP around it."""
    inner = getattr(network, "module", network)
    assert isinstance(inner, Trainable)
    return inner
