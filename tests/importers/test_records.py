"""Columns of tables, and what their cells mean."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniemox.errors import ConfigError, DataError
from uniemox.importers.importing import import_dataset
from uniemox.importers.records import bind_columns
from uniemox.manifests.table import Attributes, Box

ALL = (1, 0, 0)


@pytest.fixture
def table(trees, tmp_path):
    """Write rows as a table beside a folder with the images a.jpg to e.jpg, and import it."""
    root = tmp_path / "pictures"
    for name in "abcde":
        trees.touch(root / f"{name}.jpg")

    def make(rows, *, suffix="jsonl", **options):
        path = tmp_path / f"t.{suffix}"
        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            path.write_text("\n".join(rows if suffix == "csv" else map(json.dumps, rows)))
        if "split" not in str(rows[0]):
            options = {"ratios": ALL} | options
        return import_dataset("table", root, table=path, **options)

    return make


def test_a_table_needs_no_more_than_paths_and_labels(table, look, tmp_path):
    result = table(["image,emotion", "a.jpg,joy", "b.jpg,awe", "c.jpg,joy"], suffix="csv")
    assert result.problems == result.notes == ()
    manifest = result.manifest
    assert manifest.facts.classes == ("awe", "joy")
    assert manifest.facts.layout == "table"
    assert manifest.facts.name == "pictures"
    assert {p: r.label for p, r in look.by_path(manifest).items()} == {"a.jpg": 1, "b.jpg": 0, "c.jpg": 1}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_every_role_arrives_in_the_manifest(table, look, suffix):
    row = {
        "path": "a.jpg",
        "label": "joy",
        "labels": ["joy", "awe"],
        "split": "validation",
        "group": "film 3",
        "x0": 1,
        "y0": 2.5,
        "x1": 30,
        "y1": 40,
        "score": 0.5,
        "distribution": {"joy": 3.0, "awe": 1.0},
        "valence": 6.5,
        "arousal": 2,
        "dominance": None,
        "brightness": 0.5,
        "colorfulness": 1,
        "scene": "beach",
        "facial_expression": "happy",
        "human_action": "diving",
        "objects": ["Alarm clock", "Tree"],
    }
    result = table([row], suffix=suffix, scale=(1, 9))
    assert result.problems == ()
    assert result.notes == ("1 x split written in another way (validation is val)",)
    manifest = result.manifest
    assert manifest.facts.classes == ("awe", "joy")
    found = manifest.row(0)
    assert (found.label, found.split, found.boxes) == (1, "val", (Box(1, 2.5, 30, 40, 0.5),))
    assert found.attributes == Attributes(0.5, 1.0, "beach", "happy", "diving", ("Alarm clock", "Tree"))
    assert look.cells(manifest, "label_set") == [[0, 1]]
    assert look.cells(manifest, "group") == ["film 3"]
    assert look.cells(manifest, "distribution") == [[0.25, 0.75]]
    assert look.cells(manifest, "vad") == [{"valence": 6.5, "arousal": 2.0, "dominance": None}]


def test_columns_are_named_by_the_caller(table, look):
    rows = [{"where": "a.jpg", "path": "no", "p one": 2, "p two": 6, "split": "x"}]
    columns = {"path": "where", "distribution": "p one+p two", "group": "split"}
    manifest = table(rows, columns=columns, ratios=ALL).manifest
    assert manifest.facts.classes == ("p one", "p two")
    assert look.cells(manifest, "distribution") == [[0.25, 0.75]]
    assert look.cells(manifest, "group") == ["x"]
    assert manifest.row(0).split == "train"  # the column of that name is another thing now
    manifest = table(rows, columns=columns, ratios=ALL, classes=["awe", "joy"]).manifest
    assert manifest.facts.classes == ("awe", "joy")


@pytest.mark.parametrize(
    ("columns", "error", "words"),
    [
        ({"pth": "a"}, ConfigError, r"a column cannot be pth; did you mean path\?; it can be path"),
        ({"path": "imge"}, DataError, r"t has no column imge; did you mean image\?; it has image, x"),
        ({"distribution": "x+y"}, DataError, r"t has no column y; it has image, x"),
    ],
)
def test_a_column_that_is_not_there_is_told(columns, error, words):
    with pytest.raises(error, match=words):
        bind_columns(("image", "x"), columns, where="t")


def test_a_table_without_paths_is_told():
    with pytest.raises(DataError, match="no column path: name the column, as in `columns` path=N"):
        bind_columns(("x", "y"), {}, where="t")


@pytest.mark.parametrize(
    ("labels", "classes", "known", "numbers"),
    [
        ([2, 10, 2], (), ("2", "10"), [0, 1, 0]),
        (["2", "10", 2.0], (), ("2", "10"), [0, 1, 0]),
        ([0, 1, -1], ("awe", "joy"), ("awe", "joy"), [0, 1, None]),
        (["Joyful", "AWE", ""], ("awe", "joy"), ("awe", "joy"), [1, 0, None]),
        ([None, "b", "a"], (), ("a", "b"), [None, 1, 0]),
    ],
)
def test_labels_are_names_or_numbers(table, look, labels, classes, known, numbers):
    rows = [{"path": f"{n}.jpg", "label": v} for n, v in zip("abc", labels, strict=True)]
    manifest = table(rows, classes=classes).manifest
    assert manifest.facts.classes == known
    assert look.cells(manifest, "label") == numbers


@pytest.mark.parametrize("cell", ["joy|awe", "joy; awe", "joy,awe,joy", '["awe", "joy"]'])
def test_sets_of_labels_may_stand_in_one_text(table, look, cell):
    manifest = table([{"path": "a.jpg", "labels": cell}]).manifest
    assert look.cells(manifest, "label_set") == [[0, 1]]
    assert manifest.facts.classes == ("awe", "joy")


@pytest.mark.parametrize("cell", [[3, 1], "[3, 1]", '{"awe": 3, "joy": 1}', {"joy": 0.5, "awe": 1.5}])
def test_distributions_are_scaled_to_1(table, look, cell):
    manifest = table([{"path": "a.jpg", "distribution": cell}], classes=["awe", "joy"]).manifest
    assert look.cells(manifest, "distribution") == [[0.75, 0.25]]


@pytest.mark.parametrize("cell", [[7, 13], [1, 0], [20, 3], [0.33, 0.66], [0.5, 0.5], [12.5, 37.5], {"joy": 0.98}])
def test_votes_of_any_sum_and_rounded_shares_are_taken_as_they_are(table, look, cell):
    result = table([{"path": "a.jpg", "distribution": cell}], classes=["awe", "joy"])
    assert result.problems == ()
    (found,) = look.cells(result.manifest, "distribution")
    assert sum(found) == pytest.approx(1)


def test_shares_that_do_not_add_up_are_kept_in_proportion_and_shown_where(table, look):
    rows = [{"path": "a.jpg", "distribution": [0.1, 0.3]}, {"path": "b.jpg", "distribution": [0.25, 0.75]}]
    result = table(rows, classes=["awe", "joy"])
    (problem,) = result.problems
    assert (problem.count, problem.example) == (1, "line 1 of t.jsonl")
    assert look.cells(result.manifest, "distribution") == [pytest.approx([0.25, 0.75])] * 2


@pytest.mark.parametrize(
    ("change", "kind", "rows"),
    [
        ({"path": "none.jpg"}, "listed image that does not exist", 1),
        ({"path": "../a.jpg"}, "path that leaves the root", 1),
        ({"path": "/etc/passwd"}, "path that leaves the root", 1),
        ({"path": None}, "row without an image", 1),
        ({"path": 7}, "row without an image", 1),
        ({"label": "hunger"}, "unknown class", 1),
        ({"labels": ["joy", "hunger"]}, "unknown class", 2),
        ({"x0": 9, "y0": 0, "x1": 3, "y1": 4}, "box that is no box", 2),
        ({"x0": 1}, "box that is no box", 2),
        ({"distribution": [1, 2, 3]}, "distribution of unknown form", 2),
        ({"distribution": [0, 0]}, "distribution without a vote", 2),
        ({"distribution": [2, -1]}, "distribution with a share below 0", 2),
        ({"distribution": {"joy": 1.2, "awe": -0.2}}, "distribution with a share below 0", 2),
        ({"distribution": [0.2, 0.3]}, "shares that do not add up to 1, scaled to it", 2),
        ({"distribution": [0.9, 0.6]}, "shares that do not add up to 1, scaled to it", 2),
        ({"distribution": "much"}, "distribution of unknown form", 2),
        ({"distribution": {"hunger": 1}}, "distribution of unknown form", 2),
        ({"distribution": {}}, "distribution without a vote", 2),
        ({"valence": "much"}, "valence of unknown form", 2),
        ({"brightness": 3}, "brightness of unknown form", 2),
        ({"scene": ["a"]}, "scene of unknown form", 2),
        ({"objects": [["a"]]}, "objects of unknown form", 2),
        ({"path": "a.jpg"}, "image listed twice", 1),
        ({"path": "a.jpg", "label": "awe"}, "image listed twice with other labels", 1),
    ],
)
def test_what_is_wrong_with_a_row_is_counted(table, look, change, kind, rows):
    good = {"path": "a.jpg", "label": "joy"}
    result = table([good, {"path": "b.jpg", "label": "joy"} | change], classes=["awe", "joy"])
    problems = look.problems(result)
    assert problems.pop(kind) == 1
    assert set(problems) <= {"class without an image"}
    assert len(result.manifest) == rows


def test_several_rows_of_a_picture_are_people_where_they_have_boxes(table, look):
    box = {"y0": 0, "x1": 50, "y1": 50}
    rows = [
        {"path": "a.jpg", "label": "joy", "split": "train", "x0": 0, **box},
        {"path": "a.jpg", "label": "awe", "split": "train", "x0": 9, **box},
        {"path": "a.jpg", "label": "awe", "split": "train", "x0": 9, **box},
        {"path": "a.jpg", "label": "awe", "split": "train"},
        {"path": "a.jpg", "label": "awe", "split": "test", "x0": 20, **box},
    ]
    result = table(rows)
    assert [row.boxes[0].x0 for row in look.rows(result.manifest)] == [0, 9]
    assert look.problems(result) == {
        "image listed twice": 1,
        "image listed twice with other labels": 1,
        "image listed in two splits": 1,
    }


def test_classes_that_differ_only_in_case_are_one_and_that_is_told(table, look):
    rows = [{"path": f"{name}.jpg", "label": label} for name, label in zip("abc", ["joy", "Joy", "fear"], strict=True)]
    result = table(rows)
    assert result.manifest.facts.classes == ("fear", "joy")
    assert look.cells(result.manifest, "label") == [1, 1, 0]
    assert result.problems == ()
    assert "1 x class written in another way (Joy is joy)" in result.notes


def test_sets_of_labels_are_cut_each_by_itself(trees, tmp_path):
    for i in range(20):
        trees.touch(tmp_path / "pictures" / f"{i}.jpg")
    lines = [f"{i}.jpg,{'a|b' if i % 2 else 'c'}" for i in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["path,labels", *lines]))
    where = {"table": tmp_path / "t.csv", "ratios": (0.5, 0, 0.5)}
    manifest = import_dataset("table", tmp_path / "pictures", **where).manifest
    assert manifest.counts() == {split: dict.fromkeys("abc", 5) for split in ("train", "test")}


def test_a_row_without_a_split_among_others_is_left_out(table, look):
    rows = [{"path": "a.jpg", "split": "dev"}, {"path": "b.jpg", "split": ""}, {"path": "c.jpg", "split": "fold 3"}]
    result = table(rows)
    assert result.manifest.split_counts() == {"val": 1, "fold 3": 1}
    assert look.problems(result) == {"row without a split": 1}
    assert result.manifest.facts.split_recipe == "given"


def test_people_of_a_picture_and_groups_stay_together(trees, look, tmp_path):
    lines = ["path,label,group,x0,y0,x1,y1"]
    for number in range(60):
        trees.touch(tmp_path / f"{number}.png")
        for person in range(2):
            label = ("awe", "joy")[(number + person) % 2]
            lines.append(f"{number}.png,{label},film {number // 5},{person},0,50,50")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    manifest = import_dataset("table", tmp_path, table=tmp_path / "t.csv", ratios=(0.5, 0.25, 0.25)).manifest
    splits_of_group = {}
    for split, group in zip(look.cells(manifest, "split"), look.cells(manifest, "group"), strict=True):
        splits_of_group.setdefault(group, set()).add(split)
    assert all(len(splits) == 1 for splits in splits_of_group.values())
    assert manifest.split_counts() == {"train": 60, "val": 30, "test": 30}
    assert "group kept whole" in manifest.facts.split_recipe
