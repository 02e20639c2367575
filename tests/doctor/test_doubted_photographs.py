"""The doctor on real photographs of cats and dogs: what it names is so. Not in `make test`: pytest -m photographs."""

import os
from pathlib import Path

import pytest
import torch

import tlearn
from tlearn.config import CheckConfig
from tlearn.data import listing, manifest
from tlearn.data.findings import Finding
from tlearn.doctor import features
from tlearn.evaluation import probe
from tlearn.recipes import checked_as

PHOTOGRAPHS = Path(os.environ.get("TLEARN_PHOTOGRAPHS", "../shared/catdog"))

pytestmark = [
    pytest.mark.photographs,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"no photographs at {PHOTOGRAPHS}"),
]


@pytest.fixture(scope="module")
def found(cache: Path) -> dict[str, Finding]:
    return {finding.kind: finding for finding in tlearn.check(PHOTOGRAPHS, cache=str(cache)).findings}


def paths(finding: Finding) -> set[str]:
    return {suspect.path for suspect in finding.suspects}


def test_every_finding_of_the_photographs_is_one(found: dict[str, Finding]) -> None:
    assert paths(found["wrong_label"]) == {"val/cats/cat.4085.jpg"}
    assert paths(found["near_duplicates"]) == {"train/dogs/dog.74.jpg"}
    assert paths(found["unlike_its_class"]) == {"val/dogs/dog.4127.jpg", "val/dogs/dog.4218.jpg"}
    assert paths(found["tiny"]) | paths(found["odd_aspect"]) == {"test/0111.jpg", "train/dogs/dog.630.jpg"}
    assert len(found) == 5


@pytest.mark.parametrize("seed", range(3))
def test_of_swapped_labels_nine_of_ten_are_found_with_few_others(
    found: dict[str, Finding], cache: Path, seed: int
) -> None:
    config = checked_as(CheckConfig(data=str(PHOTOGRAPHS), cache=str(cache)))
    read = listing.read(config.data)
    files = manifest.add_hashes(config.data, read.of("train", "val"), config.cache)
    _, points = features.points(files, features.computed(config, read.with_outcomes(files), files))
    truth = torch.tensor([read.classes.indices[file.label] for file in files])
    train = torch.tensor([row for row, file in enumerate(files) if file.split == "train"])
    rows = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: len(train) // 20]]
    labels, is_swapped = truth.clone(), torch.zeros(len(truth), dtype=torch.bool)
    labels[rows], is_swapped[rows] = 1 - truth[rows], True
    scores = probe.out_of_fold(points, labels, 2, torch.arange(len(labels)))
    doubt = scores.gather(1, 1 - labels[:, None])[:, 0] - scores.gather(1, labels[:, None])[:, 0]
    hits = is_swapped[doubt.argsort(descending=True)].cumsum(0)
    count = int((hits >= 0.9 * len(rows)).nonzero()[0]) + 1
    assert int(hits[count - 1]) >= 0.95 * count
