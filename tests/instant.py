"""Scoring with a network that takes no time: rows follow from the bytes of files. Without torch."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import HeadConfig, PreprocessConfig, ScoreConfig
from tlearn.data.fetch import Fetched, fetch
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Draft, tensor_shapes, to_json
from tlearn.scoring import parts, plan, table
from tlearn.scoring.plan import Run
from tlearn.scoring.table import Row

CLASSES = Classes(("cat", "dog"))


def save_model(folder: Path, seed: int = 0, classes: Classes = CLASSES) -> str:
    """A folder that verifies; nothing here loads its weights."""
    folder.mkdir()
    draft = Draft(
        classes=classes,
        frozen_blocks=5,
        preprocess=PreprocessConfig(image_size=32, short_side=32, max_bytes=1000),
        head=HeadConfig(width=2),
        arithmetic=Arithmetic(),
        training={},
        metrics={},
        reference={},
        arch="vgg_tiny",
    )
    tensors = {name: np.full(shape, seed, np.float32) for name, shape in tensor_shapes(draft).items()}
    save_file(tensors, folder / "model.safetensors")
    weights_sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(to_json(draft, weights_sha256)))
    return str(folder)


def row_of(config: ScoreConfig, entry: storage.Entry, run: Run) -> Row:
    try:
        content = storage.read_listed(run.input, entry.path, run.model.preprocess.max_bytes)
    except OSError:
        fetched = fetch(run.input, entry.path, run.model.preprocess)
    else:
        status, error = ("unreadable", "bad") if content.data.startswith(b"bad") else ("ok", None)
        fetched = Fetched(status, error, None, 1, 1, content.size, content.modified, content.sha256)  # type: ignore[arg-type]
    if fetched.size is not None and (fetched.size, fetched.modified) != (entry.size, entry.modified):
        fetched = Fetched(status="changed", error="changed", size=fetched.size, modified=fetched.modified)
    row: dict[str, Any] = {name: getattr(fetched, name) for name in ("error", "width", "height", "modified", "sha256")}
    row |= {"path": entry.path, "bytes": fetched.size, "status": fetched.status}
    row |= {"label": table.label_of(entry.path, run.model.classes), "scored_at": datetime.now(UTC)}
    if fetched.status == "ok":
        first, second, *others = run.model.classes.names
        share = int(str(fetched.sha256)[:4], 16) / 65535
        probability, best = max((1 - share, first), (share, second))
        status = "uncertain" if probability < (config.abstain_below or 0.0) else "scored"
        row |= {"status": status, "prediction": best, "probability": probability}
        row["probabilities"] = {first: 1 - share, second: share, **dict.fromkeys(others, 0.0)}
    return Row(**row, model=run.model.digest, run=run.id)


def score(config: ScoreConfig, run: Run, missing: list[int], computed: list[str]) -> None:
    """Write the parts that are missing, as actors would; add the paths of their files to `computed`."""
    with plan.opened(run.folder) as planned:
        for number in missing:
            entries = planned.entries(number)
            rows = [row_of(config, entry, run) for entry in entries]
            computed += [entry.path for entry in entries]
            parts.write(f"{run.folder}/{parts.name(number)}", rows, {})
