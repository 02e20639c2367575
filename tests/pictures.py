"""Pictures in four quadrants of different colours, encoded in every kind there is; awkward files and names."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32
RED, GREEN, BLUE, SAND = (220, 30, 30), (30, 180, 60), (40, 50, 210), (230, 210, 120)
COLOURS = (RED, GREEN, BLUE, SAND)
GREYS = (0, 80, 160, 255)
WHITE = (255, 255, 255)


def quadrants(values: Any, dtype: Any = np.uint8) -> Any:
    """(HEIGHT, WIDTH, ...) array; one value each for top left, top right, bottom left, bottom right."""
    rows = np.array(values, dtype).reshape(2, 2, *np.shape(values)[1:])
    return rows.repeat(HEIGHT // 2, axis=0).repeat(WIDTH // 2, axis=1)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb() -> Image.Image:
    return Image.fromarray(quadrants(COLOURS))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png16(colour_type: int, values: Any, extra: bytes = b"") -> bytes:
    """Encode a 16-bit PNG by hand: Pillow writes 16 bits in grey only."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in quadrants(values, np.uint16))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


LOSSLESS = {
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "tiff packbits": ("TIFF", {"compression": "packbits"}),
}
LOSSY = {
    "jpeg": ("JPEG", {"quality": 95}),
    "progressive jpeg": ("JPEG", {"quality": 95, "progressive": True}),
    "webp": ("WEBP", {"quality": 95}),
    "avif": ("AVIF", {"quality": 95}),
    "mpo": ("MPO", {"quality": 95, "save_all": True, "append_images": [Image.new("RGB", (WIDTH, HEIGHT))]}),
}


def palette() -> Image.Image:
    image = Image.fromarray(quadrants((0, 1, 2, 3))).convert("P")
    image.putpalette(sum(COLOURS, ()))
    return image


def broken_crc() -> bytes:
    data = bytearray(encode(rgb(), "PNG"))
    # The last of the four bytes that precede the 12 of IEND.
    data[-13] ^= 1
    return bytes(data)


def zero_sized(kind: str) -> bytes:
    if kind == "PNG":
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    data = bytearray(encode(rgb(), kind))
    if kind == "BMP":
        data[18:22] = bytes(4)
    elif kind == "GIF":
        data[6:10] = bytes(4)
    else:
        frame = data.find(b"\xff\xc0")
        data[frame + 5 : frame + 7] = bytes(2)
    return bytes(data)


BAD = {
    "empty": (b"", "empty"),
    "text": (b"not a picture at all, but a line of text\n", "text"),
    "html": (b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>", "HTML"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "HEIC"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(100), "PDF"),
    "zeros": (bytes(1000), "zeros"),
    "eps": (b"\xc5\xd0\xd3\xc6" + bytes(100), "PostScript"),
    "unknown": (bytes(range(200)), "unknown bytes"),
    "targa": (b"\0\0\2" + bytes(9) + b"\4\0\4\0\x18\0" + bytes(48), "unknown bytes"),
    "one byte": (b"\xff", "unknown bytes"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), "JPEG 2000"),
    "jpeg 2000 stream": (b"\xff\x4f\xff\x51" + bytes(50), "JPEG 2000"),
    "jpeg xl": (b"\xff\x0a" + bytes(50), "JPEG XL"),
    "jpeg xl box": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "JPEG XL"),
    "canon": (b"II*\0\x10\0\0\0CR\2\0" + bytes(300), "camera raw"),
    "canon 3": (b"\0\0\0\x18ftypcrx " + bytes(100), "camera raw"),
    "fuji": (b"FUJIFILMCCD-RAW 0201" + bytes(100), "camera raw"),
    "photoshop": (b"8BPS\0\1" + bytes(100), "Photoshop"),
    "icon": (b"\0\0\1\0\1\0\x10\x10" + bytes(100), "icon"),
    "dicom": (bytes(128) + b"DICM" + bytes(100), "DICOM"),
    "video": (b"\0\0\0\x18ftypmp42" + bytes(100), "video"),
    "quicktime": (b"\0\0\0\x08moov" + bytes(100), "video"),
    "matroska": (b"\x1aE\xdf\xa3" + bytes(100), "video"),
    "zip": (b"PK\3\4" + bytes(100), "ZIP.*unpack"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "gzip.*unpack"),
    "apple": (b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(100), "AppleDouble"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer.*git lfs pull"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
    "json": (b'{"error": "not found"}', "JSON"),
    "as utf-8": ("\ufffd\ufffd\ufffd\ufffd\0\x10JFIF".encode() + bytes(100), "sent as text"),
    "line break first": (b"\r\n" + encode(rgb(), "JPEG"), "white space"),
    "png crc": (broken_crc(), "PNG"),
    "png zero": (zero_sized("PNG"), "PNG"),
    "bmp zero": (zero_sized("BMP"), "BMP"),
    "jpeg zero": (zero_sized("JPEG"), "JPEG"),
    "jpeg start": (b"\xff\xd8\xff", "JPEG"),
}
ENCODED = {**{f"lossless {name}": value for name, value in LOSSLESS.items()}, **LOSSY, "gif": ("GIF", {})}


def bomb() -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")


def picture(seed: int, size: tuple[int, int] = (90, 80)) -> bytes:
    """A PNG of noise around a colour."""
    generator = np.random.default_rng(seed)
    pixels = np.full((*size, 3), generator.integers(0, 256, 3)) // 2 + generator.integers(0, 128, (*size, 3))
    return encode(Image.fromarray(pixels.astype(np.uint8)), "PNG")


# Names that are awkward in a shell, in a URI, or in another file system.
NAMES = [
    "with space.jpg", "a%20b.jpg", "#.jpg", "q?x.jpg", "semi;colon.jpg", "c:x.jpg", "new\nline.jpg", "tab\t.jpg",
    "-leading.jpg", "_under.jpg", ".hidden.jpg", "🐈.jpg",
    "\u200f\u05d0.jpg", "e\u0301.jpg", "\u00e9.jpg", "back\\slash.jpg",
    "Case.jpg", "case.jpg", "%FF.jpg", "%25FF.jpg", "x" * 251 + ".jpg",
]  # fmt: skip
