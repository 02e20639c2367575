"""What test modules share: networks to build, pictures, a model folder, a Ray of their own."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from tlearn.config import Arch, HeadConfig, PreprocessConfig
from tlearn.network.frozen import Frozen
from tlearn.network.trainable import Trainable
from tlearn.network.vgg import shapes

PUBLISHED = [arch for arch in get_args(Arch) if arch != "vgg_tiny"]

TESTS = Path(__file__).parent
PROJECT = TESTS.parent
FOLDERS = [str(TESTS), *sorted(str(folder) for folder in TESTS.iterdir() if folder.is_dir())]
PYTHONPATH = os.pathsep.join(FOLDERS)
"""For processes that import test modules."""


def build(
    frozen_blocks: int, preprocess: PreprocessConfig, head: HeadConfig, num_logits: int, arch: Arch = "vgg16"
) -> tuple[Frozen, Trainable]:
    """Both parts of a network, without weights."""
    frozen = Frozen(frozen_blocks, preprocess, arch=arch)
    return frozen, Trainable(frozen_blocks, preprocess, head, num_logits, arch)


def torchvision_blocks(arch: Arch) -> nn.Sequential:
    """torchvision's five blocks, on the device meta."""
    with torch.device("meta"):
        features = get_model(arch, weights=None).features
    assert isinstance(features, nn.Sequential)
    return features


def random_blocks(arch: Arch) -> nn.Sequential:
    """torchvision's five blocks with weights, biases and running statistics that are nobody's default."""
    features, generator = torchvision_blocks(arch), torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in features.state_dict().items():
        if tensor.dim() > 1:
            state[name] = nn.init.kaiming_normal_(torch.empty(tensor.shape), generator=generator)
        elif tensor.dim():
            state[name] = torch.rand(tensor.shape, generator=generator) + 0.5
        else:
            state[name] = torch.tensor(0)
    features.load_state_dict(state, assign=True)
    return features.eval().requires_grad_(False)


def our_tensors(features: nn.Module, arch: Arch) -> dict[str, Tensor]:
    """The tensors of torchvision's blocks under our names."""
    tensors = [tensor for tensor in features.state_dict().values() if tensor.dim()]  # not num_batches_tracked
    return dict(zip(shapes(arch), tensors, strict=True))


def torchvision_file(features: nn.Module) -> dict[str, Tensor]:
    """What torchvision saves of a network, but for the classifier."""
    return {f"features.{name}": tensor for name, tensor in features.state_dict().items()}


@contextlib.contextmanager
def ray_here() -> Iterator[None]:
    """A Ray of its own on this machine, whose processes know the tests' modules."""
    import ray

    from tlearn.distributed import launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        patch.setenv("PYTHONPATH", PYTHONPATH, prepend=os.pathsep)
        launch.start_ray()
        yield
        ray.shutdown()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.05)
