"""One table means the same whatever type of file holds it, and no fact of one file changes what another says."""

import csv
import io
import itertools
import json
import math
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uniemox.errors import DataError
from uniemox.importers.importing import import_dataset
from uniemox.manifests.table import Box

ALL = (1, 0, 0)
NAMES = ("joy", "fear", "awe")


def text_of(value, *, comma):
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(value)
    return text.replace(".", ",") if comma and isinstance(value, float) else text


def as_text(separator, *, comma=False, mark="", coding="utf-8"):
    def write(rows, path):
        text = io.StringIO()
        writer = csv.writer(text, delimiter=separator)
        writer.writerow(rows[0])
        writer.writerows([text_of(value, comma=comma) for value in row.values()] for row in rows)
        path.write_bytes((mark + text.getvalue()).encode(coding))

    return write


def as_json_lines(rows, path):
    path.write_text("\n".join(map(json.dumps, rows)))


def as_parquet(rows, path):
    pq.write_table(pa.Table.from_pylist(rows), path)


FILES = {
    "t.csv": as_text(","),
    "excel.csv": as_text(";", comma=True, mark="\ufeffsep=;\r\n"),
    "semicolons.csv": as_text(";", comma=True),
    "utf-16.txt": as_text("\t", coding="utf-16"),
    "t.tsv": as_text("\t"),
    "bars.txt": as_text("|"),
    "t.jsonl": as_json_lines,
    "t.json": lambda rows, path: path.write_text(json.dumps(rows)),
    "t.parquet": as_parquet,
}
every_file = pytest.mark.parametrize("file", FILES)


@pytest.fixture
def table(trees, tmp_path):
    """Write rows in a type of file beside a folder with images a.jpg to h.jpg, and import it."""
    root = tmp_path / "pictures"
    for name in "abcdefgh":
        trees.touch(root / f"{name}.jpg")

    def make(rows, file, **options):
        FILES[file](rows, tmp_path / file)
        return import_dataset("table", root, table=tmp_path / file, **{"ratios": ALL, **options})

    return make


def rows_with(name, values):
    return [{"path": f"{letter}.jpg", name: value} for letter, value in zip("abcdefgh", values, strict=False)]


def kinds(result):
    return {problem.kind: problem.count for problem in result.problems}


@every_file
@pytest.mark.parametrize("classes", [(), NAMES])
def test_whole_numbers_beside_a_gap_are_whole_numbers(table, look, file, classes):
    result = table(rows_with("label", [0.0, 2.0, 1.0, None, float("nan"), 2.0]), file, classes=classes)
    assert result.problems == ()
    assert result.manifest.facts.classes == (classes or ("0", "1", "2"))
    assert look.cells(result.manifest, "label") == [0, 2, 1, None, None, 2]


@every_file
def test_numbers_are_sorted_as_numbers(table, file):
    assert table(rows_with("label", [10.0, 2.0, 0.0, None]), file).manifest.facts.classes == ("0", "2", "10")


@every_file
@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NULL", "null", "N/A", "<NA>", " ", ""])
def test_words_for_nothing_are_no_class(table, look, file, word):
    result = table(rows_with("label", ["joy", word, "fear"]), file)
    assert result.manifest.facts.classes == ("fear", "joy")
    assert look.cells(result.manifest, "label") == [1, None, 0]


LISTS = {
    "python": repr,
    "json": json.dumps,
    "tuple": lambda names: repr(tuple(names)),
    "set": lambda names: f"{{{', '.join(map(repr, names))}}}",
    "numpy": lambda names: f"[{' '.join(map(repr, names))}]",
    "array": lambda names: f"array({names!r}, dtype=object)",
    "bars": "|".join,
}


@every_file
@pytest.mark.parametrize("write", LISTS.values(), ids=LISTS)
def test_a_list_in_a_cell_is_its_labels(table, look, file, write):
    cells = [write(names) for names in (["joy"], ["joy", "fear"], ["fear"])]
    result = table(rows_with("labels", cells), file)
    assert result.problems == ()
    assert result.manifest.facts.classes == ("fear", "joy")
    assert look.cells(result.manifest, "label_set") == [[1], [0, 1], [0]]


@every_file
@pytest.mark.parametrize("name", ["label", "labels"])
@pytest.mark.parametrize("cell", ["['joy'", "[['joy']]", "{'joy': [1}", "['joy', {}]"])
def test_a_list_of_no_known_form_is_counted_and_never_a_class(table, file, name, cell):
    result = table(rows_with(name, ["fear", cell, "fear"]), file)
    assert kinds(result) == {f"{name} of unknown form": 1}
    assert result.manifest.facts.classes == ("fear",)


@every_file
def test_numbers_and_boxes_have_their_value(table, look, file):
    row = {"path": " a.jpg ", "label": "joy", "valence": 3.5, "arousal": 1.25, "xmin": 1.5, "ymin": 2.0, "xmax": 30.25}
    row |= {"ymax": 40.0, "confidence": 0.75, "brightness": 0.5}
    result = table([row], file)
    assert kinds(result) == {}
    found = result.manifest.row(0)
    assert found.boxes == (Box(1.5, 2, 30.25, 40, 0.75),)
    assert found.attributes.brightness == 0.5
    assert look.cells(result.manifest, "vad") == [{"valence": 3.5, "arousal": 1.25, "dominance": None}]


@every_file
@pytest.mark.parametrize(
    "box",
    [
        {"x": 10.5, "y": 20.0, "w": 60.0, "h": 30.25},
        {"X": 10.5, "Y": 20.0, "Width": 60.0, "Height": 30.25},
        {"cx": 40.5, "cy": 35.125, "w": 60.0, "h": 30.25},
        {"x_center": 40.5, "y_center": 35.125, "width": 60.0, "height": 30.25},
    ],
    ids="-".join,
)
def test_boxes_by_their_sides_or_centre_are_the_same_boxes(table, file, box):
    result = table([{"path": "a.jpg", "label": "joy", **box}], file)
    assert kinds(result) == {}
    assert result.manifest.row(0).boxes == (Box(10.5, 20, 70.5, 50.25),)


@every_file
def test_labels_listed_several_times_are_votes(table, look, file):
    cells = ["['joy', 'joy', 'fear', 'joy']", "['fear']", "[]"]
    result = table(rows_with("labels", cells), file)
    assert look.cells(result.manifest, "distribution") == [[0.25, 0.75], [1.0, 0.0], None]
    assert look.cells(result.manifest, "label_set") == [[0, 1], [0], []]
    assert any("are votes" in note for note in result.notes)


@pytest.mark.parametrize("labels", [[["joy"], ["fear"]], [b"joy", b"fear"], ["['joy']", "['fear']"]])
def test_labels_as_lists_of_one_or_as_bytes_are_labels(table, look, labels):
    result = table(rows_with("label", labels), "t.parquet")
    assert (kinds(result), look.cells(result.manifest, "label")) == ({}, [1, 0])


def test_a_column_of_lists_is_several_labels_in_every_row(table, look):
    result = table(rows_with("label", [["joy"], ["fear", "joy"], ["fear"]]), "t.parquet")
    assert look.cells(result.manifest, "label_set") == [[1], [0, 1], [0]]
    assert look.cells(result.manifest, "label") == [None] * 3


@every_file
def test_columns_that_could_be_labels_are_named_if_none_is_taken(table, file):
    rows = [{"path": "a.jpg", "emotion_1": "joy", "emotion_2": "fear", "caption": "x"}]
    result = table(rows, file)
    (problem,) = result.problems
    assert problem.kind == "several columns could be labels, none is taken"
    assert "emotion_1, emotion_2 of" in problem.example
    assert "--columns label=emotion_1" in problem.example
    assert kinds(table(rows, file, columns={"label": "emotion_2"})) == {}


def test_a_label_of_thousands_of_digits_is_no_number(table):
    result = table(rows_with("label", ["9" * 5000, "joy"]), "t.csv")
    assert kinds(result) == {"label of unknown form": 1}
    result = table(rows_with("label", ["9" * 200, "joy"]), "t.csv", classes=NAMES)
    assert kinds(result)["unknown class"] == 1


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet", "arrow"])
def test_a_pointer_of_git_lfs_is_named(trees, tmp_path, suffix):
    trees.touch(tmp_path / "set" / "a.jpg")
    (tmp_path / f"t.{suffix}").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n")
    with pytest.raises(DataError, match="is a Git LFS pointer, not the file itself: run `git lfs pull`"):
        import_dataset("table", tmp_path / "set", table=tmp_path / f"t.{suffix}", ratios=ALL)


def test_boxes_in_shares_are_pixels_where_the_image_has_a_size(table, tmp_path, png):
    (tmp_path / "pictures" / "a.jpg").write_bytes(png((0, 0, 0), size=(200, 100)))
    row = {"path": "a.jpg", "label": "joy", "x0": 0.1, "y0": 0.2, "x1": 0.6, "y1": 0.9}
    result = table([row], "t.csv")
    assert result.manifest.row(0).boxes == (Box(20, 20, 120, 90),)
    assert any("taken for shares" in note for note in result.notes)
    assert table([row], "t.csv", box_units="pixels").manifest.row(0).boxes == (Box(0.1, 0.2, 0.6, 0.9),)
    result = table([row | {"path": "b.jpg"}], "t.csv")
    assert kinds(result) == {"box in shares of an image whose size cannot be read": 1}
    assert not result.manifest.row(0).boxes


@every_file
@pytest.mark.parametrize("none", ["-1", "[-1]"])
def test_minus_one_is_no_label_and_never_the_class_one(table, look, file, none):
    result = table(rows_with("label", [none, *(["0", "1"] if none == "-1" else ["[0]", "[1]"])]), file)
    assert result.manifest.facts.classes == ("0", "1")
    assert [row.label for row in map(result.manifest.row, range(3))] == [None, 0, 1]
    assert result.notes == ()


# Facts of one file and another's


def shard(path, rows, names, *, numbered=True, order=("image", "label")):
    """Write a shard whose rows are (image, class), with numbers by its own names, or with the names."""
    values = [names.index(label) if numbered else label for _, label in rows]
    columns = {"image": [{"bytes": data, "path": None} for data, _ in rows], "label": values}
    table = pa.table({name: columns[name] for name in order})
    label = {"_type": "ClassLabel", "names": list(names)} if numbered else {"_type": "Value", "dtype": "string"}
    note = json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": note}), path)


@pytest.mark.parametrize("classes", [(), NAMES, ("fear", "awe", "joy")])
@pytest.mark.parametrize("second", list(itertools.permutations(NAMES)))
def test_each_shard_s_numbers_are_of_its_own_classes(tmp_path, png, second, classes):
    """Permuted names, names instead of numbers, columns in another order: each image keeps its class."""
    generator = random.Random(0)
    truth = {}
    shards = {
        "train-0": (NAMES, True),
        "train-1": (second, True),
        "validation-0": (second, False),
        "test-0": (second, True),
    }
    for number, (name, (names, numbered)) in enumerate(shards.items()):
        rows = []
        for place in range(4):
            data, label = png((number * 60, place * 40, 5)), generator.choice(NAMES)
            truth[data] = label
            rows.append((data, label))
        order = ("image", "label") if number % 2 else ("label", "image")
        shard(tmp_path / f"set/data/{name}.parquet", rows, names, numbered=numbered, order=order)
    result = import_dataset("hf", tmp_path / "set", pictures=tmp_path / "out", classes=classes)
    assert result.problems == ()
    manifest = result.manifest
    assert manifest.facts.classes == (classes or second)  # as the first file that is read, test-0, numbers them
    found = {
        row.path.read_bytes(): manifest.facts.classes[row.label] for row in map(manifest.row, range(len(manifest)))
    }
    assert found == truth
    assert any("numbers its classes otherwise" in note for note in result.notes) == (second != NAMES)


def test_a_shard_with_a_class_of_its_own_adds_it(tmp_path, png):
    shard(tmp_path / "set/train-0.parquet", [(png((1, 0, 0)), "joy")], ["joy", "fear"])
    shard(tmp_path / "set/val-0.parquet", [(png((2, 0, 0)), "awe")], ["awe", "joy"])
    manifest = import_dataset("hf", tmp_path / "set", pictures=tmp_path / "out").manifest
    assert manifest.facts.classes == ("joy", "fear", "awe")
    assert [manifest.facts.classes[manifest.row(i).label] for i in range(2)] == ["joy", "awe"]


def test_shares_by_number_are_of_the_shard_s_own_classes(tmp_path, png):
    """Numbers, names and places mean the same three classes."""
    shares = ["{0: 0.5, 2: 0.5}", "{'joy': 0.5, 'awe': 0.5}", "[0.5, 0, 0.5]"]
    path = tmp_path / "set/train-0.parquet"
    shard(path, [(png((place * 40, 0, 5)), "joy") for place in range(3)], NAMES)
    rows = pq.read_table(path)
    pq.write_table(rows.append_column("distribution", pa.array(shares)), path)
    manifest = import_dataset("hf", tmp_path / "set", pictures=tmp_path / "out").manifest
    assert manifest.facts.classes == NAMES
    assert manifest.table["distribution"].to_pylist() == [[0.5, 0.0, 0.5]] * 3


def test_a_number_beyond_a_shard_s_classes_is_counted(tmp_path, png):
    shard(tmp_path / "set/train-0.parquet", [(png((1, 0, 0)), "joy")], ["joy"])
    table = pa.table({"image": [{"bytes": png((2, 0, 0)), "path": None}], "label": [7]})
    note = json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": ["joy"]}}}})
    pq.write_table(table.replace_schema_metadata({"huggingface": note}), tmp_path / "set/train-1.parquet")
    result = import_dataset("hf", tmp_path / "set", pictures=tmp_path / "out")
    assert kinds(result) == {"number that no class has": 1}


def test_two_columns_of_classes_are_named_and_one_can_be_chosen(tmp_path, png):
    features = {name: {"_type": "ClassLabel", "names": ["joy", "fear"]} for name in ("evoked", "shown")}
    images = [{"bytes": png((number, 0, 0)), "path": None} for number in range(2)]
    table = pa.table({"image": images, "evoked": [0, 0], "shown": [1, 0]})
    note = json.dumps({"info": {"features": {"image": {"_type": "Image"}, **features}}})
    (tmp_path / "set").mkdir()
    pq.write_table(table.replace_schema_metadata({"huggingface": note}), tmp_path / "set/train-0.parquet")
    result = import_dataset("hf", tmp_path / "set", pictures=tmp_path / "out")
    (problem,) = result.problems
    assert "evoked, shown of train-0.parquet: choose one with --columns label=evoked" in problem.example
    chosen = import_dataset("hf", tmp_path / "set", pictures=tmp_path / "out", columns={"label": "shown"})
    assert chosen.problems == ()
    assert chosen.manifest.facts.classes == ("joy", "fear")
    assert chosen.manifest.row(0).label == 1


# What a breaker found


@every_file
def test_shares_in_an_order_that_nobody_states_are_counted_and_not_given_to_classes(table, look, file):
    rows = [{"path": "a.jpg", "label": "joy", "distribution": "[0.75, 0.25]"}]
    rows += [{"path": "b.jpg", "label": "fear", "distribution": "[0.25, 0.75]"}]
    result = table(rows, file)
    assert kinds(result) == {"list of shares without the order of its classes (--classes)": 2}
    assert look.cells(result.manifest, "distribution") == [None, None]
    result = table(rows, file, classes=("joy", "fear"))
    assert look.cells(result.manifest, "distribution") == [[0.75, 0.25], [0.25, 0.75]]


@every_file
@pytest.mark.parametrize("cell", ["[]", "()", "(null)", "set()", "[nan]"])
def test_an_empty_list_is_a_missing_label_and_makes_no_sets_of_the_others(table, look, file, cell):
    result = table(rows_with("label", ["joy", "fear", cell]), file)
    assert look.cells(result.manifest, "label") == [1, 0, None]
    assert look.cells(result.manifest, "label_set") == [None] * 3


@every_file
def test_splits_are_read_as_names_are(table, file):
    rows = [
        {"path": f"{name}.jpg", "label": "joy", "split": split}
        for name, split in zip("abcd", ["b'train'", " Test ", "['val']", "trian"], strict=True)
    ]
    result = table(rows, file, ratios=None)
    assert result.manifest.split_counts() == {"train": 1, "test": 1, "trian": 1}
    assert kinds(result)["split of unknown form"] == 1
    assert any("split that is not train, val or test (trian)" in note for note in result.notes)


def test_splits_as_bytes_are_texts(table):
    rows = [{"path": "a.jpg", "label": "joy", "split": b"train"}]
    assert table(rows, "t.parquet", ratios=None).manifest.split_counts() == {"train": 1}


@pytest.mark.parametrize("file", ["excel.csv", "semicolons.csv"])
def test_a_comma_between_two_labels_is_no_decimal_one(table, file):
    result = table(rows_with("labels", ["1,2", "0"]), file)
    assert result.manifest.facts.classes == ("0", "1", "2")
    assert table(rows_with("label", ["1,2", "0"]), file).manifest.facts.classes == ("1,2", "0")


@every_file
def test_ways_to_write_one_class_are_one_class_and_that_is_told(table, look, file):
    result = table(rows_with("label", ["Joy", "joy", "JOY ", "fear"]), file)
    assert result.manifest.facts.classes == ("fear", "joy")
    assert look.cells(result.manifest, "label") == [1, 1, 1, 0]
    assert any(note.startswith("2 x class written in another way") for note in result.notes)


@every_file
def test_a_column_of_labels_without_any_is_a_problem(table, file):
    rows = [{"path": "a.jpg", "label": None, "emotion": "joy"}]
    if file == "t.parquet":
        rows[0]["label"] = ""
    assert "column of labels without a label: choose another with --columns label=NAME" in kinds(table(rows, file))


@every_file
def test_the_boxes_of_an_image_may_stand_in_one_cell(table, file):
    named = json.dumps([{"x1": 1, "y1": 2, "x2": 30, "y2": 40}, {"x1": 50, "y1": 2, "x2": 60.5, "y2": 40}])
    rows = [
        {"path": "a.jpg", "bbox": named},
        {"path": "b.jpg", "bbox": "[1, 2, 30, 40]"},
        {"path": "c.jpg", "bbox": ""},
    ]
    rows += [{"path": "d.jpg", "bbox": json.dumps([{"x1": 9, "y1": 2, "x2": 3, "y2": 40}])}]
    result = table(rows, file, columns={"boxes": "bbox"})
    assert [result.manifest.row(place).boxes for place in range(4)] == [
        (Box(1, 2, 30, 40), Box(50, 2, 60.5, 40)),
        (),
        (),
        (),
    ]
    assert kinds(result) == {"boxes whose numbers have no names such as x0, y0, x1, y1": 1, "box that is no box": 1}
    assert not any("boxes" in note for note in result.notes)


@every_file
@pytest.mark.parametrize(
    ("name", "what"), [("boxes", "boxes"), ("is_train", "splits"), ("fold", "splits"), ("bbox", "boxes")]
)
def test_columns_that_look_like_splits_or_boxes_are_noted(table, file, name, what):
    result = table([{"path": "a.jpg", "label": "joy", name: "1"}, {"path": "b.jpg", "label": "fear", name: "0"}], file)
    assert f"1 x file with columns that could be {what}, but are not taken (--columns) ({name})" in result.notes


@every_file
def test_only_persons_are_people_where_rows_are_boxes(table, file):
    box = {"xmin": 1, "ymin": 1, "xmax": 40, "ymax": 30}
    rows = [
        {"path": "a.jpg", "label": "joy", "name": "person", **box},
        {"path": "b.jpg", "label": "fear", "name": "dog", **box},
    ]
    result = table(rows, file)
    assert len(result.manifest) == 1
    assert "1 row skipped: no person by the column name" in result.notes


@pytest.mark.parametrize(
    ("name", "write"), [("t.json", as_json_lines), ("t.jsonl", lambda r, p: p.write_text(json.dumps(r, indent=1)))]
)
def test_a_list_and_lines_of_json_are_told_apart_by_what_they_are(trees, tmp_path, name, write):
    trees.touch(tmp_path / "set" / "a.jpg")
    write([{"path": "a.jpg", "label": "joy"}], tmp_path / name)
    assert len(import_dataset("table", tmp_path / "set", table=tmp_path / name, ratios=ALL).manifest) == 1


def test_one_list_at_the_root_takes_splits_from_folders(trees, tmp_path):
    for split in ("train", "test"):
        trees.touch(tmp_path / "set" / split / "a.jpg")
    lines = [{"file_name": f"{split}/a.jpg", "label": "joy"} for split in ("train", "test")]
    (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = import_dataset("hf", tmp_path / "set")
    assert result.manifest.split_counts() == {"train": 1, "test": 1}
