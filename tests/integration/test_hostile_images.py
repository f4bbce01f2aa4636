"""Small files that unfold to much, decoded by several readers in a process of bounded memory and time."""

import io

import numpy as np
import pytest
from PIL import Image, features

pytestmark = pytest.mark.slow
SIDE = 9400  # 88 megapixels, just below the limit

READ = """
import sys, threading
from pathlib import Path
from uniemox.data.pixels import Preparation
from uniemox.files.images import Unreadable, decode_image
from uniemox.files.room import ROOM

@ROOM.use()
def work(path):
    image = decode_image(path.read_bytes())
    print(path.name, image.reason if isinstance(image, Unreadable) else Preparation(224)(image).shape, flush=True)

threads = [threading.Thread(target=work, args=(path,)) for path in sorted(Path({folder!r}).iterdir()) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def zeros(kind, channels=()):
    return Image.fromarray(np.zeros((SIDE, SIDE, *channels), kind))


def scans(count):
    data = encoded(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


FILES = {
    "int32.tif": lambda: encoded(zeros(np.int32), "TIFF", compression="tiff_deflate"),
    "float32.tif": lambda: encoded(zeros(np.float32), "TIFF", compression="tiff_deflate"),
    "uint16.tif": lambda: encoded(zeros(np.uint16), "TIFF", compression="tiff_deflate"),
    "turned.tif": lambda: encoded(zeros(np.uint8, (4,)), "TIFF", compression="tiff_deflate", tiffinfo={274: 6}),
    "rgba.png": lambda: encoded(zeros(np.uint8, (4,)), "PNG"),
    "la.png": lambda: encoded(Image.new("LA", (SIDE, SIDE)), "PNG"),
    "palette.gif": lambda: encoded(Image.new("P", (SIDE, SIDE)), "GIF", transparency=0),
    "cmyk.jpg": lambda: encoded(Image.new("CMYK", (SIDE, SIDE)), "JPEG"),
    "scans.jpg": lambda: scans(3000),
    "rgba.webp": lambda: encoded(Image.new("RGBA", (SIDE, SIDE)), "WEBP", lossless=True, method=0),
    "line.png": lambda: encoded(Image.new("RGBA", (2**22, 20)), "PNG"),
}


QUICK = ("int32.tif", "scans.jpg", "cmyk.jpg")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.soak) for name in FILES]
)
def test_two_readers_of_a_file_that_unfolds_to_much_take_a_gigabyte(run_hostile, tmp_path, name):
    if name.endswith("webp") and not features.check("webp"):
        pytest.skip("this Pillow reads no WebP")
    data = FILES[name]()
    assert len(data) < 5_000_000
    (tmp_path / name).write_bytes(data)
    ended = run_hostile(READ.format(folder=str(tmp_path)))
    assert ended.returncode == 0
    assert len(ended.out.splitlines()) == 2
    assert ended.peak < 1.5 * 2**30
