"""What became of a file: one vocabulary for training data, features and scores."""

from typing import Literal

from tlearn import storage

Status = Literal["ok", "unreadable", "too_large", "missing", "changed", "io_error", "decoder_crash"]

SCORED = ("scored", "uncertain")
"""What `ok` becomes in a table of scores: there is a prediction."""

SETTLED = ("ok", *SCORED, "unreadable", "too_large", "decoder_crash")
"""What follows from the content of the file; the others are tried again."""


def why_missing(error: FileNotFoundError) -> str:
    """The words for a listed file that cannot be found."""
    is_link = isinstance(error, storage.DeadLink)
    return "a link that leads nowhere" if is_link else "listed, but gone when it was read"
