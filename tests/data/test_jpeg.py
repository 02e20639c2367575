"""A JPEG that lacks a part, or has a wrong one, is no picture; what leaves it whole does no harm."""

from typing import Any

import numpy as np
import pytest
import torch
from pictures import encode
from PIL import Image, ImageFilter

from tlearn.data import images
from tlearn.data.images import ImageError

END = b"\xff\xd9"


def picture(width: int = 320, height: int = 240, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)).convert(mode)


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    return encode(picture(mode=mode), "JPEG", **{"quality": 90, **options})


KINDS: dict[str, dict[str, Any]] = {
    "colours": {},
    "grey": {"mode": "L"},
    "inks": {"mode": "CMYK"},
    "progressive": {"progressive": True},
    "progressive grey": {"mode": "L", "progressive": True},
    "restarts": {"restart_marker_blocks": 8},
    "all colours": {"subsampling": 0},
}


def decoded(data: bytes, least: int | None = None) -> torch.Tensor:
    return images.decode(data, max_pixels=10**7, least=least).pixels


def middle(data: bytes) -> int:
    """Of what follows the first scan's start."""
    start = data.index(b"\xff\xda")
    return start + (len(data) - start) // 2


def with_middle(data: bytes, part: bytes) -> bytes:
    at = middle(data)
    return data[:at] + part + data[at + len(part) :]


NOISE = np.random.default_rng(1).integers(0, 256, 1000).astype(np.uint8).tobytes()
DAMAGED = {
    "cut": lambda data: data[: middle(data)],
    "cut, then ended": lambda data: data[: middle(data)] + END,
    "zeros to the end": lambda data: data[: middle(data)] + bytes(len(data) - middle(data)),
    "zeros, then ended": lambda data: data[: middle(data)] + bytes(len(data) - middle(data)) + END,
    "zeros inside": lambda data: with_middle(data, bytes(512)),
    "noise inside": lambda data: with_middle(data, NOISE),
    "another file inside": lambda data: with_middle(data, jpeg(quality=50)[:4096]),
    "a part left out": lambda data: data[: middle(data)] + data[middle(data) + 1500 :],
    "sent as text": lambda data: data.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("least", [None, 60])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_jpeg_that_lacks_a_part_or_has_a_wrong_one_is_unreadable(damage: str, kind: str, least: int | None) -> None:
    data = DAMAGED[damage](jpeg(**KINDS[kind]))
    with pytest.raises(ImageError, match=r"truncated JPEG|damaged JPEG \(.+\)|JPEG that was sent as text") as caught:
        decoded(data, least)
    assert caught.value.status == "unreadable" and str(caught.value).isprintable()


def test_a_progressive_jpeg_that_ends_between_two_scans_is_unreadable() -> None:
    data = jpeg(progressive=True)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    for at in scans[1:]:
        for cut in (data[:at], data[:at] + END):
            with pytest.raises(ImageError, match=r"truncated JPEG|scans are missing"):
                decoded(cut)


def test_a_small_jpeg_sent_as_text_is_unreadable_though_its_scan_may_have_no_line_feed() -> None:
    for seed in range(20):
        noise = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
        sent = encode(Image.fromarray(noise), "JPEG", quality=92).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        with pytest.raises(ImageError, match=r"sent as text|damaged"):
            decoded(sent)


def before(marker: bytes, data: bytes, more: bytes) -> bytes:
    at = data.index(marker)
    return data[:at] + more + data[at:]


HARMLESS = {
    "without the end": lambda data: data[:-2],
    "half of the end": lambda data: data[:-1],
    "bytes behind the end": lambda data: data + NOISE,
    "another picture behind the end": lambda data: data + data,
    "text before the end": lambda data: data[:-2] + b"\x13\x37" * 600 + END,
    "zeros before the end": lambda data: data[:-2] + bytes(40) + END,
    "bytes before the tables": lambda data: before(b"\xff\xdb", data, b"xyz"),
    "bytes at both places": lambda data: before(b"\xff\xc4", data, b"abc\xff\0")[:-2] + bytes(99) + END,
    "filling": lambda data: before(b"\xff\xdb", data, b"\xff" * 9),
}


@pytest.mark.parametrize("least", [None, 60])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", HARMLESS)
def test_stray_bytes_between_the_parts_of_a_jpeg_are_harmless(change: str, kind: str, least: int | None) -> None:
    data = jpeg(**KINDS[kind])
    changed = HARMLESS[change](data)
    assert torch.equal(decoded(changed, least), decoded(data, least))


def test_odd_versions_and_numbers_that_say_nothing_are_harmless() -> None:
    data = jpeg()
    scan = data.index(b"\xff\xda")
    odd = [data.replace(b"JFIF\0\1\1", b"JFIF\0\0\0"), data[: scan + 11] + bytes(3) + data[scan + 14 :]]
    for changed in odd:
        assert changed != data and torch.equal(decoded(changed), decoded(data))
    with pytest.raises(ImageError):
        decoded(odd[0][: middle(data)] + END)


def test_what_is_wrong_is_said_to_nobody_but_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImageError, match=r"damaged JPEG \(premature end of data segment\)"):
        decoded(DAMAGED["cut, then ended"](jpeg()))
    assert capfd.readouterr() == ("", "")
