"""The files of chunks, and how they become one file of the table."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
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
from tlearn.scoring import plan as plans
from tlearn.scoring import table
from tlearn.scoring.index import Index
from tlearn.scoring.plan import Copy, Plan, Run
from tlearn.scoring.table import COPIED, OUTCOME, Row
from tlearn.storage import UNKNOWN, Entry

FACTS = b"tlearn"
"""Of the metadata of a merged file: what its record says of the run."""
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
    """Files of which the latest row says the same: counted, but given no further row."""
    histograms: Histograms | None
    num_labelled: int = 0
    """Rows with a label and a prediction."""
    num_right: int = 0
    """Of these, rows in which both are the same."""


def merge(runs: Iterable[Run], index: Index, target: Path, compute: Callable[[Entry], Row]) -> Merged:
    """Write the parts of each run, in order, and then its copies, as one file, whole and on disk.

    A file gets no row that says what its latest one in the index does: it has failed again, or it was touched, and was
    not to be read when that was looked for. A rescore repeats what has not failed. A copy of a file that was gone or
    could not be read is computed here. Raises StorageError where rows are missing.
    """
    merging = _Merge(index, compute)
    storage.write(str(target), lambda sink: merging.write_to(sink, runs))
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

    def __init__(self, index: Index, compute: Callable[[Entry], Row]):
        self.index, self.compute = index, compute
        self.statuses: Counter[str] = Counter()
        self.num_rows = self.num_repeated = self.num_labelled = self.num_right = 0
        self.histograms: Histograms | None = None

    def write_to(self, sink: Any, runs: Iterable[Run]) -> None:
        facts: dict[str, Any] = {}
        with pq.ParquetWriter(sink, table.SCHEMA, write_page_checksum=True) as writer:
            for run in runs:
                before = self.num_rows + self.num_repeated
                with plans.opened(run.folder) as plan:
                    for rows in _OneRun(self, run, plan).tables():
                        is_rescore = bool(plan.facts.get("rescore"))
                        writer.write_table(self._counted(rows, run.model.digest, is_rescore=is_rescore))
                    num_merged = self.num_rows + self.num_repeated - before
                    if num_merged != plan.num_rows:
                        raise StorageError(
                            f"expected {plan.num_rows} rows in run {run.id}, merged {num_merged}: remove {run.folder} "
                            "and score again"
                        )
                facts = {"run": run.id, "model": run.model.digest}
            facts |= {"statuses": dict(self.statuses), "committed_at": datetime.now(UTC).isoformat()}
            writer.add_key_value_metadata({FACTS.decode(): json.dumps(facts)})

    def _counted(self, rows: pa.Table, model: str, *, is_rescore: bool) -> pa.Table:
        """The rows that are kept."""
        counts = pc.value_counts(rows["status"]).to_pylist()
        self.statuses.update({count["values"]: count["counts"] for count in counts})
        kept = self._without_repeated(rows, model, is_rescore=is_rescore)
        self.num_rows += kept.num_rows
        self.num_repeated += rows.num_rows - kept.num_rows
        is_right = pc.equal(kept["label"], kept["prediction"])  # null where one of them is
        self.num_labelled += kept.num_rows - is_right.null_count
        self.num_right += pc.sum(is_right).as_py() or 0
        return kept

    def _without_repeated(self, rows: pa.Table, model: str, *, is_rescore: bool) -> pa.Table:
        asked = rows.filter(pc.invert(pc.is_in(rows["status"], pa.array(SETTLED)))) if is_rescore else rows
        known = self.index.outcomes(asked["path"].to_pylist(), model)
        if not known:
            return rows
        said = asked.filter(pc.is_in(asked["path"], pa.array([*known]))).select(["path", *OUTCOME]).to_pylist()
        repeated = [path for path, *outcome in map(dict.values, said) if known[path] == tuple(outcome)]
        return rows.filter(pc.invert(pc.is_in(rows["path"], pa.array(repeated, pa.string()))))


def computed(run: Run) -> Iterator[pa.Table]:
    """The rows of a run that are no copies."""
    with plans.opened(run.folder) as plan:
        for chunk in range(plan.num_chunks):
            yield _read(storage.join(run.folder, name(chunk)))[0]


class _OneRun:
    """The rows of a run: its parts, then its copies."""

    def __init__(self, merge: _Merge, run: Run, plan: Plan):
        self.merge, self.run, self.plan = merge, run, plan
        self.outcomes: dict[str, dict[str, Any]] = {}
        """Of the paths that are wanted: what their copies share with them."""

    def tables(self) -> Iterator[pa.Table]:
        wanted = {copy.same_as for copies in self.plan.copies() for copy in copies if copy.same_as}
        for rows in self._computed():
            if wanted:
                self._keep(rows.filter(pc.is_in(rows["path"], pa.array(wanted, pa.string()))))
            yield rows
        for copies in self.plan.copies():
            # What earlier runs of the same command have computed is in the index by now.
            elsewhere = {copy.same_as for copy in copies if copy.same_as} - self.outcomes.keys()
            if elsewhere:
                self._keep(self.merge.index.results(sorted(elsewhere), self.run.model.digest))
            yield table.of_rows([self._copy(copy) for copy in copies])

    def _keep(self, rows: pa.Table) -> None:
        outcomes = rows.select(COPIED).to_pylist(maps_as_pydicts="strict")
        self.outcomes |= dict(zip(rows["path"].to_pylist(), outcomes, strict=True))

    def _computed(self) -> Iterator[pa.Table]:
        """The rows of several parts at once, so that row groups are large."""
        at = table.SCHEMA.get_field_index("run")
        for start in range(0, self.plan.num_chunks, _PARTS_OF_ROW_GROUP):
            chunks = range(start, min(start + _PARTS_OF_ROW_GROUP, self.plan.num_chunks))
            rows = pa.concat_tables([self._part(chunk) for chunk in chunks])
            yield rows.set_column(at, table.SCHEMA.field(at), pa.repeat(self.run.id, rows.num_rows))

    def _part(self, chunk: int) -> pa.Table:
        rows, histograms = _read(storage.join(self.run.folder, name(chunk)))
        if histograms:
            self.merge.histograms = drift.add(self.merge.histograms, histograms)
        return rows

    def _copy(self, copy: Copy) -> Row:
        outcome = self.outcomes.get(copy.same_as) if copy.same_as else json.loads(copy.result or "")
        if outcome is None or outcome["status"] not in SETTLED:
            assert copy.same_as is not None, "what was taken over is settled"
            row = dataclasses.replace(self.merge.compute(copy.entry), run=self.run.id)
            if row.status in SETTLED:
                self.outcomes[copy.same_as] = {name: getattr(row, name) for name in COPIED}
            return row
        return Row(
            path=copy.entry.path,
            bytes=copy.entry.size,
            modified=None if copy.entry.modified == UNKNOWN else copy.entry.modified,
            label=table.label_of(copy.entry.path, self.run.model.classes),
            model=self.run.model.digest,
            run=self.run.id,
            scored_at=datetime.now(UTC),
            **outcome,
        )
