"""The phases of a training run: at which boundary, for how long, on which features; and those features, computed."""

import dataclasses
from dataclasses import dataclass, field

from torch import Tensor

from tlearn.classes import Classes
from tlearn.config import OptimConfig, PreprocessConfig, TrainConfig
from tlearn.console import Progress
from tlearn.data.manifest import File, Listing
from tlearn.distributed import meters
from tlearn.distributed.chunks import Chunk
from tlearn.distributed.launch import causes
from tlearn.errors import StorageError
from tlearn.features import cache as features
from tlearn.features.cache import Cut, Features, Pictures, View
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.frozen import FP32, Frozen
from tlearn.network.vgg import operations

_Wanted = tuple[list[File], tuple[View, ...]]


@dataclass(frozen=True, slots=True)
class Phase:
    """Some epochs at one freeze boundary."""

    frozen_blocks: int
    optim: OptimConfig
    train: Features | Pictures
    train_labels: tuple[int, ...]
    val: Features
    in_step: Cut | None
    """The frozen layers, where every epoch sees other pixels and so every step has to run them."""


@dataclass(frozen=True, slots=True)
class Frozens:
    """The frozen layers of any boundary, in one arithmetic."""

    config: TrainConfig
    tensors: dict[str, Tensor]
    arithmetic: Arithmetic

    def frozen(self, frozen_blocks: int, preprocess: PreprocessConfig | None = None) -> Frozen:
        arch = self.config.arch
        num_convolutions = sum(layer.kind == "conv" and layer.block <= frozen_blocks for layer in operations(arch))
        # Pixels are the same in any arithmetic.
        arithmetic = self.arithmetic.of_first(num_convolutions) if num_convolutions else FP32
        return Frozen(frozen_blocks, preprocess or self.config.preprocess, arithmetic, arch, self.tensors)

    def cut(self, frozen_blocks: int, preprocess: PreprocessConfig | None = None) -> Cut:
        frozen, config = self.frozen(frozen_blocks, preprocess), self.config
        return Cut(
            config.weights,
            config.cache,
            frozen_blocks,
            frozen.preprocess,
            frozen.arithmetic,
            frozen.digest(),
            config.arch,
        )


@dataclass(frozen=True, slots=True)
class _Draft:
    """A phase before its features are there."""

    optim: OptimConfig
    views: tuple[View, ...]
    train: Cut
    val: Cut
    in_step: Cut | None


@dataclass(slots=True)
class Preparation:
    """From a config to its phases."""

    config: TrainConfig
    frozens: Frozens
    num_computed: int
    """Views whose features this run has computed."""
    num_used: int = 0
    _uncached: set[Cut] = field(default_factory=set)
    """Of pixels for which there is no room."""

    def _drafts(self) -> list[_Draft]:
        config = self.config
        flips: tuple[View, ...] = ("plain",) if config.augment == "none" else ("plain", "mirror")
        drafts = []
        if config.optim.head_epochs:
            cut = self.frozens.cut(5)
            optim = config.optim
            optim = dataclasses.replace(
                optim, num_epochs=optim.head_epochs, head_epochs=0, lr=optim.head_lr or optim.lr, head_lr=None
            )
            drafts.append(_Draft(optim, flips, cut, cut, None))
        cut = self.frozens.cut(config.frozen_blocks)
        if config.augment == "full":
            pixels = self.frozens.cut(0, margin(config.preprocess))
            drafts.append(_Draft(config.optim, ("plain",), pixels, cut, cut))
        else:
            drafts.append(_Draft(config.optim, flips, cut, cut, None))
        return drafts

    def compute(self, listing: Listing) -> None:
        """Compute what the cache lacks; a file without features gets its status. StorageError for want of room."""
        val: _Wanted = (listing.of("val"), ("plain",))
        for draft in self._drafts():
            train: _Wanted = (listing.of("train"), draft.views)
            if draft.train.frozen_blocks:  # then the same cut
                self._compute(draft.val, val, train)
                continue
            self._compute(draft.val, val)
            if not self._compute(draft.train, train, is_required=False):
                # The workers decode; which files can be read is known from the features of all blocks, which are small.
                self._uncached.add(draft.train)
                self._compute(self.frozens.cut(5), (train[0], ("plain",)))

    def _compute(self, cut: Cut, *wanted: _Wanted, is_required: bool = True) -> bool:
        """Whether there was room for it."""
        plan = features.plan(wanted, cut)
        if not features.fits(plan, cut):
            if not is_required:
                return False
            raise StorageError(
                f"expected room in {cut.cache} for {features.num_views(plan):,} features, "
                f"{features.num_bytes(plan, cut) / 2**30:.1f} GiB: choose another --cache, or more --frozen-blocks"
            )
        self.num_computed += compute(self.config, plan, cut)
        for files, views in wanted:
            for view in views:
                features.collect(files, view, cut)
        return True

    def phases(self, train: list[File], val: list[File], classes: Classes) -> tuple[Phase, ...]:
        """Of files that all have features."""
        found = []
        labels = tuple(classes.indices[file.label] for file in train)
        for draft in self._drafts():
            source: Features | Pictures
            if draft.train in self._uncached:
                paths = [file.path for file in train]
                source = Pictures(self.config.data, paths, draft.train.preprocess, draft.views)
            else:
                source = _features(train, draft.views, draft.train)
                self.num_used += len(source)
            of_val = _features(val, ("plain",), draft.val)
            self.num_used += len(of_val)
            blocks = draft.val.frozen_blocks
            found.append(Phase(blocks, draft.optim, source, labels * len(draft.views), of_val, draft.in_step))
        return tuple(found)


def margin(preprocess: PreprocessConfig) -> PreprocessConfig:
    """How pictures are kept of which crops are taken: a tenth larger than the network sees them."""
    larger = preprocess.short_side if preprocess.resize == "crop" else round(1.1 * preprocess.image_size)
    return dataclasses.replace(preprocess, image_size=larger, short_side=max(larger, preprocess.short_side))


def _features(files: list[File], views: tuple[View, ...], cut: Cut) -> Features:
    return Features([place for view in views for place in features.collect(files, view, cut)], cut.shape)


def compute(config: TrainConfig, plan: list[Chunk], cut: Cut) -> int:
    """Run a plan on the cluster; returns how many views were computed."""
    if not plan:
        return 0
    lowest, highest = config.num_workers or (None, None)
    workers = config.num_workers if lowest == highest else None
    total = features.num_views(plan)
    with causes(), Progress("features", total, unit="views") as progress:
        num_computed, _ = features.compute(plan, config.data, cut, workers, progress, config.decode)
    meters.count("features_computed", num_computed)
    return num_computed
