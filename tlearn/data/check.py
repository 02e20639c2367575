"""What is in a data folder and what is wrong with it, found by decoding every picture; nothing is written."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tlearn import storage
from tlearn.config import CheckConfig, PreprocessConfig
from tlearn.console import Progress
from tlearn.data import manifest
from tlearn.data.fetch import Fetched, fetch

_MAX_LISTED = 20


def check(config: CheckConfig) -> dict[str, Any]:
    """Counts, remarks and bad files of train/, val/ and test/. Raises ValueError as training would."""
    listing = manifest.read(config.data, val_fraction=0.2, seed=0)
    test = [] if "test" not in storage.folders(config.data) else list(manifest.pictures(f"{config.data}/test"))
    paths = [file.path for file in listing.files] + [f"test/{entry.path}" for entry in test]

    def one(path: str) -> Fetched:
        return fetch(config.data, path, PreprocessConfig())

    bad = []
    hashes: dict[str, str | None] = {}
    with ThreadPoolExecutor(os.cpu_count()) as threads, Progress("checked", len(paths), quiet=config.json) as progress:
        for path, fetched in zip(paths, threads.map(one, paths), strict=True):
            progress.advance(1)
            if fetched.status != "ok":
                bad.append({"path": path, "status": fetched.status, "error": fetched.error})
            hashes[path] = fetched.sha256
    files = [dataclasses.replace(file, sha256=hashes[file.path]) for file in listing.files]
    return {
        "classes": list(listing.classes.names),
        "train": dict(Counter(file.label for file in listing.of("train"))),
        "val": dict(Counter(file.label for file in listing.of("val"))),
        "test": len(test),
        "ignored": listing.num_ignored,
        "remarks": [*listing.remarks, *manifest.leaks(files)],
        "bad": bad,
    }


def lines(summary: dict[str, Any]) -> Iterator[str]:
    """The summary for a person."""
    for split in ("train", "val"):
        counts = ", ".join(f"{name} {summary[split].get(name, 0):,}" for name in summary["classes"])
        yield f"{split}: {sum(summary[split].values()):,} images ({counts})"
    yield f"test: {summary['test']:,} images"
    yield from (f"note: {remark}" for remark in summary["remarks"])
    for one in summary["bad"][:_MAX_LISTED]:
        yield f"{one['path']}: {one['status']}: {one['error']}"
    if len(summary["bad"]) > _MAX_LISTED:
        yield f"and {len(summary['bad']) - _MAX_LISTED:,} more: --json lists them all"
    yield f"{len(summary['bad']):,} of them cannot be used" if summary["bad"] else "every image can be used"
