"""Scoring with a network that takes no time: rows follow from the bytes of files. Without torch."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tlearn import storage
from tlearn.classes import Classes
from tlearn.config import HeadConfig, PreprocessConfig, ScoreConfig
from tlearn.data.fetch import Fetched, fetch
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.description import Description, content_digest, to_json
from tlearn.scoring import table

CLASSES = Classes(("cat", "dog"))


def save_model(folder: Path, seed: int = 0) -> str:
    """A folder that verifies; nothing here loads its weights."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights %d" % seed)
    description = Description(
        classes=CLASSES,
        frozen_blocks=5,
        preprocess=PreprocessConfig(image_size=32, short_side=32, max_bytes=1000),
        head=HeadConfig(),
        arithmetic=Arithmetic(),
        weights_sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        training={},
        metrics={},
        reference={},
    )
    content = to_json(description)
    (folder / "model.json").write_text(json.dumps({**content, "digest": content_digest(content)}))
    return str(folder)


def row_of(folder: str, entry: dict[str, Any], model: Description, run: str) -> dict[str, Any]:
    try:
        content = storage.read_listed(folder, entry["path"], model.preprocess.max_bytes)
    except OSError:
        fetched = fetch(folder, entry["path"], model.preprocess)
    else:
        status, error = ("unreadable", "bad") if content.data.startswith(b"bad") else ("ok", None)
        fetched = Fetched(status, error, None, 1, 1, content.size, content.modified, content.sha256)  # type: ignore[arg-type]
    if fetched.size is not None and (fetched.size, fetched.modified) != (entry["size"], entry["modified"]):
        fetched = Fetched(status="changed", error="changed", size=fetched.size, modified=fetched.modified)
    row = {name: getattr(fetched, name) for name in ("error", "width", "height", "modified", "sha256")}
    row |= {"path": entry["path"], "bytes": fetched.size, "status": fetched.status, "model": model.digest, "run": run}
    row |= {"label": table.label_of(entry["path"], CLASSES), "scored_at": datetime.now(UTC)}
    if fetched.status == "ok":
        second = int(str(fetched.sha256)[:4], 16) / 65535
        best = "dog" if second > 0.5 else "cat"
        row |= {"status": "scored", "prediction": best, "probability": max(second, 1 - second)}
        row["probabilities"] = {"cat": 1 - second, "dog": second}
    return row


def score(
    config: ScoreConfig, run: str, folder: str, model: Description, missing: list[int], computed: list[str]
) -> None:
    """Write the parts that are missing, as actors would; add the paths of their files to `computed`."""
    with storage.open_input(f"{folder}/plan.parquet") as file:
        plan = pq.ParquetFile(file)
        for number in missing:
            entries = plan.read_row_group(number).to_pylist()
            rows = [row_of(config.input, entry, model, run) for entry in entries]
            for row in rows:
                if row.get("probability", 1.0) < (config.abstain_below or 0.0):
                    row["status"] = "uncertain"
            computed += [entry["path"] for entry in entries]
            table.write_part(f"{folder}/{table.part_name(number)}", rows, model.classes, None)
