"""Pictures of more than 8 bits look as the same picture in 8."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from pictures import COLOURS, GREYS, chunk, encode, png16, quadrants
from PIL import Image

from tlearn.data import images
from tlearn.data.images import ImageError


def tiff(values: Any, *tags: tuple[int, int], order: str = "<", planar: int = 1, deflate: bool = False) -> bytes:
    """A TIFF in one strip or, with `planar` 2, one a band: (height, width, bands) of any type."""
    height, width, bands = values.shape
    planes = [values] if planar == 1 else np.moveaxis(values, 2, 0)
    strips = [plane.astype(values.dtype.newbyteorder(order)).tobytes() for plane in planes]
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    entries: dict[int, list[int]] = {
        256: [width],
        257: [height],
        258: [8 * values.dtype.itemsize] * bands,
        259: [8 if deflate else 1],
        262: [2 if bands == 3 else 1],
        277: [bands],
        278: [height],
        279: [len(strip) for strip in strips],
        284: [planar],
        339: [kind] * bands,
        **({338: [0] * (bands - 1)} if bands not in (1, 3) else {}),
        **{tag: [value] for tag, value in tags},
    }
    at = 8 + 2 + 12 * (len(entries) + 1) + 4
    entries[273] = [at + sum(entries[279][:number]) for number in range(len(strips))]
    at, head, beyond = at + sum(entries[279]), b"", b""
    for tag, numbers in sorted(entries.items()):
        body = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(body) > 4:
            beyond, body = beyond + body, struct.pack(f"{order}I", at + len(beyond))
        head += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + body
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return start + head + bytes(4) + b"".join(strips) + beyond


def shown(data: bytes) -> Any:
    return images.decode(data, max_pixels=10**6).pixels.permute(1, 2, 0).numpy().astype(int)


GREY = quadrants(GREYS)[:, :, None].repeat(3, 2).astype(int)
RGB = quadrants(COLOURS).astype(int)


def assert_looks_as(data: bytes, expected: Any) -> None:
    assert np.abs(shown(data) - expected).max() <= 1


TYPES: dict[str, tuple[Any, Any, Any]] = {
    "uint16 of 8 bits": (np.uint16, 1, 0),
    "uint16 of 10 bits": (np.uint16, 4, 0),
    "uint16 of 12 bits": (np.uint16, 16, 0),
    "uint16 of 14 bits": (np.uint16, 64, 0),
    "uint16 of 16 bits": (np.uint16, 257, 0),
    "int16 of 12 bits": (np.int16, 16, 0),
    "int16 with negative ones": (np.int16, 8, -1000),
    "int32 of 8 bits": (np.int32, 1, 0),
    "int32 of 12 bits": (np.int32, 16, 0),
    "uint32 of 10 bits": (np.uint32, 4, 0),
    "uint32 of 32 bits": (np.uint32, 2**24, 0),
    "float32 to 1": (np.float32, 1 / 255, 0),
    "float32 from -1": (np.float32, 2 / 255, -1),
    "float32 to 255": (np.float32, 1, 0),
    "float32 of 12 bits": (np.float32, 4095 / 255, 0),
    "float64 to 1": (np.float64, 1 / 255, 0),
    "float64 from -1": (np.float64, 2 / 255, -1),
    "float64 to 65535": (np.float64, 257, 0),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", TYPES)
def test_a_tiff_of_any_samples_looks_as_in_8_bits(name: str, order: str) -> None:
    kind, factor, offset = TYPES[name]
    grey, rgb = ((values * factor + offset).astype(kind) for values in (GREY[:, :, :1], RGB))
    assert_looks_as(tiff(grey, order=order), GREY)
    if not (offset and np.issubdtype(kind, np.integer)):  # the smallest is black, and these have none
        assert_looks_as(tiff(rgb, order=order), RGB)
        assert_looks_as(tiff(rgb, order=order, planar=2, deflate=True), RGB)


@pytest.mark.parametrize("factor", [1, 4, 16, 64, 257])
def test_a_png_of_few_bits_in_16_looks_as_in_8_bits(factor: int) -> None:
    assert_looks_as(png16(0, np.array(GREYS) * factor), GREY)
    assert_looks_as(png16(2, np.array(COLOURS) * factor), RGB)
    assert_looks_as(png16(6, [(*(v * factor for v in colour), 65535) for colour in COLOURS]), RGB)


def test_what_a_file_says_of_its_range_holds() -> None:
    dark = GREY // 8
    for tag in (281, 341):
        assert_looks_as(tiff(dark[:, :, :1].astype(np.uint16) * 16, (tag, 4095)), dark)
    assert_looks_as(png16(0, np.array(GREYS) // 8 * 16, chunk(b"sBIT", b"\x0c")), dark)
    # Shifted up, as the standard wants it.
    assert_looks_as(png16(0, np.array(GREYS) * 257, chunk(b"sBIT", b"\x0c")), GREY)
    pgm = b"P5 48 32 1023\n" + (quadrants(GREYS, int) * 4 // 8).astype(">u2").tobytes()
    assert_looks_as(pgm, dark)


def test_fractions_may_go_a_little_beyond_their_range() -> None:
    values = (GREY[:, :, :1] / 255).astype(np.float32)
    values[0, 0], values[0, 1], values[0, 2] = 1.08, -0.06, np.nan
    assert np.abs(shown(tiff(values)) - GREY)[1:].max() <= 1


@pytest.mark.parametrize("bands", [2, 5, 13])
def test_more_bands_than_colours_are_not_supported_rather_than_damaged(
    bands: int, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tiff(np.zeros((8, 8, bands), np.uint16))
    with pytest.raises(ImageError, match=f"TIFF of {bands} x uint16 a pixel is not supported: convert it"):
        shown(data)
    assert capfd.readouterr() == ("", "")


def test_a_tiff_that_pillow_does_not_open_is_truncated_or_too_large_like_any_other() -> None:
    data = tiff(RGB.astype(np.float64))
    with pytest.raises(ImageError, match="truncated TIFF"):
        shown(data[:2000])
    with pytest.raises(ImageError, match="expected 100 pixels or less, got 48 x 32") as caught:
        images.decode(data, max_pixels=100)
    assert (caught.value.status, caught.value.width) == ("too_large", 48)


def test_pictures_of_8_bits_stay_as_they_are_however_dark() -> None:
    dark = Image.fromarray((quadrants(COLOURS) // 16).astype(np.uint8))
    for kind in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(shown(encode(dark, kind)), np.asarray(dark))
