"""What two workers with one core each gain with the notebook's head: python tests/benchmarks/traffic.py

Its first Dense layer has 25,088 x 1,024 weights, 103 MB that plain DDP exchanges in every step. A step of two workers
with 64 samples each beside a step of one with 64, by turns, on this machine by gloo (weak scaling: 1.00 is twice the
samples in the same time):


plain      DDP as it is
bf16       DDP with torch's bf16 compression hook: half the bytes, rounded gradients
factors    the layer's gradient is the product of its inputs and deltas: these are exchanged, 6.7 MB, and every worker
           multiplies those of all; exact
columns    every worker holds half of the layer's units, sees all samples, and updates its half; exact
"""

import argparse
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

NUM_INPUTS, WIDTH, BATCH = 25_088, 1024, 64


def gathered(x: Tensor) -> Tensor:
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


class Factors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> Any:
        x, _ = ctx.saved_tensors
        every_delta, every_x = gathered(deltas[0]), gathered(x)
        size = dist.get_world_size()
        return None, every_delta.T @ every_x / size, every_delta.sum(0) / size


class Columns(torch.autograd.Function):
    """From this worker's units for all samples to all units for this worker's samples, and back."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        size, rank = dist.get_world_size(), dist.get_rank()
        parts = [torch.empty_like(part) for _ in range(size)]
        dist.all_gather(parts, part.contiguous())
        rows = len(part) // size
        return torch.cat([one[rank * rows : (rank + 1) * rows] for one in parts], 1)

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> Any:
        every, width = gathered(deltas[0]), deltas[0].shape[1] // dist.get_world_size()
        return every[:, dist.get_rank() * width : (dist.get_rank() + 1) * width] / dist.get_world_size()


class Network(nn.Module):
    def __init__(self, kind: str, width: int):
        super().__init__()
        self.kind = kind
        self.first = nn.Linear(NUM_INPUTS, width)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "factors":
            hidden = Factors.apply(x, self.first.weight, self.first.bias)
        elif self.kind == "columns":
            hidden = Columns.apply(self.first(gathered(x)))
        else:
            hidden = self.first(x)
        return self.rest(hidden)  # type: ignore[no-any-return]


def steps(kind: str, count: int) -> list[float]:
    """Seconds of each step of one kind in this process; the first ones do not count."""
    torch.manual_seed(0)
    network = Network(kind, WIDTH // dist.get_world_size() if kind == "columns" else WIDTH)
    optimizer = torch.optim.SGD(network.parameters(), 1e-4, momentum=0.9, fused=True)
    wrapped: nn.Module = network
    if kind != "alone":
        if kind in ("factors", "columns"):
            names = ["first.weight", "first.bias"]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(network, names)
        wrapped = DistributedDataParallel(network, gradient_as_bucket_view=True)
        if kind == "bf16":
            wrapped.register_comm_hook(None, bf16_compress_hook)
    x, labels = torch.rand(BATCH, NUM_INPUTS), torch.rand(BATCH, 1)
    seconds = []
    for _ in range(count + 2):
        started = time.monotonic()
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(wrapped(x), labels).backward()
        optimizer.step()
        seconds.append(time.monotonic() - started)
    return seconds[2:]


def process(rank: int, folder: str, kinds: list[str], rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/init", rank=rank, world_size=2)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            dist.barrier()
            # Alone means that the other core is idle.
            seconds[kind] += steps(kind, 6) if kind != "alone" or rank == 0 else []
    if rank == 0:
        alone = median(seconds["alone"])
        for kind in kinds:
            middle = median(seconds[kind])
            spread = f"({1000 * min(seconds[kind]):.0f} to {1000 * max(seconds[kind]):.0f})"
            print(f"{kind:<10}{1000 * middle:>8.0f} ms {spread:<14}{alone / middle:>8.2f}", flush=True)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    kinds = ["alone", "plain", "bf16", "factors", "columns"]
    print(f"{'':<10}{'a step':>11}{'':<14}{'weak scaling':>14}")
    with TemporaryDirectory() as folder:
        Path(folder).mkdir(exist_ok=True)
        start_processes(process, (folder, kinds, arguments.rounds), nprocs=2, start_method="spawn")


if __name__ == "__main__":
    main()
