"""The files that a run, or a scored folder, leaves for its page."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.data.findings import Finding
from tlearn.errors import InputError
from tlearn.report import wall
from tlearn.report.wall import Picture


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What the files of a finished run say; None where a run has no such file."""

    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    ended: datetime
    epochs: Sequence[Mapping[str, Any]]
    counts: Mapping[tuple[str, str], int]
    """Images that could be read, by split and class."""
    skipped: Sequence[tuple[str, str, str]]
    """Path, status and error of every file that could not."""
    validation: Sequence[Mapping[str, Any]]
    """Path, label, prediction, probability, probabilities of every validation image."""
    pictures: Sequence[Picture]
    layers: Sequence[Mapping[str, Any]]
    findings: Sequence[Finding] | None
    depth: str


def of_run(location: str) -> RunFiles:
    """Raises InputError where a file that every run has is missing."""
    settings, summary, epochs = (_content(location, name) for name in ("config.json", "summary.json", "metrics.jsonl"))
    config, said = json.loads(settings.data), json.loads(summary.data)
    manifest = _table(location, "manifest.parquet")
    validation = _table(location, "validation.parquet").to_pylist()
    findings = optional_json(location, "findings.json")
    pictures = wall.read(location)
    return RunFiles(
        settings=config,
        summary=said,
        # When the run ended, not when the page was made: the same run gives the same page.
        ended=_ended(said, summary.modified),
        epochs=[json.loads(line) for line in epochs.data.splitlines()],
        counts=_counts(manifest),
        skipped=_skipped(manifest),
        validation=validation,
        pictures=wall.of_validation(validation, config["config"]["data"]) if pictures is None else pictures,
        layers=wall.rows_of(storage.join(location, "layers.parquet")) or [],
        findings=None if findings is None else [Finding.from_json(each) for each in findings["findings"]],
        depth=(findings or {}).get("depth", ""),
    )


def optional_json(location: str, name: str) -> Any:
    """What a file says; None where there is none."""
    try:
        return storage.read_json(storage.join(location, name))
    except FileNotFoundError:
        return None


def _content(location: str, name: str) -> storage.Content:
    with _of_finished_run(location, name) as file:
        return storage.read(file)


def _table(location: str, name: str) -> Any:
    with _of_finished_run(location, name) as file, storage.open_input(file) as source:
        return pq.read_table(source)


@contextlib.contextmanager
def _of_finished_run(location: str, name: str) -> Iterator[str]:
    try:
        yield storage.join(location, name)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"expected a finished run in {location}, found no {name}: run `tlearn train` first") from None


def _ended(summary: Mapping[str, Any], modified: int) -> datetime:
    """Of an older run, which does not say it, the time of its summary, in microseconds."""
    said = summary.get("ended")
    return datetime.fromisoformat(said) if said else datetime.fromtimestamp(modified // 10**6, UTC)


def _counts(manifest: Any) -> dict[tuple[str, str], int]:
    read = manifest.filter(pa.compute.equal(manifest["status"], "ok"))
    rows = read.group_by(["split", "class"]).aggregate([([], "count_all")]).to_pylist()
    return {(row["split"], row["class"] or ""): row["count_all"] for row in rows}


def _skipped(manifest: Any) -> list[tuple[str, str, str]]:
    rows = manifest.filter(pa.compute.not_equal(manifest["status"], "ok")).select(["path", "status", "error"])
    return [(row["path"], row["status"], row["error"] or "") for row in rows.to_pylist()]
