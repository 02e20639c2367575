"""What one of two models that are compared says of pictures whose classes are known, and what it was trained on."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.config import CompareConfig, EvaluateConfig
from tlearn.data.status import SCORED
from tlearn.errors import InputError, IntegrityError, TooManyBadFiles, UsageError
from tlearn.scoring import table


@dataclass(frozen=True, slots=True)
class Answers:
    """What is known of one of the two."""

    rows: list[dict[str, Any]]
    """Path, label, prediction, probability, probabilities and sha256 of each picture."""
    trained: frozenset[str] | None
    """The sha256 of what it was trained on; None where that is not known."""
    remarks: tuple[str, ...] = ()


def find(config: CompareConfig, location: str) -> Answers:
    """Of a run on its validation images, of a model on --data, or of a table of scores. Raises TlearnError."""
    if config.data is not None:
        return _evaluated(config, location)
    if storage.exists(storage.join(location, "model.json")):
        raise UsageError(f"expected --data DIR for the model {location}, got none: or give the runs")
    if any(storage.exists(storage.join(location, name)) for name in ("config.json", "validation.parquet")):
        return _validated(location)
    scored = [row for row in table.latest(location).to_pylist() if row["status"] in SCORED]
    rows = [row for row in scored if row["label"] is not None]
    if scored and not rows:
        raise InputError(
            f"expected rows with a label in {location}, found none: score a folder with class folders, or give models "
            "and --data with --labels"
        )
    return Answers(rows, None)


def _evaluated(config: CompareConfig, location: str) -> Answers:
    from tlearn.scoring import evaluate  # with torch, which takes seconds

    assert config.data is not None
    run = location
    if storage.exists(storage.join(location, "model", "model.json")):
        location = storage.join(location, "model")
    else:
        run = storage.absolute(location.rstrip("/")).rpartition("/")[0]
    names = {field.name for field in dataclasses.fields(EvaluateConfig)}
    asked = {name: value for name, value in dataclasses.asdict(config).items() if name in names}
    found = evaluate.labelled_rows(EvaluateConfig(**asked | {"model": location, "output": None}))
    if found.scored.exceeds(config.max_error_rate):
        raise TooManyBadFiles(
            f"expected at most {config.max_error_rate:.1%} of the files without a score, got {found.scored.failed} "
            f"of {found.scored.failed + found.scored.scored}: tlearn check {config.data} says why"
        )
    labelled, is_in_run = found.labelled, storage.exists(storage.join(run, "manifest.parquet"))
    rows = [{**row, "label": labelled.labels[row["path"]]} for row in found.rows]
    return Answers(rows, _trained(_manifest(run)) if is_in_run else None, labelled.remarks)


def _validated(run: str) -> Answers:
    """Of a run: what it says of its validation images."""
    if not storage.exists(storage.join(run, "summary.json")):
        raise InputError(f"expected a finished run in {run}, found no summary.json: run `tlearn train` first")
    files = _manifest(run)
    digests = {file["path"]: file["sha256"] for file in files if file["split"] == "val"}
    rows = _rows(run, "validation.parquet", ["path", "label", "prediction", "probability", "probabilities"])
    known = [{**row, "sha256": digests[row["path"]]} for row in rows if digests.get(row["path"])]
    return Answers(known, _trained(files))


def _manifest(run: str) -> list[dict[str, Any]]:
    return _rows(run, "manifest.parquet", ["split", "path", "sha256"])


def _trained(files: list[dict[str, Any]]) -> frozenset[str]:
    return frozenset(file["sha256"] for file in files if file["split"] == "train" and file["sha256"])


def _rows(run: str, name: str, columns: list[str]) -> list[dict[str, Any]]:
    location = storage.join(run, name)
    try:
        with storage.open_input(location) as file:
            found = pq.read_table(file, columns=columns)
    except FileNotFoundError:
        raise InputError(f"expected a finished run in {run}, found no {name}: run `tlearn train` first") from None
    except pa.ArrowException as error:
        raise IntegrityError(f"expected {name} of a run in {run}, could not use it ({error}): train again") from error
    if lacking := [column for column in columns if column != "sha256" and found[column].null_count]:
        raise IntegrityError(
            f"expected a value in each row of {name} in {run}, found none of {lacking[0]}: train again"
        )
    return found.to_pylist()  # type: ignore[no-any-return]
