"""What became of a file: one vocabulary for training data, features and scores."""

from typing import Literal

Status = Literal["ok", "unreadable", "too_large", "missing", "changed", "io_error", "decoder_crash"]

SCORED = ("scored", "uncertain", "unknown")
"""What `ok` becomes in a table of scores: there is a prediction."""

SETTLED = ("ok", *SCORED, "unreadable", "too_large", "decoder_crash")
"""What follows from the content of the file; the others are tried again."""
