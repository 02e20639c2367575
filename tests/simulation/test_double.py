"""The index in memory, with which worlds are simulated, plans as the one that is shipped."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from doubles import MemoryIndex
from doubles import waves as in_memory

from tlearn import storage
from tlearn.scoring import inputs, table, waves
from tlearn.scoring.index import Index
from tlearn.scoring.table import Row
from tlearn.scoring.waves import Scope

NAMES = [f"{folder}/{name}.jpg" for folder in "ab" for name in "cdef"]


def write(folder: Path, draw: random.Random) -> None:
    """A few small files, some of them alike."""
    for name in draw.sample(NAMES, 5):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw.choice([b"", b"x", b"y", b"xx", b"yy", b"xyz"]))


def listed(folder: Path) -> Iterator[pa.Table]:
    entries = sorted(storage.stream(str(folder)), key=lambda entry: entry.path)
    for start in range(0, len(entries), 2):
        rows = [[entry.path, entry.size, entry.modified, None] for entry in entries[start : start + 2]]
        yield pa.table(list(map(list, zip(*rows, strict=True))), schema=inputs.SCHEMA)


def rows_of(folder: Path, draw: random.Random) -> pa.Table:
    """What a run might have made of some of the files."""
    rows = []
    for entry in sorted(storage.stream(str(folder)), key=lambda entry: entry.path):
        content = storage.read(f"{folder}/{entry.path}")
        status = "unreadable" if content.data.startswith(b"y") else "scored"
        status, sha256 = draw.choice([(status, content.sha256)] * 3 + [("missing", None)])
        facts: dict[str, Any] = {"path": entry.path, "status": status, "sha256": sha256, "bytes": entry.size}
        facts["modified"] = entry.modified - draw.choice([0, 0, 10**6])
        rows.append(Row(**facts, model=draw.choice(["model", "model", "other"]), scored_at=datetime.now(UTC)))
    return table.of_rows(draw.sample(rows, len(rows) // 2))


@pytest.mark.parametrize("seed", range(12))
def test_the_index_in_memory_plans_as_the_shipped_one(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    double, real = MemoryIndex({}), Index(tmp_path / "index.duckdb")
    for number in range(2):
        write(tmp_path / "input", draw)
        rows = rows_of(tmp_path / "input", draw)
        for index in (double, real):
            index.ingest(f"file {number}", f"sha256 {number}", [rows])
        scope = Scope(str(tmp_path / "input"), "model", 1000, rescore=draw.random() < 0.2)
        sizes = draw.choice([(), (1, 2), (2, 2, 2)])
        planned = [
            [(wave.table.to_pylist(), wave.counts, wave.is_last) for wave in found]
            for found in (
                in_memory(double, [pa.concat_tables(listed(tmp_path / "input"))], scope, sizes),
                waves.waves(real, listed(tmp_path / "input"), scope, sizes),
            )
        ]
        assert planned[0] == planned[1]
        assert double.outcomes(NAMES, "model") == real.outcomes(NAMES, "model")
        assert double.results(NAMES, "model").sort_by("path") == real.results(NAMES, "model").sort_by("path")
    assert double.commits() == real.commits()
    real.close()
