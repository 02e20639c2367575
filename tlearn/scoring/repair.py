"""Records of the ledger made anew, from the files of the table that they are of."""

from collections import Counter

from tlearn import storage
from tlearn.scoring import table
from tlearn.scoring.ledger import Ledger, Record


def repair(ledger: Ledger) -> list[str]:
    """Make records that are gone, empty or cut anew; one line for each. Whoever calls holds the lease.

    Raises IntegrityError for a file that is damaged itself.
    """
    ledger.recover()
    unreadable = [name for name in ledger.noted("commits") if ledger.read("commits", name) is None]
    return [_repaired(ledger, name) for name in sorted(unreadable + ledger.lost())]


def _repaired(ledger: Ledger, name: str) -> str:
    location = storage.join(ledger.output, name)
    if not storage.exists(location):
        storage.remove(ledger.note("commits", name))
        return f"{name}: it is gone, and its record cannot be read: the record is removed"
    with storage.open_input(location) as file:
        rows = table.read(file, location).select(["status", "run", "model", "scored_at"]).to_pylist()
    record = Record(
        name=name,
        sha256=storage.sha256_file(location),
        num_rows=len(rows),
        statuses=dict(Counter(row["status"] for row in rows)),
        run=rows[-1]["run"],
        model=rows[-1]["model"],
        committed_at=rows[-1]["scored_at"].isoformat(),
    )
    ledger.write("commits", record)
    return f"{name}: its record is made anew"
