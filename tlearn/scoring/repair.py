"""Records of the ledger made anew, from the files of the table that they are of."""

import json
from collections import Counter

import pyarrow.parquet as pq

from tlearn import storage
from tlearn.scoring import table
from tlearn.scoring.ledger import Ledger, Record
from tlearn.scoring.parts import FACTS


def records(ledger: Ledger) -> list[Record]:
    """Every record in the order of the commits; what is missing, empty or cut is made anew.

    Raises IntegrityError for a file that is damaged, and for a record that cannot be read and whose file is gone.
    """
    old = storage.join(ledger.folder, "pending")  # of an earlier version: about to be added, or to be written again
    announced = {name.removesuffix(".json") for name in storage.names(old)}
    found = [_record(ledger, name, is_doubtful=name in announced) for name in ledger.names()]
    if announced:
        storage.remove_folder(old)
    return [record for record in found if record is not None]


def _record(ledger: Ledger, name: str, *, is_doubtful: bool) -> Record | None:
    """None for a name that a listing still shows, and that is gone."""
    record = None if is_doubtful else ledger.read(name)
    if record is not None:
        return record
    if storage.exists(ledger.file(name)):
        record = record_of(ledger, name)
        storage.settle(ledger.output)  # whoever added the file may have ended before its name was on the disk
        ledger.write(record)
        return record
    return ledger.require(name) if storage.exists(ledger.note(name)) else None


def repair(ledger: Ledger) -> list[str]:
    """Make records anew, and remove those that cannot be read and whose file is gone; one line for each."""
    unreadable = {name for name in ledger.names() if ledger.read(name) is None}
    gone = {name for name in unreadable if not storage.exists(ledger.file(name))}
    for name in gone:
        storage.remove(ledger.note(name))
    records(ledger)
    lines = {name: f"{name}: its record is made anew" for name in unreadable}
    lines |= {name: f"{name}: it is gone, and its record cannot be read: the record is removed" for name in gone}
    return [lines[name] for name in sorted(lines)]


def record_of(ledger: Ledger, name: str) -> Record:
    """What the record of a file has to say, from the file. Raises IntegrityError where that is damaged."""
    location = ledger.file(name)
    with ledger.open(name) as file:
        rows = table.read(file, location).select(["status", "run", "model", "scored_at"])
        parquet = pq.ParquetFile(file)
        known, is_current = parquet.metadata.metadata or {}, parquet.schema_arrow.equals(table.SCHEMA)
    last = rows.slice(max(rows.num_rows - 1, 0)).to_pylist()
    of_rows = {"statuses": dict(Counter(rows["status"].to_pylist()))}
    of_rows |= {key: last[0][key] for key in ("run", "model") if last}
    if last:
        of_rows["committed_at"] = last[0]["scored_at"].isoformat()
    facts = of_rows | json.loads(known.get(FACTS, b"{}"))
    return Record(
        name=name,
        sha256=storage.sha256_file(location),
        num_rows=rows.num_rows,
        statuses=facts["statuses"],
        run=facts["run"],
        model=facts["model"],
        committed_at=facts["committed_at"],
        num_bytes=storage.look(location).size if is_current else None,
    )
