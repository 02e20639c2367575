"""What a process computes on."""

import pytest
import torch
from torch import Tensor

from tlearn.network.device import BATCH_SIZES, COMPILED_FROM, Device


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_only_a_long_run_on_a_gpu_is_compiled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: name == "cuda")
    short, long = Device.here(1, COMPILED_FROM - 1), Device.here(1, COMPILED_FROM)
    assert short.name == name and short.compile_for is None
    assert long.compile_for == (BATCH_SIZES["cuda"] if name == "cuda" else None)
    assert Device.here(1, COMPILED_FROM, 3).compile_for == (3 if name == "cuda" else None)


def test_images_are_stacked_in_their_order() -> None:
    images = list(torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2))
    device = Device("cpu", 1, 4, False)
    stacked: Tensor = device.stack(images)
    assert torch.equal(stacked, torch.stack(images))
