"""The scoring job: from a config to a table."""

import contextlib
import time
from collections import Counter
from typing import Any

from tlearn import chunks, manifest, model, scorer, storage
from tlearn.config import ScoreConfig, digest
from tlearn.errors import DONE, TOO_MANY_BAD_FILES, StorageError, UsageError
from tlearn.launch import causes, precision_of, start_ray
from tlearn.ledger import Lease
from tlearn.network import Precision
from tlearn.progress import Progress


def score(config: ScoreConfig) -> tuple[dict[str, Any], int]:
    """Score a folder into one Parquet file; returns the summary and the exit code."""
    started = time.monotonic()
    output = storage.absolute(config.output)
    if not output.endswith(".parquet"):
        raise UsageError(f"expected --output NAME.parquet, got {config.output}")
    description = model.verify(config.model)
    ignored: Counter[str] = Counter()
    all_chunks = scorer.cut(list(manifest.pictures(config.input, ignored)))
    folder, _, name = output.rpartition("/")
    storage.require_writable(folder)
    num_listed = sum(chunk.rows.num_rows for chunk in all_chunks)
    work = storage.local(storage.join(folder, f".{name}.work"))
    with Lease(work) as lease:
        start_ray()
        precision = precision_of(config.precision)
        run = digest([description.digest, precision, [chunk.id for chunk in all_chunks]])
        parts = work / run
        missing = [chunk for chunk in all_chunks if not (parts / f"{chunk.id}.parquet").exists()]
        rate = _score_chunks(config, missing, str(parts), run, description, precision)
        lease.check()
        counts = scorer.merge([str(parts / f"{chunk.id}.parquet") for chunk in all_chunks], output, description.classes)
        storage.empty_folder(work, keep=lease.path)
    with contextlib.suppress(OSError):  # unless another run is in it already
        work.rmdir()
    if sum(counts.values()) != num_listed:
        raise StorageError(f"expected {num_listed} rows in {output}, wrote {sum(counts.values())}: score again")
    seconds = time.monotonic() - started
    num_failed = num_listed - counts["scored"]
    summary = {
        "listed": num_listed,
        "scored": counts["scored"],
        "failed": num_failed,
        "statuses": dict(counts),
        "ignored": sum(ignored.values()),
        "model": description.digest,
        "run": run,
        "output": output,
        "images_per_second": round(rate, 2),
        "seconds_total": round(seconds, 2),
    }
    return summary, TOO_MANY_BAD_FILES if num_failed > config.max_error_rate * num_listed else DONE


def _score_chunks(
    config: ScoreConfig,
    missing: list[chunks.Chunk],
    parts: str,
    run: str,
    description: model.Description,
    precision: Precision,
) -> float:
    """Returns the images per second after the start, 0.0 where there was too little to tell."""
    if not missing:
        return 0.0
    pool = chunks.pool(config.workers, len(missing))
    arguments = {
        "model_folder": storage.absolute(config.model),
        "model_digest": description.digest,
        "precision": precision,
        "folder": storage.absolute(config.input),
        "parts": parts,
        "run": run,
        "batch_size": config.batch_size,
        "num_threads": pool.num_threads,
        "decode_threads": pool.decode_threads,
    }
    total = sum(chunk.rows.num_rows for chunk in missing)
    with causes(), Progress("scored", total, quiet=config.quiet) as progress:
        progress.num_parallel = pool.num_actors
        for result in chunks.run(missing, scorer.Score, arguments, pool):
            progress.advance(result["num_images"])
        return progress.rate()
