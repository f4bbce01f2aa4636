"""The decoder of images, on files made here and compared with the pixels that were painted."""

import io
import os
import random
import resource
import struct
import sys
import threading
import time
import types
import warnings
import zlib
from datetime import date

import numpy as np
import pytest
from PIL import Image, ImageFile

from uniemox.files import images
from uniemox.files.images import (
    Unreadable,
    admitting,
    adopt_image,
    decode_image,
    decode_picture,
    explain_ending,
    is_image_name,
    read_date,
    read_file,
    read_image,
    read_size,
)

LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}, "GIF": {}}
TURNS = {
    # EXIF orientation: the image as it should be seen, made of the stored one (EXIF 2.3, 4.6.4 A), in plain NumPy.
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def paint(height=20, width=30):
    """Four plain quarters: few colours, so that a palette holds them, and no two ways up look alike."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (200, 30, 60)
    pixels[: height // 2, width // 2 :] = (10, 120, 250)
    pixels[height // 2 :, : width // 2] = (255, 255, 0)
    pixels[height // 2 :, width // 2 :] = (0, 80, 20)
    return pixels


def encode(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels_of(data, **limits):
    image = decode_image(data, **limits)
    assert not isinstance(image, Unreadable), image
    assert image.mode == "RGB"
    return np.asarray(image)


def reason_of(data, **limits):
    result = decode_image(data, **limits)
    assert isinstance(result, Unreadable), result
    assert "\n" not in result.reason
    assert "0x" not in result.reason
    return result.reason


@pytest.mark.parametrize("form", LOSSLESS)
def test_a_lossless_picture_is_read_as_painted(form):
    data = encode(Image.fromarray(paint()), form, **LOSSLESS[form])
    assert np.array_equal(pixels_of(data), paint())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_is_read_as_painted_within_its_loss(options):
    data = encode(Image.fromarray(paint(64, 96)), "JPEG", quality=95, **options)
    difference = np.abs(pixels_of(data).astype(int) - paint(64, 96))
    assert np.median(difference) <= 2


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_picture_is_set_upright(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, **LOSSLESS}[form]
    data = encode(Image.fromarray(paint(32, 48)), form, exif=exif, **options)
    upright = TURNS[orientation](paint(32, 48))
    found = pixels_of(data)
    assert found.shape == upright.shape
    assert np.median(np.abs(found.astype(int) - upright)) <= 2


def test_a_picture_carries_no_metadata_that_could_turn_it_again():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode_image(encode(Image.fromarray(paint()), "JPEG", exif=exif))
    assert image.info == {}
    assert image.getexif().get(0x0112) is None


def test_damaged_metadata_does_not_make_a_picture_unreadable():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(paint()), "JPEG", exif=exif)
    start = data.index(b"Exif\x00\x00") + 6
    for noise in (b"\xff" * 8, b"II*\x00\xff\xff\xff\x7f", b"MM\x00\x2a\x00\x00\x00\x08"):
        assert pixels_of(data[:start] + noise + data[start + 8 :]).shape[2] == 3


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_does_not_exist_leaves_the_picture(value):
    exif = Image.Exif()
    exif[0x0112] = value
    data = encode(Image.fromarray(paint()), "PNG", exif=exif)
    assert np.array_equal(pixels_of(data), paint())


def over_white(colours, alpha):
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_transparent_pixels_are_laid_over_white(form):
    alpha = np.linspace(0, 255, 30, dtype=np.uint8)[None].repeat(20, 0)
    data = encode(Image.fromarray(np.dstack([paint(), alpha])), form, **LOSSLESS[form])
    assert np.abs(pixels_of(data) - over_white(paint(), alpha)).max() <= 1


def test_grey_with_alpha_is_laid_over_white():
    grey, alpha = np.full((4, 4), 100, np.uint8), np.full((4, 4), 51, np.uint8)
    data = encode(Image.fromarray(np.dstack([grey, alpha]), "LA"), "PNG")
    assert np.abs(pixels_of(data).astype(int) - 224).max() <= 1  # 100 · 0.2 + 255 · 0.8


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_is_white(form):
    picture = Image.fromarray(paint()).quantize(4)
    key = picture.getpixel((0, 0))
    found = pixels_of(encode(picture, form, transparency=key))
    expected = paint()
    expected[:10, :15] = 255
    assert np.array_equal(found, expected)


def test_a_palette_with_alpha_for_each_colour_is_laid_over_white():
    picture = Image.fromarray(paint()).quantize(4)
    alpha = bytes(51 if i == picture.getpixel((0, 0)) else 255 for i in range(4))
    found = pixels_of(encode(picture, "PNG", transparency=alpha))
    expected = paint().astype(float)
    expected[:10, :15] = over_white(expected[:10, :15], np.full((10, 15), 51.0))
    assert np.abs(found - expected).max() <= 1


def test_a_transparent_colour_of_an_rgb_picture_is_white():
    data = encode(Image.fromarray(paint()), "PNG", transparency=(200, 30, 60))
    expected = paint()
    expected[:10, :15] = 255
    assert np.array_equal(pixels_of(data), expected)


def test_a_palette_without_transparency_keeps_its_colours():
    data = encode(Image.fromarray(paint()).quantize(4), "PNG")
    assert np.array_equal(pixels_of(data), paint())


def test_grey_of_8_bits_and_of_1_bit_keep_their_values():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(pixels_of(encode(Image.fromarray(ramp), "PNG")), np.dstack([ramp] * 3))
    board = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)
    data = encode(Image.fromarray(board).convert("1"), "PNG")
    assert np.array_equal(pixels_of(data)[..., 0], board)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled_from_its_full_range(form):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    data = encode(Image.fromarray(ramp * 257), form)
    assert np.array_equal(pixels_of(data)[..., 1], ramp)


def test_dark_grey_of_16_bits_stays_dark():
    data = encode(Image.fromarray(np.full((4, 4), 300, np.uint16)), "PNG")
    assert pixels_of(data).max() == 1  # 300 / 257


def test_a_transparent_value_of_16_bits_is_white():
    values = np.array([[0, 257], [514, 65535]], np.uint16)
    picture = png(2, 2, depth=16, rows=values.astype(">u2").tobytes(), chunks=[(b"tRNS", b"\x02\x02")])
    assert pixels_of(picture)[..., 0].tolist() == [[0, 1], [255, 255]]


def test_colours_of_16_bits_become_their_upper_half():
    values = (np.arange(12, dtype=np.uint16) * 257 * 20).reshape(2, 2, 3)
    picture = png(2, 2, depth=16, colour=2, rows=values.astype(">u2").tobytes())
    assert np.array_equal(pixels_of(picture), np.arange(12).reshape(2, 2, 3) * 20)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_grey_of_32_bits_is_refused_since_its_range_is_not_known(dtype):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype))
    assert reason_of(encode(image, "TIFF")) == "grey of 32 bits, but only up to 16 bits are read"
    assert adopt_image(image) == Unreadable("grey of 32 bits, but only up to 16 bits are read")


def test_a_tiff_of_12_bits_is_white_at_4095():
    # Two values in three bytes.
    packed = bytes([0xFF, 0xF0, 0x00, 0x80, 0x00, 0x00])
    data = tiff({256: 2, 257: 2, 258: 12, 259: 1, 262: 1, 277: 1, 278: 2}, packed)
    assert pixels_of(data)[..., 0].tolist() == [[255, 0], [128, 0]]


def test_a_tiff_whose_zero_is_white_is_turned_around():
    packed = np.array([[0, 65535], [257, 65278]], "<u2").tobytes()
    data = tiff({256: 2, 257: 2, 258: 16, 259: 1, 262: 0, 277: 1, 278: 2}, packed)
    assert pixels_of(data)[..., 0].tolist() == [[255, 0], [254, 1]]


def test_cmyk_becomes_rgb():
    # Cyan takes red away, black takes all.
    inks = np.zeros((16, 32, 4), np.uint8)
    inks[:, :16, 0] = 255
    inks[:, 16:, 3] = 255
    for form, options in (("TIFF", {}), ("JPEG", {"quality": 95})):
        found = pixels_of(encode(Image.fromarray(inks, "CMYK"), form, **options)).astype(int)
        assert np.abs(found[:, 2:14] - (0, 255, 255)).max() <= 4
        assert found[:, 18:].max() <= 4


def test_a_cmyk_jpeg_is_taken_as_adobe_stores_it_with_or_without_its_mark():
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., 0] = 255
    data = encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=95)
    start = data.index(b"\xff\xee\x00\x0eAdobe")
    without = data[:start] + data[start + 16 :]
    for variant in (data, without):
        assert np.abs(pixels_of(variant).astype(int) - (0, 255, 255)).max() <= 4


def test_a_tiff_in_lab_becomes_rgb():
    # L* = 128 / 2.55 without colour is Y = .1867, and sRGB 120, by the formulas of CIE 15 and IEC 61966.
    data = encode(Image.new("LAB", (4, 4), (128, 128, 128)), "TIFF")
    assert np.abs(pixels_of(data).astype(int) - 120).max() <= 2


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_read(form):
    first = Image.fromarray(paint())
    others = [Image.new("RGB", first.size, (9, 9, 9)), Image.new("RGB", first.size, (99, 9, 9))]
    data = encode(first, form, save_all=True, append_images=others, **LOSSLESS[form])
    assert np.array_equal(pixels_of(data), paint())


def test_an_empty_file_says_so():
    assert reason_of(b"") == "empty file"


@pytest.mark.parametrize("data", [b"x", b"hello, this is a text", bytes(500), b"BMX is a sport of cycling."])
def test_what_is_no_picture_says_so(data):
    assert reason_of(data) == "not an image"


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\x00\x00\x00\x20ftypavif", "AVIF"),
        (b"\x00\x00\x00\x18ftypheic", "HEIC"),
        (b"\x00\x00\x00\x18ftypmp42", "MP4"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a", "JPEG XL"),
        (b"8BPS\x00\x01", "Photoshop"),
        (b"\x00\x00\x01\x00\x01\x00", "icon"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"%PDF-1.7", "PDF"),
        (b"P6\n2 2\n255\n", "PNM"),
        (b"qoif", "QOI"),
        (b"PK\x03\x04", "zip"),
        (b"RIFF\x00\x00\x00\x00WAVE", "RIFF"),
        (b"<?xml version='1.0'?><SVG xmlns=''>", "SVG"),
        (b"<!DOCTYPE html><title>Not found</title>", "web page"),
        (b"\n<HTML>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_other_formats_are_refused_by_name(start, name):
    assert reason_of(start + bytes(64)).removeprefix("damaged ").startswith(name)


def test_formats_that_pillow_could_read_are_refused_all_the_same():
    for form in ("PPM", "ICO", "JPEG2000", "PCX", "TGA"):
        reason_of(encode(Image.fromarray(paint()), form))


@pytest.mark.parametrize("form", ["JPEG", *LOSSLESS])
def test_a_truncated_picture_is_a_reason_wherever_it_ends(form):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), form, **LOSSLESS.get(form, {}))
    for length in range(1, len(data) * 3 // 4, max(1, len(data) // 60)):
        reason_of(data[:length])


def test_what_others_told_pillow_about_truncated_files_is_left_alone(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    decode_image(encode(Image.fromarray(paint()), "PNG")[:60])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_noise_in_a_file_gives_a_picture_or_a_reason():
    generator = random.Random(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    # TIFF is left out: its C library reports damage on stderr as well, which only fills the log of the tests.
    files = [
        encode(noise, "JPEG", exif=exif),
        encode(noise, "PNG", exif=exif),
        encode(noise, "WEBP", exif=exif),
        encode(noise.quantize(9), "GIF"),
        encode(noise.quantize(9), "BMP"),
    ]
    for _ in range(3000):
        data = bytearray(generator.choice(files))
        end = generator.choice((60, 200, len(data)))
        for _ in range(generator.randrange(1, 9)):
            data[generator.randrange(min(end, len(data)))] = generator.randrange(256)
        result = decode_image(bytes(data), max_pixels=10_000)
        assert isinstance(result, Unreadable) or result.mode == "RGB"


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width, height, *, depth=8, colour=0, rows=b"", chunks=()):
    """A PNG by hand: its header may promise what is not there."""
    stride = len(rows) // height if rows else 0
    lines = b"".join(b"\x00" + rows[i : i + stride] for i in range(0, len(rows), stride or 1))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(tags, strip):
    """A TIFF of one strip by hand."""
    entries = {**tags, 273: 8, 279: len(strip)}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, entries[tag]) for tag in sorted(entries))
    start = 8 + len(strip)
    head = struct.pack("<2sHI", b"II", 42, start)
    return head + strip + struct.pack("<H", len(entries)) + table + bytes(4)


@pytest.mark.parametrize(
    "bomb",
    [
        png(30_000, 30_000),
        png(10_000, 9_000),
        png(2**31 - 1, 2**31 - 1),
        tiff({256: 60_000, 257: 60_000, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}, bytes(64)),
        struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b"\x2c" + bytes(20),
    ],
    ids=["png", "png, below the limit of pillow's error", "png, largest", "tiff", "bmp", "gif"],
)
def test_a_bomb_is_refused_without_being_decoded(bomb):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "pixels" in reason_of(bomb) or "limit" in reason_of(bomb)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000  # kB; the smallest of these would be 90 MB as grey and 270 MB as RGB


def test_a_bomb_inside_the_metadata_is_harmless():
    text = b"Comment\x00\x00" + zlib.compress(bytes(300_000_000), 9)
    bomb = png(1, 1, rows=b"\x07", chunks=[(b"zTXt", text)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = decode_image(bomb)
    assert isinstance(result, Unreadable) or np.asarray(result).max() == 7
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_the_limit_of_pixels_is_the_last_size_that_passes():
    data = encode(Image.fromarray(paint(20, 30)), "PNG")
    assert pixels_of(data, max_pixels=600).shape == (20, 30, 3)
    assert reason_of(data, max_pixels=599) == "30 x 20 pixels, over the limit of 599 (max_pixels)"


def test_a_shrunken_jpeg_keeps_its_short_side_and_its_look():
    large = np.asarray(Image.fromarray(paint(20, 30)).resize((600, 400), Image.Resampling.NEAREST))
    data = encode(Image.fromarray(large), "JPEG", quality=95)
    for side, height in ((500, 400), (400, 400), (200, 200), (150, 200), (100, 100), (10, 50)):
        found = pixels_of(data, shrink_to=side)
        assert found.shape == (height, height * 3 // 2, 3)
        exact = np.asarray(Image.fromarray(large).resize((height * 3 // 2, height)))
        assert np.median(np.abs(found.astype(int) - exact)) <= 4


def test_shrinking_leaves_other_formats_as_they_are():
    data = encode(Image.fromarray(paint()), "PNG")
    assert np.array_equal(pixels_of(data, shrink_to=2), paint())


def test_a_shrunken_picture_is_upright_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("RGB", (800, 400)), "JPEG", exif=exif)
    assert decode_image(data, shrink_to=100).size == (100, 200)


def test_a_file_is_read_like_its_bytes(tmp_path):
    path = tmp_path / "picture.txt"  # the name tells nothing
    path.write_bytes(encode(Image.fromarray(paint()), "PNG"))
    assert np.array_equal(np.asarray(read_image(path)), paint())
    assert read_image(path, max_pixels=10).reason.endswith("over the limit of 10 (max_pixels)")


def test_a_file_over_the_limit_of_bytes_is_not_opened(tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: a TiB of nothing
    assert read_image(path).reason == f"{2**40} bytes, over the limit of {256 * 2**20}"


def test_a_path_that_is_no_file_is_a_reason(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert read_image(tmp_path / "absent.jpg").reason == "no such file or directory"
    assert read_image(tmp_path).reason == "not a file"
    assert read_image(tmp_path / "pipe.jpg").reason == "not a file"
    assert "symbolic links" in read_image(tmp_path / "loop.jpg").reason
    assert read_image(tmp_path / "a\0b.jpg").reason == "not a file name"
    assert read_image(tmp_path / ("x" * 300)).reason == "file name too long"


def test_no_warning_comes_out_and_the_filters_are_as_before():
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        during = list(warnings.filters)
        decode_image(png(10_000, 9_000))  # Pillow warns of bombs above 89 million pixels
        assert list(warnings.filters) == during
    assert caught == []
    assert list(warnings.filters) == before


def test_threads_that_decode_together_leave_the_filters_as_they_were():
    before = list(warnings.filters)
    data = encode(Image.fromarray(paint()), "PNG")
    threads = [threading.Thread(target=lambda: [decode_image(data) for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_pillow_s_settings_are_left_alone():
    settings = lambda: (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)  # noqa: E731
    before = settings()
    decode_image(png(30_000, 30_000))
    pixels_of(encode(Image.fromarray(paint()), "TIFF"))
    assert settings() == before


@pytest.mark.parametrize(("orientation", "size"), [(1, (800, 500)), (3, (800, 500)), (8, (500, 800))])
def test_the_size_of_the_whole_upright_picture_is_told_of_a_reduced_one(orientation, size):
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.new("RGB", (800, 500)).save(buffer, "JPEG", exif=exif)
    decoded = decode_picture(buffer.getvalue(), shrink_to=100)
    assert (decoded.width, decoded.height) == size
    assert max(decoded.image.size) == 200


def test_a_file_is_read_whole_or_the_reason_is_told(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_file(path) == b"12345"
    assert read_file(path, max_bytes=4) == Unreadable("5 bytes, over the limit of 4")
    assert read_file(tmp_path) == Unreadable("not a file")


# Images in memory


def adopted(image, **limits):
    found = adopt_image(image, **limits)
    assert not isinstance(found, Unreadable), found
    assert (found.mode, found.info) == ("RGB", {})
    return np.asarray(found)


IN_MEMORY = {
    "grey of 16 bits": Image.fromarray((np.arange(600) * 100).astype(np.uint16).reshape(20, 30)),
    "transparent": Image.fromarray(np.dstack([paint(), np.full((20, 30), 90, np.uint8)])),
    "palette": Image.fromarray(paint()).convert("P"),
    "grey": Image.fromarray(paint()).convert("L"),
    "two colours": Image.fromarray(paint()).convert("1"),
}


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_an_image_in_memory_is_read_as_its_file_would_be(kind):
    image = IN_MEMORY[kind]
    assert np.array_equal(adopted(image), pixels_of(encode(image, "PNG")))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("state", ["opened", "loaded", "copied", "converted"])
def test_an_opened_image_is_set_upright_once(form, orientation, state):
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else LOSSLESS[form]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(paint()), form, exif=exif, **options)
    image = Image.open(io.BytesIO(data))
    match state:
        case "loaded":
            image.load()
        case "copied":
            image = image.copy()
        case "converted":
            image = image.convert("RGB")
    upright = pixels_of(data)
    assert np.array_equal(adopted(image), upright)
    assert np.array_equal(adopted(Image.fromarray(adopted(image))), upright)


def test_the_image_of_the_caller_stays_as_it_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encode(Image.fromarray(paint()), "PNG", exif=exif)))
    image.load()
    before = image.tobytes(), image.size, dict(image.info)
    adopted(image).sum()
    assert (image.tobytes(), image.size, dict(image.info)) == before
    plain = Image.fromarray(paint())
    assert adopt_image(plain) is not plain


def test_arrays_are_images():
    colours = paint()
    grey = colours[..., 0]
    assert np.array_equal(adopted(colours), colours)
    assert np.array_equal(adopted(colours[::-1, ::2]), colours[::-1, ::2])
    for array in (grey, grey[..., None]):
        assert np.array_equal(adopted(array), np.repeat(grey[..., None], 3, axis=2))
    alpha = np.dstack([colours, np.full(grey.shape, 90, np.uint8)])
    assert np.array_equal(adopted(alpha), pixels_of(encode(Image.fromarray(alpha), "PNG")))


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((4, 5, 3)), "array of float64 and shape (4, 5, 3), but only uint8 of"),
        (np.zeros((4, 5), bool), "array of bool and shape (4, 5), but only uint8 of"),
        (np.zeros((4, 5, 2), np.uint8), "array of uint8 and shape (4, 5, 2), but only"),
        (np.zeros((3, 40, 50), np.uint8), "array of uint8 and shape (3, 40, 50), but only"),
        (np.zeros((2, 4, 5, 3), np.uint8), "array of uint8 and shape (2, 4, 5, 3), but only"),
        (np.zeros(5, np.uint8), "array of uint8 and shape (5,), but only"),
        (np.array(5, np.uint8), "array of uint8 and shape (), but only"),
        (np.zeros((0, 5, 3), np.uint8), "empty image"),
    ],
)
def test_an_array_that_is_no_image_is_a_reason(array, told):
    found = adopt_image(array)
    assert isinstance(found, Unreadable)
    assert found.reason.startswith(told)


def test_an_opened_image_that_cannot_be_read_is_a_reason():
    data = encode(Image.effect_noise((40, 40), 50), "PNG")
    cut = Image.open(io.BytesIO(data[: len(data) // 2]))
    closed = Image.open(io.BytesIO(data))
    closed.close()
    for image in (cut, closed):
        found = adopt_image(image)
        assert isinstance(found, Unreadable)
        assert found.reason.startswith("damaged image: ")
        assert "\n" not in found.reason


def test_an_opened_bomb_is_refused_without_being_decoded():
    image = Image.open(io.BytesIO(png(60_000, 1_000, rows=b"")))
    found = adopt_image(image, max_pixels=10_000_000)
    assert isinstance(found, Unreadable)
    assert found.reason == "60000 x 1000 pixels, over the limit of 10000000 (max_pixels)"


# Formats that not every Pillow reads


def test_an_avif_is_read_where_pillow_can():
    Image.init()
    if "AVIF" not in Image.OPEN:
        pytest.skip("this Pillow reads no AVIF")
    assert explain_ending("a.AVIF") is None
    found = pixels_of(encode(Image.fromarray(paint()), "AVIF", quality=100, subsampling="4:4:4"))
    assert np.abs(found.astype(int) - paint()).max() <= 6


def test_of_a_picture_of_several_views_the_first_is_read():
    first, second = Image.fromarray(paint()), Image.fromarray(paint()[::-1].copy())
    data = encode(first, "MPO", save_all=True, append_images=[second], quality=95, subsampling=0)
    assert np.abs(pixels_of(data).astype(int) - paint()).max() <= 12


HEIC = b"\x00\x00\x00\x18ftypheic" + bytes(64)


class Plugged(ImageFile.ImageFile):
    """Stands for a plug-in's reader of HEIC: one plain colour."""

    format = "HEIF"

    def _open(self):
        self._mode, self._size = "RGB", (30, 20)

    def load(self):
        self.im = Image.new("RGB", self.size, (1, 2, 3)).im
        return self.im.pixel_access(False)


@pytest.fixture
def fresh(monkeypatch):
    """Forget which plug-ins were looked for, before and after."""
    images._if_plugged.cache_clear()
    yield monkeypatch
    for known in (Image.OPEN, Image.MIME, Image.EXTENSION):
        known.pop("HEIF", None)
    if "HEIF" in Image.ID:
        Image.ID.remove("HEIF")
    images._if_plugged.cache_clear()


def test_a_heic_is_read_by_an_installed_plug_in(fresh):
    module = types.ModuleType("pillow_heif")
    module.register_heif_opener = lambda: Image.register_open("HEIF", Plugged, lambda start: b"ftyp" in start)
    fresh.setitem(sys.modules, "pillow_heif", module)
    assert (pixels_of(HEIC) == (1, 2, 3)).all()
    assert explain_ending("a.heic") is None


@pytest.mark.parametrize(
    ("start", "name", "package"),
    [
        (HEIC, "a.heic", "HEIC, which is read only if pillow-heif is installed: install it, or convert it"),
        (b"\xff\x0a" + bytes(64), "a.jxl", "JPEG XL, which is read only if pillow-jxl-plugin is installed"),
    ],
)
@pytest.mark.parametrize("broken", [None, "half"])
def test_without_the_plug_in_it_is_named(fresh, start, name, package, broken):
    """A plug-in that is installed by half is none."""
    for module in ("pillow_heif", "pillow_jxl"):
        half = types.ModuleType(module)
        half.register_heif_opener = lambda: 1 // 0
        fresh.setitem(sys.modules, module, None if broken is None or module == "pillow_jxl" else half)
    assert reason_of(start).startswith(package)
    assert explain_ending(name).startswith(package)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("a.JPeG", True), ("a.heic", True), ("a.b/c.mpo", True), ("jpg", False), (".jpg", False), ("a.txt", False)],
)
def test_images_are_told_by_their_names(name, is_one):
    assert is_image_name(name) == is_one


# Size without decoding


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_of_an_upright_image_is_read_without_decoding_it(tmp_path, monkeypatch, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image"
    path.write_bytes(encode(Image.fromarray(paint()), form, exif=exif))
    expected = read_image(path).size
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    assert read_size(path) == expected


def test_the_size_of_what_is_no_image_is_a_reason(tmp_path):
    (tmp_path / "a").write_bytes(b"no image")
    assert read_size(tmp_path / "a") == Unreadable("not an image")
    assert read_size(tmp_path / "b") == Unreadable("no such file or directory")


# Work that a file asks for


def scans_of(data, count):
    """Repeat the last scan of a progressive JPEG, which refines what it has refined before."""
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


@pytest.mark.parametrize("size", [(30, 20), (640, 480)])
def test_a_progressive_jpeg_is_read_as_encoders_write_it(size):
    image = Image.fromarray(paint(size[1], size[0]))
    data = encode(image, "JPEG", progressive=True, quality=95, subsampling=0)
    assert 2 < images._count_scans(data) < 15
    assert np.abs(pixels_of(data).astype(int) - paint(size[1], size[0])).max() <= 40


def test_a_jpeg_of_thousands_of_scans_is_refused_in_time():
    data = scans_of(encode(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True), 3000)
    start = time.monotonic()
    assert reason_of(data) == "a JPEG of 4000 x 4000 pixels in 101 scans, which would take minutes"
    assert time.monotonic() - start < 5


def test_markers_in_metadata_and_in_a_video_behind_the_image_are_no_scans():
    image = Image.fromarray(paint())
    noise = np.random.default_rng(0).integers(0, 256, 2_000_000, np.uint8).tobytes()
    data = encode(
        image, "JPEG", progressive=True, exif=b"Exif\x00\x00" + b"\xff\xda" * 9000, comment=b"\xff\xda" * 9000
    )
    assert images._count_scans(data + noise) == images._count_scans(encode(image, "JPEG", progressive=True))


def test_strips_give_the_pixels_of_the_whole(monkeypatch):
    """Transparent and deep pictures are converted strip by strip where they are large."""
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (37, 29, 4), np.uint8), "RGBA"),
        Image.fromarray(rng.integers(0, 256, (37, 29, 2), np.uint8), "LA"),
        Image.fromarray(rng.integers(0, 65536, (37, 29), np.uint16)),
    ]
    for picture in pictures:
        whole = pixels_of(encode(picture, "PNG"))
        with monkeypatch.context() as patch:
            patch.setattr(images, "_STRIP", 29 * 5)
            np.testing.assert_array_equal(pixels_of(encode(picture, "PNG")), whole)


def test_an_image_is_as_large_as_was_admitted():
    data = encode(Image.new("L", (300, 200)), "PNG")
    before = images.admitted_pixels()
    with admitting(59_999):
        assert reason_of(data) == "300 x 200 pixels, over the limit of 59999 (max_pixels)"
        with admitting(None):
            assert images.admitted_pixels() == 59_999
        assert decode_image(data, max_pixels=60_000).size == (300, 200)
    assert images.admitted_pixels() == before == images.MAX_PIXELS
    with admitting(10**9):
        assert images.admitted_pixels() == 10**9


# Dates


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_the_day_on_which_an_image_was_taken_is_read(tmp_path, ending):
    exif = Image.Exif()
    exif[0x8769] = {0x9003: "2024:02:29 23:59:59"}
    Image.new("RGB", (8, 8)).save(tmp_path / f"a.{ending}", exif=exif)
    assert read_date(tmp_path / f"a.{ending}") == date(2024, 2, 29)


@pytest.mark.parametrize("stated", ["", "0000:00:00 00:00:00", "2024:13:01 00:00:00", "yesterday", "2024"])
def test_a_day_that_is_none_is_no_day(tmp_path, stated):
    exif = Image.Exif()
    exif[0x8769] = {0x9003: stated}
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    assert read_date(tmp_path / "a.jpg") is None


def test_what_is_no_image_was_taken_on_no_day(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    assert read_date(tmp_path / "a.jpg") is read_date(tmp_path / "absent.jpg") is None
