"""Features computed: a plan of what the cache lacks, and the actor that turns each of its chunks into files."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tlearn import storage
from tlearn.config import TrainConfig
from tlearn.console import Progress
from tlearn.data.careful import Careful
from tlearn.data.fetch import Decoder, Fetch, Fetched, fetch
from tlearn.data.manifest import File
from tlearn.data.status import SETTLED, Status
from tlearn.distributed import decoders, launch, meters, pool
from tlearn.distributed.chunks import Chunk, ChunkResult, chunk_size
from tlearn.distributed.nodes import Pool, Threads
from tlearn.features.cache import JUDGED, Features, index, outcomes
from tlearn.features.cut import Cut, View
from tlearn.network.device import Device
from tlearn.network.frozen import require_finite

_USABLE = 0.9
"""Of what is free on the cache's disk."""
_ACTOR = "tlearn.features.compute:Compute"


@dataclass(frozen=True, slots=True)
class Task:
    """What an actor has to know."""

    data: str
    cut: Cut


class Compute:
    """What an actor does: decode the images of a chunk, run the frozen layers, write one file a view."""

    def __init__(self, task: Task, threads: Threads, fetch: Fetch = fetch):
        self.cut = task.cut
        self.device = Device.here(threads.compute, task.cut.arithmetic.engine)
        self.extract = task.cut.load().prepare(self.device.name)
        preprocess = task.cut.preprocess
        self.decode = decoders.decoder(task.data, preprocess, threads.decode, self.device.batch_size, fetch)
        self.careful = Careful(task.data, preprocess, fetch)

    def __call__(self, chunk: Chunk) -> ChunkResult:
        self.device.set_threads()
        started = storage.join(self.cut.folder(chunk.rows["views"][0].as_py()[0]), f"{chunk.id}.started")
        result = self._computed(chunk, decoders.surviving(started, self.decode, self.careful))
        storage.remove(started)
        return result

    def _computed(self, chunk: Chunk, decode: Decoder) -> ChunkResult:
        rows = chunk.rows.to_pylist()
        views: list[View] = rows[0]["views"]
        statuses: list[tuple[Status, str | None]] = []
        outputs: dict[View, list[Tensor]] = {view: [] for view in views}
        found = zip(rows, decode([row["path"] for row in rows]), strict=True)
        fetched = (_as_planned(row, file, decode) for row, file in found)
        for batch in _batches(fetched, self.device.batch_size):
            statuses += [(file.status, file.error) for file in batch]
            blank = torch.zeros(3, *[self.cut.preprocess.image_size] * 2, dtype=torch.uint8)
            seen = [blank if file.pixels is None else file.pixels for file in batch]
            images = self.device.stack(seen)
            for view in views:
                outputs[view].append(self.extract(images.flip(3) if view == "mirror" else images))
        for view, tensors in outputs.items():
            require_finite(tensors)  # until here nothing has waited for a GPU
            features = torch.cat(tensors).cpu().numpy()
            self._write(chunk.id, view, [row["sha256"] for row in rows], statuses, features)
        num_failed = sum(status != "ok" for status, _ in statuses)
        return ChunkResult(chunk.id, len(rows), num_failed)

    def _write(
        self,
        chunk_id: str,
        view: View,
        hashes: list[str],
        statuses: list[tuple[Status, str | None]],
        features: np.ndarray[Any, Any],
    ) -> None:
        # What depends on the moment and not on the content is tried again in the next run.
        keep = [i for i, (status, _) in enumerate(statuses) if status in SETTLED]
        size = int(np.prod(self.cut.shape))
        columns = {
            "sha256": pa.array([hashes[i] for i in keep], pa.string()),
            "status": pa.array([statuses[i][0] for i in keep], pa.string()),
            "error": pa.array([statuses[i][1] for i in keep], pa.string()),
            "features": pa.FixedSizeListArray.from_arrays(pa.array(features[keep].reshape(-1)), size),
        }
        batch = pa.RecordBatch.from_pydict(columns, metadata=JUDGED)

        def write_to(sink: Any) -> None:
            with pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)

        storage.write(storage.join(self.cut.folder(view), f"{chunk_id}.arrow"), write_to)


def _as_planned(row: dict[str, Any], fetched: Fetched, decode: Decoder) -> Fetched:
    """What was fetched, or a copy that holds the bytes that were planned; otherwise that it does not."""
    for path in row["copies"]:
        if fetched.status in SETTLED and _is_planned(row, fetched):
            break
        (fetched,) = decode([path])
    if not _is_planned(row, fetched):
        return Fetched(status="changed", error="changed after it was listed")
    return fetched


def _is_planned(row: dict[str, Any], fetched: Fetched) -> bool:
    """Whether it holds the bytes that were planned, as far as it could be read."""
    # What has more than max_bytes was not hashed, but its size says that it is too large under this hash as well.
    return fetched.sha256 == row["sha256"] if fetched.sha256 is not None else fetched.size in (row["size"], None)


def _batches(items: Iterator[Fetched], size: int) -> Iterator[list[Fetched]]:
    batch: list[Fetched] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def plan(wanted: Sequence[tuple[Sequence[File], tuple[View, ...]]], cut: Cut) -> list[Chunk]:
    """Cut what is not in the cache into chunks, each of images that lack the same views: one pool computes all."""
    known = {view: index(cut.folder(view)).keys() for view in {view for _, views in wanted for view in views}}
    lacking: dict[str, tuple[View, ...]] = {}
    same: dict[str, list[File]] = {}
    for files, views in wanted:
        for file in files:
            if file.sha256 and file.status == "ok":
                same.setdefault(file.sha256, []).append(file)
                before = lacking.get(file.sha256, ())
                more = tuple(view for view in views if file.sha256 not in known[view] and view not in before)
                if more:
                    lacking[file.sha256] = before + more
    groups: dict[tuple[View, ...], list[list[File]]] = {}
    for sha256, views in lacking.items():
        groups.setdefault(views, []).append(same[sha256])
    return [chunk for views, images in groups.items() for chunk in _chunks(images, views)]


def _chunks(images: Sequence[list[File]], views: tuple[View, ...]) -> Iterator[Chunk]:
    """Of each image all files that hold it."""
    columns: dict[str, Any] = {
        "path": [files[0].path for files in images],
        "copies": pa.array([[file.path for file in files[1:]] for files in images], pa.list_(pa.string())),
        "size": [files[0].size for files in images],
        "sha256": [files[0].sha256 for files in images],
        "views": [views] * len(images),
    }
    table, size = pa.table(columns), chunk_size(len(images))
    for start in range(0, len(images), size):
        rows = table.slice(start, size)
        yield Chunk(hashlib.sha256("".join(rows["sha256"].to_pylist()).encode()).hexdigest()[:16], rows)


def num_views(plan: Sequence[Chunk]) -> int:
    """How many features a plan computes."""
    return sum(len(views) for chunk in plan for views in chunk.rows["views"].to_pylist())


def fits(plan: Sequence[Chunk], cut: Cut) -> bool:
    """Whether the disk of the cache, or of its copies, has room for what a plan would write."""
    folder = storage.disk(cut.cache)
    folder.mkdir(parents=True, exist_ok=True)
    return num_bytes(plan, cut) <= _USABLE * shutil.disk_usage(folder).free


def num_bytes(plan: Sequence[Chunk], cut: Cut) -> int:
    """What a plan would write."""
    return num_views(plan) * int(np.prod(cut.shape)) * (2 if cut.frozen_blocks else 1)


def compute(config: TrainConfig, plan: Sequence[Chunk], cut: Cut, what: str = "features") -> int:
    """Run a plan on the cluster, with meters and a progress called `what`; returns how many views were computed."""
    if not plan:
        return 0
    lowest, highest = config.num_workers or (None, None)
    workers = config.num_workers if lowest == highest else None
    actors = launch.pool(workers, len(plan), config.decode)
    progress = Progress(what, num_views(plan), unit="features", num_parallel=actors.num_actors)
    with launch.causes(), progress:
        num_computed, _ = run(plan, config.data, cut, actors, progress)
    meters.count("features_computed", num_computed)
    return num_computed


@dataclass(frozen=True, slots=True)
class Usable:
    """Images that have features, without mirror images."""

    files: list[File]
    features: Features
    num_computed: int
    """The others were there."""


def usable(config: TrainConfig, files: Sequence[File], cut: Cut, what: str = "features") -> Usable:
    """Those of the files that can be read, with their features; what the cache lacks is computed."""
    num_computed = compute(config, plan([(files, ("plain",))], cut), cut, what)
    found = outcomes(files, "plain", cut)
    readable = [file for file in found.files if file.status == "ok"]
    return Usable(readable, Features(found.places, cut.shape), num_computed)


def run(plan: Sequence[Chunk], data: str, cut: Cut, actors: Pool, progress: Progress) -> tuple[int, int]:
    """Let actors compute a plan; returns the numbers of views computed and of images that failed."""
    task = Task(storage.absolute(data), cut)
    views_per_image = {chunk.id: len(chunk.rows["views"][0]) for chunk in plan}
    num_computed = num_failed = 0
    for result in pool.run(plan, _ACTOR, task, actors):
        views = views_per_image[result.chunk]
        num_computed += (result.num_images - result.num_failed) * views
        num_failed += result.num_failed
        progress.advance(result.num_images * views)
    return num_computed, num_failed
