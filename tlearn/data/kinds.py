"""What a file is that gave no picture, by its first bytes, and what to do about it."""

import re
from dataclasses import dataclass

from tlearn.data import jpeg


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file."""

    name: str
    advice: str = ""
    """What to do with one; empty for a kind that is read."""


_CONVERT = "convert it to JPEG or PNG"
_AGAIN = "fetch it again"
_JPEG = Kind("JPEG")
_KINDS = (
    (rb"\xff\xd8\xff", _JPEG),
    (rb"\s+\xff\xd8\xff", Kind("JPEG after white space", "remove what stands before the bytes FF D8")),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", Kind("JPEG 2000", _CONVERT)),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", Kind("JPEG XL", _CONVERT)),
    (rb"\x89PNG\r\n\x1a\n....CgBI", Kind("PNG as Xcode packs it (CgBI)", "take the original, or convert it")),
    (rb"\x89PNG", Kind("PNG")),
    (rb"GIF8", Kind("GIF")),
    (rb"BM", Kind("BMP")),
    (rb"II\*\0.{4}CR|IIU\0|IIR[OS]|MMOR|FUJIFILMCCD-RAW|\0MRM|....ftypcrx", Kind("camera raw", _CONVERT)),
    (rb"II[*+]\0|MM\0[*+]", Kind("TIFF")),
    (rb"RIFF....WEBP", Kind("WebP")),
    (rb"P[1-6]\s", Kind("PPM")),
    (rb"....ftypavi[fs]", Kind("AVIF")),
    (rb"....ftyp(he|mif1|msf1)", Kind("HEIC", _CONVERT)),
    (rb"....(ftyp|moov|mdat)|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xb3\xba]", Kind("video", "take frames of it")),
    (rb"8BP[SB]", Kind("Photoshop file", _CONVERT)),
    (rb"\0\0[\x01\x02]\0[\x01-\xff]\0", Kind("icon (ICO)", _CONVERT)),
    (rb"\xc5\xd0\xd3\xc6|%!PS", Kind("PostScript", _CONVERT)),
    (rb".{128}DICM", Kind("DICOM", _CONVERT)),
    (rb"%PDF", Kind("PDF", "convert its pages")),
    (rb"PK[\x03\x05][\x04\x06]", Kind("ZIP", "unpack it")),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", Kind("compressed file (gzip or alike)", "unpack it")),
    (rb"\0\x05\x16\x07", Kind("AppleDouble file of a Mac", "remove it")),
    (rb"(\xef\xbf\xbd)+(PNG|\0\x10JFIF)", Kind("picture that was sent as text", _AGAIN)),
    (rb"version https://git-lfs\.", Kind("Git LFS pointer instead of the file", "run git lfs pull")),
    (rb"(?i:(\xef\xbb\xbf)?\s*<(!doctype )?html)", Kind("HTML page", _AGAIN)),
    (rb"(?i:(\xef\xbb\xbf)?\s*<.*\bsvg\b)", Kind("SVG", _CONVERT)),
    (rb"(?i:(\xef\xbb\xbf)?\s*<(\?xml|[a-z]+[ >]))", Kind("XML (a store's error?)", _AGAIN)),
    (rb"(\xef\xbb\xbf)?\s*[{\[]\s*[\"{\[\]}]", Kind("JSON (a server's error?)", _AGAIN)),
    (rb"\0+\Z", Kind("file of zeros", _AGAIN)),
    (rb"[\t-\r -~\x80-\xf4]+\Z", Kind("text", "remove it")),
)
_OTHER = Kind("file of unknown bytes", "convert or remove it")
_NUM_BYTES = 512
# By the marker of the frame.
_PROCESSES = {0xC3: "lossless JPEG", 0xF7: "JPEG-LS", **dict.fromkeys((0xC5, 0xC6, 0xC7), "hierarchical JPEG")}
_NO_FRAME = (0xC4, 0xC8, 0xCC)


def of(data: bytes) -> Kind:
    """The kind of a file that is not empty."""
    kind = next((kind for magic, kind in _KINDS if re.match(magic, data[:_NUM_BYTES], re.DOTALL)), _OTHER)
    return _of_jpeg(data) if kind is _JPEG else kind


def _of_jpeg(data: bytes) -> Kind:
    for segment in jpeg.parts(data)[0][1:]:
        marker, precision = segment[1], segment[4:5] or b"\x08"
        if marker in _PROCESSES:
            return Kind(_PROCESSES[marker], _CONVERT)
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME and precision != b"\x08":
            return Kind(f"JPEG of {precision[0]} bits", _CONVERT)
    return _JPEG


def was_sent_as_text(data: bytes) -> bool:
    """Whether every line feed became CR LF on its way: among the bytes of a picture some are without CR."""
    return data.count(b"\n") == data.count(b"\r\n") > 4
