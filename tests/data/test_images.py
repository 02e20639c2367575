"""Pictures whose quadrants have colours of their own, encoded in every kind there is."""

import io
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import (
    BAD,
    BLUE,
    COLOURS,
    ENCODED,
    GREEN,
    GREYS,
    HEIGHT,
    LOSSLESS,
    LOSSY,
    RED,
    SAND,
    WHITE,
    WIDTH,
    bomb,
    chunk,
    encode,
    palette,
    png16,
    quadrants,
    rgb,
)
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from tlearn.config import PreprocessConfig
from tlearn.data import images
from tlearn.data.images import ImageError, Picture


def decode(data: bytes) -> Picture:
    return images.decode(data, max_pixels=10**8)


def assert_shows(picture: Picture, expected: Any, tolerance: int = 0) -> None:
    """The middle of each quadrant has the expected colour or grey; encoders blur only the borders."""
    pixels = picture.pixels
    assert pixels.dtype == torch.uint8
    _, height, width = pixels.shape
    assert pixels.shape[0] == 3
    seen = [
        pixels[:, row, column].tolist()
        for row in (height // 4, 3 * height // 4)
        for column in (width // 4, 3 * width // 4)
    ]
    colours = [(value,) * 3 if np.isscalar(value) else value for value in expected]
    assert np.abs(np.array(seen) - np.array(colours)).max() <= tolerance, seen


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_kinds_decode_to_the_pixels_that_were_drawn(name: str) -> None:
    kind, options = LOSSLESS[name]
    picture = decode(encode(rgb(), kind, **options))
    assert np.array_equal(picture.pixels.permute(1, 2, 0).numpy(), quadrants(COLOURS))
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_kinds_decode_to_nearly_the_colours_that_were_drawn(name: str) -> None:
    kind, options = LOSSY[name]
    assert_shows(decode(encode(rgb(), kind, **options)), COLOURS, 8)


def test_pillow_is_left_alone_until_a_picture_is_decoded() -> None:
    code = """
import sys
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
limit = Image.MAX_IMAGE_PIXELS
from tlearn.data import images
assert Image.MAX_IMAGE_PIXELS == limit > 0 and "WEBP" not in Image.OPEN
data = sys.stdin.buffer.read()
with ThreadPoolExecutor(8) as threads:
    pictures = list(threads.map(lambda _: images.decode(data, max_pixels=10**8), range(8)))
assert all((picture.pixels == pictures[0].pixels).all() for picture in pictures)
assert Image.MAX_IMAGE_PIXELS is None
"""
    subprocess.run([sys.executable, "-c", code], input=encode(rgb(), "JPEG"), check=True)


def test_jpeg_has_the_pixels_that_pillow_gives() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)
    data = encode(Image.fromarray(noise), "JPEG")
    expected = torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1)
    assert (decode(data).pixels.int() - expected.int()).abs().max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    picture = decode(encode(Image.fromarray(quadrants(GREYS)), kind))
    assert_shows(picture, GREYS, 3)
    assert (picture.pixels == picture.pixels[:1]).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_one_bit_becomes_black_and_white(kind: str) -> None:
    assert_shows(decode(encode(Image.fromarray(quadrants((0, 255, 255, 0))).convert("1"), kind)), (0, 255, 255, 0))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_palette_colours_are_looked_up(kind: str) -> None:
    assert_shows(decode(encode(palette(), kind)), COLOURS)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_colour_shows_white(kind: str) -> None:
    assert_shows(decode(encode(palette(), kind, transparency=1)), (RED, WHITE, BLUE, SAND))


def test_half_transparent_palette_colours_are_blended_with_white() -> None:
    data = encode(palette(), "PNG", transparency=bytes((255, 0, 128, 255)))
    half = tuple(round((value * 128 + 255 * 127) / 255) for value in BLUE)
    assert_shows(decode(data), (RED, WHITE, half, SAND), 1)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_rgba_is_composited_over_white(kind: str, options: dict[str, Any]) -> None:
    pixels = [(*RED, 255), (*GREEN, 0), (*BLUE, 128), (*SAND, 255)]
    half = tuple(round((value * 128 + 255 * 127) / 255) for value in BLUE)
    assert_shows(decode(encode(Image.fromarray(quadrants(pixels)), kind, **options)), (RED, WHITE, half, SAND), 1)


def test_grey_with_alpha_is_composited_over_white() -> None:
    image = Image.merge("LA", [Image.fromarray(quadrants(v)) for v in ((0, 80, 100, 160), (255, 0, 128, 255))])
    assert_shows(decode(encode(image, "PNG")), (0, 255, 177, 160), 1)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_colour_key_shows_white(mode: str) -> None:
    key: Any = 80 if mode == "L" else GREEN
    image = Image.fromarray(quadrants(GREYS)) if mode == "L" else rgb()
    shown = (0, 255, 160, 255) if mode == "L" else (RED, WHITE, BLUE, SAND)
    assert_shows(decode(encode(image, "PNG", transparency=key)), shown)


CMYK = ((0, 220, 220, 20), (200, 0, 180, 40), (210, 200, 0, 20), (0, 20, 130, 10))


def cmyk_on_paper() -> list[tuple[int, ...]]:
    return [tuple(round((255 - ink) * (255 - black) / 255) for ink in inks) for *inks, black in CMYK]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_looks_as_printed(kind: str) -> None:
    # Pillow, like Adobe, writes the inks of a JPEG inverted.
    data = encode(Image.fromarray(quadrants(CMYK), "CMYK"), kind, **({"quality": 95} if kind == "JPEG" else {}))
    assert_shows(decode(data), cmyk_on_paper(), 8)


def test_ycck_jpeg_looks_as_printed() -> None:
    # Transform 2 in the Adobe segment makes YCCK of the four channels, in which the inks are inverted.
    inverted = 255 - quadrants(CMYK)
    luma = np.asarray(Image.fromarray(255 - inverted[..., :3]).convert("YCbCr"))
    stored = np.concatenate([luma, inverted[..., 3:]], axis=-1)
    data = encode(Image.fromarray(255 - stored, "CMYK"), "JPEG", quality=95, subsampling=0)
    adobe = data.index(b"Adobe")
    assert data[adobe + 11] == 0
    data = data[: adobe + 11] + b"\2" + data[adobe + 12 :]
    assert_shows(decode(data), cmyk_on_paper(), 10)


GREYS16 = (0, 80 * 257, 160 * 257, 65535)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    assert_shows(decode(encode(Image.fromarray(quadrants(GREYS16, np.uint16)), kind)), GREYS, 1)


def test_16_bit_grey_tiff_with_white_at_zero_is_inverted() -> None:
    data = bytearray(encode(Image.fromarray(quadrants(GREYS16, np.uint16)), "TIFF"))
    entry = data.find(struct.pack("<HHI", 262, 3, 1))
    data[entry + 8 : entry + 10] = struct.pack("<H", 0)
    assert_shows(decode(bytes(data)), [255 - grey for grey in GREYS], 1)


def test_16_bit_rgb_png_is_scaled_not_clipped() -> None:
    assert_shows(decode(png16(2, np.array(COLOURS) * 257)), COLOURS, 1)


def test_16_bit_rgba_and_grey_with_alpha_png_are_composited_over_white() -> None:
    values = [
        (*(value * 257 for value in colour), alpha) for colour, alpha in zip(COLOURS, (65535, 0) * 2, strict=True)
    ]
    assert_shows(decode(png16(6, values)), (RED, WHITE, BLUE, WHITE), 1)
    assert_shows(decode(png16(4, [(80 * 257, 65535), (80 * 257, 0)] * 2)), (80, 255, 80, 255), 1)


def test_16_bit_colour_keys_show_white() -> None:
    grey = png16(0, GREYS16, chunk(b"tRNS", struct.pack(">H", 80 * 257)))
    assert_shows(decode(grey), (0, 255, 160, 255), 1)
    colour = png16(2, np.array(COLOURS) * 257, chunk(b"tRNS", struct.pack(">HHH", *(v * 257 for v in GREEN))))
    assert_shows(decode(colour), (RED, WHITE, BLUE, SAND), 1)


def test_16_bit_rgb_tiff_is_scaled_not_clipped() -> None:
    pixels = (quadrants(COLOURS).astype("<u2") * 257).tobytes()
    tags = [
        (256, 3, 1, WIDTH),
        (257, 3, 1, HEIGHT),
        (258, 3, 3, 8 + len(pixels)),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8),
        (277, 3, 1, 3),
        (278, 3, 1, HEIGHT),
        (279, 4, 1, len(pixels)),
    ]
    bits = struct.pack("<HHH", 16, 16, 16)
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + b"\0" * 4
    data = b"II*\0" + struct.pack("<I", 8 + len(pixels) + len(bits)) + pixels + bits + body
    assert_shows(decode(data), COLOURS, 1)


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0, 1e6])
def test_float_tiff_is_scaled_from_its_range(top: float) -> None:
    values = quadrants([grey / 255 * top for grey in GREYS], np.float32)
    values[0, 0] = np.nan
    assert_shows(decode(encode(Image.fromarray(values), "TIFF")), GREYS, 1)


@pytest.mark.parametrize("factor", [1, 257, 2**22])
def test_32_bit_integer_tiff_is_scaled_from_its_range(factor: int) -> None:
    values = quadrants([grey * factor for grey in GREYS], np.int32)
    assert_shows(decode(encode(Image.fromarray(values), "TIFF")), GREYS, 1)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "AVIF"])
def test_only_the_first_frame_is_seen(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "AVIF" else {}
    later = Image.new("RGB", (WIDTH, HEIGHT))
    first = palette() if kind == "GIF" else rgb()
    data = encode(first, kind, save_all=True, append_images=[later], **options)
    assert_shows(decode(data), COLOURS, 8 if kind == "AVIF" else 0)


TURNED_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF LZW", "AVIF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(orientation: int, kind: str) -> None:
    stored = rgb() if orientation == 1 else rgb().transpose(TURNED_BACK[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    kind, _, packed = kind.partition(" ")
    options: dict[str, Any] = {"compression": "tiff_lzw"} if packed else {}
    picture = decode(encode(stored, kind, exif=exif, **options))
    assert picture.pixels.shape == (3, HEIGHT, WIDTH)
    assert (picture.width, picture.height) == stored.size
    assert_shows(picture, COLOURS, 40)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\0\x09"]
)
def test_damaged_exif_does_not_lose_the_picture(exif: bytes) -> None:
    assert_shows(decode(encode(rgb(), "JPEG", exif=exif, quality=95)), COLOURS, 8)


def test_what_pillow_warns_of_is_not_seen() -> None:
    header = 33
    data = encode(rgb(), "PNG")
    data = data[:header] + chunk(b"acTL", bytes(8)) + data[header:]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert_shows(decode(data), COLOURS)
    assert not seen


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_unreadable_and_says_what_came(name: str) -> None:
    data, what = BAD[name]
    with pytest.raises(ImageError, match=f"^not an image that can be read: .*{what}") as caught:
        decode(data)
    assert caught.value.status == "unreadable"
    assert_one_clean_line(caught.value)


@pytest.mark.parametrize(
    ("name", "marker", "precision"),
    [("12 bits", 0xC0, 12), ("lossless JPEG", 0xC3, 8), ("hierarchical JPEG", 0xC5, 8), ("JPEG-LS", 0xF7, 8)],
)
def test_jpeg_of_a_kind_that_is_not_read_is_not_called_damaged(name: str, marker: int, precision: int) -> None:
    data = bytearray(encode(rgb(), "JPEG"))
    frame = data.find(b"\xff\xc0")
    data[frame + 1], data[frame + 4] = marker, precision
    with pytest.raises(ImageError, match=f"{name}.* is not supported: convert it"):
        decode(bytes(data))


def test_a_png_of_xcode_is_named() -> None:
    data = encode(rgb(), "PNG")
    raw = chunk(b"IDAT", zlib.compress(quadrants(COLOURS).tobytes())[2:-4])  # without zlib's header and checksum
    with pytest.raises(ImageError, match=r"Xcode.* is not supported"):
        decode(data[:8] + chunk(b"CgBI", bytes(4)) + data[8:33] + raw + data[-12:])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_a_file_sent_as_text_is_named(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    with pytest.raises(ImageError, match=f"{kind} that was sent as text"):
        decode(encode(noise, kind).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))


TEXT = np.random.default_rng(0).integers(97, 100, 2_000_000).astype(np.uint8).tobytes()
PACKED = zlib.compress(TEXT)
METADATA = {
    "much text, packed": chunk(b"zTXt", b"comment\0\0" + PACKED),
    "much text, unpacked": chunk(b"tEXt", b"prompt\0" + TEXT),
    "much text in unicode": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + PACKED),
    "many texts": b"".join(chunk(b"zTXt", b"k%d\0\0" % i + zlib.compress(bytes(900_000))) for i in range(80)),
    "a large profile": chunk(b"iCCP", b"profile\0\0" + PACKED),
    "a broken profile": chunk(b"iCCP", b"profile\0\0not zlib"),
    "text that is no UTF-8": chunk(b"iTXt", b"t\0\0\0\0\0\xff\xfe\xfa"),
    "much EXIF": chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0" + TEXT),
}


@pytest.mark.parametrize("where", ["before the pixels", "behind them"])
@pytest.mark.parametrize("name", METADATA)
def test_however_much_metadata_a_png_has_it_is_decoded(name: str, where: str) -> None:
    data = encode(rgb(), "PNG")
    at = 33 if where == "before the pixels" else len(data) - 12
    assert_shows(decode(data[:at] + METADATA[name] + data[at:]), COLOURS)


def test_however_much_metadata_other_kinds_have_they_are_decoded() -> None:
    exif = Image.Exif()
    exif[0x010E] = TEXT.decode()
    for kind in ("WEBP", "TIFF"):
        options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
        assert_shows(decode(encode(rgb(), kind, exif=exif, **options)), COLOURS)
    data = encode(rgb(), "JPEG", quality=95)
    comments = (b"\xff\xfe\xff\xff" + TEXT[:65533]) * 30
    assert_shows(decode(data[:2] + comments + data[2:]), COLOURS, 8)


def assert_one_clean_line(error: ImageError) -> None:
    message = str(error)
    assert message.isprintable() and len(message) <= 200 and " at 0x" not in message


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_file_is_unreadable_not_half_a_picture(name: str, share: float) -> None:
    kind, options = ENCODED[name]
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    if kind == "MPO":
        options = {**options, "append_images": []}
    data = encode(noise, kind, **options)
    with pytest.raises(ImageError, match=r"truncated|damaged") as caught:
        decode(data[: int(len(data) * share)])
    assert caught.value.status == "unreadable"
    assert_one_clean_line(caught.value)


def test_a_truncated_jpeg_is_named_with_its_size() -> None:
    with pytest.raises(ImageError) as caught:
        decode(encode(rgb(), "JPEG")[:-20])
    assert str(caught.value) == "not an image that can be read: truncated JPEG"
    assert (caught.value.width, caught.value.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_more_than_max_pixels_is_too_large(kind: str) -> None:
    data = encode(rgb(), kind)
    with pytest.raises(ImageError, match="expected 1535 pixels or less, got 48 x 32") as caught:
        images.decode(data, max_pixels=WIDTH * HEIGHT - 1)
    assert (caught.value.status, caught.value.width, caught.value.height) == ("too_large", WIDTH, HEIGHT)
    images.decode(data, max_pixels=WIDTH * HEIGHT)


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(ImageError) as caught:
        decode(bomb())
    assert caught.value.status == "too_large"


def test_more_than_max_bytes_is_too_large() -> None:
    with pytest.raises(ImageError, match="expected 10 bytes or less, got more: scale it down") as caught:
        images.load(bytes(11), PreprocessConfig(max_bytes=10))
    assert caught.value.status == "too_large"


def test_image_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(ImageError("too big", status="too_large", width=3, height=4)))
    assert (str(error), error.status, error.width, error.height) == ("too big", "too_large", 3, 4)


SEEDS = [encode(rgb(), kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")]
SEEDS.append(encode(rgb(), "JPEG", progressive=True))


def assert_picture_or_error(data: bytes) -> None:
    try:
        picture = images.decode(data, max_pixels=10**6)
    except ImageError as error:
        assert_one_clean_line(error)
    else:
        assert picture.pixels.dtype == torch.uint8
        assert picture.pixels.ndim == 3 and picture.pixels.shape[0] == 3
        assert picture.pixels[0].numel() == picture.width * picture.height


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM"]),
    st.binary(max_size=300),
)
def test_random_bytes_give_a_picture_or_an_image_error(start: bytes, rest: bytes) -> None:
    assert_picture_or_error(start + rest)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(SEEDS), st.data())
def test_corrupted_files_give_a_picture_or_an_image_error(seed: bytes, choice: st.DataObject) -> None:
    data = bytearray(seed)
    position = st.integers(0, len(data) - 1)
    for place, value in choice.draw(st.lists(st.tuples(position, st.integers(0, 255)), min_size=1, max_size=6)):
        data[place] = value
    cut = choice.draw(st.none() | position)
    assert_picture_or_error(bytes(data[:cut]))


def test_eight_threads_decode_what_one_does() -> None:
    config = PreprocessConfig(image_size=32, short_side=40)
    files = SEEDS * 12
    expected = [images.load(data, config)[0] for data in files]
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda data: images.load(data, config)[0], files))
    assert all(torch.equal(left, right) for left, right in zip(seen, expected, strict=True))


def noise(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (240, 240), (31, 97), (264, 4000), (1200, 900)])
@pytest.mark.parametrize("colours_last", [False, True])
def test_crop_equals_torchvision_resize_then_centre_crop(size: tuple[int, int], colours_last: bool) -> None:
    pixels = noise(*size)
    if colours_last:
        pixels = pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    plain = v2.Compose([v2.Resize(264, antialias=True), v2.CenterCrop(240)])
    assert torch.equal(images.resize(pixels, PreprocessConfig()), plain(pixels))


@pytest.mark.parametrize("size", [(375, 500), (31, 97), (1, 4000)])
def test_squash_equals_torchvision_resize(size: tuple[int, int]) -> None:
    plain = v2.Resize((240, 240), antialias=True)
    assert torch.equal(images.resize(noise(*size), PreprocessConfig(resize="squash")), plain(noise(*size)))


@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize("size", [(1, 65500), (65500, 1), (1, 1), (4000, 1), (1, 4001)])
def test_extreme_shapes_are_resized_within_a_bounded_intermediate(
    size: tuple[int, int], mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        resized: torch.Tensor = interpolate(*args, **kwargs)
        largest.append(resized.numel())
        return resized

    interpolate = images.interpolate
    monkeypatch.setattr(images, "interpolate", watched)
    shown = images.resize(noise(*size), PreprocessConfig(resize=mode))
    assert shown.shape == (3, 240, 240) and shown.dtype == torch.uint8
    assert max(largest) <= 3 * 264 * 264 * 17


@pytest.mark.parametrize("spare", [0, 1])
def test_a_crop_of_a_very_long_picture_shows_its_middle(spare: int) -> None:
    # 30 to 1, small enough for the plain way to be affordable.
    pixels = noise(20, 600 + spare)
    plain = functional.center_crop(functional.resize(pixels, [264], antialias=True), [240, 240])
    difference = (images.resize(pixels, PreprocessConfig()).int() - plain.int()).abs()
    assert difference.float().mean() < 2


@pytest.mark.parametrize("size", [(1200, 1600), (1055, 3000), (4400, 4300)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_large_jpeg_decoded_at_less_than_its_size_looks_the_same(size: tuple[int, int], mode: str) -> None:
    height, width = size
    waves = torch.sin(torch.arange(width) / 400) * 60 + torch.sin(torch.arange(height)[:, None] / 250) * 60 + 128
    image = Image.fromarray(waves.byte().numpy()).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(image, "JPEG", quality=92, exif=exif)
    shown, *stored = images.load(data, PreprocessConfig())
    whole, *_ = images.load(data, PreprocessConfig(jpeg_scaling=False))
    assert stored == [width, height]
    difference = (shown.int() - whole.int()).abs().float()
    assert difference.mean() < 2 and difference.max() < 12


@pytest.mark.parametrize(
    ("side", "decoded"), [(400, 400), (1055, 1055), (1056, 528), (2111, 1056), (2112, 528), (9000, 1125)]
)
def test_a_jpeg_is_decoded_at_twice_the_needed_size_at_least(side: int, decoded: int) -> None:
    data = encode(Image.new("RGB", (side, side)), "JPEG")
    assert images.decode(data, max_pixels=10**8, least=528).pixels.shape == (3, decoded, decoded)


def test_load_decodes_resizes_and_reports_the_stored_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels, width, height = images.load(
        encode(rgb().transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif), PreprocessConfig()
    )
    assert (width, height) == (HEIGHT, WIDTH)
    assert pixels.shape == (3, 240, 240)
    assert_shows(Picture(pixels, width, height), COLOURS)


@pytest.mark.parametrize("mode", ["crop", "squash"])
def test_resized_pictures_are_contiguous_and_no_view_of_something_larger(mode: Any) -> None:
    interleaved = noise(300, 400).permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for pixels in (noise(300, 400), interleaved, interleaved.transpose(1, 2).flip(2)):
        shown = images.resize(pixels, PreprocessConfig(resize=mode))
        assert shown.is_contiguous()
        assert shown.untyped_storage().nbytes() == 3 * 240 * 240
