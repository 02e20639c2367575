"""What a scoring actor does with a chunk of paths."""

import contextlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pyarrow.parquet as pq

from tlearn import storage
from tlearn.config import PreprocessConfig
from tlearn.data.fetch import Fetched, fetch
from tlearn.data.status import SCORED
from tlearn.distributed import decoders
from tlearn.distributed.chunks import Chunk, ChunkResult
from tlearn.distributed.decoders import Decoder, Fetch
from tlearn.distributed.nodes import Threads
from tlearn.errors import IntegrityError
from tlearn.evaluation import drift
from tlearn.evaluation.drift import Histograms
from tlearn.network import model
from tlearn.network.device import Device
from tlearn.scoring import parts, plan
from tlearn.scoring.predict import Predictor
from tlearn.scoring.table import Row
from tlearn.scoring.task import Task
from tlearn.storage import Entry

_DECODE_TIMEOUT_SECONDS = 60


class Score:
    """Decode the images of a chunk, run the whole network, write one file.

    A chunk is a row group of the plan; its id is the number of the group. While it is worked on there is a file
    <id>.started beside the parts. Who finds it there knows that an earlier actor died over this chunk, and lets a
    child process decode, so that a picture that kills its decoder costs one row.
    """

    def __init__(self, task: Task, threads: Threads, fetch: Fetch = fetch):
        self.task, self.fetch = task, fetch
        self.device = Device.here(threads.compute, task.num_images, task.batch_size)
        self.predictor = _predictor(task, self.device)
        self.description = self.predictor.classifier.description
        preprocess, batch_size = self.description.preprocess, self.device.batch_size
        self.decode = decoders.decoder(task.input, preprocess, threads.decode, batch_size, fetch)

    @storage.reached()
    def __call__(self, chunk: Chunk) -> ChunkResult:
        self.device.set_threads()
        number = int(chunk.id)
        part = storage.join(self.task.run_folder, parts.name(number))
        if storage.exists(part):
            with storage.open_input(part) as file:
                statuses = pq.read_table(file, columns=["status"])["status"].to_pylist()
        else:
            with plan.opened(self.task.run_folder) as opened:
                entries = opened.entries(number)
            with self._decoder(chunk) as decode:
                rows, histograms = self.rows(entries, decode)
            parts.write(part, rows, histograms)
            statuses = [row.status for row in rows]
        num_failed = sum(status not in SCORED for status in statuses)
        return ChunkResult(chunk.id, len(statuses), num_failed)

    @contextlib.contextmanager
    def _decoder(self, chunk: Chunk) -> Iterator[Decoder]:
        """Paths to what they hold: as it was asked for, or, the second time, by a process of its own."""
        started = storage.join(self.task.run_folder, f"{chunk.id}.started")
        is_second = storage.exists(started)
        storage.write_bytes(started, b"")
        if is_second:
            with _Careful(self.fetch, self.task.input, self.description.preprocess) as careful:
                yield lambda paths: map(careful, paths)
        else:
            yield self.decode

    def rows(self, entries: list[Entry], decode: Decoder) -> tuple[list[Row], Histograms | None]:
        """One row for every entry in its order, and the histograms of those that were scored."""
        paths = [entry.path for entry in entries]
        files = zip(paths, map(_as_listed, entries, decode(paths)), strict=True)
        rows: list[Row] = []
        histograms: Histograms | None = None
        for scores in self.predictor.scores(files):
            rows += scores.rows
            if scores.histograms is not None:
                histograms = drift.add(histograms, scores.histograms)
        return rows, histograms


def _predictor(task: Task, device: Device) -> Predictor:
    loaded = model.load(task.model, task.arithmetic)
    if loaded.description.digest != task.model_digest:
        raise IntegrityError(f"expected model {task.model_digest} in {task.model}, got another: it was replaced")
    return Predictor.of(loaded, device, task.abstain_below, task.run)


def _as_listed(entry: Entry, fetched: Fetched) -> Fetched:
    """What was fetched if the file is as it was listed; otherwise a row that says so."""
    if fetched.size is None or (fetched.size, fetched.modified) == (entry.size, entry.modified):
        return fetched
    error = "written to after it was listed"
    if fetched.size != entry.size:
        error = f"listed with {entry.size} bytes, found with {fetched.size}"
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
