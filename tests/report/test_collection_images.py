"""The images of a collection: those that are found, framed and small."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from uniemox.inference.collection import Population, Shown
from uniemox.report.collection_images import Images, show_strange


def row(path, **more):
    return Shown(path, more.get("time"), more.get("box"), "awe", 0.9, 0.5)


@pytest.fixture
def white(tmp_path):
    Image.new("RGB", (600, 300), "white").save(tmp_path / "white.png")
    return Images(tmp_path)


def test_an_image_is_small_and_upright(white):
    assert white.show(row("white.png")).shape == (120, 240, 3)
    assert white.describe() == "all 1 found"


def test_images_that_are_gone_are_counted(white):
    assert white.show(row("absent.png")) is white.show(row("")) is None
    white.show(row("white.png"))
    assert white.describe() == "1 of 3 found: relative paths start from the working directory, or from --root"


@pytest.mark.parametrize(
    ("box", "is_framed"),
    [
        ((100, 50, 400, 250), True),
        ((-1e300, -5, 1e300, 200), True),
        ((float("nan"), 0, 5, 5), False),
        ((400, 50, 100, 250), False),
        ((700, 10, 900, 20), False),
    ],
)
def test_a_person_is_framed_whatever_edges_a_table_gives(white, box, is_framed):
    shown = white.show(row("white.png", box=tuple(map(float, box))))
    assert (shown != 255).any() == is_framed


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg on this machine")
def test_a_frame_of_a_video_is_shown(tmp_path):
    raw = b"".join(np.full((48, 64, 3), 20 * second, np.uint8).tobytes() for second in range(10))
    size = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x48", "-r", "1", "-i", "-")
    words = ["ffmpeg", "-loglevel", "error", "-y", *size, "-c:v", "ffv1", tmp_path / "a.mkv"]
    subprocess.run(words, input=raw, check=True)
    images = Images(tmp_path)
    assert abs(images.show(row("a.mkv", time=4.0)).mean() - 80) < 3
    assert images.show(row("a.mkv", time=400.0)) is images.show(row("absent.mkv", time=1.0)) is None
    assert images.found == 1


def test_the_least_familiar_are_shown_with_their_distance(white):
    population = Population([], unfamiliar=1, measured=3)
    assert list(show_strange(population, white)) == []
    population.strange.rows = [row("white.png")]
    (section,) = show_strange(population, white)
    (tile,) = section.blocks[0].groups[0].tiles
    assert (tile.text, tile.badge) == ("distance 0.50", "awe")
    assert "1 of 3 answers" in section.text
