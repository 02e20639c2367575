"""With what numbers convolutions are computed: which engine, how many bits, and what this processor is good at.

Known without loading torch.
"""

import dataclasses
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from tlearn.config import EngineChoice, Precision, PrecisionChoice, digest
from tlearn.errors import UsageError


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What convolutions are computed with; features and scores depend on it."""

    engine: Literal["torch", "openvino"] = "torch"
    precision: Precision = "fp32"
    ranges: tuple[float, ...] = ()
    """int8: the largest value that enters each convolution after the first; those beyond the last are in bf16."""

    def __post_init__(self) -> None:
        if (self.precision == "int8") != bool(self.ranges) or (self.ranges and self.engine != "openvino"):
            raise UsageError(
                f"expected ranges with openvino in int8 and nowhere else, got {len(self.ranges)} with {self.engine} in "
                f"{self.precision}: int8 takes --engine openvino, and a model that was trained with --precision int8"
            )

    def of_first(self, num_convolutions: int) -> "Arithmetic":
        """The same for fewer convolutions: the first is never quantised."""
        return dataclasses.replace(self, ranges=self.ranges[: num_convolutions - 1]) if self.ranges else self

    @property
    def name(self) -> str:
        name = f"{self.engine}-{self.precision}"
        return f"{name}-{digest(self.ranges)}" if self.ranges else name


@cache
def _flags() -> frozenset[str]:
    """As Linux names them; none elsewhere, where fp32 always works."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.splitlines())
    return frozenset(next((value.split() for name, _, value in lines if name.strip() in ("flags", "Features")), []))


def native_precision() -> Literal["fp32", "bf16"]:
    """bf16 where the processor multiplies in it; elsewhere it would be emulated, at a quarter of fp32's speed."""
    return "bf16" if _flags() & {"avx512_bf16", "amx_bf16", "bf16"} else "fp32"


def has_int8() -> bool:
    """Whether there are instructions that add up products of 8-bit numbers; AVX2's are twice as fast as its fp32."""
    return bool(_flags() & {"avx2", "avx512_vnni", "avx_vnni", "amx_int8", "i8mm"})


def _has_openvino() -> bool:
    """Whether the extra `cpu` is installed."""
    return importlib.util.find_spec("openvino") is not None


def plain(choice: EngineChoice, precision: PrecisionChoice, *, on_gpu: bool) -> Arithmetic:
    """What a cluster with or without GPUs convolves with, int8 aside. Raises UsageError for what it cannot do."""
    name: Literal["torch", "openvino"] = "openvino"
    if choice == "torch" or (choice == "auto" and (on_gpu or not _has_openvino())):
        name = "torch"
    elif on_gpu or not _has_openvino():
        why = "the cluster has GPUs" if on_gpu else "it is not installed (extra cpu)"
        raise UsageError(f"expected to compute with openvino, but {why}: leave out --engine")
    if precision == "fp32" or precision == "bf16":
        return Arithmetic(name, precision)
    return Arithmetic(name, "bf16" if on_gpu else native_precision())


def may_quantize(plain: Arithmetic, precision: PrecisionChoice) -> bool:
    """Whether int8 is to be used, or, with auto, is worth a trial. Raises UsageError where it cannot be."""
    if precision == "int8" and plain.engine == "torch":
        raise UsageError("expected openvino for --precision int8, got torch: install the extra cpu, use no GPUs")
    return precision == "int8" or (precision == "auto" and plain.engine == "openvino" and has_int8())


def of_model(trained: Arithmetic, choice: EngineChoice, precision: PrecisionChoice, *, on_gpu: bool) -> Arithmetic:
    """What to score with: as the model was trained if that is int8 and the processor has it, else what is there."""
    otherwise = plain(choice, precision, on_gpu=on_gpu)
    if not may_quantize(otherwise, precision):
        return otherwise
    if trained.ranges:
        return trained
    if precision == "int8":
        raise UsageError("expected a model with ranges for int8, got one without: train it with --precision int8")
    return otherwise
