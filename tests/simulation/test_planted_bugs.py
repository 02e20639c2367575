"""Bugs that are put into the protocol, and that the simulator must find: else it finds none of ours either."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import seams
import simulate
import worlds

from tlearn import storage
from tlearn.scoring import index, table
from tlearn.scoring.ledger import Ledger, Record
from tlearn.scoring.output import GrowingTable
from tlearn.storage.lease import Lease

MOST = 10_000
"""Seeds in which each is found; the first ones that find them are far below."""


def record_first(patch: pytest.MonkeyPatch) -> None:
    """A record is written before its file is whole and visible."""

    def commit(self: Ledger, merged: Path, record: Record) -> None:
        self.write(record)
        storage.publish(merged, self.file(record.name), replace=False)

    patch.setattr(Ledger, "commit", commit)


def known_first(patch: pytest.MonkeyPatch) -> None:
    """Rows count as done before they are visible."""
    publish = GrowingTable.publish

    def early(self: GrowingTable, merged: Any, file: Path, last: Any) -> Any:
        known = seams.open_index()
        with storage.open_input(str(file)) as opened:
            known.ingest("early", merged.sha256, table.batches(opened, str(file), index.INGESTED))
        del known.names["early"]
        return publish(self, merged, file, last)

    patch.setattr(GrowingTable, "publish", early)


def stolen(patch: pytest.MonkeyPatch) -> None:
    """A lease is taken over while its holder stands still, who commits all the same, whatever has the name by then."""

    def commit(self: Ledger, merged: Path, record: Record) -> None:
        storage.write_bytes(self.file(record.name), storage.read(str(merged)).data)
        self.write(record)

    patch.setattr(Lease, "check", lambda self: None)
    patch.setattr(Ledger, "commit", commit)
    patch.setattr(worlds.World, "has_lease", True)


@pytest.mark.parametrize(
    ("plant", "about"),
    [
        (record_first, "scores-00000"),
        (known_first, "has no row at the end"),
        (stolen, "has other bytes: its rows are lost"),
    ],
)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], about: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = simulate.first_violation(range(MOST), about)
    print(plant.__name__, found)
    assert found is not None
