"""What this machine's processor can do, known without loading torch."""

from functools import cache
from pathlib import Path
from typing import Literal


@cache
def _flags() -> frozenset[str]:
    """As Linux names them; none elsewhere, where fp32 always works."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.splitlines())
    return frozenset(next((value.split() for name, _, value in lines if name.strip() in ("flags", "Features")), []))


def precision() -> Literal["fp32", "bf16"]:
    """bf16 where the processor multiplies in it; elsewhere it would be emulated, at a quarter of fp32's speed."""
    return "bf16" if _flags() & {"avx512_bf16", "amx_bf16", "bf16"} else "fp32"


def has_int8() -> bool:
    """Whether there are instructions that add up products of 8-bit numbers; AVX2's are twice as fast as its fp32."""
    return bool(_flags() & {"avx2", "avx512_vnni", "avx_vnni", "amx_int8", "i8mm"})
