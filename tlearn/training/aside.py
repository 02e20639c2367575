"""What the page shows that does not depend on what is learned: done in this process while the workers learn, and kept
in the cache by the content of the pictures."""

import contextlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.config import TrainConfig, digest
from tlearn.data.manifest import Listing
from tlearn.doctor import training as doctor
from tlearn.doctor.training import Examined
from tlearn.errors import StorageError
from tlearn.features.cut import Cut
from tlearn.report import pictures
from tlearn.training.gallery import MAX_TRAIN_SHOWN

_VERSION = 1
"""To be raised where the same picture gives other columns."""
_SCHEMA = pa.schema([("sha256", pa.string()), *(pictures.PICTURES.field(name) for name in pictures.OPENED)])


def begin(config: TrainConfig, listing: Listing, cut: Cut) -> Future[Examined]:
    """Start a thread. `cut` is that of all five blocks."""
    threads = ThreadPoolExecutor(1)
    found = threads.submit(_done, config, listing, cut)
    threads.shutdown(wait=False)
    return found


def _done(config: TrainConfig, listing: Listing, cut: Cut) -> Examined:
    examined = doctor.examined(config, listing, cut)
    paths = _judged(listing)
    if len(paths) <= pictures.most_shown(len(listing.classes.names)):  # else not all of them are shown
        opened(config, listing, paths)
    return examined


def _judged(listing: Listing) -> list[str]:
    return [file.path for split in ("val", "test") for file in listing.usable(split)]


def opened(config: TrainConfig, listing: Listing, paths: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By path the columns that opening a picture gives; what the cache does not have of them it has afterwards."""
    count = min(len(_judged(listing)), pictures.most_shown(len(listing.classes.names))) + MAX_TRAIN_SHOWN
    facts = [_VERSION, storage.absolute(config.data), digest(config.preprocess), count]
    location = storage.join(storage.absolute(config.cache), "looks", f"{digest(facts)}.parquet")
    files = {file.path: file for file in listing.files}
    hashes = {path: file.sha256 for path, file in files.items()}
    kept = _read(location)
    missing = [path for path in paths if hashes[path] not in kept]
    new = pictures.opened(missing, config.data, config.preprocess, count)
    looks = {path: new[path] if path in new else kept[hashes[path]] for path in paths}
    whole = {hashes[path]: row for path, row in new.items() if row and row["bytes"] == files[path].size}
    if whole:
        kept |= whole
        _write(location, ({**kept[sha256], "sha256": sha256} for sha256 in kept.keys() & hashes.values()))
    return looks


def _read(location: str) -> dict[str | None, dict[str, Any]]:
    """By SHA-256."""
    try:
        with storage.open_input(location) as file:
            rows = pq.read_table(file, schema=_SCHEMA).to_pylist()
    except (OSError, pa.ArrowInvalid):  # none yet, or not whole
        return {}
    return {row.pop("sha256"): row for row in rows}


def _write(location: str, rows: Iterable[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(list(rows), _SCHEMA)
    with contextlib.suppress(StorageError):  # a cache that cannot be written is read, as far as it goes
        storage.write(location, lambda sink: pq.write_table(table, sink))
