"""What a process computes on."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from tlearn.distributed import pool
from tlearn.distributed.nodes import Here, Threads
from tlearn.errors import UsageError
from tlearn.network.device import BATCH_SIZES, Device


@pytest.mark.parametrize(
    ("engine", "has_cuda", "name"),
    [("torch", False, "cpu"), ("torch", True, "cuda"), ("openvino", False, "cpu"), ("openvino", True, "cpu")],
)
def test_a_gpu_is_for_an_engine_that_computes_on_it(
    engine: Literal["torch", "openvino"], has_cuda: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert Device.here(1, engine) == Device(name, 1, BATCH_SIZES[name])  # type: ignore[arg-type]
    assert Device.here(1, engine, 3).batch_size == 3


@pytest.mark.parametrize("gpus", [[], [0]])
@pytest.mark.parametrize("has_cuda", [False, True])
def test_an_actor_with_a_gpu_that_torch_cannot_use_computes_nothing(
    gpus: list[int], has_cuda: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool.ray, "get_gpu_ids", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    work = ("tlearn.distributed.nodes:Threads", 1, Here(1))
    if gpus and not has_cuda:
        with pytest.raises(UsageError, match=r"Ray counts one that it cannot: install .* --num-gpus 0"):
            pool._Actor(*work)  # type: ignore[arg-type]
    else:
        assert pool._Actor(*work).work == Threads(1, Here(1))  # type: ignore[arg-type, comparison-overlap]


def test_images_are_stacked_in_their_order() -> None:
    images = list(torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2))
    device = Device("cpu", 1, 4)
    stacked: Tensor = device.stack(images)
    assert torch.equal(stacked, torch.stack(images))
