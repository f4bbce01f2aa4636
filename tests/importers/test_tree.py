"""The files below a root."""

import os

import pytest

from uniemox.importers.tree import Tree
from uniemox.manifests.findings import Findings


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path, Findings())


def kinds_of(tree):
    return {problem.kind: problem.count for problem in tree.findings.problems()}


def test_a_path_is_found_in_any_case_and_as_given_first(trees, tmp_path, tree):
    trees.touch(tmp_path / "Labels" / "List.CSV")
    trees.touch(tmp_path / "IMAGES" / "x")
    trees.touch(tmp_path / "images" / "x")
    assert tree.find("labels/list.csv", "file") == "Labels/List.CSV"
    assert tree.find("images", "folder") == "images"
    assert tree.find("labels", "file") is None
    assert tree.find("labels/none", "file") is None


def test_names_that_clash_on_other_systems_are_counted_once_each(trees, tmp_path, tree):
    for name in ("a.jpg", "A.jpg", "A.JPG", "caf\u00e9.jpg", "cafe\u0301.jpg", "b.jpg"):
        trees.touch(tmp_path / "x" / name)
    assert len(list(tree.images("x"))) == 6
    assert kinds_of(tree) == {"names that differ only in case": 3}
    assert tree.findings.problems()[0].example == "x/A.JPG and A.jpg"


@pytest.mark.parametrize(("path", "relative"), [("{root}/a/b.jpg", "a/b.jpg"), ("/etc/passwd", "/etc/passwd")])
def test_paths_of_tables_become_relative_where_they_can(tmp_path, tree, path, relative):
    assert tree.relative(path.format(root=tmp_path)) == relative


@pytest.mark.parametrize(
    "path", ["a\\b.jpg", " a/b.jpg", "./a//b.jpg ", ".\\a\\b.jpg", "A/B.JPG", "{root}\\a\\b.jpg", "{root}/A/b.jpg "]
)
def test_a_path_means_the_one_file_that_is_written_like_it(trees, tmp_path, tree, path):
    trees.touch(tmp_path / "a" / "b.jpg")
    assert tree.listed_image(path.format(root=tmp_path), where="line 1") == "a/b.jpg"
    assert kinds_of(tree) == {}


def test_a_path_that_two_files_are_written_like_is_told(trees, tmp_path, tree):
    trees.touch(tmp_path / "a" / "b.jpg")
    trees.touch(tmp_path / "a" / "B.jpg")
    assert tree.listed_image("a/B.JPG", where="line 1") is None
    assert "path that several files are written like" in kinds_of(tree)
    assert tree.listed_image("a/B.jpg", where="line 2") == "a/B.jpg"


def test_accents_are_found_in_either_form(trees, tmp_path, tree):
    trees.touch(tmp_path / "caf\u00e9" / "e\u0301.jpg")
    assert tree.listed_image("cafe\u0301/\u00e9.jpg", where="") == "caf\u00e9/e\u0301.jpg"


def test_a_backslash_that_is_part_of_a_name_stays(trees, tmp_path, tree):
    trees.touch(tmp_path / "a\\b.jpg")
    assert tree.listed_image("a\\b.jpg", where="") == "a\\b.jpg"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("none.jpg", "listed image that does not exist"),
        ("notes.txt", "file that is no image"),
        ("../x.jpg", "path that leaves the root"),
        ("/x.jpg", "path that leaves the root"),
        ("out/x.jpg", "path that leaves the root"),
    ],
)
def test_a_listed_path_that_is_no_picture_of_the_root_is_counted(trees, tmp_path, path, kind):
    root = tmp_path / "root"
    trees.touch(root / "notes.txt")
    trees.touch(tmp_path / "elsewhere" / "x.jpg")
    (root / "out").symlink_to(tmp_path / "elsewhere")
    tree = Tree(root, Findings())
    assert tree.listed_image(path, where="line 1") is None
    assert kinds_of(tree) == {kind: 1}


def test_odd_names_are_names(trees, tmp_path, tree):
    names = ["a b.jpg", "ü, \"x'.jpg", "-rf.png", "%41.jpg", "日本.webp", "a\tb.gif", "*.jpg"]
    for name in names:
        trees.touch(tmp_path / "x" / name)
    assert list(tree.images("x")) == sorted(f"x/{name}" for name in names)
    assert tree.findings.problems() == ()


def test_a_name_that_is_no_text_is_counted(tmp_path, tree):
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).touch()
    assert list(tree.names("")) == []
    assert kinds_of(tree) == {"file name that is not UTF-8": 1}
