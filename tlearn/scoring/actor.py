"""What a scoring actor does with a chunk of paths."""

import contextlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from tlearn import storage
from tlearn.config import PreprocessConfig
from tlearn.data.fetch import Fetched, fetch
from tlearn.data.status import SCORED
from tlearn.distributed import decoders
from tlearn.distributed.chunks import Chunk
from tlearn.distributed.decoders import Decoder, Fetch
from tlearn.errors import IntegrityError
from tlearn.evaluation import drift, metrics
from tlearn.network import model
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.device import Device
from tlearn.network.frozen import require_finite
from tlearn.scoring import table

_DECODE_TIMEOUT_SECONDS = 120


class Score:
    """Decode the images of a chunk, run the whole network, write one file.

    A chunk is a row group of the plan; its id is the number of the group. While it is worked on there is a file
    <id>.started beside the parts. Who finds it there knows that an earlier actor died over this chunk, and lets a
    child process decode, so that a picture that kills its decoder costs one row.
    """

    def __init__(
        self,
        model_folder: str,
        model_digest: str,
        arithmetic: Arithmetic,
        folder: str,
        run_folder: str,
        run: str,
        batch_size: int | None,
        num_threads: int,
        decode_threads: int | None,
        num_images: int = 0,
        abstain_below: float | None = None,
        fetch: Fetch = fetch,
    ):
        self.device = Device.here(num_threads, num_images, batch_size)
        self.model = model.load(model_folder, arithmetic).prepare(self.device.name, self.device.compile_for)
        if self.model.description.digest != model_digest:
            raise IntegrityError(f"expected model {model_digest} in {model_folder}, got another: it was replaced")
        self.folder, self.run_folder, self.run = folder, run_folder, run
        self.abstain_below = abstain_below or 0.0
        self.fetch = fetch
        preprocess = self.model.description.preprocess
        self.decode = decoders.decoder(folder, preprocess, decode_threads, self.device.batch_size, fetch)

    def __call__(self, chunk: Chunk) -> dict[str, Any]:
        self.device.set_threads()
        number = int(chunk.id)
        part = storage.join(self.run_folder, table.part_name(number))
        with storage.open_input(storage.join(self.run_folder, "plan.parquet")) as plan:
            entries = pq.ParquetFile(plan).read_row_group(number, ["path", "size", "modified"]).to_pylist()
        if storage.exists(part):
            with storage.open_input(part) as file:
                statuses = pq.read_table(file, columns=["status"])["status"].to_pylist()
        else:
            started = storage.join(self.run_folder, f"{chunk.id}.started")
            is_second = storage.exists(started)
            storage.write_bytes(started, b"")
            with self._decoder(is_second) as decode:
                rows, histograms = self.rows(entries, decode)
            table.write_part(part, rows, self.model.description.classes, histograms)
            statuses = [row["status"] for row in rows]
        num_failed = sum(status not in SCORED for status in statuses)
        return {"chunk": chunk.id, "num_images": len(entries), "num_failed": num_failed}

    @contextlib.contextmanager
    def _decoder(self, is_second: bool) -> Iterator[Decoder]:
        """Paths to what they hold: as it was asked for, or, the second time, by a process of its own."""
        if is_second:
            with _Careful(self.fetch, self.folder, self.model.description.preprocess) as careful:
                yield lambda paths: map(careful, paths)
        else:
            yield self.decode

    def rows(
        self, entries: list[dict[str, Any]], decode: Decoder
    ) -> tuple[list[dict[str, Any]], drift.Histograms | None]:
        """One row for every entry (path, size, modified) in its order, and the histograms of those that were scored."""
        description = self.model.description
        rows: list[dict[str, Any]] = []
        waiting: list[tuple[dict[str, Any], torch.Tensor]] = []
        launched: list[_Launched] = []
        histograms: drift.Histograms | None = None
        for entry, fetched in zip(entries, decode([entry["path"] for entry in entries]), strict=True):
            fetched = _unchanged(entry, fetched)
            rows.append(
                {
                    "path": entry["path"],
                    "status": fetched.status,
                    "label": table.label_of(entry["path"], description.classes),
                    "error": fetched.error,
                    "width": fetched.width,
                    "height": fetched.height,
                    "bytes": fetched.size,
                    "modified": fetched.modified,
                    "sha256": fetched.sha256,
                    "model": description.digest,
                    "run": self.run,
                    "scored_at": datetime.now(UTC),
                }
            )
            if fetched.pixels is not None:
                waiting.append((rows[-1], fetched.pixels))
            if len(waiting) == self.device.batch_size:
                launched.append(self._launch(waiting))
                waiting = []
                if len(launched) == 2:  # a GPU works on the second while the first is looked at
                    histograms = self._finish(launched.pop(0), histograms)
        if waiting:
            launched.append(self._launch(waiting))
        for batch in launched:
            histograms = self._finish(batch, histograms)
        return rows, histograms

    def _launch(self, waiting: list[tuple[dict[str, Any], torch.Tensor]]) -> "_Launched":
        logits, pooled = self.model.outputs(self.device.stack([pixels for _, pixels in waiting]))
        return _Launched([row for row, _ in waiting], metrics.probabilities(logits), pooled)

    def _finish(self, batch: "_Launched", histograms: drift.Histograms | None) -> drift.Histograms | None:
        """Fill in the rows of a batch."""
        require_finite([batch.pooled])
        names, reference = self.model.description.classes.names, self.model.description.reference
        probabilities: np.ndarray[Any, Any] = batch.probabilities.cpu().numpy()
        for row, values in zip(batch.rows, probabilities, strict=True):
            best = int(values.argmax())
            row |= {
                "status": "uncertain" if values[best] < self.abstain_below else "scored",
                "prediction": names[best],
                "probability": float(values[best]),
                "probabilities": dict(zip(names, values.tolist(), strict=True)),
            }
        if not reference:
            return None
        series = drift.series(probabilities, batch.pooled.cpu().numpy())
        return drift.add(histograms, drift.count(reference["edges"], series))


@dataclass(frozen=True, slots=True)
class _Launched:
    """A batch that a GPU may still be working on."""

    rows: list[dict[str, Any]]
    probabilities: torch.Tensor
    pooled: torch.Tensor


def _unchanged(entry: dict[str, Any], fetched: Fetched) -> Fetched:
    """What was fetched if the file is as it was listed; otherwise a row that says so."""
    if fetched.size is None or (fetched.size, fetched.modified) == (entry["size"], entry["modified"]):
        return fetched
    error = "written to after it was listed"
    if fetched.size != entry["size"]:
        error = f"listed with {entry['size']} bytes, found with {fetched.size}"
    return Fetched(status="changed", error=error, size=fetched.size, modified=fetched.modified)


class _Careful:
    """Fetches in a child process; one that dies or hangs over a file is replaced, and the file is a `decoder_crash`."""

    def __init__(self, fetch: Fetch, folder: str, preprocess: PreprocessConfig):
        self.fetch, self.folder, self.preprocess = fetch, folder, preprocess
        self.child = self._start()

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> "_Careful":
        return self

    def __call__(self, path: str) -> Fetched:
        try:
            return self.child.submit(self.fetch, self.folder, path, self.preprocess).result(_DECODE_TIMEOUT_SECONDS)
        except BrokenProcessPool:
            error = "the process that decoded it died"
        except TimeoutError:
            error = f"not decoded after {_DECODE_TIMEOUT_SECONDS} seconds"
        self._stop()
        self.child = self._start()
        return Fetched(status="decoder_crash", error=error)

    def _stop(self) -> None:
        for process in list((self.child._processes or {}).values()):
            process.kill()
        self.child.shutdown(cancel_futures=True)

    def __exit__(self, *_: object) -> None:
        self._stop()
