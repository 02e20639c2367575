"""What a scoring actor does with a chunk of paths."""

from collections.abc import Iterator, Sequence

import pyarrow.parquet as pq

from tlearn import storage
from tlearn.data.careful import Careful
from tlearn.data.fetch import Decoder, Fetch, Fetched, fetch
from tlearn.data.reading import reason
from tlearn.data.status import SCORED
from tlearn.distributed import decoders
from tlearn.distributed.chunks import Chunk, ChunkResult
from tlearn.distributed.nodes import Threads
from tlearn.errors import IntegrityError, StorageError
from tlearn.network import model
from tlearn.network.device import Device
from tlearn.scoring import parts, plan
from tlearn.scoring.predict import Predictor, Scores
from tlearn.scoring.table import Row
from tlearn.scoring.task import Task
from tlearn.storage import Entry


class Score:
    """Decode the images of a chunk, run the whole network, write one file.

    A chunk is a row group of the plan of its run. A picture that kills its decoder costs one row: see
    decoders.surviving.
    """

    def __init__(self, task: Task, threads: Threads, fetch: Fetch = fetch):
        self.task = task
        self.device = Device.here(threads.compute, task.arithmetic.engine, task.batch_size)
        self.predictor = _predictor(task, self.device)
        sizes = [stage.classifier.preprocess for stage in self.predictor.stages]
        batch_size = self.device.batch_size
        self.decode = [decoders.decoder(task.input, size, threads.decode, batch_size, fetch) for size in sizes]
        self.careful: list[Decoder] = [Careful(task.input, size, fetch) for size in sizes]

    @storage.reached()
    def __call__(self, chunk: Chunk) -> ChunkResult:
        self.device.set_threads()
        folder, number = self.task.place(chunk.id)
        part = storage.join(folder, parts.name(number))
        if storage.exists(part):
            with storage.open_input(part) as file:
                statuses = pq.read_table(file, columns=["status"])["status"].to_pylist()
        else:
            with plan.opened(folder) as opened:
                entries = opened.entries(number)
            started = storage.join(folder, f"{number:06}.started")
            scores = self.rows(entries, careful=decoders.is_second(started))
            parts.write(part, scores.rows, scores.histograms)
            statuses = [row.status for row in scores.rows]
        num_failed = sum(status not in SCORED for status in statuses)
        return ChunkResult(chunk.id, len(statuses), num_failed)

    def rows(self, entries: list[Entry], *, careful: bool = False) -> Scores:
        """One row for every entry in its order, and the histograms of those that were scored.

        `careful`: an earlier process died over one of them.
        """
        decode, listed = self.careful if careful else self.decode, {entry.path: entry for entry in entries}

        def found(stage: int, paths: Sequence[str]) -> Iterator[Fetched]:
            return map(_as_listed, [listed[path] for path in paths], decode[stage](paths))

        paths = list(listed)
        scores = self.predictor.scores(zip(paths, found(0, paths), strict=True), lambda rest: found(-1, rest))
        _require_storage(self.task.input, scores.rows)
        return scores


def _predictor(task: Task, device: Device) -> Predictor:
    loaded = model.load(task.model, task.arithmetic)
    if loaded.description.digest != task.model_digest:
        raise IntegrityError(f"expected model {task.model_digest} in {task.model}, got another: it was replaced")
    return Predictor.of(loaded, device, task.limits, cascade=task.cascade)


def _require_storage(folder: str, rows: list[Row]) -> None:
    """Raise StorageError where a store refuses, or answers, nothing: of a chunk no file could be read, nor can now."""
    if len(rows) > 1 and storage.is_remote(folder) and all(row.status == "io_error" for row in rows):
        try:
            storage.read_listed(folder, rows[0].path, 1)
        except OSError as error:
            raise StorageError(
                f"expected files that can be read in {folder}, {len(rows)} in a row could not be: {reason(error)}"
            ) from error
        except Exception:  # a name that this store does not take
            return


def _as_listed(entry: Entry, fetched: Fetched) -> Fetched:
    """What was fetched if the file is as it was listed; otherwise a row that says so."""
    if fetched.size is None or fetched.modified is None:
        return fetched
    error = entry.change(fetched.size, fetched.modified)
    if error is None:
        return fetched
    return Fetched(status="changed", error=error, size=fetched.size, modified=fetched.modified)
