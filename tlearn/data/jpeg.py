"""JPEG to pixels, or to what is wrong with it.

libjpeg decodes whatever it is given: where a part is missing or wrong it warns, and fills up with grey or noise. Here a
warning is an error, unless it is about something that leaves the picture whole. Damage that libjpeg does not notice
stays: some changed bytes after which it finds its place again.
"""

import itertools
import re
import zlib
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

_SCAN = b"\xff\xda"
_END = b"\xff\xd9"
_HARMLESS = (
    ("Warning: unknown JFIF revision", rb"(JFIF\0)..", b"\\g<1>\x01\x01"),
    ("Unknown Adobe color transform", rb"(\xff\xee..Adobe.{6}).", b"\\g<1>\x01"),
    ("Invalid SOS parameters", rb"(\xff\xda\0(?:\x0c\x03.{6}|\x08\x01..))...", rb"\g<1>\0?\0"),
)
"""What a warning starts with; how the bytes that it is about are found, and how they should be."""
_MAX_MENDED = 8
_READ_AHEAD = 8
"""Bytes of which libjpeg may or may not say that they are stray, because it has them in its registers."""
_LEAST_SAVED = 0.2
"""Share by which bytes that are no part of a picture can be compressed; those of a picture cannot."""


def decode(image: Image.Image, data: bytes, least: int | None) -> Tensor | None:
    """(3, height, width) uint8 RGB, not yet upright; None where Pillow has to decide. Raises ValueError for damage.

    With `least`, a half, a quarter or an eighth of the size, if the shorter side is at least so long then; inks never.
    """
    if image.format not in ("JPEG", "MPO"):
        return None
    colours = "CMYK" if image.mode == "CMYK" else "RGB"
    smaller = (8, 4, 2) if least and colours == "RGB" else ()
    scale = next((scale for scale in smaller if min(image.size) // (least or 1) >= scale), 1)
    try:
        pixels = _decoded(data, colours, [-(-side // scale) for side in image.size])
    except ValueError as error:
        if "subsampling" in str(error):  # one that TurboJPEG does not know
            return None
        raise ValueError("truncated" if _END not in parts(data)[1] else str(error)) from error
    if "progressive" in image.info and not _has_all_scans(data, len(image.getbands())):
        raise ValueError("scans are missing")
    if colours == "CMYK":
        # Whoever writes inks into JPEG inverts them, as Adobe does.
        pixels = np.array(Image.fromarray(255 - pixels, "CMYK").convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decoded(data: bytes, colours: str, size: list[int]) -> np.ndarray[Any, Any]:
    """(height, width, colours), scaled to this width and height."""
    for _ in range(_MAX_MENDED):
        try:
            return np.asarray(simplejpeg.decode_jpeg(data, colours, min_width=size[0], min_height=size[1]))
        except ValueError as error:
            mended = _mended(data, str(error))
            if mended is None:
                raise ValueError(str(error).removeprefix("Corrupt JPEG data: ")) from error
            data = mended
    raise ValueError("more mistakes than one by one can be looked at")


def _mended(data: bytes, warning: str) -> bytes | None:
    """The file without the mistake that libjpeg warns of, None unless the picture is whole in spite of it.

    libjpeg tells its first warning only: the next one it tells of what this gives.
    """
    if warning == "Premature end of JPEG file":
        return None if data.endswith(_END) else data + _END
    for start, pattern, right in _HARMLESS:
        if warning.startswith(start):
            return re.sub(pattern, right, data, count=1, flags=re.DOTALL)
    stray = re.search(r"(\d+) extraneous bytes before marker 0x(..)", warning)
    return _without_strays(data, int(stray[1]), bytes.fromhex("ff" + stray[2])) if stray else None


def _without_strays(data: bytes, num_strays: int, before: bytes) -> bytes | None:
    segments, scans = parts(data)
    header = b"".join(segments)
    if before != _END:
        # Where each line feed became CR LF on the way, a table is pushed out of its segment by wrong values in it.
        was_sent_as_text = 0 < data.count(b"\n") == data.count(b"\r\n")
        return header + scans if len(header) + len(scans) < len(data) and not was_sent_as_text else None
    end = scans.index(_END)
    strays = scans[end - num_strays : end]
    # They may be the picture's own, of which too much is left because the decoder has lost its place before.
    num_compressed = len(zlib.compress(strays)) - len(zlib.compress(b""))
    if num_strays > _READ_AHEAD and num_compressed > (1 - _LEAST_SAVED) * num_strays:
        return None
    return header + scans[: end - num_strays] + scans[end:]


def _has_all_scans(data: bytes, num_colours: int) -> bool:
    """Whether every coefficient of a progressive file comes to its last bit; without, libjpeg shows what it has."""
    scans = parts(data)[1].partition(_END)[0]
    whole: set[tuple[int, int]] = set()
    for scan in re.finditer(rb"\xff\xda\0.([\1-\4])", scans, re.DOTALL):
        after = scan.end() + 2 * scan[1][0]
        first, last, bits = scans[after : after + 3]
        if bits & 0x0F == 0:
            whole.update(itertools.product(scans[scan.end() : after : 2], range(first, last + 1)))
    return len(whole) >= 64 * num_colours


def parts(data: bytes) -> tuple[list[bytes], bytes]:
    """The segments before the first scan, each from its marker on, without what lies between them; the scans."""
    segments, at = [data[:2]], 2
    while (at := data.find(b"\xff", at)) >= 0 and data[at : at + 2] != _SCAN:
        if data[at + 1 : at + 2] in (b"\xff", b"\0", b""):  # filling, or of what lies between
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        segments.append(data[at:end])
        at = end
    return segments, data[at:] if at >= 0 else b""
