"""A log over a table that grows, by which lakes read it: TABLE/_delta_log/, over the very same files.

The ledger is the truth and the log follows it: what the ledger records and the log lacks is added, what the log has
and the ledger lacks is removed. A record that is gone is made anew first, from its file; a file that is not as its
record says is not published. All of it is one commit of the log, so whoever publishes again, or at the same time,
adds nothing twice.
"""

import dataclasses
import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tlearn import storage
from tlearn.console import event
from tlearn.data.findings import many
from tlearn.errors import InputError, IntegrityError, LockedError, StorageError, UsageError, some
from tlearn.scoring import repair, table
from tlearn.scoring.ledger import FOLDER, Ledger, Record

if TYPE_CHECKING:
    from deltalake import DeltaTable

_APPLICATION = "tlearn"
"""Whose transactions the log counts: their version is the number of the newest file."""
_MAX_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Published:
    """What the log has, and what of it is new."""

    version: int
    added: int
    """Files."""
    removed: int
    num_files: int
    num_rows: int

    def to_json(self) -> dict[str, int]:
        return dataclasses.asdict(self)

    def line(self, location: str) -> str:
        what = f"{many(self.num_files, 'file', 'files')} with {many(self.num_rows, 'row', 'rows')}"
        return (
            f"{what} in the log of {location}, version {self.version}: {self.added:,} added, {self.removed:,} removed"
        )


def require_extra() -> None:
    """Raise UsageError where what writes the log is not installed."""
    try:
        import deltalake  # noqa: F401
    except ImportError:
        raise UsageError('expected the package deltalake, it is not installed: pip install "tlearn[lake]"') from None


def publish(location: str) -> Published:
    """Bring the log of a table up to its ledger.

    Raises UsageError without the extra, InputError where there is no such table, IntegrityError where a file is not as
    its record says and where the log cannot be read, StorageError, and LockedError where others change the log again
    and again.
    """
    require_extra()
    ledger = Ledger(storage.absolute(location.rstrip("/")))
    if FOLDER not in storage.folders(ledger.output):
        raise InputError(f"expected a table that grows in {location}, found no ledger: give the DIR of tlearn score")
    for _ in range(_MAX_ATTEMPTS):
        published = _brought_up(ledger)
        if published is not None:
            event("published", **published.to_json())
            return published
    raise LockedError(f"expected to be alone at the log of {location}, others change it again and again: try later")


def _brought_up(ledger: Ledger) -> Published | None:
    """Make one commit of the log, if there is anything to say; None where another was faster."""
    from deltalake.exceptions import CommitFailedError, DeltaError

    records = _records(ledger)
    log, known = _log(ledger.output)
    added = [record for name, record in records.items() if known.get(name) != (record.num_bytes, record.num_rows)]
    removed = sorted(known.keys() - records.keys())
    _require_none(ledger, [problem for record in added if (problem := ledger.problem(record, of_rows=True))])
    if log is None or added or removed:
        try:
            log = _commit(ledger.output, log, added, removed, _number(records))
        except (DeltaError, OSError) as error:
            line = _line(error)
            if isinstance(error, CommitFailedError) or "already exists" in line:
                return None
            raise StorageError(f"could not write {ledger.output}/_delta_log: {line}") from error
    num_rows = sum(record.num_rows for record in records.values())
    return Published(log.version(), len(added), len(removed), len(records), num_rows)


def _records(ledger: Ledger) -> dict[str, Record]:
    """What the log is to have, by name. Raises InputError for a file of an earlier version, and IntegrityError."""
    records = {record.name: record for record in repair.records(ledger)}
    if old := next((record.name for record in records.values() if record.num_bytes is None), None):
        raise InputError(
            f"expected files of today's columns, found {old} of an earlier version: tlearn score renews it"
        )
    _require_none(ledger, ledger.look([*records.values()], for_strangers=False))
    return records


def _require_none(ledger: Ledger, problems: Sequence[str]) -> None:
    if problems:
        raise IntegrityError(
            f"expected the files of {ledger.output} as the ledger says, found {some(problems)}: restore the file, "
            f"or remove its record in {FOLDER}/commits/ (it is made anew where the file is there), and publish again"
        )


def _log(location: str) -> tuple["DeltaTable | None", dict[str, tuple[int, int]]]:
    """The log, and size and number of rows of every file that it has, by name.

    Raises IntegrityError where it is damaged, or of a kind that is not understood, and StorageError.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        log = DeltaTable(location, storage_options=_options(location))
        files = pa.table(log.get_add_actions()).select(["path", "size_bytes", "num_records"]).to_pylist()
    except TableNotFoundError:
        return None, {}
    except DeltaError as error:
        line = _line(error)
        raise IntegrityError(
            f"could not read {location}/_delta_log: {line}; remove this folder and publish again: the log follows "
            "from the files of the table, which stay as they are"
        ) from error
    except OSError as error:
        raise StorageError(f"could not read {location}/_delta_log: {_line(error)}") from error
    return log, {file["path"]: (file["size_bytes"], file["num_records"]) for file in files}


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _number(names: Iterable[str]) -> int:
    """Of the newest file, 0 without one."""
    numbers = (re.match(r"scores-(\d+)", name) for name in names)
    return max((int(number[1]) for number in numbers if number), default=0)


def _commit(
    location: str, log: "DeltaTable | None", added: Sequence[Record], removed: Sequence[str], number: int
) -> "DeltaTable":
    """Of two that commit at the same time one fails, because both have the same application's transaction."""
    from deltalake import CommitProperties, DeltaTable, Schema, Transaction
    from deltalake.transaction import RemoveAction, create_table_with_add_actions

    adds, schema = [_add(record) for record in added], Schema.from_arrow(table.SCHEMA)
    properties = CommitProperties(app_transactions=[Transaction(_APPLICATION, number)], max_commit_retries=0)
    if log is None:
        create_table_with_add_actions(
            location, schema, adds, storage_options=_options(location), commit_properties=properties
        )
    else:
        now = int(time.time() * 1000)
        removes = [RemoveAction(name, data_change=True, deletion_timestamp=now) for name in removed]
        log.create_write_transaction([*adds, *removes], "append", schema, commit_properties=properties)
    return DeltaTable(location, storage_options=_options(location))


def _add(record: Record) -> Any:
    from deltalake.transaction import AddAction

    committed = int(datetime.fromisoformat(record.committed_at).timestamp() * 1000)
    stats = json.dumps({"numRecords": record.num_rows})
    return AddAction(record.name, record.num_bytes or 0, {}, committed, True, stats)


def _options(location: str) -> dict[str, str] | None:
    """For the client of deltalake, beside the variables of the environment that it reads itself."""
    if not location.startswith("s3://"):
        return None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    options = {"aws_conditional_put": "etag", "aws_allow_http": "true"}
    return {**options, "aws_endpoint": endpoint} if endpoint else options
