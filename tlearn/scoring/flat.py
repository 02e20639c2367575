"""Rows without the map `probabilities`, for CSV and for people: a column for each class, or the most probable ones.

probability:CLASS                                of every class, as in probability:cat
top_1, probability_1, ..., top_K, probability_K  the K most probable classes, in their order
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

NUM_ROWS = 4096
"""In memory at once as a matrix of all classes, and as text."""
_COLUMN = re.compile(r"probability:.*|top_\d+|probability_\d+", re.DOTALL)


def is_column(name: str) -> bool:
    """Whether it is the name of a column that stands for `probabilities`."""
    return _COLUMN.fullmatch(name) is not None


def top_columns(count: int) -> list[str]:
    return [f"{name}_{place}" for place in range(1, count + 1) for name in ("top", "probability")]


def classes(tables: Iterable[pa.Table]) -> list[str]:
    """The classes that these rows have probabilities of, in the order in which they come first."""
    names: dict[str, None] = {}
    for chunk in (chunk for rows in tables for chunk in rows["probabilities"].chunks):
        names |= dict.fromkeys(pc.unique(_keys(chunk)).to_pylist())
    return list(names)


def top_k(rows: pa.Table, count: int) -> pa.Table:
    """The `count` most probable classes of each row and their probabilities; null where a row has fewer.

    The first is the prediction, also where others are as probable.
    """
    return pa.concat_tables([_top_k(part, count) for part in _parts(rows)])


def with_top_k(rows: pa.Table, count: int) -> pa.Table:
    """The rows with these columns too, behind the others."""
    tops = top_k(rows, count)
    return pa.table([*rows.columns, *tops.columns], [*rows.column_names, *tops.column_names])


def write_csv(sink: Any, tables: Iterable[pa.Table], names: Sequence[str], count: int | None = None) -> None:
    """CSV (RFC 4180, UTF-8) with a header; at least one table, all of one schema, is read as a stream.

    The probabilities are those of these classes, or of the `count` most probable. Null is nothing, text is in quotes, a
    float32 has the fewest digits that give it again, a time is ISO 8601.
    """
    flat = (_flat(part, names, count) for rows in tables for part in _parts(rows))
    first = next(flat)
    with csv.CSVWriter(sink, first.schema, write_options=csv.WriteOptions(eol="\r\n")) as writer:
        for part in chain([first], flat):
            writer.write_table(part)


def _parts(rows: pa.Table) -> Iterator[pa.Table]:
    """Some rows at once; of an empty table the table."""
    for start in range(0, max(rows.num_rows, 1), NUM_ROWS):
        yield rows.slice(start, NUM_ROWS)


def _flat(rows: pa.Table, names: Sequence[str], count: int | None) -> pa.Table:
    columns: dict[str, Any] = {}
    for field in rows.schema:
        column = rows[field.name]
        if pa.types.is_map(field.type):
            said = _by_class(column, names) if count is None else _top_k(rows, count)
            columns |= dict(zip(said.column_names, said.columns, strict=True))
        elif pa.types.is_timestamp(field.type):
            columns[field.name] = pc.replace_substring(column.cast(pa.string()), " ", "T")
        else:
            columns[field.name] = column
    return pa.table(columns)


def _by_class(column: pa.ChunkedArray, names: Sequence[str]) -> pa.Table:
    values = _matrix(column, names)
    return pa.table({f"probability:{name}": _floats(values[:, place]) for place, name in enumerate(names)})


def _top_k(rows: pa.Table, count: int) -> pa.Table:
    known = classes([rows])
    names = pa.array([*known, *[None] * (count - len(known))], pa.string())
    values = _matrix(rows["probabilities"], names).astype(np.float64)
    said = pc.index_in(rows["prediction"], names).fill_null(-1).to_numpy()
    every = np.arange(rows.num_rows)
    values[every, said] = np.nextafter(values[every, said], np.inf)  # less than any two float32 are apart
    order = np.argsort(-values, axis=1, kind="stable")  # NaN last
    columns: list[pa.Array] = []
    for place in range(count):
        best = order[:, place]
        found = _floats(values[every, best])
        columns += [pc.if_else(found.is_valid(), names.take(pa.array(best)), None), found]
    return pa.table(columns, top_columns(count))


def _matrix(column: pa.ChunkedArray, names: Sequence[str] | pa.Array) -> np.ndarray[Any, Any]:
    """(rows, names): the probabilities, NaN where a row has none."""
    maps = column.combine_chunks()
    offsets = maps.offsets.to_numpy()
    rows = np.repeat(np.arange(len(maps)), np.diff(offsets))
    places = pc.index_in(_keys(maps), pa.array(names, pa.string())).to_numpy()
    values = np.full((len(maps), len(names)), np.nan, np.float32)
    values[rows, places] = maps.items[offsets[0] : offsets[-1]].to_numpy()
    return values


def _keys(maps: pa.MapArray) -> pa.Array:
    """Of these rows: those of a slice are all that it was cut from."""
    return maps.keys[maps.offsets[0].as_py() : maps.offsets[-1].as_py()]


def _floats(values: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array(values.astype(np.float32), from_pandas=True)  # NaN is null
