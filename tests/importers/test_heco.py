"""HECO: a row for each person."""

import re

import pytest

from uniemox.errors import DataError
from uniemox.importers.importing import import_dataset
from uniemox.importers.specs import get_spec
from uniemox.manifests.table import Box

CLASSES = get_spec("heco").classes


def test_each_person_is_a_row_with_its_box(trees, look, tmp_path):
    result = import_dataset("heco", trees.heco(tmp_path))
    assert result.problems == ()
    manifest = result.manifest
    assert len(manifest) == 160
    by_picture = {}
    for row, vad in zip(look.rows(manifest), look.cells(manifest, "vad"), strict=True):
        by_picture.setdefault(row.path.name, []).append(row)
        assert vad == {"valence": 6.0, "arousal": 5.5, "dominance": 4.0}
    assert len(by_picture) == 80
    for name, (first, second) in by_picture.items():
        assert first.boxes == (Box(0, 0, 8, 20),)
        assert second.boxes == (Box(10, 0, 18, 20),)
        assert first.label == int(name[:5]) % 8
        assert second.label == (first.label + 1) % 8
        assert first.split == second.split
    assert manifest.facts.people_source == "annotated"
    assert manifest.facts.split_recipe == "70/10/20 per class of most people, seed 0"


def test_pictures_are_cut_per_class(trees, tmp_path):
    manifest = import_dataset("heco", trees.heco(tmp_path, people=1)).manifest
    assert manifest.split_counts() == {"train": 56, "val": 8, "test": 16}
    assert manifest.select(["test"]).class_counts() == dict.fromkeys(CLASSES, 2)


def test_columns_go_by_name(trees, look, tmp_path):
    columns = "Category,ymax,xmax,ymin,xmin,Image"
    result = import_dataset("heco", trees.heco(tmp_path, header=columns))
    assert result.problems == ()
    assert look.by_path(result.manifest)["Data/00003.jpg"].boxes == (Box(10, 0, 18, 20),)
    assert set(look.cells(result.manifest, "vad")) == {None}


def test_a_missing_column_is_told(trees, tmp_path):
    trees.heco(tmp_path, header="Image,xmin,ymin,xmax,Category")
    with pytest.raises(DataError, match="has no column ymax, only Image, xmin"):
        import_dataset("heco", tmp_path)


def test_a_misspelt_happiness_is_happiness(trees, look, tmp_path):
    row = {"Image": "00000.jpg", "xmin": 50, "ymin": 1, "xmax": 60, "ymax": 9}
    trees.heco(tmp_path, rows=[{**row, "Category": "Happinesst"}])
    result = import_dataset("heco", tmp_path)
    assert result.problems == ()
    assert "1 x class called otherwise (Happinesst is happiness)" in result.notes
    assert CLASSES.index("happiness") in [r.label for r in look.rows(result.manifest) if r.path.name == "00000.jpg"]


@pytest.mark.parametrize(
    ("change", "kind", "rows"),
    [
        ({"Category": "Hunger"}, "unknown class", 0),
        ({"Category": ""}, "unknown class", 0),
        ({"Image": "none.jpg"}, "listed image that does not exist", 0),
        ({"Image": "../../x.jpg"}, "path that leaves the root", 0),
        ({"xmax": 5}, "box that is no box", 1),
        ({"ymin": "nan"}, "box that is no box", 1),
        ({"xmin": ""}, "box that is no box", 1),
        ({"Valence": "much"}, "valence of unknown form", 1),
        ({"xmin": 0, "ymin": 0, "xmax": 8, "ymax": 20}, "person listed twice", 0),
    ],
)
def test_a_wrong_row_is_counted(trees, look, tmp_path, change, kind, rows):
    row = {"Image": "00000.jpg", "xmin": 50, "ymin": 1, "xmax": 60, "ymax": 9, "Category": "Fear"}
    trees.heco(tmp_path, rows=[row | change])
    result = import_dataset("heco", tmp_path)
    assert look.problems(result) == {kind: 1}
    assert len(result.manifest) == 160 + rows


def test_a_box_over_the_left_edge_begins_at_it(trees, look, tmp_path):
    row = {"Image": "00000.jpg", "xmin": -3, "ymin": -1, "xmax": 6, "ymax": 9, "Category": "Fear"}
    result = import_dataset("heco", trees.heco(tmp_path, rows=[row]))
    assert result.problems == ()
    assert (Box(0, 0, 6, 9),) in [row.boxes for row in look.rows(result.manifest)]


def test_a_broken_row_is_counted(trees, look, tmp_path):
    trees.heco(tmp_path)
    with (tmp_path / "Labels/HECO_Labels.csv").open("a") as file:
        file.write("00001.jpg,1,2\n")
    assert look.problems(import_dataset("heco", tmp_path)) == {"row of unknown form": 1}


def test_labels_without_pictures_are_a_wrong_root(trees, tmp_path):
    trees.heco(tmp_path)
    for picture in (tmp_path / "Data").iterdir():
        picture.unlink()
    with pytest.raises(DataError, match=r"looked for the images that its lists name.*160 x"):
        import_dataset("heco", tmp_path)


def test_a_class_that_nobody_has_is_counted(trees, look, tmp_path):
    trees.heco(tmp_path, count=0)
    trees.touch(tmp_path / "Data/x.jpg")
    text = "Image,xmin,ymin,xmax,ymax,Category\nx.jpg,1,2,3,4,Fear\n"
    (tmp_path / "Labels/HECO_Labels.csv").write_text(text)
    assert look.problems(import_dataset("heco", tmp_path)) == {"class without an image": 7}


@pytest.mark.parametrize("change", [lambda n: f".\\{n}", lambda n: f" {n} ", str.upper])
def test_images_may_be_written_in_another_way(trees, tmp_path, change):
    root = trees.heco(tmp_path / "set")
    labels = root / "Labels" / "HECO_Labels.csv"
    head, *lines = labels.read_text().splitlines()
    lines = [",".join([change(line.split(",")[0]), *line.split(",")[1:]]) for line in lines]
    labels.write_text("\n".join([head, *lines]))
    result = import_dataset("heco", root)
    assert (result.problems, len(result.manifest)) == ((), 160)


def test_a_european_spreadsheet_keeps_every_box(trees, look, tmp_path):
    expected = look.by_path(import_dataset("heco", trees.heco(tmp_path / "set")).manifest)
    labels = tmp_path / "set" / "Labels" / "HECO_Labels.csv"
    text = labels.read_text().replace(",", ";")
    head, _, rest = text.partition("\n")
    rest = re.sub(r"(\d)\.(\d)", r"\1,\2", rest.replace(";6;", ";6.25;"))
    labels.write_text(f"\ufeffsep=;\n{head}\n{rest.replace('.jpg;10;', '.jpg;10,5;')}")
    result = import_dataset("heco", tmp_path / "set")
    assert result.problems == ()
    found = look.by_path(result.manifest)
    assert found.keys() == expected.keys()
    assert {vad["valence"] for vad in look.cells(result.manifest, "vad")} == {6.25}
    assert found["Data/00003.jpg"].boxes == (Box(10.5, 0, 18, 20),)
