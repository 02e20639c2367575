"""Features for the doctor: computed as `tlearn train frozen` would, and left in the cache for it."""

from collections.abc import Sequence

from torch import Tensor

from tlearn import storage
from tlearn.config import TrainConfig
from tlearn.data.manifest import File, Listing
from tlearn.distributed import launch
from tlearn.evaluation import probe
from tlearn.features.cache import Features, outcomes, pooled
from tlearn.features.choice import arithmetics
from tlearn.features.compute import compute, plan
from tlearn.features.cut import Cut, Frozens
from tlearn.network import weights


def computed(config: TrainConfig, listing: Listing, files: Sequence[File]) -> Cut:
    """See to it that the cache has the features of these files; returns where they are kept."""
    tensors = weights.load(config.weights, config.cache, config.arch)
    weights_file = [] if config.weights in ("imagenet", "none") else [config.weights]
    first = storage.join(config.data, files[0].path)
    launch.join([first, *weights_file], [config.cache], config.wait_seconds)
    _, candidates = arithmetics(config, tensors, listing.of("train"))
    cut = Frozens(config, tensors, candidates[0]).cut(5)
    compute(config, plan([(files, ("plain",))], cut), cut)
    return cut


def points(files: Sequence[File], cut: Cut) -> tuple[list[int], Tensor]:
    """The numbers of the files whose features are in the cache, and their points (N, channels)."""
    found = outcomes(files, "plain", cut)
    ok = [number for number, file in enumerate(found.files) if file.status == "ok"]
    return ok, probe.points(pooled(Features(found.places, cut.shape)))
