"""What holds for every data set."""

import hashlib
import json
import os
import shutil
from collections import Counter
from dataclasses import replace

import pytest

from uniemox.errors import ConfigError, DataError
from uniemox.importers.importing import import_dataset
from uniemox.importers.specs import SPECS, get_spec
from uniemox.manifests.recut import cut_again
from uniemox.manifests.table import Box, read_manifest, write_manifest

FI = get_spec("fi").classes
NAMED = [name for name, spec in SPECS.items() if spec.classes]
CUT = ["fi", "emotion6", "ube", "emo8", "caer-s", "heco"]  # the authors publish them cut


def test_strict_makes_any_problem_an_error_that_lists_them_all(trees, tmp_path):
    trees.emoset(tmp_path)
    assert len(import_dataset("emoset", tmp_path, strict=True).manifest) == 11
    shutil.rmtree(tmp_path / "annotation" / "awe")
    next(tmp_path.glob("image/fear/*")).unlink()
    with pytest.raises(DataError, match=r"x missing annotation .*; .*`strict`|x listed.*`strict`"):
        import_dataset("emoset", tmp_path, strict=True)


def test_the_source_is_never_written_to(trees, look, tmp_path):
    trees.emoset(tmp_path / "e")
    trees.folders(tmp_path / "f", FI, 3)
    trees.split_folders(tmp_path / "s", FI)
    before = look.snapshot(tmp_path)
    import_dataset("emoset", tmp_path / "e")
    import_dataset("fi", tmp_path / "f")
    import_dataset("emo8", tmp_path / "s")
    assert look.snapshot(tmp_path) == before


def test_a_folder_that_may_not_be_listed_is_named(trees, tmp_path, monkeypatch):
    trees.folders(tmp_path, ["a", "b"])
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    # Tests may run as root, whom no permission stops.
    monkeypatch.setattr("uniemox.importers.tree.os.scandir", refuse)
    with pytest.raises(DataError, match=r"cannot list .*/a: permission denied"):
        import_dataset("folders", tmp_path, ratios=(1, 0, 0))


def test_a_root_that_is_a_link_is_a_root(trees, tmp_path):
    trees.folders(tmp_path / "real", ["a", "b"], 2)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    result = import_dataset("folders", tmp_path / "link", ratios=(1, 0, 0))
    assert result.problems == ()
    assert result.manifest.facts.root == tmp_path / "link"


@pytest.mark.parametrize(("name", "cut"), [*((name, False) for name in NAMED), *((name, True) for name in CUT)])
def test_every_set_is_imported_in_every_form(trees, look, tmp_path, name, cut):
    root = trees.any(name, tmp_path / "set", cut=cut)
    before = look.snapshot(root)
    result = import_dataset(name, root)
    spec = SPECS[name]
    facts = result.manifest.facts
    assert set(look.problems(result)) <= {"class without an image"}  # EMOTIC's miniature
    assert (facts.name, facts.classes, facts.emotion) == (name, spec.classes, spec.emotion)
    assert (facts.licence, facts.url, facts.citation) == (spec.licence, spec.url, spec.citation)
    assert facts.labelled_by
    assert list(result.manifest.split_counts()) == ["train", "val", "test"]
    if cut:
        assert facts.layout == "split_folders"
    if cut or spec.recipe is None:
        assert facts.split_recipe == "given"
    else:
        assert "per class" in facts.split_recipe
        assert "seed 0" in facts.split_recipe
    assert all(row.path.is_file() for row in look.rows(result.manifest))
    assert look.snapshot(root) == before
    write_manifest(result.manifest, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet").table == result.manifest.table


@pytest.mark.parametrize("name", NAMED)
def test_the_order_of_a_listing_changes_nothing(trees, tmp_path, monkeypatch, name):
    trees.any(name, tmp_path)
    first = import_dataset(name, tmp_path)
    scandir = os.scandir

    class Shuffled(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    def shuffled(path):
        with scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name[::-1], reverse=True)
        return Shuffled(found)

    monkeypatch.setattr("uniemox.importers.tree.os.scandir", shuffled)
    again = import_dataset(name, tmp_path)
    assert again.manifest.table == first.manifest.table
    assert again.problems == first.problems


# A change of one of these changes data sets that people have trained and published on. The recipes themselves are
# pinned in test_splits; this is what importers hand to them: paths from the right folder, strata, people, the seed.
PINS = {
    "fi": "eb741a0d08c9957c9cab6597218ae2789e218df6fa76a54929cfdde2d1cefdc4",
    "emotion6": "08b49bffcad8c7e68fb2265be8a9d970e5674898a67857d9258babdb744858c8",
    "ube": "26436449d0e33d42eb797ff005cad62a27f8b7ec939f4043ae55764a8891b099",
    "caer-s": "1fb0561a11081d7e5b0b254e6295c6744aba0f3cdf5271fdf9a231b0d77f53e5",
    "heco": "b5fc1093ad7828637cb6757182f3bda8ff378c285275c6f45238c9f82a7aba7b",
    "findingemo": "ce20f4226731025649b587ea089917bb052b3dce8bbce3522960c56cb926316c",
}


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.recipe])
def test_every_published_recipe_cuts_a_tree_as_it_always_did(trees, tmp_path, name):
    manifest = import_dataset(name, trees.any(name, tmp_path)).manifest
    rows = zip(manifest.table["path"].to_pylist(), manifest.table["split"].to_pylist(), strict=True)
    assert hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest() == PINS[name]


@pytest.mark.parametrize(("name", "by"), [("fi", "class"), ("emotion6", "class"), ("ube", "folder")])
def test_a_manifest_cut_anew_by_its_recipe_is_what_the_import_gave(trees, tmp_path, name, by):
    manifest = import_dataset(name, trees.any(name, tmp_path)).manifest
    recipe = SPECS[name].recipe
    cut = cut_again(manifest, ratios=recipe.ratios, rounding=recipe.rounding, seed=0, by=by)
    assert cut.table == manifest.table


@pytest.mark.parametrize("name", ["emoset", "fi", "emotion6", "heco"])
def test_a_set_of_another_size_than_published_says_so(trees, tmp_path, name):
    notes = import_dataset(name, trees.any(name, tmp_path)).notes
    assert any(f"images, where {SPECS[name].pictures:,} are published" in note for note in notes)


def test_a_full_set_but_for_a_few_pictures_says_which_classes_lack_them(trees, tmp_path, monkeypatch):
    trees.emoset(tmp_path, per_split=(16, 8, 8))
    spec = SPECS["emoset"]
    counts = {"train": (2,) * 8, "val": (1,) * 8, "test": (1,) * 8}
    monkeypatch.setitem(SPECS, "emoset", replace(spec, counts=counts, pictures=32))
    assert import_dataset("emoset", tmp_path).notes == ()
    trees.edit(tmp_path / "train.json", lambda rows: rows[1:])
    assert import_dataset("emoset", tmp_path).notes == (
        "31 images, where 32 are published",
        "train differs from what is published: amusement 1 of 2",
    )


def test_a_list_says_the_splits_instead_of_the_recipe(trees, look, tmp_path):
    trees.folders(tmp_path / "set" / "emotion_dataset", FI, 3)
    for base in ("", "emotion_dataset/"):
        lines = ["path,split", *(f"{base}{name}/{name}000.jpg,dev" for name in FI)]
        lines += [f"{base}{name}/{name}001.jpg,train" for name in FI]
        lines += [f"{base}awe/none.jpg,test"]
        (tmp_path / "list.csv").write_text("\n".join(lines))
        result = import_dataset("fi", tmp_path / "set", split_list=tmp_path / "list.csv")
        assert result.manifest.split_counts() == {"train": 8, "val": 8}
        assert look.problems(result) == {
            "image that the list does not name; skipped": 8,
            "path of the list that the manifest does not have": 1,
        }
        assert result.manifest.facts.split_recipe.startswith("the list list.csv (sha256")


def test_a_list_of_other_pictures_is_an_error(trees, tmp_path):
    trees.folders(tmp_path / "set", FI, 3)
    (tmp_path / "list.csv").write_text("path,split\nx.jpg,train\n")
    with pytest.raises(DataError, match=r"list\.csv names no image of"):
        import_dataset("fi", tmp_path / "set", split_list=tmp_path / "list.csv")
    with pytest.raises(ConfigError, match="omit `ratios` or `split_list`"):
        import_dataset("fi", tmp_path / "set", split_list=tmp_path / "list.csv", ratios=(0.8, 0.1, 0.1))


@pytest.mark.parametrize("name", ["fi", "heco"])
def test_fractions_of_train_are_nested_and_leave_the_rest_alone(trees, look, tmp_path, name):
    trees.any(name, tmp_path)
    rows = {}
    for fraction in (0.25, 0.5, 1.0):
        manifest = import_dataset(name, tmp_path, fraction=fraction).manifest
        rows[fraction] = {(row.path, row.boxes, row.split) for row in look.rows(manifest)}
        assert f"; {100 * fraction:g} % of train per class, seed 0" in manifest.facts.split_recipe
    assert rows[0.25] < rows[0.5] < rows[1.0]
    assert {row[2] for row in rows[1.0] - rows[0.25]} == {"train"}
    whole = import_dataset(name, tmp_path).manifest
    assert rows[1.0] == {(row.path, row.boxes, row.split) for row in look.rows(whole)}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fi", {"labels": "majority"}, "`labels` goes with emotion6 data, not with fi"),
        ("fi", {"table": "x.csv"}, "`table` goes with table data, not with fi"),
        ("folders", {"columns": {"path": "x"}}, "`columns` goes with table or hf data, not with"),
        ("table", {"pictures": "x"}, "`pictures` goes with hf data, not with table"),
        ("fi", {"classes": ["a"]}, "FI .* has classes of its own, amusement, .*: omit `classes`"),
        ("folders", {"classes": ["a", "b", "a"]}, "`classes` names one twice: a, b, a"),
        ("table", {}, "name the table: `table` FILE"),
    ],
)
def test_what_a_layout_does_not_have_is_refused(tmp_path, name, options, words):
    with pytest.raises(ConfigError, match=words):
        import_dataset(name, tmp_path, **options)


def test_boxes_of_a_file_go_to_their_pictures(trees, look, tmp_path):
    root = trees.folders(tmp_path / "set", ["a, really", "b"], 2)
    lines = [
        "path,x0,y0,x1,y1,score",
        "b/b001.jpg,1,2,3.5,4,0.75",
        '"./a, really/a, really000.jpg",0,0,9,9,',
        "b/b001.jpg,0,0,5,5,1",
        "b/b000.jpg,5,5,5,9,1",
        "b/none.jpg,0,0,9,9,1",
    ]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    result = import_dataset("folders", root, people=tmp_path / "p.csv", ratios=(1, 0, 0))
    assert look.problems(result) == {"box that is no box": 1, "image that is not among these": 1}
    assert {path: row.boxes for path, row in look.by_path(result.manifest).items()} == {
        "a, really/a, really000.jpg": (Box(0, 0, 9, 9),),
        "a, really/a, really001.jpg": (),
        "b/b000.jpg": (),
        "b/b001.jpg": (Box(1, 2, 3.5, 4, 0.75), Box(0, 0, 5, 5, 1)),
    }
    assert result.manifest.facts.people_source == "p.csv"
    # What the file does not name was not looked at.
    assert result.manifest.table["people"].is_null().to_pylist().count(True) == 2


def test_people_that_are_samples_keep_their_boxes(trees, look, tmp_path):
    row = {"Image": "00001.jpg", "xmin": 9, "ymin": 0, "xmax": 1, "ymax": 9, "Category": "Fear"}
    root = trees.heco(tmp_path / "set", people=1, rows=[row])
    lines = "path,x0,y0,x1,y1\nData/00001.jpg,0,0,9,9\n"
    (tmp_path / "p.csv").write_text(lines)
    manifest = import_dataset("heco", root, people=tmp_path / "p.csv").manifest
    assert Counter(row.boxes for row in look.rows(manifest)) == {(Box(0, 0, 8, 20),): 80, (Box(0, 0, 9, 9),): 1}
    assert manifest.facts.people_source == "annotated; others from p.csv"
