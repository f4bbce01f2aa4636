"""The commands about people."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from uniemox.console import cli
from uniemox.manifests.table import Box, Facts, manifest_from_columns, read_manifest, write_manifest

# In pixels of the 64 × 64 input of the model of constants; the painted images have 48.
FOUND = (16, 8, 48, 40)


@pytest.fixture
def detector(onnx_model):
    """Words for a model that finds the same person in every image."""
    path = onnx_model({"o": [[[*FOUND, 0.9, 0], [0, 20, 9, 30, 0.2, 0]]]})
    return ["--detector", path, "--detector-format", "yolo-nms", "--device", "cpu"]


@pytest.fixture
def pictures(tmp_path):
    """The manifest of three images without boxes, the second of which is none."""
    root = tmp_path / "pictures"
    root.mkdir()
    for name in "abc":
        Image.new("RGB", (128, 64)).save(root / f"{name}.png")
    (root / "b.png").write_text("no image")
    facts = Facts(name="few", title="Few", classes=("x",), emotion=None, root=root)
    paths = ["a.png", "b.png", "c.png", "a.png"]
    manifest = manifest_from_columns(facts, paths=paths, splits=["train"] * 4)
    write_manifest(manifest, tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


def boxes_of(path):
    manifest = read_manifest(path)
    return [manifest.row(i).boxes for i in range(len(manifest))]


def test_people_are_found_and_counted(run, pictures, detector, tmp_path):
    out = tmp_path / "n.parquet"
    code, shown, err = run("data", "people", pictures, *detector, "--out", out)
    assert code == cli.SUCCESS, err
    assert re.search(r"with people +│ +2", shown)
    assert re.search(r"not read +│ +1", shown)
    assert "3 boxes in 4 rows, 2 of which share their image with another" in " ".join(shown.split())
    assert shown.endswith(f"{out}\n")
    # Letterboxed, so 128 × 64 lies in rows 16 to 48: half the size.
    person = Box(32, 0, 96, 48, pytest.approx(0.9))
    assert boxes_of(out) == [(person,), (), (person,), (person,)]
    manifest = read_manifest(out)
    assert manifest.table["people_reason"].to_pylist()[1] == "not an image"
    assert "detector.onnx (SHA-256 " in manifest.facts.people_source
    assert "score from 0.5" in manifest.facts.people_source
    assert sorted(p.name for p in tmp_path.iterdir() if "parts" in p.name) == []


def test_people_are_told_to_machines(run, pictures, detector, tmp_path):
    out = tmp_path / "n.parquet"
    code, shown, err = run("data", "people", pictures, *detector, "--out", out, "--json")
    assert (code, err) == (cli.SUCCESS, "")
    assert json.loads(shown) == {
        "manifest": str(out),
        "people": {
            "pictures": 3,
            "with_people": 2,
            "without": 0,
            "unread": 1,
            "unasked": 0,
            "boxes": 3,
            "rows": 4,
            "shared": 2,
        },
        "problems": [],
        "notes": [],
    }


def test_nobody_anywhere_is_fine_and_counted(run, pictures, detector, tmp_path):
    out = tmp_path / "n.parquet"
    code, shown, _ = run("data", "people", pictures, *detector, "--score", "0.95", "--out", out)
    assert code == cli.SUCCESS
    assert re.search(r"without +│ +2", shown)
    assert boxes_of(out) == [()] * 4


def test_limits_reach_the_detector(run, pictures, detector, tmp_path):
    out = tmp_path / "n.parquet"
    run("data", "people", pictures, *detector, "--score", "0.1", "--out", out)
    assert len(boxes_of(out)[0]) == 2
    words = ["--score", "0.1", "--max-people", "1", "--replace"]
    run("data", "people", out, *detector, *words, "--out", out)
    assert len(boxes_of(out)[0]) == 1


def test_boxes_that_are_there_stay_unless_they_are_to_be_replaced(run, painted, detector, tmp_path):
    before = [painted.manifest.row(i).boxes for i in range(len(painted.manifest))]
    out = tmp_path / "n.parquet"
    run("data", "people", painted.path, *detector, "--out", out)
    new = (Box(12, 6, 36, 30, pytest.approx(0.9)),)
    assert boxes_of(out) == [boxes or new for boxes in before]
    run("data", "people", painted.path, *detector, "--out", out, "--replace")
    assert boxes_of(out) == [new] * len(before)


def test_a_manifest_full_of_boxes_is_left_as_it_is_and_that_is_told(run, pictures, detector, tmp_path):
    out = tmp_path / "n.parquet"
    (tmp_path / "boxes.csv").write_text("path,x0,y0,x1,y1\n" + "".join(f"{n}.png,0,0,5,5\n" for n in "abc"))
    run("data", "people", pictures, "--boxes", tmp_path / "boxes.csv", "--out", out)
    code, _, err = run("data", "people", out, *detector, "--out", out)
    assert code == cli.SUCCESS
    assert "every row has boxes already, so they stay; --replace finds them again" in err
    source = read_manifest(out).facts.people_source
    assert re.fullmatch(r"boxes\.csv \(SHA-256 [0-9a-f]{12}…\), a file of boxes", source)


def test_a_killed_search_goes_on_and_says_so(run, pictures, detector, tmp_path, monkeypatch):
    from uniemox.people.detectors.onnx_detector import OnnxDetector

    out = tmp_path / "n.parquet"
    detect, seen = OnnxDetector.detect, []

    def die_at_the_third(self, images):
        seen.extend(images)
        if len(seen) > 1:
            raise KeyboardInterrupt
        return detect(self, images)

    words = ["data", "people", pictures, *detector, "--out", out, "--batch-size", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(OnnxDetector, "detect", die_at_the_third)
        code, _, err = run(*words)
        assert (code, err) == (130, "uniemox: interrupted\n")
    assert not out.exists()
    code, _, err = run(*words)
    assert code == cli.SUCCESS
    assert "continuing after 2 of 3 images" in err
    assert len(boxes_of(out)[2]) == 1


def test_known_boxes_are_imported_and_problems_told(run, pictures, tmp_path):
    (tmp_path / "boxes.csv").write_text("path,x0,y0,x1,y1\na.png,1,2,3,4\nz.png,0,0,1,1\nc.png,a,,,\n")
    out = tmp_path / "n.parquet"
    words = ["--boxes", tmp_path / "boxes.csv", "--out", out]
    code, shown, _ = run("data", "people", pictures, *words)
    assert code == cli.SUCCESS
    assert boxes_of(out) == [(Box(1, 2, 3, 4),), (), (), (Box(1, 2, 3, 4),)]
    assert re.search(r"image that is not among these +│ +1 │ z\.png", shown)
    assert re.search(r"box that is no box +│ +1 │ line 4", shown)
    source = read_manifest(out).facts.people_source
    assert re.fullmatch(r"boxes\.csv \(SHA-256 [0-9a-f]{12}…\), a file of boxes", source)


def test_every_person_can_have_a_row(run, pictures, detector, tmp_path):
    out = tmp_path / "n.parquet"
    run("data", "people", pictures, *detector, "--score", "0.1", "--each", "--out", out)
    boxes = boxes_of(out)
    assert [len(row) for row in boxes] == [1, 1, 0, 1, 1, 1, 1]
    assert boxes[0] != boxes[1]


def test_two_sets_of_boxes_are_compared(run, painted, detector, tmp_path):
    out = tmp_path / "n.parquet"
    words = [*detector, "--replace", "--out", out, "--compare", painted.path]
    code, shown, _ = run("data", "people", painted.path, *words)
    assert code == cli.SUCCESS
    assert re.search(r"boxes +│ +40 │ +31", shown)
    code, told, _ = run("data", "people", painted.path, "--compare", out, "--json")
    agreement = json.loads(told)["agreement"]
    assert code == cli.SUCCESS
    # By hand: squares of 24 at (left, top) and (12, 6) overlap by half if they share two thirds of one of them.
    manifest = painted.manifest
    boxes = [box for i in range(len(manifest)) for box in manifest.row(i).boxes]
    shared = [max(0, 24 - abs(b.x0 - 12)) * max(0, 24 - abs(b.y0 - 6)) for b in boxes]
    assert agreement["matched"] == sum(area >= 24**2 * 2 / 3 for area in shared)
    assert (agreement["first_only"], agreement["second_only"], agreement["both"]) == (0, 9, 31)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "nothing to do: give --detector, --boxes, --each or --compare"),
        (["--detector", "ssdlite"], "--out must be given"),
        (["--each"], "--out must be given"),
        (["--detector", "ssdlite", "--boxes", "b.csv", "--out", "o"], "both give boxes"),
        (["--compare", "m.parquet", "--out", "o"], "--compare alone makes no new manifest"),
        (["--each", "--out", "."], "--out is ., but must be a file and not a folder"),
        (["--each", "--out", "o.csv"], "a manifest is a Parquet file: write o.parquet"),
        (["--detector", "nobody", "--out", "o.parquet"], "unknown detector nobody"),
        (["--boxes", "b.csv", "--score", "0.9", "--out", "o"], "omit it, or give --detector instead of --boxes"),
        (["--each", "--detector-format", "yolov8", "--out", "o"], "--detector-format is about"),
        (["--detector", "ssdlite", "--score", "2", "--out", "o.parquet"], "--score is 2.0, but must be"),
        (["--detector", "ssdlite", "--batch-size", "0", "--out", "o"], "--batch-size is 0"),
        (["--detector", "m.onnx", "--out", "o.parquet"], "--detector-format must name what m.onnx takes"),
    ],
)
def test_wrong_use_is_answered_in_one_line(run, pictures, words, complaint, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    code, out, err = run("data", "people", pictures, *words)
    assert (code, out) == (cli.WRONG_USE, "")
    assert complaint in err
    assert err.count("\n") == 1


def test_an_output_that_does_not_fit_ends_in_one_line_with_its_shape(run, pictures, onnx_model, tmp_path):
    path = onnx_model({"o": np.zeros((1, 84, 8400))})
    words = ["--detector", path, "--detector-format", "yolo-nms", "--out", tmp_path / "n.parquet"]
    code, _, err = run("data", "people", pictures, *words)
    assert code == cli.FAILURE
    assert "its output o has the shape (1, 84, 8400)" in err
    assert err.count("\n") == 1


# The sheet


@pytest.mark.parametrize("name", ["sheet.html", "sheet.png"])
def test_a_sheet_of_people_is_written(run, painted, tmp_path, name):
    out = tmp_path / name
    words = ["--people", "--out", out, "--count", "5", "--shape", "pad", "--choice", "central"]
    code, shown, _ = run("data", "show", painted.path, *words)
    assert code == cli.SUCCESS
    assert re.search(r"with people +│ +31", shown)
    assert shown.endswith(f"{out}\n")
    assert out.stat().st_size > 10_000
    if name == "sheet.html":
        assert "central, margin 0.1, pad" in out.read_text()


def test_without_a_sheet_people_are_counted(run, painted):
    code, shown, _ = run("data", "show", painted.path, "--people", "--json")
    assert code == cli.SUCCESS
    told = json.loads(shown)
    assert (told["people"]["boxes"], told["sheet"]) == (31, None)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--people", "--out", "a.pdf"], "--out is a.pdf, but must end in .html or .png"),
        (["--people", "--out", "a.png", "--count", "0"], "--count is 0, but must be at least 1"),
        (["--people", "--out", "a.png", "--margin", "-1"], "person.margin is -1"),
        (["--people", "--choice", "best"], "choice is best, but must be one of largest"),
        (["--out", "a.png"], "--out is for the sheet of --people: give both"),
        (["--people", "--choice", "union"], "--choice is about the sheet: ask for it with"),
        (["--people", "--margin", "0"], "--margin is about the sheet"),
        (["--count", "3"], "--count is about the sheet"),
        (["--shape", "pad"], "--shape is about the sheet"),
    ],
)
def test_wrong_use_of_a_sheet_is_answered_in_one_line(run, painted, words, complaint):
    code, out, err = run("data", "show", painted.path, *words)
    assert (code, out) == (cli.WRONG_USE, "")
    assert complaint in err
