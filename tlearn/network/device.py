"""What one process computes on: threads, a GPU where there is one, how many images together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tlearn.errors import UsageError

BATCH_SIZES = {"cpu": 8, "cuda": 64}
"""Images that go through the frozen layers together; on processors more of them only leave its caches."""


def require_gpu() -> None:
    """For a process that was given a GPU: raise UsageError where torch cannot use it. It would compute without."""
    if not torch.cuda.is_available():
        raise UsageError(
            f"expected a GPU that torch {torch.__version__} can use, Ray counts one that it cannot: install a torch "
            "for its driver, or hide it (CUDA_VISIBLE_DEVICES=; ray start --num-gpus 0)"
        )


@dataclass(frozen=True, slots=True)
class Device:
    """What the layers of this process run on."""

    name: Literal["cpu", "cuda"]
    num_threads: int
    batch_size: int
    """Images that go through the layers together."""

    @classmethod
    def here(
        cls, num_threads: int, engine: Literal["torch", "openvino"] = "torch", batch_size: int | None = None
    ) -> "Device":
        """The GPU of this process if it has one that the engine computes on, else its processor."""
        name: Literal["cpu", "cuda"] = "cuda" if engine == "torch" and torch.cuda.is_available() else "cpu"
        device = cls(name, num_threads, batch_size or BATCH_SIZES[name])
        device.set_threads()
        return device

    def set_threads(self) -> None:
        """For the calling thread: Ray sets OMP_NUM_THREADS, and calls an actor from another thread than built it."""
        torch.set_num_threads(self.num_threads)

    def stack(self, images: Sequence[Tensor]) -> Tensor:
        """(batch, 3, size, size) uint8; on its way to a GPU while the processor goes on."""
        batch = torch.stack(list(images))
        return batch.pin_memory().to(self.name, non_blocking=True) if self.name == "cuda" else batch
