"""The cache of what the frozen layers make of each image.

Keyed by content: the sha256 of the file, the digest of the frozen layers with engine and precision, the digest of
the preprocessing, the view (the image or its mirror image). A view of one network is a folder, a chunk a file in it:

    CACHE/features/<frozen digest>-<preprocessing digest>-<view>/<chunk id>.arrow
        sha256     string
        status     string, "ok" or why there is no feature
        error      string
        features   fixed_size_list<float16 or uint8>[channels * height * width]; zeros unless ok
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tlearn import storage
from tlearn.config import Arch, DecodeChoice, PreprocessConfig, digest
from tlearn.console import Progress
from tlearn.data.fetch import Fetched, fetch
from tlearn.data.manifest import File
from tlearn.data.status import SETTLED, Status
from tlearn.distributed import decoders, launch, pool
from tlearn.distributed.chunks import Chunk, ChunkResult, chunk_size
from tlearn.distributed.nodes import Threads
from tlearn.errors import IntegrityError, StorageError
from tlearn.network import engine, weights
from tlearn.network.arithmetic import Arithmetic
from tlearn.network.device import Device
from tlearn.network.frozen import Frozen, require_finite
from tlearn.network.vgg import feature_shape

Result = TypeVar("Result")
View = Literal["plain", "mirror"]

_NUM_CALIBRATION = 32
_USABLE = 0.9
"""Of what is free on the cache's disk."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Everything that the features depend on beside the image, and where they are kept."""

    weights: str
    cache: str
    frozen_blocks: int
    preprocess: PreprocessConfig
    arithmetic: Arithmetic
    frozen_digest: str
    arch: Arch = "vgg16"

    @property
    def shape(self) -> tuple[int, int, int]:
        return feature_shape(self.frozen_blocks, self.preprocess.image_size, self.arch)

    def folder(self, view: View) -> str:
        name = f"{self.frozen_digest}-{digest(self.preprocess)}-{view}"
        return storage.join(storage.absolute(self.cache), "features", name)

    def load(self) -> Frozen:
        """The frozen layers, with their weights."""
        tensors = weights.load(self.weights, self.cache, self.arch) if self.frozen_blocks else None
        frozen = Frozen(self.frozen_blocks, self.preprocess, self.arithmetic, self.arch, tensors)
        if frozen.digest() != self.frozen_digest:
            raise IntegrityError(
                f"expected frozen layers with digest {self.frozen_digest}, got {frozen.digest()}: "
                "every node must see the same --weights"
            )
        return frozen


def ranges(files: Sequence[File], data: str, frozen: Frozen, cache: str) -> tuple[float, ...]:
    """What int8 needs to know of the inputs of the frozen layers, from 32 of the images; () if none can be read.

    Kept in the cache, and used again for as long as these images are among `files`, so that a folder that grows does
    not make its features stale.
    """
    hashes = {file.sha256: file for file in files if file.sha256 and file.status == "ok"}
    layers = weights.tensors_digest(frozen.layers.state_dict())
    folder = storage.join(storage.absolute(cache), "ranges", f"{layers}-{digest(frozen.preprocess)}")
    for name in storage.names(folder):
        with contextlib.suppress(ValueError, KeyError):
            known = storage.read_json(storage.join(folder, name))
            if set(known["images"]) <= hashes.keys():
                return tuple(known["ranges"])
    pixels, images = [], []
    for sha256 in sorted(hashes):
        fetched = fetch(data, hashes[sha256].path, frozen.preprocess)
        if fetched.pixels is not None:
            pixels.append(fetched.pixels)
            images.append(sha256)
        if len(images) == _NUM_CALIBRATION:
            break
    if not images:
        return ()
    found = engine.calibrate(frozen.layers, frozen.preprocess, torch.stack(pixels).split(8))
    content = json.dumps({"images": images, "ranges": found}).encode()
    storage.write_bytes(storage.join(folder, f"{digest(images)}.json"), content)
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """Where the features of an image are: a chunk file and a row in it."""

    file: str
    row: int
    status: Status
    error: str | None


def index(folder: str) -> dict[str, Place]:
    """Find every image of a view by its sha256; a file that is damaged counts as absent."""
    places = {}
    files = [storage.join(folder, name) for name in storage.names(folder) if name.endswith(".arrow")]
    for file, facts in zip(files, _each(_facts, files), strict=True):
        for row, (sha256, status, error) in enumerate(facts):
            places[sha256] = Place(file, row, status, error)
    return places


def _facts(file: str) -> list[tuple[str, Status, str | None]]:
    """What a chunk file says of its images; a damaged one is removed."""
    try:
        if storage.is_remote(file):
            batch = _remote_facts(file)
        else:
            batch = _open(storage.local(file))
            batch.validate(full=True)  # else damaged offsets would be read where they point
            batch.column("features")
        return list(zip(*batch.select(["sha256", "status", "error"]).to_pydict().values(), strict=True))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        if storage.is_remote(file) and isinstance(error, OSError):
            raise StorageError(f"could not read {file}: {error}") from error
        storage.remove(file)
        return []


@functools.cache
def _remote_facts(file: str) -> pa.RecordBatch:
    """Without the features, which only the machines that train on them fetch."""
    with storage.open_input(file) as source:
        options = pa.ipc.IpcReadOptions(included_fields=[0, 1, 2])
        batch = pa.ipc.open_file(source, options=options).get_batch(0)
    batch.validate(full=True)
    return batch


def _each(function: Callable[[str], Result], files: Sequence[str]) -> list[Result]:
    """Several at a time where each has to be waited for."""
    if not any(map(storage.is_remote, files)):
        return [function(file) for file in files]
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(function, files))


def _open(path: Path) -> pa.RecordBatch:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).get_batch(0)


class Features:
    """The features of some images, memory-mapped; picklable, opened anew by every process that reads them.

    From a remote cache a machine fetches the files that one of its processes reads.
    """

    def __init__(self, places: Sequence[Place], shape: tuple[int, int, int]):
        self.shape = shape
        # Eight bytes an image, in every worker.
        numbers = {file: number for number, file in enumerate(dict.fromkeys(place.file for place in places))}
        self.files = list(numbers)
        self.places = np.array([(numbers[place.file], place.row) for place in places], np.int32).reshape(-1, 2)
        self._arrays: list[np.ndarray[Any, Any]] = []

    def __len__(self) -> int:
        return len(self.places)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": []}

    def gather(self, indices: Sequence[int] | Tensor) -> Tensor:
        """(len(indices), channels, height, width) float16, or uint8 where nothing is frozen."""
        # All files at once: what each needs for good, between the batches, would keep their memory from being reused.
        self._arrays = self._arrays or _each(self._mapped, self.files)
        # A worker's share may be empty; one row then tells the type.
        places = self.places[np.asarray(indices, np.int64)] if len(indices) else self.places[:1]
        rows = [self._arrays[file][row] for file, row in places.tolist()]
        return torch.from_numpy(np.stack(rows)[: len(indices)])

    def _mapped(self, file: str) -> np.ndarray[Any, Any]:
        column = _open(storage.at_hand(file)).column("features")
        values = column.flatten().to_numpy(zero_copy_only=True)
        return values.reshape(len(column), *self.shape)  # type: ignore[no-any-return]


class Pictures:
    """What `Features` of nothing frozen would give, decoded whenever it is asked for; for caches without the room."""

    def __init__(self, data: str, paths: Sequence[str], preprocess: PreprocessConfig, views: Sequence[View]):
        self.data, self.paths, self.preprocess, self.views = data, tuple(paths), preprocess, tuple(views)
        self._threads: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.paths) * len(self.views)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_threads": None}

    def gather(self, indices: Sequence[int] | Tensor) -> Tensor:
        """(len(indices), 3, size, size) uint8. Raises StorageError for a file that can no longer be read."""
        self._threads = self._threads or ThreadPoolExecutor(os.cpu_count())
        pixels = list(self._threads.map(self._one, np.asarray(indices, np.int64).tolist()))
        return (
            torch.stack(pixels) if pixels else torch.empty(0, 3, *[self.preprocess.image_size] * 2, dtype=torch.uint8)
        )

    def _one(self, index: int) -> Tensor:
        view, row = divmod(index, len(self.paths))
        fetched = fetch(self.data, self.paths[row], self.preprocess)
        if fetched.pixels is None:
            raise StorageError(f"expected {self.paths[row]} as it was listed, got {fetched.error}: train again")
        return fetched.pixels.flip(2) if self.views[view] == "mirror" else fetched.pixels


def pooled(features: Features) -> Tensor:
    """(N, channels) float32: the average over all positions."""
    parts = [features.gather(rows).float().mean((2, 3)) for rows in torch.arange(len(features)).split(256)]
    return torch.cat(parts) if parts else torch.empty(0, features.shape[0])


@dataclass(frozen=True, slots=True)
class Task:
    """What every actor is built from."""

    data: str
    cut: Cut
    num_views: int = 0
    """That each actor has to compute, about: whether it pays to compile."""


class Compute:
    """What an actor does: decode the images of a chunk, run the frozen layers, write one file a view."""

    def __init__(self, task: Task, threads: Threads):
        self.cut = cut = task.cut
        self.device = Device.here(threads.compute, task.num_views)
        self.extract = cut.load().prepare(self.device.name, self.device.compile_for)
        self.decode = decoders.decoder(task.data, cut.preprocess, threads.decode, self.device.batch_size)

    def __call__(self, chunk: Chunk) -> ChunkResult:
        self.device.set_threads()
        rows = chunk.rows.to_pylist()
        views: list[View] = rows[0]["views"]
        statuses: list[tuple[Status, str | None]] = []
        outputs: dict[View, list[Tensor]] = {view: [] for view in views}
        fetched = map(_as_planned, rows, self.decode([row["path"] for row in rows]))
        for batch in _batches(fetched, self.device.batch_size):
            statuses += [(one.status, one.error) for one in batch]
            blank = torch.zeros(3, *[self.cut.preprocess.image_size] * 2, dtype=torch.uint8)
            seen = [blank if one.pixels is None else one.pixels for one in batch]
            pixels = self.device.stack(seen)
            for view in views:
                outputs[view].append(self.extract(pixels.flip(3) if view == "mirror" else pixels))
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
        batch = pa.RecordBatch.from_pydict(columns)

        def write_to(sink: Any) -> None:
            with pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)

        storage.write(storage.join(self.cut.folder(view), f"{chunk_id}.arrow"), write_to)


def _as_planned(row: dict[str, Any], fetched: Fetched) -> Fetched:
    """What was fetched if it holds the bytes that were planned; otherwise that it does not."""
    # What has more than max_bytes was not hashed, but its size says that it is too large under this hash as well.
    is_same = fetched.sha256 == row["sha256"] if fetched.sha256 is not None else fetched.size in (row["size"], None)
    if not is_same:
        return Fetched(status="changed", error="changed after it was listed")
    return fetched


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
    lacking: dict[str, tuple[File, tuple[View, ...]]] = {}
    for files, views in wanted:
        for file in files:
            if file.sha256 and file.status == "ok":
                before = lacking.get(file.sha256, (file, ()))[1]
                more = tuple(view for view in views if file.sha256 not in known[view] and view not in before)
                if more:
                    lacking[file.sha256] = (file, before + more)
    groups: dict[tuple[View, ...], list[File]] = {}
    for file, views in lacking.values():
        groups.setdefault(views, []).append(file)
    return [chunk for views, files in groups.items() for chunk in _chunks(files, views)]


def _chunks(files: Sequence[File], views: tuple[View, ...]) -> Iterator[Chunk]:
    columns: dict[str, Any] = {
        "path": [file.path for file in files],
        "size": [file.size for file in files],
        "sha256": [file.sha256 for file in files],
        "views": [views] * len(files),
    }
    table, size = pa.table(columns), chunk_size(len(files))
    for start in range(0, len(files), size):
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


def compute(
    plan: Sequence[Chunk],
    data: str,
    cut: Cut,
    workers: tuple[int, int] | None,
    progress: Progress,
    decode: DecodeChoice = "here",
) -> tuple[int, int]:
    """Run a plan on the cluster; returns the numbers of views computed and of images that failed."""
    actors = launch.nodes().pool(workers, len(plan), decode)
    progress.num_parallel = actors.num_actors
    task = Task(storage.absolute(data), cut, num_views(plan) // actors.num_actors)
    views_per_image = {chunk.id: len(chunk.rows["views"][0]) for chunk in plan}
    num_computed = num_failed = 0
    for result in pool.run(plan, "tlearn.features.cache:Compute", task, actors, f"features-{cut.frozen_digest[:8]}"):
        views = views_per_image[result.chunk]
        num_computed += (result.num_images - result.num_failed) * views
        num_failed += result.num_failed
        progress.advance(result.num_images * views)
    return num_computed, num_failed


def collect(files: Sequence[File], view: View, cut: Cut) -> list[Place]:
    """The place of each file's features; a file without any gets its status and is left out."""
    places = index(cut.folder(view))
    found = []
    for file in files:
        if file.status != "ok":
            continue
        place = places.get(file.sha256 or "")
        if place is None:
            file.status, file.error = "changed", "changed after it was listed"
        elif place.status != "ok":
            file.status, file.error = place.status, place.error
        else:
            found.append(place)
    return found
