"""The files of chunks, and how they become one file of the table."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tlearn import storage
from tlearn.data.status import SETTLED
from tlearn.errors import StorageError
from tlearn.evaluation import drift
from tlearn.evaluation.drift import Histograms
from tlearn.scoring import table
from tlearn.scoring.index import Index
from tlearn.scoring.plan import Copy, Plan, Run
from tlearn.scoring.table import COPIED, Row
from tlearn.storage import Entry

_PARTS_OF_ROW_GROUP = 256


def name(chunk: int) -> str:
    return f"{chunk:06}.parquet"


def write(location: str, rows: Sequence[Row], histograms: Histograms) -> None:
    part = table.of_rows(rows).replace_schema_metadata({"histograms": json.dumps(histograms)})
    storage.write(location, lambda sink: pq.write_table(part, sink, write_page_checksum=True))


def _read(location: str) -> tuple[pa.Table, Histograms | None]:
    file = pa.BufferReader(storage.read(location).data)
    part = pq.ParquetFile(file, page_checksum_verification=True).read()
    histograms = json.loads(part.schema.metadata[b"histograms"])
    # An earlier version knew one network.
    return table.current(part), {"large": histograms} if isinstance(histograms, list) else histograms


def missing(run: Run, plan: Plan) -> list[int]:
    """Chunks without a part. A part that a power failure has emptied or cut goes, and is made again."""
    present = set(storage.names(run.folder))
    return [
        chunk
        for chunk in range(plan.num_chunks)
        if name(chunk) not in present or not _is_whole(storage.join(run.folder, name(chunk)), plan.num_images(chunk))
    ]


def _is_whole(location: str, num_rows: int) -> bool:
    try:
        if _read(location)[0].num_rows == num_rows:
            return True
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        pass
    storage.remove(location)
    return False


@dataclass(frozen=True, slots=True)
class Merged:
    """What a file of the table holds that is not yet visible."""

    sha256: str
    num_rows: int
    statuses: Counter[str]
    num_repeated: int
    """Files that failed again as they did before: counted, but given no further row."""
    histograms: Histograms | None
    num_labelled: int = 0
    """Rows with a label and a prediction."""
    num_right: int = 0
    """Of these, rows in which both are the same."""


def merge(run: Run, plan: Plan, index: Index, target: Path, compute: Callable[[Entry], Row]) -> Merged:
    """Write the parts, in order, and then the copies, as one file, whole and on disk.

    A file that fails as its latest row in the index says gets no row. A copy of a file that was gone or could not be
    read is computed here. Raises StorageError where rows are missing.
    """
    merging = _Merge(run, plan, index, compute)
    storage.write(str(target), merging.write_to)
    num_rows = merging.num_rows + merging.num_repeated
    if num_rows != plan.num_rows:
        raise StorageError(
            f"expected {plan.num_rows} rows in run {run.id}, merged {num_rows}: remove {run.folder} and score again"
        )
    return Merged(
        sha256=storage.sha256_file(target),
        num_rows=merging.num_rows,
        statuses=merging.statuses,
        num_repeated=merging.num_repeated,
        histograms=merging.histograms,
        num_labelled=merging.num_labelled,
        num_right=merging.num_right,
    )


class _Merge:
    """Table after table goes by, and is counted."""

    def __init__(self, run: Run, plan: Plan, index: Index, compute: Callable[[Entry], Row]):
        self.run, self.plan, self.index, self.compute = run, plan, index, compute
        self.wanted = {copy.same_as for copies in plan.copies() for copy in copies if copy.same_as}
        self.outcomes: dict[str, dict[str, Any]] = {}
        """Of the paths that are wanted: what their copies share with them."""
        self.statuses: Counter[str] = Counter()
        self.num_rows = self.num_repeated = self.num_labelled = self.num_right = 0
        self.histograms: Histograms | None = None

    def write_to(self, sink: Any) -> None:
        with pq.ParquetWriter(sink, table.SCHEMA, write_page_checksum=True) as writer:
            for rows in chain(self._computed(), self._copied()):
                self.statuses.update(rows["status"].to_pylist())
                kept = self._without_repeated(rows)
                self.num_rows += kept.num_rows
                self.num_repeated += rows.num_rows - kept.num_rows
                is_right = pc.equal(kept["label"], kept["prediction"])  # null where one of them is
                self.num_labelled += kept.num_rows - is_right.null_count
                self.num_right += pc.sum(is_right).as_py() or 0
                writer.write_table(kept)

    def _computed(self) -> Iterator[pa.Table]:
        """The rows of several parts at once, so that row groups are large."""
        for start in range(0, self.plan.num_chunks, _PARTS_OF_ROW_GROUP):
            chunks = range(start, min(start + _PARTS_OF_ROW_GROUP, self.plan.num_chunks))
            rows = pa.concat_tables([self._part(chunk) for chunk in chunks])
            if self.wanted:
                outcomes = zip(
                    rows["path"].to_pylist(), rows.select(COPIED).to_pylist(maps_as_pydicts="strict"), strict=True
                )
                self.outcomes |= {path: outcome for path, outcome in outcomes if path in self.wanted}
            yield rows

    def _part(self, chunk: int) -> pa.Table:
        rows, histograms = _read(storage.join(self.run.folder, name(chunk)))
        if histograms:
            self.histograms = drift.add(self.histograms, histograms)
        return rows

    def _copied(self) -> Iterator[pa.Table]:
        for copies in self.plan.copies():
            yield table.of_rows([self._copy(copy) for copy in copies])

    def _copy(self, copy: Copy) -> Row:
        if copy.same_as and self.outcomes[copy.same_as]["status"] not in SETTLED:
            row = self.compute(copy.entry)
            if row.status in SETTLED:
                self.outcomes[copy.same_as] = {name: getattr(row, name) for name in COPIED}
            return row
        return Row(
            path=copy.entry.path,
            bytes=copy.entry.size,
            modified=copy.entry.modified,
            label=table.label_of(copy.entry.path, self.run.model.classes),
            model=self.run.model.digest,
            run=self.run.id,
            scored_at=datetime.now(UTC),
            **(self.outcomes[copy.same_as] if copy.same_as else json.loads(copy.result or "")),
        )

    def _without_repeated(self, rows: pa.Table) -> pa.Table:
        if all(status in SETTLED for status in rows["status"].to_pylist()):
            return rows
        outcomes = rows.select(["path", "status", "error"]).to_pylist()
        return rows.filter(pa.array([not self._is_repeated(**outcome) for outcome in outcomes]))

    def _is_repeated(self, path: str, status: str, error: str | None) -> bool:
        return status not in SETTLED and self.index.outcome(path, self.run.model.digest) == (status, error)
