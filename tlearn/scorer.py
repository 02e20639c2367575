"""What a scoring actor does with a chunk of paths, and the table that comes of it: one row for every listed file."""

import datetime
import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tlearn import metrics, model, storage
from tlearn.chunks import Chunk, chunk_size
from tlearn.classes import Classes
from tlearn.errors import IntegrityError
from tlearn.fetch import Fetched, fetch
from tlearn.network import Precision
from tlearn.storage import Entry

_PARTS_OF_ROW_GROUP = 256

LISTED = pa.schema([("path", pa.string()), ("size", pa.int64()), ("modified", pa.int64())])


def schema(classes: Classes) -> pa.Schema:
    return pa.schema(
        [
            ("path", pa.string()),
            ("status", pa.string()),
            ("prediction", pa.string()),
            ("probability", pa.float32()),
            ("probabilities", pa.struct([(name, pa.float32()) for name in classes.names])),
            ("label", pa.string()),
            ("error", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("bytes", pa.int64()),
            ("modified", pa.timestamp("us", "UTC")),
            ("sha256", pa.string()),
            ("model", pa.string()),
            ("run", pa.string()),
            ("scored_at", pa.timestamp("us", "UTC")),
        ]
    )


def cut(entries: Sequence[Entry]) -> list[Chunk]:
    """Cut a listing into chunks whose id follows from position and content."""
    size = chunk_size(len(entries))
    return [_chunk(i, entries[start : start + size]) for i, start in enumerate(range(0, len(entries), size))]


def _chunk(number: int, entries: Sequence[Entry]) -> Chunk:
    content = "\n".join(f"{entry.path}\0{entry.size}\0{entry.modified}" for entry in entries)
    columns = {
        "path": [entry.path for entry in entries],
        "size": [entry.size for entry in entries],
        "modified": [entry.modified for entry in entries],
    }
    chunk_id = f"{number:06}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    return Chunk(chunk_id, pa.table(columns, schema=LISTED))


def label_of(path: str, classes: Classes) -> str | None:
    """The innermost folder that is named as a class."""
    return next((part for part in reversed(path.split("/")[:-1]) if part in classes.names), None)


class Score:
    """What an actor does: decode the images of a chunk, run the whole network, write one file."""

    def __init__(
        self,
        model_folder: str,
        model_digest: str,
        precision: Precision,
        folder: str,
        parts: str,
        run: str,
        batch_size: int,
        num_threads: int,
        decode_threads: int,
    ):
        torch.set_num_threads(num_threads)
        self.model = model.load(model_folder, precision)
        if self.model.description.digest != model_digest:
            raise IntegrityError(f"expected model {model_digest} in {model_folder}, got another: it was replaced")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.frozen.prepare(self.device)
        self.model.trainable.to(self.device)
        self.folder, self.parts, self.run, self.batch_size = folder, parts, run, batch_size
        self.threads = ThreadPoolExecutor(decode_threads)

    def __call__(self, chunk: Chunk) -> dict[str, Any]:
        part = storage.join(self.parts, f"{chunk.id}.parquet")
        if not storage.exists(part):
            table = pa.Table.from_pylist(self.rows(chunk), schema=schema(self.model.description.classes))
            storage.write(part, lambda sink: pq.write_table(table, sink))
        return {"chunk": chunk.id, "num_images": chunk.rows.num_rows}

    def rows(self, chunk: Chunk) -> list[dict[str, Any]]:
        """One row for every row of the chunk, in its order."""
        listed = chunk.rows.to_pylist()
        description = self.model.description
        names = description.classes.names
        rows: list[dict[str, Any]] = []
        waiting: list[dict[str, Any]] = []  # rows whose pixels are in `pixels`
        pixels: list[torch.Tensor] = []

        def score_waiting() -> None:
            probabilities = metrics.probabilities(self.model.logits(torch.stack(pixels).to(self.device))).cpu()
            for row, values in zip(waiting, probabilities, strict=True):
                best = int(values.argmax())
                row |= {
                    "status": "scored",
                    "prediction": names[best],
                    "probability": values[best].item(),
                    "probabilities": dict(zip(names, values.tolist(), strict=True)),
                }
            waiting.clear()
            pixels.clear()

        for entry, fetched in zip(listed, self.threads.map(self._fetch, listed), strict=True):
            row = {
                "path": entry["path"],
                "status": fetched.status,
                "label": label_of(entry["path"], description.classes),
                "error": fetched.error,
                "width": fetched.width,
                "height": fetched.height,
                "bytes": fetched.size,
                "modified": fetched.modified,
                "sha256": fetched.sha256,
                "model": description.digest,
                "run": self.run,
                "scored_at": datetime.datetime.now(datetime.UTC),
            }
            rows.append(row)
            if fetched.pixels is not None:
                waiting.append(row)
                pixels.append(fetched.pixels)
            if len(waiting) == self.batch_size:
                score_waiting()
        if waiting:
            score_waiting()
        return rows

    def _fetch(self, entry: dict[str, Any]) -> Fetched:
        fetched = fetch(self.folder, entry["path"], self.model.description.preprocess)
        was, now = (entry["size"], entry["modified"]), (fetched.size, fetched.modified)
        if fetched.size is not None and was != now:
            return Fetched(
                status="changed",
                error=f"listed with {was[0]} bytes, found with {now[0]}"
                if was[0] != now[0]
                else "written to after it was listed",
                size=fetched.size,
                modified=fetched.modified,
            )
        return fetched


def merge(parts: list[str], output: str, classes: Classes) -> Counter[str]:
    """Write the chunk files, in order, as one file in one step; returns the number of rows of each status."""
    counts: Counter[str] = Counter()

    def write_to(sink: Any) -> None:
        with pq.ParquetWriter(sink, schema(classes), write_page_checksum=True) as writer:
            for start in range(0, len(parts), _PARTS_OF_ROW_GROUP):
                table = pa.concat_tables(read_part(part) for part in parts[start : start + _PARTS_OF_ROW_GROUP])
                counts.update(table["status"].to_pylist())
                writer.write_table(table)

    storage.write(output, write_to)
    return counts


def read_part(part: str) -> pa.Table:
    folder, _, name = part.rpartition("/")
    return pq.read_table(pa.BufferReader(storage.read(folder, name).data))
