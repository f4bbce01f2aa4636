"""Descriptions of detectors in ONNX."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from uniemox.errors import ConfigError
from uniemox.people.detectors.formats import Format, Input, Output, format_names, load_format, parse_format

GOOD = {"input": {}, "outputs": [{"columns": ["x0", "y0", "x1", "y1", "score"]}]}


def written(tmp_path, tree, name="own.yaml"):
    path = tmp_path / name
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return str(path)


@pytest.mark.parametrize("name", format_names())
def test_every_ready_format_is_valid_and_has_boxes_and_scores(name):
    made = load_format(name)
    assert made.name == name
    assert made.input.size is not None
    assert {"score", "scores"} & set(made.columns)


def test_the_families_are_these():
    assert set(format_names()) == {
        *("yolov5", "yolov8", "yolo-nms", "yolov7-nms", "yolox"),
        *("rtdetr", "rtdetr-hf", "centernet", "tf-detection"),
    }


def test_a_file_says_everything(tmp_path):
    tree = {
        "input": {
            "layout": "nhwc",
            "colours": "bgr",
            "range": [0, 255],
            "mean": [1, 2, 3],
            "deviation": [4, 5, 6],
            "size": [320, 240],
            "fit": "corner",
            "fill": 0,
            "name": "in",
            "picture_size": "sizes",
        },
        "outputs": [
            {"name": "a", "columns": ["cx", "cy", "w", "h"], "transposed": True},
            {"name": "b", "columns": ["scores"], "activation": "softmax"},
        ],
        "unit": "input",
        "strides": [8, 16],
        "person": 7,
        "duplicates": False,
    }
    assert load_format(written(tmp_path, tree)) == Format(
        name="own",
        input=Input(
            layout="nhwc",
            colours="bgr",
            range=(0, 255),
            mean=(1, 2, 3),
            deviation=(4, 5, 6),
            size=(320, 240),
            fit="corner",
            fill=0,
            name="in",
            picture_size="sizes",
        ),
        outputs=(
            Output(name="a", columns=("cx", "cy", "w", "h"), transposed=True),
            Output(name="b", columns=("scores",), activation="softmax"),
        ),
        unit="input",
        strides=(8, 16),
        person=7,
        duplicates=False,
    )


def test_what_is_left_out_has_its_default(tmp_path):
    made = load_format(written(tmp_path, GOOD))
    assert made.input == Input()
    assert (made.unit, made.person, made.duplicates) == ("input", 0, True)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"colour": 1}, "unknown setting colour"),
        ({"name": "x"}, "unknown setting name"),
        ({"person": 1.0}, "person is 1.0, but must be a whole number"),
        ({"outputs": [{"columns": ["_"] * 999}]}, "must have x0, y0, x1, y1"),
        ({"unit": "metres"}, "unit is metres, but must be one of input, share or picture"),
        ({"strides": [8]}, "strides go with the columns cx, cy, w, h and unit: input"),
        ({"strides": []}, r"strides is \[\], but must be a longer list"),
        ({"strides": [0]}, "strides.0 is 0, but must be greater than or equal to 1"),
        ({"strides": 8}, "strides is 8, but must be a list"),
        ({"person": -1}, "person is -1, but must be greater than or equal to 0"),
        ({"person": True}, "person is True, but must be a whole number"),
        ({"duplicates": "no!"}, "duplicates is no!, but must be true or false"),
        ({"outputs": []}, r"outputs is \[\], but must be a longer list"),
        ({"outputs": {"columns": []}}, "outputs is .*, but must be a list"),
        ({"outputs": ["boxes"]}, "outputs.0 is boxes, but must be a mapping"),
        ({"outputs": [{"name": "x"}]}, "columns must be given"),
        ({"outputs": [{"columns": "x0"}]}, "columns is x0, but must be a list"),
        ({"outputs": [{"columns": ["x0", "left"]}]}, "columns.1 is left, but must be one of x0, y0"),
        ({"outputs": [{"columns": ["x0", "y0", "x1", "score"]}]}, "must have x0, y0, x1, y1 or cx, cy, w, h"),
        (
            {"outputs": [{"columns": ["x0", "y0", "x1", "y1", "w", "score"]}]},
            "must have x0, y0, x1, y1 or cx, cy, w, h",
        ),
        ({"outputs": [{"columns": ["x0", "y0", "x1", "y1"]}]}, "must have either score, or scores"),
        ({"outputs": [{"columns": ["x0", "y0", "x1", "y1", "score", "scores"]}]}, "must have either score, or scores"),
        ({"outputs": [{"columns": ["scores", "x0", "y0", "x1", "y1"]}]}, "must have scores last"),
        ({"outputs": [{"columns": ["x0", "y0", "x1", "y1", "score", "score"]}]}, "must name each number once"),
        ({"input": {"layout": "hwc"}}, "input.layout is hwc, but must be one of nchw or nhwc"),
        ({"input": {"range": [0]}}, "input.range.1 must be given"),
        ({"input": {"range": [0, ".nan"]}}, "input.range.1 is"),
        ({"input": {"deviation": [0, 1, 1]}}, "input.deviation.0 is 0, but must be greater than 0"),
        ({"input": {"size": [640, 5000]}}, "input.size.1 is 5000, but must be less than or equal to 4096"),
        ({"input": {"size": 640}}, "input.size is 640"),
        ({"input": {"fill": 256}}, "input.fill is 256"),
        ({"input": {"name": 3}}, "input.name is 3"),
        ({"input": {"lay_out": "nchw"}}, "unknown setting lay_out; did you mean layout"),
        ({"input": 3}, "input is 3, but must be a mapping"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(tmp_path, change, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_format(written(tmp_path, GOOD | change))
    assert "own.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["input", "outputs"])
def test_input_and_outputs_must_be_there(tmp_path, missing):
    tree = {key: value for key, value in GOOD.items() if key != missing}
    with pytest.raises(ConfigError, match=f"{missing} must be given"):
        load_format(written(tmp_path, tree))


def test_a_file_that_could_run_code_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not plain YAML"):
        load_format(written(tmp_path, "input: !!python/object/apply:os.system [id]"))


def test_an_unknown_name_is_answered_with_those_that_are_known():
    with pytest.raises(ConfigError, match=r"unknown format yolov99; known are centernet, .*yolov8"):
        load_format("yolov99")
    with pytest.raises(ConfigError, match=r"cannot read nowhere\.yaml"):
        load_format("nowhere.yaml")


DOCS = (Path(__file__).parents[3] / "docs/people.md").read_text(encoding="utf-8")


def test_every_format_of_the_documentation_is_valid():
    formats = re.findall(r"```yaml\n(.+?)```", DOCS, re.DOTALL)
    assert len(formats) >= 5
    for text in formats:
        parse_format(yaml.safe_load(text), "docs")


def test_the_documentation_shows_every_word_with_its_default():
    (text,) = (t for t in re.findall(r"```yaml\n(.+?)```", DOCS, re.DOTALL) if "picture_size" in t)
    tree = yaml.safe_load(text)
    shown = parse_format(tree, "docs")
    assert set(tree["input"]) == {field.name for field in dataclasses.fields(Input)}
    assert shown.input == Input()
    (output,) = shown.outputs
    assert output == Output(columns=output.columns)
    assert shown == Format(name="docs", input=Input(), outputs=(output,))


def test_the_documentation_names_every_family():
    assert all(f"| `{name}` |" in DOCS for name in format_names())
