"""The images below a folder."""

from pathlib import Path

import pytest

from uniemox.files.walk import find_images_below, is_clutter

CLUTTER = ["@eaDir", "$RECYCLE.BIN", "lost+found", ".thumbnails", ".ipynb_checkpoints", "__MACOSX", ".git", "#recycle"]


def fail(error):
    raise error


def below(folder):
    found = find_images_below(folder, refuse=fail)
    return [[path.relative_to(folder).as_posix() for path in paths] for paths in found]


@pytest.fixture
def touch(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def test_images_are_found_by_their_names_in_order(touch):
    root = touch("b.jpg", "a/z.PNG", "a/b/c.HEIC", "d.mpo", "e.avif", "f.jxl", "notes.txt", "a/list.csv")
    assert below(root) == [["a/b/c.HEIC", "a/z.PNG", "b.jpg", "d.mpo", "e.avif", "f.jxl"], []]


@pytest.mark.parametrize("name", [*CLUTTER, *map(str.upper, CLUTTER), *map(str.lower, CLUTTER)])
@pytest.mark.parametrize("depth", [0, 2])
def test_what_a_system_keeps_is_left_out_and_named(touch, name, depth):
    place = "/".join(["x"] * depth)
    root = touch(*(f"{place}/{path}".lstrip("/") for path in ("a.jpg", f"{name}/a.jpg", f"{name}/b/c.jpg")))
    assert below(root) == [[f"{place}/a.jpg".lstrip("/")], [f"{place}/{name}".lstrip("/")]]


def test_a_mac_s_shadow_of_an_image_is_none(touch):
    assert below(touch("a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db")) == [["a.jpg"], ["._a.jpg"]]


def test_a_hidden_folder_that_is_asked_for_is_looked_into(touch):
    touch(".mine/a.jpg")
    assert below(touch() / ".mine") == [["a.jpg"], []]


def test_names_that_only_resemble_clutter_are_the_user_s(touch):
    names = ["eaDir", "recycle", "found", "MACOSX", "thumbnails", "system", "desktop.ini.jpg"]
    assert not any(map(is_clutter, names))


def test_a_folder_that_cannot_be_listed_is_told(touch):
    told = []
    find_images_below(touch() / "absent", refuse=told.append)
    assert [type(error) for error in told] == [FileNotFoundError]


def test_links_to_folders_are_not_followed(touch):
    root = touch("a/b.jpg")
    (root / "a" / "round").symlink_to(root, target_is_directory=True)
    assert below(root)[0] == ["a/b.jpg"]
    assert Path(root / "a" / "round" / "a" / "b.jpg").exists()
