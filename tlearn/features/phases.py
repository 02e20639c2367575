"""The phases of a training run: at which boundary, for how long, on which features; and those features, computed."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from tlearn.config import OptimConfig, PreprocessConfig, TrainConfig
from tlearn.data.manifest import File, Listing
from tlearn.errors import StorageError
from tlearn.features.cache import Features, Pictures, outcomes
from tlearn.features.compute import compute, fits, num_bytes, num_views, plan
from tlearn.features.cut import Cut, Frozens, View

_PLAIN: tuple[View, ...] = ("plain",)


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
class _Outline:
    """A phase before its features are there."""

    optim: OptimConfig
    views: tuple[View, ...]
    train: Cut
    val: Cut
    in_step: Cut | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run whose features are in the cache."""

    config: TrainConfig
    listing: Listing
    """Each file with what became of it."""
    num_computed: int = 0
    """Views whose features were computed; the others were there."""
    outlines: tuple[_Outline, ...] = ()
    uncached: frozenset[Cut] = frozenset()
    """Of pixels for which there was no room: the workers decode."""

    def phases(self) -> tuple[Phase, ...]:
        """On the files that have features."""
        train, val = self.listing.usable("train"), self.listing.usable("val")
        labels = tuple(self.listing.classes.indices[file.label] for file in train)
        phases = []
        for outline in self.outlines:
            source: Features | Pictures
            if outline.train in self.uncached:
                paths = [file.path for file in train]
                source = Pictures(self.config.data, paths, outline.train.preprocess, outline.views)
            else:
                source = _features(train, outline.views, outline.train)
            held_out = _features(val, _PLAIN, outline.val)
            targets = labels * len(outline.views)
            phases.append(Phase(outline.val.frozen_blocks, outline.optim, source, targets, held_out, outline.in_step))
        return tuple(phases)

    def _compute(self, cut: Cut, *wanted: tuple[str, tuple[View, ...]]) -> "Prepared":
        """With the features of these splits. Raises StorageError for want of room."""
        files = [(self.listing.of(split), views) for split, views in wanted]
        todo = plan(files, cut)
        if not fits(todo, cut):
            raise _NoRoom(
                f"expected room in {cut.cache} for {num_views(todo):,} features, "
                f"{num_bytes(todo, cut) / 2**30:.1f} GiB: choose another --cache, or more --frozen-blocks"
            )
        num_computed, listing = self.num_computed + compute(self.config, todo, cut), self.listing
        for split, views in wanted:
            for view in views:
                listing = listing.with_outcomes(outcomes(listing.of(split), view, cut).files)
        return dataclasses.replace(self, listing=listing, num_computed=num_computed)


class _NoRoom(StorageError):
    """Known before anything is computed."""


def prepare(config: TrainConfig, frozens: Frozens, listing: Listing) -> Prepared:
    """Compute the features that the cache lacks. Raises StorageError where there is no room for them."""
    prepared = Prepared(config, listing, outlines=tuple(_outlines(config, frozens)))
    for outline in prepared.outlines:
        if outline.train.frozen_blocks:  # then the cut of val
            prepared = prepared._compute(outline.val, ("val", _PLAIN), ("train", outline.views))
            continue
        prepared = prepared._compute(outline.val, ("val", _PLAIN))
        try:
            prepared = prepared._compute(outline.train, ("train", outline.views))
        except _NoRoom:
            # Which files can be read is known from the features of all blocks, which are small.
            prepared = dataclasses.replace(prepared, uncached=prepared.uncached | {outline.train})
            prepared = prepared._compute(frozens.cut(5), ("train", _PLAIN))
    return prepared


def num_used(phases: Sequence[Phase]) -> int:
    """How many features they read from the cache."""
    sources = [source for phase in phases for source in (phase.train, phase.val)]
    return sum(len(source) for source in sources if isinstance(source, Features))


def margin(preprocess: PreprocessConfig) -> PreprocessConfig:
    """How pictures are kept of which crops are taken: a tenth larger than the network sees them."""
    larger = preprocess.short_side if preprocess.resize == "crop" else round(1.1 * preprocess.image_size)
    return dataclasses.replace(preprocess, image_size=larger, short_side=max(larger, preprocess.short_side))


def _outlines(config: TrainConfig, frozens: Frozens) -> list[_Outline]:
    flips: tuple[View, ...] = _PLAIN if config.augment == "none" else ("plain", "mirror")
    outlines = []
    if config.optim.head_epochs:
        cut = frozens.cut(5)
        optim = config.optim
        optim = dataclasses.replace(
            optim, num_epochs=optim.head_epochs, head_epochs=0, lr=optim.head_lr or optim.lr, head_lr=None
        )
        outlines.append(_Outline(optim, flips, cut, cut, None))
    cut = frozens.cut(config.frozen_blocks)
    if config.augment == "full":
        pixels = frozens.cut(0, margin(config.preprocess))
        outlines.append(_Outline(config.optim, _PLAIN, pixels, cut, cut))
    else:
        outlines.append(_Outline(config.optim, flips, cut, cut, None))
    return outlines


def _features(files: list[File], views: tuple[View, ...], cut: Cut) -> Features:
    return Features([place for view in views for place in outcomes(files, view, cut).places], cut.shape)
