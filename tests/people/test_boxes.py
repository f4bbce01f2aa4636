"""Files of boxes."""

import json

import pytest

from uniemox.errors import DataError
from uniemox.manifests.table import Box
from uniemox.people.boxes import read_boxes

IMAGES = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
CATEGORIES = [{"id": 7, "name": "Person"}, {"id": 1, "name": "cat"}]


def written(tmp_path, text, name="boxes.csv"):
    path = tmp_path / name
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def coco(tmp_path, annotations=(), **changes):
    tree = {"images": IMAGES, "annotations": annotations, "categories": CATEGORIES} | changes
    return written(tmp_path, tree, "boxes.json")


def annotation(**changes):
    return {"id": 5, "image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 20]} | changes


def kinds(problems):
    return {problem.kind: problem.count for problem in problems}


@pytest.mark.parametrize(
    ("header", "numbers"),
    [
        ("path,x0,y0,x1,y1", "1,2,11,22"),
        ("image,xmin,ymin,xmax,ymax", "1,2,11,22"),
        ("Image, XMin, YMin, XMax, YMax", "1, 2, 11, 22"),
        ("filename,x1,y1,x2,y2", "1,2,11,22"),
        ("file_name,x,y,w,h", "1,2,10,20"),
        ("path,x,y,width,height", "1,2,10,20"),
    ],
)
def test_every_usual_way_to_name_a_box_is_read(tmp_path, header, numbers):
    found = read_boxes(written(tmp_path, f"{header}\na/b.jpg,{numbers}\n"))
    assert found.people == {"a/b.jpg": [Box(1, 2, 11, 22)]}
    assert found.problems == ()


def test_columns_may_stand_in_any_order_with_others_between(tmp_path):
    text = "score,Category,y1,x1,path,y0,x0\n.5,Fear,22,11,a.jpg,2,1\n,Joy,9,9,a.jpg,0,0\n"
    assert read_boxes(written(tmp_path, text)).people["a.jpg"] == [Box(1, 2, 11, 22, 0.5), Box(0, 0, 9, 9)]


def test_a_table_of_predictions_is_read_with_its_scores_and_its_pictures_without_people(tmp_path):
    rows = [
        "a.jpg,,,,,,awe,0.5,",
        "a.jpg,1,2,11,22,0.9,awe,0.5,",
        "a.jpg,0,0,9,9,,awe,0.5,",
        "b.jpg,,,,,,awe,0.5,",
        "c.jpg,,,,,,,,not an image",
        "d.jpg,5,5,5,5,0.9,,,the box lies outside the image",
    ]
    text = "\n".join(["path,x0,y0,x1,y1,box_score,label,confidence,reason", *rows])
    found = read_boxes(written(tmp_path, text))
    assert found.people == {"a.jpg": [Box(1, 2, 11, 22, 0.9), Box(0, 0, 9, 9)], "b.jpg": []}
    problems = {problem.kind: problem.example for problem in found.problems}
    assert problems == {"image that could not be read": "c.jpg", "box that is no box": "line 7 of boxes.csv"}


def test_a_table_may_have_tabs(tmp_path):
    path = written(tmp_path, "path\tx0\ty0\tx1\ty1\na, b.jpg\t0\t0\t5\t5\n", "boxes.tsv")
    assert list(read_boxes(path).people) == ["a, b.jpg"]


@pytest.mark.parametrize(
    "numbers", ["5,0,1,9", "0,5,9,1", "nan,0,5,5", "0,0,inf,5", "a,b,c,d", "-9,0,0,5", ",,,", "1e999,0,2,2"]
)
def test_a_box_that_is_none_is_counted_with_its_line(tmp_path, numbers):
    text = f"path,x0,y0,x1,y1\na.jpg,0,0,5,5\na.jpg,{numbers}\nb.jpg,{numbers}\n"
    found = read_boxes(written(tmp_path, text))
    assert found.people == {"a.jpg": [Box(0, 0, 5, 5)]}
    (problem,) = found.problems
    assert (problem.kind, problem.count, problem.example) == ("box that is no box", 2, "line 3 of boxes.csv")


def test_what_reaches_over_the_edge_at_the_left_and_top_is_cut(tmp_path):
    found = read_boxes(written(tmp_path, "path,x0,y0,x1,y1\na,-3,-4,5,6\n"))
    assert found.people == {"a": [Box(0, 0, 5, 6)]}


@pytest.mark.parametrize("text", ["path\n", "path,x0,y0,x1\n", "x0,y0,x1,y1\n", "{}"])
def test_a_table_without_boxes_or_paths_is_refused(tmp_path, text):
    with pytest.raises(DataError, match=r"boxes\.csv starts with .*such as path,x0,y0,x1,y1,score"):
        read_boxes(written(tmp_path, text))


def test_coco_s_people_are_found_by_the_name_of_their_class(tmp_path):
    entries = [annotation(), annotation(category_id=1), annotation(bbox=[0, 0, 5, 5], score=0.25)]
    found = read_boxes(coco(tmp_path, entries))
    assert found.people == {
        "a.jpg": [Box(1, 2, 11, 22), Box(0, 0, 5, 5, 0.25)],
        "b.jpg": [],  # the file knows it, and nobody in it
    }
    assert found.problems == ()


@pytest.mark.parametrize("kind", [[7], {}, None, "seven", 7.5])
def test_an_annotation_of_no_class_is_no_person(tmp_path, kind):
    found = read_boxes(coco(tmp_path, [annotation(category_id=kind), annotation()]))
    assert found.people["a.jpg"] == [Box(1, 2, 11, 22)]


def test_without_categories_the_first_is_the_person(tmp_path):
    found = read_boxes(coco(tmp_path, [annotation(category_id=1)], categories=[]))
    assert found.people["a.jpg"] == [Box(1, 2, 11, 22)]


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (annotation(iscrowd=1), "crowd, which is no person"),
        (annotation(image_id=3), "annotation of an image that is not in the file"),
        (annotation(image_id=[1]), "annotation of an image that is not in the file"),
        (annotation(image_id={}), "annotation of an image that is not in the file"),
        (annotation(bbox=[0, 0, 0, 5]), "box that is no box"),
        (annotation(bbox=[0, 0, 5]), "box that is no box"),
        (annotation(bbox=None), "box that is no box"),
        (annotation(bbox=["a", {}, None, 1]), "box that is no box"),
        (annotation(score={}), "box that is no box"),
        (annotation(bbox=[10**400, 0, 1, 1]), "box that is no box"),
        (3, "entry of annotations that is no object"),
    ],
)
def test_a_bad_annotation_is_counted(tmp_path, entry, kind):
    found = read_boxes(coco(tmp_path, [entry, annotation()]))
    assert found.people["a.jpg"] == [Box(1, 2, 11, 22)]
    assert kinds(found.problems) == {kind: 1}


@pytest.mark.parametrize("image", [{"id": 1}, {"file_name": "a"}, {"id": [], "file_name": "a"}, 3])
def test_a_picture_without_a_name_is_counted(tmp_path, image):
    found = read_boxes(coco(tmp_path, [], images=[image]))
    assert (found.people, len(found.problems)) == ({}, 1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"images": None}, "is not COCO's JSON: it needs the lists images and annotations"),
        ({"annotations": {}}, "is not COCO's JSON"),
        ({"categories": [{"id": 1, "name": "cat"}]}, "has the categories cat, but none is person"),
        ({"categories": 3}, "has the categories none, but none is person"),
        ({"categories": [{"id": [], "name": "person"}]}, "none is person"),
    ],
)
def test_a_file_that_is_not_coco_s_is_refused(tmp_path, change, complaint):
    with pytest.raises(DataError, match=complaint):
        read_boxes(coco(tmp_path, **change))


def test_results_without_pictures_are_refused_with_the_reason(tmp_path):
    with pytest.raises(DataError, match="a list of results alone does not name its images"):
        read_boxes(written(tmp_path, [annotation()], "boxes.json"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("boxes.json", b"{"),
        ("boxes.json", b"[" * 100_000),
        ("boxes.json", b"\xff\xfe\x00"),
        ("boxes.csv", b"path,x0,y0,x1,y1\n\xff,0,0,5,5\n"),
        ("boxes.csv", b""),
        ("boxes.xml", b"a"),
    ],
)
def test_a_hostile_file_is_told_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name.replace(".", r"\.")) as caught:
        read_boxes(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*no\.csv: no such file"):
        read_boxes(tmp_path / "no.csv")


def test_a_json_that_would_take_all_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("uniemox.people.boxes.MAX_BYTES", 10)
    with pytest.raises(DataError, match="larger than 10 bytes: cut it"):
        read_boxes(coco(tmp_path, []))


def test_names_from_the_working_directory_are_found_below_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ["in/x/a.jpg,0,0,1,1", f"{tmp_path}/in/b.jpg,0,0,2,2", "other/b.jpg,0,0,3,3"]
    listed = read_boxes(written(tmp_path, "\n".join(["path,x0,y0,x1,y1", *rows])))
    given = listed.assign(["x/a.jpg", "b.jpg"], root=tmp_path / "in")
    assert given.paths == ["x/a.jpg", "b.jpg"]
    assert kinds(given.problems) == {"image that is not among these": 1}
    elsewhere = read_boxes(written(tmp_path, "path,x0,y0,x1,y1\nother/c.jpg,0,0,3,3\n"))
    assert elsewhere.assign(["x/a.jpg", "b.jpg"], root=tmp_path / "in").paths == []


def test_names_are_found_by_their_path_or_by_its_end_if_one_picture_has_it(tmp_path):
    rows = ["x/a.jpg,0,0,1,1", "b.jpg,0,0,2,2", "c.jpg,0,0,3,3", "d.jpg,0,0,4,4", "y/e.jpg,0,0,5,5"]
    rows += ["f.jpg,0,0,6,6", "./x/a.jpg,0,0,7,7"]
    listed = read_boxes(written(tmp_path, "\n".join(["path,x0,y0,x1,y1", *rows])))
    paths = ["x/a.jpg", "x/b.jpg", "x/c.jpg", "z/c.jpg", "x/xd.jpg", "z/y/e.jpg", "f.jpg", "z/f.jpg"]
    given = listed.assign(paths)
    sides = {p: [b.x1 for b in f.boxes] for p, f in zip(given.paths, given.found, strict=True)}
    assert sides == {"x/a.jpg": [1, 7], "x/b.jpg": [2], "z/y/e.jpg": [5], "f.jpg": [6]}
    assert kinds(given.problems) == {"name that several images end in": 1, "image that is not among these": 1}
