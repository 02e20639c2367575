"""What a model has beside its network: features of training images, by which strangers are known, and a small network.

The small network is the same convolutions on pictures of 128 pixels, whose features are computed and kept as all are,
and a linear head. In scoring it answers first, where the large one would say the same.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tlearn.config import PreprocessConfig, TrainConfig
from tlearn.console import say
from tlearn.evaluation import deferral, drift, logistic, metrics, novelty, quality
from tlearn.evaluation.deferral import Deferral
from tlearn.evaluation.drift import Reference
from tlearn.evaluation.logistic import Linear
from tlearn.features.choice import resized
from tlearn.features.compute import usable
from tlearn.features.cut import Cut, Frozens
from tlearn.network import description
from tlearn.network.description import Cascade, Novelty
from tlearn.training.fit import Learned

IMAGE_SIZE = 128
"""Pixels: of 96, 128, 144 and 160 what leaves least arithmetic (tests/benchmarks/README.md)."""
_LEAST_RATIO = 1.5
"""Of the sides of large and small pictures; below it there is too little to gain."""
_MOST_ARITHMETIC = 0.8
"""Share of the large network's, beyond which a cascade does not pay."""
_MAX_NOVELTY = 95.0
"""Percentile: what is stranger the large network looks at, which alone says that something is unknown."""
_MAX_TRAIN, _MAX_TRAIN_LAYERS = novelty.MAX_POINTS, 1000
"""Training images that are looked at, where all layers are frozen and where not."""
_MAX_VAL = 2000


@dataclass(frozen=True, slots=True)
class Seen:
    """What one network sees in training and validation images: pooled features (N, channels) float32."""

    train: Tensor
    train_labels: Tensor
    val: Tensor
    rows: Tensor
    """Of the validation images of `val`, among all of them."""
    points: Tensor
    distances: Tensor
    """Of `val` to the points."""

    @property
    def novelty(self) -> Novelty | None:
        """None where there are too few validation images."""
        reference = novelty.reference(self.distances)
        return Novelty(num_points=len(self.points), distances=reference) if reference else None

    def reference(self, logits: Tensor) -> dict[str, Any]:
        """Histograms for drift, with what is said of all validation images (num_val, num_logits)."""
        probabilities = metrics.probabilities(logits[self.rows])
        return Reference.of(drift.series(probabilities.numpy(), self.val.numpy())).to_json()


@dataclass(frozen=True, slots=True)
class Small:
    """The small network of a model."""

    seen: Seen
    head: Linear
    """Calibrated."""
    deferral: Deferral
    cascade: Cascade

    def tensors(self) -> dict[str, Tensor]:
        """Of model.safetensors."""
        return {
            description.CASCADE_POINTS: self.seen.points,
            f"{description.CASCADE}last.weight": self.head.weight,
            f"{description.CASCADE}last.bias": self.head.bias,
        }


def look(config: TrainConfig, learned: Learned, cut: Cut, indices: Mapping[str, int], what: str) -> Seen:
    """Features of at most some thousands of the images, at the size of `cut`; what the cache lacks is computed."""
    trainable, most = learned.trainable, _MAX_TRAIN_LAYERS if len(learned.trainable.layers) else _MAX_TRAIN
    train, val = learned.train_files, learned.val_files
    chosen = train[:: -(-len(train) // most)]
    rows = torch.arange(len(val))[:: max(len(val) // _MAX_VAL, 1)]
    found = usable(config, chosen + [val[row] for row in rows.tolist()], cut, what)
    with torch.no_grad():
        parts = torch.arange(len(found.files)).split(64)
        pooled = torch.cat([trainable.trunk(found.features.gather(part)).mean((2, 3)) for part in parts])
    is_train = torch.tensor([file.split == "train" for file in found.files])
    numbers = {file.path: row for row, file in enumerate(val)}
    points = novelty.points(pooled[is_train])
    return Seen(
        train=pooled[is_train],
        train_labels=torch.tensor([indices[file.label] for file in found.files if file.split == "train"]),
        val=pooled[~is_train],
        rows=torch.tensor([numbers[file.path] for file in found.files if file.split != "train"]),
        points=points,
        distances=novelty.distances(points, pooled[~is_train]),
    )


def fit(config: TrainConfig, tensors: dict[str, Tensor], learned: Learned, logits: Tensor) -> Small | None:
    """Fit a small network beside the large one, of which there are calibrated logits (num_val, num_logits).

    None where there is nothing to gain, and where it would change what is said.
    """
    preprocess, num_val = _smaller(config.preprocess), len(learned.val_files)
    if preprocess is None or not config.head.averages or num_val < deferral.LEAST_IMAGES:
        return None
    arithmetic = resized(config, tensors, learned.train_files, preprocess, learned.frozen.arithmetic)
    cut = Frozens(config, tensors, arithmetic).cut(learned.phase.frozen_blocks, preprocess)
    classes = learned.listing.classes
    seen = look(config, learned, cut, classes.indices, f"features at {preprocess.image_size} px")
    head = logistic.fit(F.normalize(seen.train), seen.train_labels, len(classes.names))
    labels, large, inputs = learned.val_labels(classes.indices)[seen.rows], logits[seen.rows], F.normalize(seen.val)
    head = head.divided(quality.fit_temperature(head(inputs), labels))
    small, strange = head(inputs), seen.novelty
    assert strange is not None, "there are enough validation images"
    may_answer = novelty.percentiles(strange.distances, seen.distances) <= _MAX_NOVELTY
    found = deferral.judge(small, large, labels, may_answer, classes)
    share = (preprocess.image_size / config.preprocess.image_size) ** 2
    if found is None or share + 1 - found.answered > _MOST_ARITHMETIC:
        say(f"cascade: none, at {preprocess.image_size} px too few answers would be the same")
        return None
    say(
        f"cascade: a small network ({preprocess.image_size} px) may answer {found.answered:.0%} of the pictures; "
        f"scoring takes {share + 1 - found.answered:.0%} of the arithmetic"
    )
    answers = may_answer & (deferral.margins(small) >= found.limit)
    both = logits.clone()
    both[seen.rows] = deferral.together(small, large, answers)
    return Small(
        seen,
        head,
        found,
        Cascade(
            preprocess=preprocess,
            arithmetic=cut.arithmetic,
            limit=found.limit,
            novelty=strange,
            max_novelty=_MAX_NOVELTY,
            reference=seen.reference(both),
            figures=dataclasses.asdict(found),
        ),
    )


def _smaller(preprocess: PreprocessConfig) -> PreprocessConfig | None:
    """The same part of a picture at 128 pixels; None where it is not much larger."""
    ratio = preprocess.image_size / IMAGE_SIZE
    if ratio < _LEAST_RATIO:
        return None
    short_side = max(round(preprocess.short_side / ratio), IMAGE_SIZE)
    return dataclasses.replace(preprocess, image_size=IMAGE_SIZE, short_side=short_side)
