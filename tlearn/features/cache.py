"""Features as they are kept: what the frozen layers make of each image.

Keyed by content: the sha256 of the file, the digest of the frozen layers with engine and precision, the digest of
the preprocessing, the view (the image or its mirror image). A view of one network is a folder, a chunk a file in it:

    CACHE/features/<frozen digest>-<preprocessing digest>-<view>/<chunk id>.arrow
        sha256     string
        status     string, "ok" or why there is no feature
        error      string
        features   fixed_size_list<float16 or uint8>[channels * height * width]; zeros unless ok
"""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tlearn import storage
from tlearn.config import PreprocessConfig, digest
from tlearn.data.fetch import Decoder, fetch
from tlearn.data.manifest import File
from tlearn.data.status import Status
from tlearn.errors import StorageError
from tlearn.features.cut import Cut, View
from tlearn.network import engine, weights
from tlearn.network.frozen import Frozen

Result = TypeVar("Result")

JUDGED = {b"judged": b"2"}
"""Metadata of a chunk file. By another or none, what could not be read is tried again: it may have become readable."""

_NUM_CALIBRATION = 32


def ranges(files: Sequence[File], frozen: Frozen, cache: str, decode: Decoder) -> tuple[float, ...]:
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
    paths = [hashes[sha256].path for sha256 in sorted(hashes)]
    for sha256, fetched in zip(sorted(hashes), decode(paths), strict=False):
        if fetched.pixels is not None:
            pixels.append(fetched.pixels)
            images.append(sha256)
        if len(images) == _NUM_CALIBRATION:
            break
    if not images:
        return ()
    found = engine.calibrate(frozen.layers, frozen.preprocess, torch.stack(pixels).split(8))
    content = json.dumps({"images": images, "ranges": found}).encode()
    with contextlib.suppress(OSError):  # a cache that cannot be written is read, as far as it goes
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
    places: dict[str, Place] = {}
    for facts in _each(
        _facts, [storage.join(folder, name) for name in storage.names(folder) if name.endswith(".arrow")]
    ):
        places |= facts
    return places


def _facts(file: str) -> dict[str, Place]:
    """What a chunk file says of its images; a damaged one is removed."""
    try:
        if storage.is_remote(file):
            batch = _remote_facts(file)
        else:
            batch = _open(storage.local(file))
            batch.validate(full=True)  # else damaged offsets would be read where they point
            batch.column("features")
        rows = zip(*batch.select(["sha256", "status", "error"]).to_pydict().values(), strict=True)
        is_current = batch.schema.metadata == JUDGED
        return {
            sha256: Place(file, row, status, error)
            for row, (sha256, status, error) in enumerate(rows)
            if is_current or status == "ok"
        }
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        if storage.is_remote(file) and isinstance(error, OSError):
            raise StorageError(f"could not read {file}: {error}") from error
        storage.remove(file)
        return {}


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
        if not len(self):
            return torch.empty(0, *self.shape)
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
    if not len(features):
        return torch.empty(0, features.shape[0])
    return torch.cat([features.gather(rows).float().mean((2, 3)) for rows in torch.arange(len(features)).split(256)])


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of some files."""

    files: list[File]
    """All of them, in their order; one without features says why."""
    places: list[Place]
    """Of those that have features, in the same order."""


def outcomes(files: Sequence[File], view: View, cut: Cut) -> Outcomes:
    """Look up the features of each file that is ok."""
    known = index(cut.folder(view))
    judged, places = [], []
    for file in files:
        place = known.get(file.sha256 or "")
        if file.status != "ok":
            judged.append(file)
        elif place is None:
            judged.append(dataclasses.replace(file, status="changed", error="changed after it was listed"))
        elif place.status != "ok":
            judged.append(dataclasses.replace(file, status=place.status, error=place.error))
        else:
            judged.append(file)
            places.append(place)
    return Outcomes(judged, places)
