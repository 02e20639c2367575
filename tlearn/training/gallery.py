"""What the page of a run shows of its pictures: where the network looked, what is like them, how typical they are.

Pictures are compared by features that the cache has: of all five blocks as they were pretrained, where a phase of the
run had these. Else by what the trained blocks give, of some training pictures; where training pictures were seen as
pixels only, the others are compared with each other.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tlearn.classes import Classes
from tlearn.config import TrainConfig
from tlearn.data.manifest import File
from tlearn.evaluation import metrics, similar
from tlearn.evaluation.probe import points, probe
from tlearn.evaluation.quality import Quality, measure
from tlearn.features.cache import Features
from tlearn.network import explain
from tlearn.report.pictures import Picture, most_shown, worth_showing
from tlearn.training.run import Baseline

if TYPE_CHECKING:
    from tlearn.training.fit import Learned

_MAX_KNOWN = 10_000
"""Training pictures that others are compared with."""
_MAX_CONVOLVED = 256
"""The same where blocks have to run on each."""
_MAX_CONVOLVED_SHOWN = 1000
"""Pictures that are shown where blocks have to run on each."""
MAX_TRAIN_SHOWN = 500
_NUM_NEAREST = 3
_NUM_CLUSTERS = 8
_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class Judged:
    """Pictures of a split that the model was asked about."""

    files: list[File]
    features: Features
    """At the cut of the model."""
    logits: Tensor
    """(files, num_logits), before calibration."""

    def labels(self, indices: dict[str, int]) -> Tensor:
        """(files,) int64"""
        return torch.tensor([indices[file.label] for file in self.files])

    def quality(self, temperature: float, classes: Classes) -> Quality:
        """Figures of what the model says, calibrated."""
        return measure(self.logits / temperature, self.labels(classes.indices), classes)


@dataclass(frozen=True, slots=True)
class Known:
    """Training pictures that others are compared with."""

    files: list[File]
    labels: Tensor
    """(files,) int64"""
    pooled: Tensor
    """(files, channels)"""
    val: Features | None
    """Of all validation pictures, by the same layers; None where blocks have to run on each."""
    is_of_model: bool
    """Whether the model's own layers gave all this."""

    def of_val(self, rows: Tensor) -> Tensor:
        """(n, channels) of validation pictures (n,)."""
        assert self.val is not None
        return torch.cat([self.val.gather(part).float().mean((2, 3)) for part in rows.split(256)])

    def described(self, similarities: list[float], rows: list[int]) -> tuple[dict[str, Any], ...]:
        """The column `nearest` of a picture."""
        files = [self.files[row] for row in rows]
        return tuple(
            {"path": file.path, "label": file.label, "similarity": value}
            for file, value in zip(files, similarities, strict=True)
        )

    @classmethod
    def of(cls, learned: "Learned") -> "Known | None":
        """None where the training pictures were seen as pixels only."""
        cached = (phase for phase in learned.phases if phase.frozen_blocks == 5 and phase.in_step is None)
        phase = next(cached, learned.phase)
        if phase.in_step is not None:
            return None
        is_cached, files = phase.frozen_blocks == 5, learned.train_files
        labels = torch.tensor([learned.listing.classes.indices[file.label] for file in files])
        rows = _first(labels, _MAX_KNOWN)
        rows = rows if is_cached else rows[_spread(len(rows), _MAX_CONVOLVED)]
        maps = torch.Tensor.float if is_cached else learned.trainable.maps
        with torch.no_grad():
            pooled = [maps(phase.train.gather(part)).mean((2, 3)) for part in rows.split(_BATCH_SIZE)]
        return cls(
            files=[files[row] for row in rows.tolist()],
            labels=labels[rows],
            pooled=torch.cat(pooled),
            val=phase.val if is_cached else None,
            is_of_model=phase is learned.phase,
        )


def baseline(learned: "Learned", known: Known | None) -> Baseline:
    """What a model has to beat on the validation pictures."""
    classes = learned.listing.classes
    labels = learned.val_labels(classes.indices)
    largest = labels.bincount().max().item() / len(labels)
    if known is None or known.val is None:
        return Baseline(largest, None)
    rows = _spread(len(labels), _MAX_KNOWN)
    predictions = probe(points(known.pooled), known.labels, len(classes.names))(points(known.of_val(rows))).argmax(1)
    return Baseline(largest, (predictions == labels[rows]).double().mean().item())


def pictures(
    config: TrainConfig, learned: "Learned", known: Known | None, judged: Sequence[Judged], temperature: float
) -> list[Picture]:
    """Those of the splits that were judged, and the training pictures that are most like them."""
    names = learned.listing.classes.names
    most = most_shown(len(names))
    if learned.phase.frozen_blocks < 5:
        most = min(most, _MAX_CONVOLVED_SHOWN)
    seen = [_Seen.of(learned, known, each, most // len(judged)) for each in judged]
    compared = [each for each in seen if each.pooled is not None]
    predictions = torch.cat([metrics.predictions(each.logits) for each in compared])
    alike = _alike(
        torch.cat([each.pooled for each in compared if each.pooled is not None]), predictions, known, config.seed
    )
    shown = []
    for each in seen:
        rows = zip(each.files, each.attention, _said(each.logits, temperature, names), strict=True)
        for file, attention, said in rows:
            of_others = next(alike) if each.pooled is not None else {}
            shown.append(
                Picture(
                    path=file.path, split=file.split, label=file.label, attention=attention.numpy(), **said, **of_others
                )
            )
    return shown + _of_train(shown)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The pictures of a split that are shown, and what the network made of each."""

    files: list[File]
    logits: Tensor
    """(files, num_logits)"""
    attention: Tensor
    """(files, height, width) uint8"""
    pooled: Tensor | None
    """(files, channels): what is compared; None where the cache has none of this split."""

    @classmethod
    def of(cls, learned: "Learned", known: Known | None, judged: Judged, most: int) -> "_Seen":
        labels = judged.labels(learned.listing.classes.indices)
        certainty = metrics.probabilities(judged.logits).gather(1, labels[:, None])[:, 0]  # of the truth
        rows = torch.from_numpy(worth_showing(certainty.numpy(), most))
        logits, attention, pooled = judged.logits[rows], [], []
        for part in torch.arange(len(rows)).split(_BATCH_SIZE):
            with torch.no_grad():
                maps = learned.trainable.maps(judged.features.gather(rows[part]))
            attention.append(explain.attention(learned.trainable.head, maps, metrics.predictions(logits[part])))
            pooled.append(maps.mean((2, 3)))
        compared: Tensor | None = torch.cat(pooled)
        if known is not None and not known.is_of_model:
            compared = known.of_val(rows) if judged.features is learned.phase.val else None
        return cls([judged.files[row] for row in rows.tolist()], logits, torch.cat(attention), compared)


def _said(logits: Tensor, temperature: float, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The columns of each picture that say what the model says."""
    raw, calibrated = metrics.probabilities(logits), metrics.probabilities(logits / temperature)
    for best, before, after in zip(
        metrics.predictions(logits).tolist(), raw.tolist(), calibrated.tolist(), strict=True
    ):
        yield {
            "prediction": names[best],
            "probability": after[best],
            "probabilities": dict(zip(names, after, strict=True)),
            "raw": dict(zip(names, before, strict=True)),
        }


def _alike(pooled: Tensor, predictions: Tensor, known: Known | None, seed: int) -> Iterator[dict[str, Any]]:
    """The columns of each picture that compare it with others."""
    groups = similar.clusters(pooled, _NUM_CLUSTERS, seed).tolist()
    if known is None:
        typical = similar.typicality(pooled, predictions, None, predictions).tolist()
        nearest: Iterable[tuple[dict[str, Any], ...]] = itertools.repeat(())
    else:
        typical = similar.typicality(pooled, predictions, known.pooled, known.labels).tolist()
        found = similar.nearest(pooled, known.pooled, _NUM_NEAREST)
        nearest = map(known.described, *(each.tolist() for each in found))
    for cluster, mean, nearby in zip(groups, typical, nearest, strict=False):
        yield {"cluster": cluster, "typicality": None if math.isnan(mean) else mean, "nearest": nearby}


def _of_train(shown: Sequence[Picture]) -> list[Picture]:
    """The training pictures that these name, the nearest of each first."""
    by_rank = itertools.zip_longest(*(picture.nearest for picture in shown))
    named = {near["path"]: near["label"] for nears in by_rank for near in nears if near}
    first = itertools.islice(named.items(), MAX_TRAIN_SHOWN)
    return [Picture(path=path, split="train", label=label, status="ok") for path, label in first]


def _first(labels: Tensor, most: int) -> Tensor:
    """At most so many row numbers: of more the first of each class (pictures,), which lie in few files of the cache."""
    if len(labels) <= most:
        return torch.arange(len(labels))
    of_class = max(most // int(labels.max() + 1), 1)
    return torch.cat([(labels == label).nonzero()[:of_class, 0] for label in labels.unique()])


def _spread(count: int, most: int) -> Tensor:
    """At most so many row numbers, evenly over all."""
    num_taken = min(count, most)
    return torch.arange(num_taken) * count // max(num_taken, 1)
