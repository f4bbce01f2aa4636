"""Boxes as detectors, annotation tools and spreadsheets write them: persons only, whole scores, the right pixels."""

import itertools
import json
import random

import pytest
from PIL import Image

from uniemox.errors import DataError
from uniemox.manifests.table import Box
from uniemox.people.boxes import read_boxes

PERSON, DOG = Box(5, 6, 30, 40, 0.91), Box(1, 1, 60, 40, 0.95)
FORMS = {
    ("x0", "y0", "x1", "y1"): lambda b: (b.x0, b.y0, b.x1, b.y1),
    ("xmin", "ymin", "xmax", "ymax"): lambda b: (b.x0, b.y0, b.x1, b.y1),
    ("x_min", "y_min", "x_max", "y_max"): lambda b: (b.x0, b.y0, b.x1, b.y1),
    ("x1", "y1", "x2", "y2"): lambda b: (b.x0, b.y0, b.x1, b.y1),
    ("left", "top", "right", "bottom"): lambda b: (b.x0, b.y0, b.x1, b.y1),
    ("x", "y", "w", "h"): lambda b: (b.x0, b.y0, b.x1 - b.x0, b.y1 - b.y0),
    ("x", "y", "width", "height"): lambda b: (b.x0, b.y0, b.x1 - b.x0, b.y1 - b.y0),
    ("cx", "cy", "w", "h"): lambda b: ((b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2, b.x1 - b.x0, b.y1 - b.y0),
    ("x_center", "y_center", "width", "height"): lambda b: (
        *((b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2),
        *(b.x1 - b.x0, b.y1 - b.y0),
    ),
}


@pytest.fixture
def boxes(tmp_path):
    def read(text, name="boxes.csv"):
        (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text))
        return read_boxes(tmp_path / name)

    return read


def table(columns, rows, separator=",", *, comma=False):
    cells = [
        [str(cell).replace(".", ",") if comma and isinstance(cell, float) else str(cell) for cell in r] for r in rows
    ]
    return "\n".join(map(separator.join, [columns, *cells])) + "\n"


@pytest.mark.parametrize("score", ["score", "confidence", "Conf", "probability"])
@pytest.mark.parametrize("kind", ["name", "class", "class_name", "label", "Category"])
@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_of_a_detector_s_table_only_persons_are_read_with_their_scores(boxes, form, kind, score):
    rows = [("p0.jpg", *FORMS[form](PERSON), 0.91, "Person"), ("p1.jpg", *FORMS[form](DOG), 0.95, "dog")]
    found = boxes(table(["image", *form, score, kind], rows))
    assert found.people == {"p0.jpg": [PERSON]}
    assert found.problems == ()
    assert found.notes == (f"1 box skipped: no person by the column {kind}",)


def test_the_name_of_a_class_counts_more_than_its_number(boxes):
    rows = [("p0.jpg", 5, 6, 30, 40, 0.91, 0, "person"), ("p1.jpg", 1, 1, 60, 40, 0.95, 16, "dog")]
    columns = ["image", "xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
    for order in itertools.permutations(range(8), 8):
        if random.Random(str(order)).random() < 0.005:
            text = table([columns[i] for i in order], [[row[i] for i in order] for row in rows])
            assert boxes(text).people == {"p0.jpg": [PERSON]}


@pytest.mark.parametrize(
    ("column", "values"),
    [("class", ["dog", "cat"]), ("name", ["car", "joy"]), ("class", [0, 16]), ("class_id", [1, 1]), ("label", [3, 4])],
)
def test_classes_without_a_person_are_refused(boxes, column, values):
    rows = [("a.jpg", 0, 0, 9, 9, value) for value in values]
    with pytest.raises(DataError, match=f"has a column {column} with .*but none is person: name people so, or take"):
        boxes(table(["path", "x0", "y0", "x1", "y1", column], rows))


@pytest.mark.parametrize(
    ("column", "values"), [("category", ["Fear", "joyful"]), ("label", ["Disconnection", "Doubt/Confusion"])]
)
def test_emotions_are_no_classes_of_a_detector(boxes, column, values):
    rows = [("a.jpg", 0, 0, 9 + place, 9, value) for place, value in enumerate(values)]
    found = boxes(table(["path", "x0", "y0", "x1", "y1", column], rows))
    assert len(found.people["a.jpg"]) == 2


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("before", ["", "\ufeff"])
def test_a_spreadsheet_s_boxes_keep_their_fractions(boxes, separator, before):
    rows = [("p0.jpg ", 1.5, 2.25, 30.5, 40.0, 0.5)]
    text = table(["path", "x0", "y0", "x1", "y1", "score"], rows, separator, comma=separator != ",")
    assert boxes(before + text).people == {"p0.jpg": [Box(1.5, 2.25, 30.5, 40, 0.5)]}


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 200)).save(tmp_path / "turned.png", exif=exif)  # upright: 200 × 100
    return tmp_path


@pytest.mark.parametrize("form", FORMS, ids="-".join)
@pytest.mark.parametrize("name", ["a.png", "turned.png"])
def test_shares_of_the_sides_become_pixels_of_the_upright_image(boxes, picture, form, name):
    rows = [(name, *FORMS[form](Box(0.1, 0.2, 0.6, 0.9)))]
    assigned = boxes(table(["path", *form], rows)).assign([name], root=picture)
    ((box,),) = (found.boxes for found in assigned.found)
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((20, 20, 120, 90))
    assert any("taken for shares" in note for note in assigned.notes)


def test_what_the_numbers_are_can_be_said(boxes, picture):
    found = boxes(table(["path", "x0", "y0", "x1", "y1"], [("a.png", 0, 0, 1, 1)]))
    assert found.assign(["a.png"], root=picture, units="pixels").found[0].boxes == (Box(0, 0, 1, 1),)
    assert found.assign(["a.png"], root=picture, units="shares").found[0].boxes == (Box(0, 0, 200, 100),)
    assert found.assign(["a.png"], root=picture).found[0].boxes == (Box(0, 0, 200, 100),)


def test_shares_may_reach_over_the_edge(boxes, picture):
    rows = [("a.png", -0.02, 0.1, 0.5, 1.05), ("a.png", 0.5, 0.5, 1.25, 1)]
    assigned = boxes(table(["path", "x0", "y0", "x1", "y1"], rows)).assign(["a.png"], root=picture)
    assert assigned.found[0].boxes == (Box(0, 10, 100, 105), Box(100, 50, 250, 100))


@pytest.mark.parametrize("score", ["", "nan", "NaN", "NA", "None", "NULL"])
def test_a_box_without_a_score_is_a_box(boxes, score):
    found = boxes(table(["path", "x0", "y0", "x1", "y1", "score"], [("a.png", 5, 6, 30, 40, score)]))
    assert found.people == {"a.png": [Box(5, 6, 30, 40)]}
    assert found.problems == ()


def test_two_names_that_differ_in_case_are_two_images(boxes):
    rows = [("A.png", 50, 60, 70, 80), ("a.png", 5, 6, 30, 40)]
    assigned = boxes(table(["path", "x0", "y0", "x1", "y1"], rows)).assign(["a.png"])
    assert assigned.found[0].boxes == (Box(5, 6, 30, 40),)
    assert [problem.kind for problem in assigned.problems] == ["image that is not among these"]


def test_one_box_of_pixels_makes_all_of_them_pixels(boxes, picture):
    rows = [("a.png", 0, 0, 1, 1), ("a.png", 0, 0, 50, 60)]
    assigned = boxes(table(["path", "x0", "y0", "x1", "y1"], rows)).assign(["a.png"], root=picture)
    assert assigned.found[0].boxes == (Box(0, 0, 1, 1), Box(0, 0, 50, 60))
    assert assigned.notes == ()


def test_shares_of_an_image_without_a_size_are_counted(boxes, picture):
    (picture / "b.png").write_bytes(b"no image")
    rows = [("a.png", 0, 0, 0.5, 0.5), ("b.png", 0, 0, 0.5, 0.5)]
    assigned = boxes(table(["path", "x0", "y0", "x1", "y1"], rows)).assign(["a.png", "b.png"], root=picture)
    assert assigned.paths == ["a.png"]
    (problem,) = assigned.problems
    assert problem.kind == "box in shares of an image whose size cannot be read"


def coco(names):
    return {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "bbox": [number, 0, 9, 9]}
            for number in range(len(names))
        ],
        "categories": [{"id": 1, "name": "person"}],
    }


@pytest.mark.parametrize(
    "change", [lambda n: n.replace("/", "\\"), lambda n: f"./{n} ", str.upper, lambda n: f"train/{n}"]
)
def test_names_of_another_machine_mean_the_same_images(boxes, change):
    names = ["pics/a.jpg", "pics/b.jpg", "more/a.jpg"]
    assigned = boxes(coco(list(map(change, names))), "boxes.json").assign(names)
    assert {path: found.boxes[0].x0 for path, found in zip(assigned.paths, assigned.found, strict=True)} == {
        name: number for number, name in enumerate(names)
    }
    assert assigned.problems == ()


def test_an_image_is_not_found_by_an_end_that_two_names_share(boxes):
    """The boxes of an image that is not there must not go to another of the same name."""
    assigned = boxes(coco(["x/a.jpg", "y/a.jpg", "z/b.jpg"]), "boxes.json").assign(["v/a.jpg", "w/b.jpg"])
    assert assigned.paths == ["w/b.jpg"]
    assert assigned.notes == ("1 x image found by the end of its path (z/b.jpg is w/b.jpg)",)
    (problem,) = assigned.problems
    assert (problem.kind, problem.count) == ("image that is not among these", 2)
    assigned = boxes(coco(["v/a.jpg", "y/a.jpg"]), "boxes.json").assign(["v/a.jpg"])
    assert [found.boxes[0].x0 for found in assigned.found] == [0]


@pytest.mark.parametrize("name", ["boxes.csv", "boxes.json"])
def test_a_pointer_of_git_lfs_is_named(boxes, name):
    with pytest.raises(DataError, match="is a Git LFS pointer"):
        boxes("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", name)


@pytest.mark.parametrize("column", ["cls", "object", "type", "class_label", "what the camera saw"])
def test_a_column_by_any_name_that_calls_some_rows_persons_tells_the_others_apart(boxes, column):
    rows = [("p0.jpg", 5, 6, 30, 40, "person"), ("p1.jpg", 1, 1, 60, 40, "dog")]
    assert list(boxes(table(["path", "xmin", "ymin", "xmax", "ymax", column], rows)).people) == ["p0.jpg"]


def test_the_sides_of_the_image_are_not_those_of_the_box(boxes):
    columns = ["filename", "width", "height", "x_center", "y_center", "w", "h"]
    found = boxes(table(columns, [("p0.jpg", 640, 480, 30, 20, 10, 12)]))
    assert found.people == {"p0.jpg": [Box(25, 14, 35, 26)]}


def test_a_box_smaller_than_a_pixel_is_counted(boxes):
    rows = [("a.jpg", 0.1, 0.2, 0.6, 0.9), ("b.jpg", 1, 1, 200, 100)]
    assigned = boxes(table(["path", "x0", "y0", "x1", "y1"], rows)).assign(["a.jpg", "b.jpg"])
    assert [problem.kind for problem in assigned.problems] == [
        "box smaller than a pixel: if these are shares, say --box-units shares"
    ]


def with_changes(**changes):
    return coco(["a.jpg", "b.jpg"]) | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"images": [{"id": 0, "file_name": "a.jpg"}, {"id": 0, "file_name": "b.jpg"}]},
            "two images of the id 0, a.jpg and b.jpg",
        ),
        ({"categories": [{"id": 1, "name": "person"}, {"id": 1, "name": "dog"}]}, "gives person and dog one id"),
    ],
)
def test_facts_of_coco_that_contradict_are_refused(boxes, changes, said):
    with pytest.raises(DataError, match=said):
        boxes(with_changes(**changes), "boxes.json")


def test_all_categories_of_people_count_and_ids_may_be_texts(boxes):
    tree = with_changes(categories=[{"id": "1", "name": "person"}, {"id": 5, "name": "Person"}])
    tree["annotations"].append({"id": 9, "image_id": "0", "category_id": "5", "bbox": [1, 1, 5, 5]})
    tree["annotations"].append({"id": 10, "image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": "1"})
    found = boxes(tree, "boxes.json")
    assert {name: len(people) for name, people in found.people.items()} == {"a.jpg": 2, "b.jpg": 1}
    assert [problem.kind for problem in found.problems] == ["crowd, which is no person"]


def test_a_class_that_is_assumed_is_told(boxes):
    assert "so class 1 is taken for people" in boxes(with_changes(categories=[]), "boxes.json").notes[0]


def test_a_byte_order_mark_before_json_changes_nothing(boxes):
    text = json.dumps(coco(["a.jpg"]))
    assert boxes("\ufeff" + text, "boxes.json").people == boxes(text, "boxes.json").people
