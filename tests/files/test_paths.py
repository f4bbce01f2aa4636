"""Paths that are written in other ways than the files are called."""

import random
import time
import unicodedata

import pytest

from uniemox.files.paths import PathIndex, alike, clean_path, is_file, is_folder, is_there, path_key

PATHS = ["a/b.jpg", "Été/Über.JPG", "x y/z (1).png", "deep/er/c.jpg", "d.jpg"]


def test_what_can_be_no_path_is_not_there(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    for path, expected in ((tmp_path, (True, False, True)), (tmp_path / "a", (False, True, True))):
        assert (is_folder(path), is_file(path), is_there(path)) == expected
    for name in ("b", 300 * "a", 5000 * "a", "a\0", "a/b"):
        assert not any(ask(tmp_path / name) for ask in (is_folder, is_file, is_there))


def otherwise(path, generator):
    """Write a path as another system or program might."""
    changes = [
        lambda p: p.replace("/", "\\"),
        lambda p: f"./{p}",
        lambda p: f" {p} ",
        lambda p: p.upper(),
        lambda p: p.lower(),
        lambda p: p.replace("/", "//"),
        lambda p: unicodedata.normalize("NFD", p),
        lambda p: unicodedata.normalize("NFC", p),
    ]
    for change in generator.sample(changes, generator.randrange(len(changes))):
        path = change(path)
    return path


def test_a_path_is_found_however_it_is_written():
    index, generator = PathIndex(PATHS), random.Random(0)
    for _ in range(500):
        path = generator.choice(PATHS)
        text = otherwise(path, generator)
        assert index.find(text) == [path], text


def test_a_path_that_is_one_means_itself_alone():
    index = PathIndex(["a.jpg", "A.jpg", " a.jpg", "b\\c.jpg", "b/c.jpg"])
    for path in index.paths:
        assert index.find(path) == [path]
    assert index.find("a.JPG") == ["a.jpg", "A.jpg", " a.jpg"]
    assert index.find("none.jpg") == []


def test_ends_are_whole_names():
    index = PathIndex(["x/a.jpg", "x/ba.jpg", "y/x/A.jpg"])
    assert index.ending_in("a.jpg") == ["x/a.jpg", "y/x/A.jpg"]
    assert index.ending_in("y\\X/a.jpg") == ["y/x/A.jpg"]
    assert index.ending_in("z/a.jpg") == []


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("data/train/x/a.jpg", ["x/a.jpg"]),
        ("C:\\data\\y\\a.jpg", ["y/a.jpg"]),
        ("z/a.jpg", ["x/a.jpg", "y/a.jpg"]),
        ("z/b.jpg", ["x/b.jpg"]),
        ("z/c.jpg", []),
    ],
)
def test_the_longest_common_end_decides(path, found):
    assert PathIndex(["x/a.jpg", "y/a.jpg", "x/b.jpg"]).sharing_an_end(path) == found


def test_ends_are_found_in_time():
    """Frames of videos have the same names in all folders, and a hostile name any number of folders."""
    frames = [f"v{video}/f{frame}.jpg" for video in range(200) for frame in range(100)]
    started = time.monotonic()
    index = PathIndex(frames)
    for path in frames:
        assert index.ending_in(path) == [path]
        assert index.sharing_an_end(f"D:\\frames\\{path}") == [path]
    assert index.sharing_an_end("a/" * 100_000 + "v1/f1.jpg") == ["v1/f1.jpg"]
    assert time.monotonic() - started < 10  # 0.3 s; where each end was compared, the last name alone took minutes


def test_ways_to_write_a_path():
    assert clean_path(" .\\a\\\\b/../c.jpg ") == "a/c.jpg"
    assert path_key("A\\É.JPG") == path_key("a/e\u0301.jpg ")
    assert alike("Joy ") == alike("joy")
    assert alike("ẞ") == alike("ss")
