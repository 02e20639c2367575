"""What a listing and a reading give, and names of any bytes as text."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

# A byte that is no UTF-8 is written %XX. So that this can be undone, a "%" of the name itself is written %25
# where (and only where) it would otherwise be read as such a byte.
_LOOKS_ENCODED = re.compile(r"%(?=(?:25)*[89A-Fa-f][0-9A-Fa-f])")
_ENCODED = re.compile(r"%((?:25)*)([89A-Fa-f][0-9A-Fa-f])")

DATES = (-62_135_510_400 * 10**6, 253_402_128_000 * 10**6)
"""Microseconds since 1970 of the first and the last day that the calendar has in every time zone."""

UNKNOWN = -1
"""A size or a time of change that nobody has said: it is not compared."""

PathKind = Literal["file", "folder", "other"]
"""Of what is at a path; other is a pipe, a socket or a device."""

Kind = Literal["file", "other", "folder", "closed folder", "link", "dead link"]
"""A file, or a pipe, socket or device, or a folder that is not entered, or one that cannot be, or a link to a folder,
or one that leads nowhere."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed file: path relative to the listed folder, size in bytes, time of change in microseconds.

    Of anything but a file the size is UNKNOWN and the time 0.
    """

    path: str
    size: int
    modified: int
    kind: Kind = "file"
    etag: str | None = None
    """What a store says of the content: of two files with the same one the bytes may be the same."""

    def change(self, size: int, modified: int) -> str | None:
        """How a file of this size and time is another than the listed one, as far as that is known; None: it is not.

        Times are compared to the digits that both have: lists and stores have whole seconds, or milliseconds.
        """
        if self.size not in (UNKNOWN, size):
            return f"listed with {self.size} bytes, found with {size}"
        unit = next(unit for unit in (10**6, 1000, 1) if self.modified % unit == 0 or modified % unit == 0)
        if self.modified != UNKNOWN and self.modified // unit != modified // unit:
            return "written to after it was listed"
        return None


@dataclass(frozen=True, slots=True)
class Content:
    """What a file held when it was read, with the facts that were true at that moment."""

    data: bytes
    size: int
    modified: int
    version: str = ""
    """What `swap` compares."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def microseconds(nanoseconds: int) -> int:
    """Time of change of a file. Some file systems give years that no date can have: these become the nearest date."""
    return min(max(nanoseconds // 1000, DATES[0]), DATES[1])


class DeadLink(FileNotFoundError):
    """A symbolic link that leads nowhere."""


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Sort by the bytes of the path as it is stored, whatever stands for them in its text."""
    return sorted(entries, key=lambda entry: decode_name(entry.path))


def is_shown(folder: str) -> bool:
    """Whether a folder of this name is entered: not one that starts with a dot. A dot alone is a name of S3's."""
    return not folder.startswith(".") or folder in (".", "..")


def encode_name(name: bytes) -> str:
    """Make a name text, without loss: `decode_name` gives the same bytes back."""
    text = name.decode("utf-8", "surrogateescape")
    text = _LOOKS_ENCODED.sub("%25", text)
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)


def decode_name(path: str) -> bytes:
    def decoded(match: re.Match[str]) -> str:
        escaped, digits = match.groups()
        return f"%{escaped[2:]}{digits}" if escaped else chr(0xDC00 + int(digits, 16))

    return _ENCODED.sub(decoded, path).encode("utf-8", "surrogateescape")
