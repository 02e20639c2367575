"""Random streams: numbers that depend on keys (a seed, a stream, a step) and on nothing that was drawn before."""

from enum import IntEnum

from torch import Generator


class Stream(IntEnum):
    """What a stream is drawn for: the key after the seed; further keys follow.

    Results depend on these numbers, so they stay as they are. The order of an epoch has no stream: its keys are
    (seed, epoch). Epochs 2, 3 and 6 (from 0) therefore share their generator with SCALE, HEAD and SEPARABILITY,
    which have no further keys. Nothing is drawn from both that could be compared: an order of samples on one side,
    a choice of samples or first weights on the other.
    """

    DROPOUT = 1
    """Then the step."""
    SCALE = 2
    HEAD = 3
    MIXUP = 4
    """Then the step."""
    AUGMENT = 5
    """Then the epoch and the row."""
    SEPARABILITY = 6


def generator(*keys: int) -> Generator:
    """A generator of its own for each combination of keys."""
    seed = 0
    for key in keys:
        seed = (seed * 6364136223846793005 + key + 1442695040888963407) % 2**63
    return Generator().manual_seed(seed)
