"""In which arithmetic features are computed: by one rule wherever they are, so that all find them in the cache."""

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from tlearn.config import PreprocessConfig, TrainConfig
from tlearn.data.manifest import File
from tlearn.distributed import decoders, launch
from tlearn.distributed.nodes import ByTasks
from tlearn.features.cache import ranges
from tlearn.features.cut import Frozens
from tlearn.network import arithmetic
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.frozen import FP32


def arithmetics(
    config: TrainConfig, tensors: dict[str, Tensor], train: list[File], earlier: Arithmetic | None = None
) -> tuple[Arithmetic, list[Arithmetic]]:
    """What this cluster computes with, int8 aside, and what to try in turn: int8 first where it promises speed.

    `earlier` is that of a run that goes on, which keeps it wherever it goes on.
    """
    plain = arithmetic.plain(config.engine, config.precision, on_gpu=launch.nodes().has_gpus)
    first = plain
    if earlier is not None:
        first = earlier
    elif config.frozen_blocks and arithmetic.may_quantize(plain, config.precision):
        peaks = _ranges(config, tensors, train, config.preprocess)
        first = Arithmetic("openvino", "int8", peaks) if peaks else plain
    return plain, [first, plain] if first.ranges and config.precision == "auto" else [first]


def resized(
    config: TrainConfig,
    tensors: dict[str, Tensor],
    train: Sequence[File],
    preprocess: PreprocessConfig,
    same: Arithmetic,
) -> Arithmetic:
    """The same arithmetic for pictures of another size: int8 has other ranges there."""
    peaks = _ranges(config, tensors, train, preprocess) if same.ranges else ()
    return dataclasses.replace(same, ranges=peaks) if peaks else same


def _ranges(
    config: TrainConfig, tensors: dict[str, Tensor], train: Sequence[File], preprocess: PreprocessConfig
) -> tuple[float, ...]:
    frozen = Frozens(config, tensors, FP32).frozen(5, preprocess)
    # By tasks: a picture that kills its decoder must not kill this process.
    decode = decoders.decoder(config.data, preprocess, ByTasks(), 1)
    return ranges(train, frozen, config.cache, decode)
