"""Scoring with a network that takes no time: rows follow from the bytes of files. Without torch."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import HeadConfig, PreprocessConfig
from tlearn.distributed.chunks import Chunk, ChunkResult
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Draft, tensor_shapes, to_json
from tlearn.scoring import compute, parts, plan, planning, table
from tlearn.scoring.planning import Places
from tlearn.scoring.stream import Stream
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


def row_of(places: Places, entry: storage.Entry) -> Row:
    from tlearn.data.fetch import Fetched, fetch  # with torch

    try:
        content = storage.read_listed(places.input.folder, entry.path, places.model.preprocess.max_bytes)
    except OSError:
        fetched = fetch(places.input.folder, entry.path, places.model.preprocess)
    else:
        status, error = ("unreadable", "bad") if content.data.startswith(b"bad") else ("ok", None)
        fetched = Fetched(status, error, None, 1, 1, content.size, content.modified, content.sha256)  # type: ignore[arg-type]
    if fetched.size is not None and fetched.modified is not None and entry.change(fetched.size, fetched.modified):
        fetched = Fetched(status="changed", error="changed", size=fetched.size, modified=fetched.modified)
    row: dict[str, Any] = {name: getattr(fetched, name) for name in ("error", "width", "height", "modified", "sha256")}
    row |= {"path": entry.path, "bytes": fetched.size, "status": fetched.status}
    row |= {"label": table.label_of(entry.path, places.model.classes), "scored_at": datetime.now(UTC)}
    if fetched.status == "ok":
        first, second, *others = places.model.classes.names
        share = int(str(fetched.sha256)[:4], 16) / 65535
        probability, best = max((1 - share, first), (share, second))
        status = "uncertain" if probability < (places.config.abstain_below or 0.0) else "scored"
        row |= {"status": status, "prediction": best, "probability": probability}
        row["probabilities"] = {first: 1 - share, second: share, **dict.fromkeys(others, 0.0)}
    return Row(**row, model=places.model.digest)


def chunks(places: Places, stream: Stream, computed: list[str]) -> Iterator[tuple[ChunkResult, float]]:
    """Write the parts that are missing, as actors would; add the paths of their files to `computed`."""
    for chunk in filter(None, stream.chunks()):
        run, _, number = chunk.id.rpartition("/")
        folder = storage.join(places.runs, run)
        with plan.opened(folder) as planned:
            entries = planned.entries(int(number))
        rows = [row_of(places, entry) for entry in entries]
        computed += [entry.path for entry in entries]
        parts.write(f"{folder}/{parts.name(int(number))}", rows, {})
        yield ChunkResult(chunk.id, len(rows), 0), 0.0


def install(patch: pytest.MonkeyPatch, computed: list[str] | None = None) -> None:
    """Put this in the place of actors."""
    patch.setattr(
        compute, "chunks", lambda places, stream: chunks(places, stream, [] if computed is None else computed)
    )
    patch.setattr(planning, "start_ray", lambda: None)


def before_chunks(patch: pytest.MonkeyPatch, function: Callable[[], object]) -> None:
    """Call a function when all is planned and nothing is computed, once."""
    original = compute.chunks

    def chunks(places: Places, stream: Stream) -> Iterator[tuple[ChunkResult, float]]:
        return original(places, Waiting(stream, function))  # type: ignore[arg-type]

    patch.setattr(compute, "chunks", chunks)


@dataclass
class Waiting:
    stream: Stream
    function: Callable[[], object]

    def chunks(self) -> Iterator[Chunk | None]:
        for number, chunk in enumerate(filter(None, self.stream.chunks())):
            if number == 0:
                self.function()
            yield chunk
