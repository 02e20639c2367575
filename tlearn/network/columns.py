"""The first layer of a dense head, its units shared out among the workers.

The notebook's has 25.7 million weights, whose gradient DDP would exchange in every step: 103 MB. Instead every worker
sees the inputs of all samples, computes its own units for them and updates these; inputs, outputs and deltas are 7 MB.
In the time of one worker's step each of two then does 1.13 times as much, 0.66 with DDP (tests/benchmarks/traffic.py).

The layer stays whole where it was, a part of the state. What is trained is a view of some of its rows; the rows of the
others are stale until `complete` fetches them, before the layer is evaluated or saved.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class Columns:
    """This worker's units of a layer whose input needs no gradient."""

    def __init__(self, layer: nn.Linear):
        self.size, self.rank = dist.get_world_size(), dist.get_rank()
        assert layer.out_features % self.size == 0
        self.whole = dict(layer.named_parameters())
        layer.requires_grad_(False)
        self.own = {name: nn.Parameter(self._rows(tensor.data)[self.rank]) for name, tensor in self.whole.items()}

    def _rows(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Of each worker."""
        return tensor.chunk(self.size)

    def trained(self, parameter: nn.Parameter) -> nn.Parameter:
        """What is trained of a parameter of the head: itself, or some of its rows."""
        return next((self.own[name] for name, whole in self.whole.items() if whole is parameter), parameter)

    def __call__(self, x: Tensor) -> Tensor:
        """(samples of this worker, inputs) -> (samples of this worker, all units)."""
        count = torch.tensor(len(x), device=x.device)
        dist.all_reduce(count, dist.ReduceOp.MAX)
        padded = _gathered(F.pad(x, (0, 0, 0, int(count.item()) - len(x))))
        part = F.linear(torch.cat(padded), self.own["weight"], self.own["bias"])
        exchanged = _Exchange.apply(part, len(x))
        assert isinstance(exchanged, Tensor)
        return exchanged

    def complete(self, layer: nn.Linear) -> None:
        """Fetch the rows of the other workers, for the layer or for its average."""
        for tensor in layer.parameters():
            rows = self._rows(tensor.data)
            dist.all_gather(list(rows), rows[self.rank].clone())

    def whole_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimiser's state as one worker would have it; all workers must ask for it."""
        return self._changed(optimizer, optimizer.state_dict(), lambda rows: torch.cat(_gathered(rows)))

    def own_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """The reverse: this worker's part of such a state."""
        return self._changed(optimizer, state, lambda whole: self._rows(whole)[self.rank].clone())

    def _changed(
        self, optimizer: torch.optim.Optimizer, state: dict[str, Any], change: Callable[[Tensor], Tensor]
    ) -> dict[str, Any]:
        """With what is kept of the parameters that are trained in part changed; the counts of steps stay."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        parts = {i for i, parameter in enumerate(parameters) if any(parameter is one for one in self.own.values())}
        changed = {
            index: {key: change(value) if index in parts and value.dim() else value for key, value in kept.items()}
            for index, kept in state["state"].items()
        }
        return {**state, "state": changed}


class _Exchange(torch.autograd.Function):
    """From the own units for all samples to all units for the own samples; gradients are averaged as DDP does."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, num_own: int) -> Tensor:
        """(workers * most samples, own units) -> (own samples, all units)"""
        ctx.rows = len(part) // dist.get_world_size()
        start = dist.get_rank() * ctx.rows
        return torch.cat([one[start : start + num_own] for one in _gathered(part)], 1)

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor, None]:
        (delta,) = deltas
        every = torch.cat(_gathered(F.pad(delta, (0, 0, 0, ctx.rows - len(delta)))))
        return every.chunk(dist.get_world_size(), 1)[dist.get_rank()] / dist.get_world_size(), None


def _gathered(tensor: Tensor) -> list[Tensor]:
    """Of all workers, in order; of equal shapes."""
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return parts
