"""Folders named by class, and by split and class."""

import os
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from uniemox.errors import ConfigError, DataError
from uniemox.importers.importing import import_dataset
from uniemox.importers.specs import get_spec

FI = get_spec("fi").classes


def test_class_folders_are_cut_per_class(trees, look, tmp_path):
    trees.folders(tmp_path, FI, 40)
    manifest = import_dataset("fi", tmp_path).manifest
    assert manifest.split_counts() == {"train": 256, "val": 16, "test": 48}
    for row in look.rows(manifest):
        assert FI[row.label] == row.path.parent.name
        assert row.path.is_file()
    counts = Counter((row.label, row.split) for row in look.rows(manifest))
    assert set(counts.values()) == {32, 2, 6}


def test_rows_stand_split_after_split(trees, look, tmp_path):
    trees.folders(tmp_path, FI, 20)
    splits = [row.split for row in look.rows(import_dataset("fi", tmp_path).manifest)]
    assert splits == sorted(splits, key=["train", "val", "test"].index)


def test_the_split_does_not_change_with_the_level_of_the_root(trees, look, tmp_path):
    trees.folders(tmp_path / "emotion_dataset", FI, 20)
    outer = import_dataset("fi", tmp_path).manifest
    inner = import_dataset("fi", tmp_path / "emotion_dataset").manifest
    assert {row.path: row.split for row in look.rows(outer)} == {row.path: row.split for row in look.rows(inner)}
    assert outer.facts.root == tmp_path


def test_the_seed_and_the_ratios_decide_the_split(trees, look, tmp_path):
    trees.folders(tmp_path, FI, 20)

    def cut(**options):
        manifest = import_dataset("fi", tmp_path, **options).manifest
        return {row.path: row.split for row in look.rows(manifest)}

    assert cut() == cut(seed=0) != cut(seed=1)
    assert Counter(cut(ratios=(0.5, 0.25, 0.25)).values()) == {"train": 80, "val": 40, "test": 40}


def test_any_folders_number_their_classes_by_sorted_name(trees, look, tmp_path):
    root = trees.folders(tmp_path / "moods", ["sad", "Calm", "happy"], 10)
    manifest = import_dataset("folders", root, ratios=(0.8, 0.1, 0.1)).manifest
    assert manifest.facts.classes == ("Calm", "happy", "sad")
    assert (manifest.facts.name, manifest.facts.emotion) == ("moods", None)
    assert all(manifest.facts.classes[r.label] == r.path.parent.name for r in look.rows(manifest))


def test_any_folders_need_ratios(trees, tmp_path):
    trees.folders(tmp_path, ["a", "b"])
    with pytest.raises(ConfigError, match="`ratios`, for example 80/5/15"):
        import_dataset("folders", tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".Png", ".webp", ".GIF", ".bmp", ".tif", ".TIFF"])
def test_every_format_is_taken_in_any_case(trees, tmp_path, suffix):
    trees.folders(tmp_path, ["a", "b"], 3, suffix)
    result = import_dataset("folders", tmp_path, ratios=(1, 0, 0))
    assert len(result.manifest) == 6
    assert result.problems == ()


def test_class_folders_may_be_written_in_another_case(trees, look, tmp_path):
    trees.folders(tmp_path, [name.title() for name in FI], 5)
    manifest = import_dataset("fi", tmp_path).manifest
    assert all(FI[row.label] == row.path.parent.name.lower() for row in look.rows(manifest))


def test_pictures_in_folders_of_a_class_folder_belong_to_it(trees, look, tmp_path):
    trees.folders(tmp_path, ["a", "b"], 2)
    trees.touch(tmp_path / "a" / "deep" / "er" / "x.png")
    found = look.by_path(import_dataset("folders", tmp_path, ratios=(1, 0, 0)).manifest)
    assert found["a/deep/er/x.png"].label == 0


def test_what_is_odd_in_class_folders_is_counted(trees, look, tmp_path):
    trees.folders(tmp_path, FI[:-2], 10)
    (tmp_path / FI[-2]).mkdir()
    trees.touch(tmp_path / "joy" / "x.jpg")
    trees.touch(tmp_path / "stray.jpg")
    trees.touch(tmp_path / "readme.txt")
    trees.touch(tmp_path / "awe" / "notes.txt")
    trees.touch(tmp_path / "awe" / ".DS_Store")
    trees.touch(tmp_path / "awe" / "Thumbs.db")
    os.mkfifo(tmp_path / "awe" / "pipe.jpg")
    result = import_dataset("fi", tmp_path)
    assert look.problems(result) == {
        "empty class folder": 1,
        "missing class folder": 1,
        "unknown class": 1,
        "image outside of a class folder": 1,
        "file that is no image": 2,
    }
    assert len(result.manifest) == 60
    assert result.manifest.facts.classes == FI


def test_an_empty_folder_among_any_folders_is_no_class(trees, look, tmp_path):
    trees.folders(tmp_path, ["b", "c"], 2)
    (tmp_path / "a").mkdir()
    result = import_dataset("folders", tmp_path, ratios=(1, 0, 0))
    assert result.manifest.facts.classes == ("b", "c")
    assert look.problems(result) == {"empty class folder": 1}


def test_a_name_that_is_not_utf8_is_counted(trees, look, tmp_path):
    trees.folders(tmp_path, ["a", "b"], 2)
    Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/caf\xe9.jpg")).write_bytes(b"")
    result = import_dataset("folders", tmp_path, ratios=(1, 0, 0))
    assert look.problems(result) == {"file name that is not UTF-8": 1}
    assert result.problems[0].example == r"a/caf\udce9.jpg"


def test_links_between_folders_do_not_go_round_nor_out(trees, look, tmp_path):
    root = trees.folders(tmp_path / "set", ["a", "b"], 2)
    trees.folders(tmp_path, ["outside"], 2)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "deep").mkdir()
    (root / "a" / "deep" / "again").symlink_to(root / "a")
    (root / "c").symlink_to(tmp_path / "outside")
    (root / "b" / "out").symlink_to(tmp_path / "outside")
    (root / "b" / "dangling.jpg").symlink_to(root / "absent.jpg")
    (root / "b" / "same.jpg").symlink_to(root / "b" / "b000.jpg")
    result = import_dataset("folders", root, ratios=(1, 0, 0))
    assert set(look.by_path(result.manifest)) == {"a/a000.jpg", "a/a001.jpg", "b/b000.jpg", "b/b001.jpg", "b/same.jpg"}
    assert look.problems(result) == {"link in a circle": 2, "link that leaves the root": 2, "file that is no image": 1}


def test_folders_of_another_kind_are_a_wrong_root(trees, tmp_path):
    trees.folders(tmp_path, ["cats", "dogs"])
    with pytest.raises(DataError, match=r"is not FI .*: looked for folders named amusement, .*cats"):
        import_dataset("fi", tmp_path)
    with pytest.raises(DataError, match="folders named by class, with images in them"):
        import_dataset("folders", tmp_path / "cats", ratios=(1, 0, 0))


@pytest.mark.parametrize("folder", ["", "emo8"])
def test_split_folders_are_read_as_they_are_cut(trees, look, tmp_path, folder):
    trees.split_folders(tmp_path / folder, FI)
    result = import_dataset("emo8", tmp_path)
    assert result.problems == ()
    assert result.manifest.split_counts() == {"train": 32, "val": 16, "test": 24}
    for row in look.rows(result.manifest):
        assert row.path.is_file()
        assert (row.split, FI[row.label]) == (row.path.parts[-3], row.path.parts[-2])


def test_a_set_that_the_authors_cut_is_read_as_cut(trees, tmp_path):
    trees.split_folders(tmp_path, FI)
    manifest = import_dataset("fi", tmp_path).manifest
    assert manifest.facts.layout == "split_folders"
    assert manifest.split_counts() == {"train": 32, "val": 16, "test": 24}
    with pytest.raises(ConfigError, match="is split already: omit `ratios`"):
        import_dataset("fi", tmp_path, ratios=(0.8, 0.1, 0.1))


def test_any_split_folders_take_their_classes_from_all_splits(trees, look, tmp_path):
    trees.split_folders(tmp_path, ["b", "c"], (3, 0, 2))
    trees.touch(tmp_path / "test" / "a" / "x.jpg")
    (tmp_path / "train" / "d").mkdir()
    result = import_dataset("split-folders", tmp_path)
    assert result.manifest.facts.classes == ("a", "b", "c")
    assert result.manifest.split_counts() == {"train": 6, "test": 5}
    assert look.problems(result) == {"empty class folder": 1, "missing class folder": 1}


def test_split_folders_need_one_of_the_three(trees, tmp_path):
    trees.folders(tmp_path, ["a", "b"])
    with pytest.raises(DataError, match="looked for folders train, val or test, found a, b"):
        import_dataset("split-folders", tmp_path)


def test_split_folders_are_not_taken_for_classes(trees, tmp_path):
    trees.split_folders(tmp_path, ["a", "b"])
    with pytest.raises(DataError, match="holds test, train, val: import it as split-folders"):
        import_dataset("folders", tmp_path, ratios=(0.8, 0.1, 0.1))


# --- Sets whose folders say more -------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["images", ""])
def test_ube_is_cut_per_class_and_object(trees, look, tmp_path, folder):
    result = import_dataset("ube", trees.ube(tmp_path, folder=folder))
    assert result.problems == result.notes == ()
    counts = Counter((row.attributes.objects, row.split) for row in look.rows(result.manifest))
    assert counts == {
        (("cat",), "train"): 42,
        (("cat",), "val"): 6,
        (("cat",), "test"): 12,
        (("old house",), "train"): 84,
        (("old house",), "val"): 12,
        (("old house",), "test"): 24,
    }
    assert result.manifest.facts.split_recipe == "70/10/20 per class and object, seed 0"


def test_a_picture_of_ube_without_an_object_is_counted_and_kept(trees, look, tmp_path):
    trees.touch(trees.ube(tmp_path) / "images" / "joy" / "stray.jpg")
    result = import_dataset("ube", tmp_path)
    assert look.problems(result) == {"image outside of an object folder": 1}
    assert "images/joy/stray.jpg" in look.by_path(result.manifest)


@pytest.mark.parametrize("spelling", [{"anger": "Angry", "happiness": "Happy", "sadness": "Sad"}, {}])
def test_caer_s_keeps_its_train_and_cuts_its_test_in_two(trees, look, tmp_path, spelling):
    result = import_dataset("caer-s", trees.caer_s(tmp_path, spelling=spelling))
    assert result.problems == ()
    manifest = result.manifest
    assert manifest.split_counts() == {"train": 70, "val": 119, "test": 231}
    for row in look.rows(manifest):
        assert row.path.parts[-3] == ("train" if row.split == "train" else "test")
    assert manifest.select(["val"]).class_counts() == dict.fromkeys(manifest.facts.classes, 17)
    assert manifest.facts.split_recipe == "given train; test cut 0/34/66 per class, seed 0"
    called = "6 x class called otherwise (Angry is anger)"
    assert (called in result.notes) == bool(spelling)


def test_caer_s_whose_names_tell_no_clips_says_what_that_means(trees, look, tmp_path):
    for names in ("{i:04d}.png", "{clip}{frame}.png", "anger_{i:04d}.png"):
        root = tmp_path / str(len(names))
        result = import_dataset("caer-s", trees.caer_s(root, names=names))
        assert any("rewards memory; names do not identify the clips" in note for note in result.notes)
        assert set(look.cells(result.manifest, "group")) == {None}


@pytest.mark.parametrize("names", ["film{clip}_{frame:03d}.png", "{clip}/{frame}.png", "{clip:03d}-frame{frame}.png"])
def test_clips_of_caer_s_are_groups_where_names_tell_them(trees, look, tmp_path, names):
    result = import_dataset("caer-s", trees.caer_s(tmp_path, names=names))
    assert any("names identify 70 clips, kept as groups" in note for note in result.notes)
    sizes = Counter(look.cells(result.manifest, "group"))
    assert len(sizes) == 70
    # Clips 0 and 1 have frames in the official train and test.
    assert Counter(sizes.values()) == {10: 14, 5: 56}
    assert result.manifest.split_counts()["train"] == 70  # the official split stays


def test_caer_s_that_the_authors_cut_is_read_as_cut(trees, tmp_path):
    spec = get_spec("caer-s")
    manifest = import_dataset("caer-s", trees.split_folders(tmp_path, spec.classes)).manifest
    assert manifest.split_counts() == {"train": 28, "val": 14, "test": 21}
    assert manifest.facts.split_recipe == "given"


def test_folders_that_differ_in_case_are_one_class_and_counted(trees, look, tmp_path):
    trees.folders(tmp_path, FI, 4)
    trees.touch(tmp_path / "Awe" / "more.jpg")
    result = import_dataset("fi", tmp_path)
    assert look.problems(result) == {"names that differ only in case": 1}
    assert look.by_path(result.manifest)["Awe/more.jpg"].label == FI.index("awe")


def test_the_order_of_labels_of_any_folders_may_be_said(trees, look, tmp_path):
    trees.folders(tmp_path, ["Sad", "happy", "calm"], 2)
    result = import_dataset("folders", tmp_path, ratios=(1, 0, 0), classes=["happy", "sadness"])
    assert result.manifest.class_counts() == {"happy": 2, "sadness": 2}
    assert look.problems(result) == {"unknown class": 1}
    assert result.notes == ("1 x class called otherwise (Sad is sadness)",)


# What systems keep beside images, and names that users see as one


CLUTTER = ("@eaDir/0.jpg/THUMB_M.jpg", "$RECYCLE.BIN/x.jpg", "lost+found/x.jpg", ".thumbnails/x.jpg", "._0.jpg")


@pytest.mark.parametrize("name", ["folders", "split-folders"])
@pytest.mark.parametrize("place", ["", "joy", "joy/deeper"])
def test_what_systems_keep_is_neither_class_nor_image_and_is_counted(trees, tmp_path, name, place):
    base = tmp_path / "train" if name == "split-folders" else tmp_path
    trees.folders(base, ["joy", "fear"], 3)
    trees.touch(base / "joy" / "deeper" / "a.jpg")
    for path in (*CLUTTER, "__MACOSX/joy/._0.jpg", ".ipynb_checkpoints/0-checkpoint.jpg"):
        trees.touch(base / place / path)
    options = {} if name == "split-folders" else {"ratios": (1, 0, 0)}
    result = import_dataset(name, tmp_path, **options)
    assert result.problems == ()
    assert result.manifest.facts.classes == ("fear", "joy")
    assert len(result.manifest) == 7
    (note,) = [note for note in result.notes if "skipped" in note]
    assert note.startswith("7 x skipped, since a system or a program keeps it (")


FORMS = [
    lambda n: n,
    lambda n: unicodedata.normalize("NFD", n),
    str.upper,
    str.title,
    lambda n: f"{n} ",
    lambda n: f" {n}",
]


@pytest.mark.parametrize("second", FORMS)
@pytest.mark.parametrize("first", FORMS)
def test_class_folders_that_users_see_as_one_are_one_and_that_is_told(trees, tmp_path, first, second):
    names = ("géné", "joy")
    for split, form in (("train", first), ("test", second)):
        trees.folders(tmp_path / split, map(form, names), 2)
    result = import_dataset("split-folders", tmp_path)
    assert result.problems == ()
    manifest = result.manifest
    assert len(manifest.facts.classes) == 2
    assert manifest.class_counts() == dict.fromkeys(manifest.facts.classes, 4)
    is_told = any("joined with another way to write it" in note for note in result.notes)
    are_alike = all(
        unicodedata.normalize("NFC", first(n)).strip() == unicodedata.normalize("NFC", second(n)).strip() for n in names
    )
    assert is_told or are_alike


def test_an_image_of_a_format_that_is_not_read_here_is_a_problem(trees, tmp_path, monkeypatch):
    trees.folders(tmp_path, ["joy", "fear"], 2)
    trees.touch(tmp_path / "joy" / "a.HEIC")
    monkeypatch.setattr("uniemox.importers.tree.explain_ending", lambda name: "no" if name.endswith("HEIC") else None)
    result = import_dataset("folders", tmp_path, ratios=(1, 0, 0))
    assert [str(problem) for problem in result.problems] == [
        "1 x image of a format that is not read here (joy/a.HEIC: no)"
    ]
    assert len(result.manifest) == 4
    monkeypatch.setattr("uniemox.importers.tree.explain_ending", lambda name: None)
    assert len(import_dataset("folders", tmp_path, ratios=(1, 0, 0)).manifest) == 5


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid", "test"),
        ("Training", "validation", "Testing"),
        ("tr", "dev", "test"),
        ("TRAIN", "Val", "test"),
    ],
)
def test_splits_are_folders_by_any_usual_word(trees, tmp_path, names):
    for name, count in zip(names, (4, 2, 3), strict=True):
        trees.folders(tmp_path / name, ["joy", "fear"], count)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "all.json").write_text("{}")
    result = import_dataset("split-folders", tmp_path, strict=True)
    assert result.manifest.split_counts() == {"train": 8, "val": 4, "test": 6}
    with pytest.raises(DataError, match="import it as split-folders"):
        import_dataset("folders", tmp_path, ratios=(1, 0, 0))


def test_a_folder_with_images_beside_the_splits_is_a_problem(trees, tmp_path):
    trees.split_folders(tmp_path, ["joy", "fear"])
    trees.folders(tmp_path / "extra", ["joy", "fear"], 2)
    result = import_dataset("split-folders", tmp_path)
    assert [str(problem) for problem in result.problems] == ["1 x folder that is no split (extra)"]
    with pytest.raises(DataError, match="import it as split-folders"):
        import_dataset("folders", tmp_path, ratios=(1, 0, 0))
