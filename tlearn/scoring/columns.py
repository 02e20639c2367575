"""What the columns of a list say, as a listing has it: names of files, sizes, times, e-tags."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import pyarrow as pa
import pyarrow.compute as pc

from tlearn.errors import InputError, printable
from tlearn.storage import UNKNOWN, encode_name

SCHEMA = pa.schema([("path", pa.string()), ("size", pa.int64()), ("modified", pa.int64()), ("etag", pa.string())])
"""Of listed files: as Entry has it, UNKNOWN where a size or a time is not known."""

_TEXTS = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view())
_NOTHING = pa.array(["", "null", "nan", "nat", "none", "n/a", "<na>"])
"""What pandas and databases write, in any case of letters, where there is no value."""
_ENCODED = "%(?:25)*[89A-Fa-f][0-9A-Fa-f]"
"""Of names that `encode_name` changes."""
_NUMBER = r"^(\d+)(?:\.\d*)?$"
_WHOLE = r"^(\d+)\.0*$"
_FRACTION = r"(\.\d{6})\d+"
_ZONE = r":\d\d(?:\.\d+)?\s?(?:Z|[+-]\d\d(?::?\d\d)?)$"
_UNITS = ((10**11, 10**6), (10**14, 10**3))
"""Numbers up to here since 1970 are so many microseconds each; above they are microseconds, then nanoseconds."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rows of a column come from."""

    location: str
    first: int
    """Number of the first of them."""
    word: str = "line"

    def error(self, expected: str, found: object, row: int, advice: str) -> InputError:
        at = f"{self.word} {self.first + row:,} of {self.location}"
        return InputError(f"expected {expected}, found {printable(str(found))} in {at}: {advice}")


def paths(column: pa.Array, *, is_quoted: bool = False) -> pa.Array:
    """Names of files, as `storage.encode_name` has them; with `is_quoted` they are quoted as in a URL. "" for none.

    Raises ArrowTypeError for what is no text.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if kind not in (*_TEXTS, pa.null()):
        raise pa.ArrowTypeError(f"expected text in the column of paths, found {kind}")

    def encoded(name: bytes | str) -> str:
        data = name.encode() if isinstance(name, str) else name
        return encode_name(unquote_to_bytes(data.replace(b"+", b" ")) if is_quoted else data)

    try:
        names = pc.fill_null(plain(column), "")
    except pa.ArrowInvalid:  # bytes that are no UTF-8
        return pa.array([encoded(name or b"") for name in column.cast(pa.binary()).to_pylist()], pa.string())
    where = pc.match_substring_regex(names, "[%+]" if is_quoted else _ENCODED)
    if not pc.any(where).as_py():
        return names
    return pc.replace_with_mask(names, where, pa.array(map(encoded, names.filter(where).to_pylist()), pa.string()))


def plain(column: pa.Array) -> pa.Array:
    """Text of any kind as strings. Raises ArrowInvalid for what is no UTF-8."""
    return (column.dictionary_decode() if pa.types.is_dictionary(column.type) else column).cast(pa.string())


def sizes(column: pa.Array, place: Place) -> pa.Array:
    """Bytes. Raises InputError for what is no whole number, or less than 0."""
    return _converted(column, _whole, place, "a size in bytes")


def is_size(cell: str) -> bool:
    """Whether it is one, or says nothing."""
    try:
        sizes(pa.array([cell]), Place("", 1))
    except InputError:
        return False
    return True


def times(column: pa.Array, place: Place) -> pa.Array:
    """Microseconds since 1970. Raises InputError for what is no time.

    Timestamps and ISO 8601 without a zone are UTC. Numbers are seconds, milliseconds, microseconds or nanoseconds, as
    their size says; of seconds with a fraction the whole ones count, because no float holds a time exactly.
    """
    return _converted(column, _microseconds, place, "a time (2026-11-26T09:00:00Z, or seconds since 1970)")


def etags(column: pa.Array) -> pa.Array:
    """Without the quotes of HTTP; null where there is none."""
    tags = pc.utf8_trim(plain(column), '"')
    return pc.if_else(pc.equal(tags, ""), pa.scalar(None, pa.string()), tags)


def say(column: pa.Array, word: str) -> pa.Array:
    """Where booleans, or words for them, are this one."""
    return pc.fill_null(pc.equal(pc.utf8_lower(plain(column)), word), False)


def _converted(column: pa.Array, convert: Callable[[pa.Array], pa.Array], place: Place, expected: str) -> pa.Array:
    """int64, UNKNOWN where the column says nothing."""
    if column.type in _TEXTS or pa.types.is_dictionary(column.type):
        column = pc.utf8_trim_whitespace(plain(column))
        is_nothing = pc.is_in(pc.utf8_lower(column), _NOTHING)
        column = pc.if_else(is_nothing, pa.scalar(None, pa.string()), column)
    elif pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    try:
        return pc.fill_null(convert(column), UNKNOWN)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        for row in range(len(column)):
            try:
                convert(column.slice(row, 1))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                advice = "correct it, name the columns in the first line, or give the manifest.json of an inventory"
                raise place.error(expected, column[row], row, advice) from None
        raise


def _whole(column: pa.Array) -> pa.Array:
    is_text = pa.types.is_string(column.type)
    numbers = (pc.replace_substring_regex(column, _WHOLE, r"\1") if is_text else column).cast(pa.int64())
    if pc.any(pc.less(numbers, 0)).as_py():
        raise pa.ArrowInvalid("less than 0")
    return numbers


def _microseconds(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_string(kind):
        if pc.all(pc.match_substring_regex(column, _NUMBER)).as_py():
            return _since_1970(pc.replace_substring_regex(column, _NUMBER, r"\1").cast(pa.int64()))
        texts = pc.replace_substring_regex(column, _FRACTION, r"\1")
        has_zone = pc.match_substring_regex(texts, _ZONE)
        column = pc.if_else(has_zone, texts, pc.binary_join_element_wise(texts, "Z", "")).cast(
            pa.timestamp("us", "UTC")
        )
    elif pa.types.is_floating(kind):
        return _since_1970(pc.floor(column).cast(pa.int64()))
    elif pa.types.is_integer(kind):
        return _since_1970(column.cast(pa.int64()))
    return column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).cast(pa.int64())


def _since_1970(numbers: pa.Array) -> pa.Array:
    found = pc.if_else(pc.less(numbers, 10**17), numbers, pc.divide(numbers, 1000))
    for most, microseconds in reversed(_UNITS):
        found = pc.if_else(pc.less(numbers, most), pc.multiply(numbers, microseconds), found)
    return found
