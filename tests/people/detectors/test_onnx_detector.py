"""Detectors in ONNX: models of constants in the form of each family, and a real one."""

import dataclasses
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import skimage.data
import torch
import yaml
from onnx import TensorProto
from PIL import Image

from uniemox.config.people import Limits
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.people.detectors import onnx_detector
from uniemox.people.detectors.choice import build_detector
from uniemox.people.detectors.formats import load_format
from uniemox.people.detectors.onnx_detector import OnnxDetector, Place, fit

# The person in pixels of a 64 × 64 input; a cat; the person again, less sure; and nothing.
PERSON, CAT, AGAIN = (16, 8, 48, 40), (0, 0, 10, 10), (16, 8, 48, 42)
LIMITS = Limits(score=0.3)


def centre(box):
    x0, y0, x1, y1 = box
    return [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]


def logit(share):
    return np.log(share / (1 - share))


def yolov5():
    rows = [[*centre(PERSON), 0.9, 0.8, 0.1], [*centre(CAT), 0.9, 0.1, 0.8]]
    rows += [[*centre(AGAIN), 0.5, 0.8, 0.1], [0, 0, 0, 0, 0, 0, 0]]
    return {"output0": [rows]}


def yolov8():
    rows = [[*centre(PERSON), 0.72, 0.1], [*centre(CAT), 0.1, 0.8], [*centre(AGAIN), 0.4, 0]]
    return {"output0": np.array([rows]).transpose(0, 2, 1)}


def yolox():
    """Cells of 8, 16 and 32 pixels in 64 × 64: 64, 16 and 4 candidates, of which three see something."""
    rows = np.zeros((84, 7))
    rows[:, 2:4] = -1
    # The centre (32, 24) is that of row 1, column 2 of 16 pixels; of row 0, column 1 of 32; the cat's is (5, 5) of 8.
    for index, stride, column, row, box, numbers in (
        (64 + 4 + 2, 16, 2, 1, PERSON, (0.9, 0.8, 0.1)),
        (80 + 1, 32, 1, 0, AGAIN, (0.5, 0.8, 0.1)),
        (0, 8, 0, 0, CAT, (0.9, 0.1, 0.8)),
    ):
        cx, cy, w, h = centre(box)
        offsets = [cx / stride - column, cy / stride - row, np.log(w / stride), np.log(h / stride)]
        rows[index] = [*offsets, *numbers]
    return {"output": [rows]}


def table():
    return {"output0": [[[*PERSON, 0.72, 0], [*CAT, 0.8, 1], [0, 0, 0, 0, 0, 0]]]}


def end_to_end():
    return {"output": [[0, *PERSON, 0, 0.72], [0, *CAT, 1, 0.8]]}


def rtdetr():
    # In pixels of the image, whose size it is told.
    boxes = [[[32, 16, 96, 80], [0, 0, 20, 20]]]
    return {"labels": [[0, 1]], "boxes": boxes, "scores": [[0.72, 0.8]]}


def rtdetr_hf():
    logits = [[[logit(0.72), -9], [-9, logit(0.8)]]]
    boxes = np.array([[centre(PERSON), centre(CAT)]]) / 64
    return {"logits": logits, "pred_boxes": boxes}


def tf_detection():
    boxes = np.array([[(8, 16, 40, 48), (0, 0, 10, 10)]]) / 64
    classes, scores = [[1, 17]], [[0.72, 0.8]]
    return {"detection_boxes": boxes, "detection_scores": scores, "detection_classes": classes}


# Where the person of PERSON is in an image of 128 × 128, which is twice the input.
FAMILIES = {
    "yolov5": yolov5,
    "yolov8": yolov8,
    "yolox": yolox,
    "yolo-nms": table,
    "yolov7-nms": end_to_end,
    "rtdetr": rtdetr,
    "rtdetr-hf": rtdetr_hf,
    "centernet": table,
    "tf-detection": tf_detection,
}
PICTURE = Image.new("RGB", (128, 128))


def detector(path, name, limits=LIMITS, **changes):
    """Take a ready format, but with the name of the input that the models of constants have."""
    form = load_format(name)
    how = dataclasses.replace(form.input, name="images", **changes)
    return OnnxDetector(path, dataclasses.replace(form, input=how), limits=limits, device="cpu")


def own(tmp_path, **tree):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_format(str(path))


def shape_of(name):
    return (1, 64, 64, 3) if name in ("centernet", "tf-detection") else (1, 3, 64, 64)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_person_of_every_family_is_found_where_it_is(onnx_model, name):
    sizes = "orig_target_sizes" if name == "rtdetr" else None
    path = onnx_model(FAMILIES[name](), shape=shape_of(name), sizes=sizes)
    ((box,),) = detector(path, name).detect([PICTURE])
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((32, 16, 96, 80), abs=1e-4)
    assert box.score == pytest.approx(0.72, abs=1e-5)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("stretch", (50, 12.5, 150, 62.5)),  # 200 × 100 on 64 × 64: 3.125 across, 1.5625 down
        ("letterbox", (50, 0, 150, 75)),  # 64 × 32 of it at 3.125, from row 16: 8 − 16 is above
        ("corner", (50, 25, 150, 100)),  # at row 0: 40 × 3.125 = 125 is below
    ],
)
def test_boxes_come_back_to_the_picture_however_it_was_fitted(onnx_model, how, expected):
    path = onnx_model(table())
    ((box,),) = detector(path, "yolo-nms", fit=how).detect([Image.new("RGB", (200, 100))])
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("size", "into", "how", "place"),
    [
        ((200, 100), (64, 64), "stretch", (0, 0, 64, 64)),
        ((200, 100), (64, 64), "letterbox", (0, 16, 64, 32)),
        ((100, 200), (64, 64), "letterbox", (16, 0, 32, 64)),
        ((100, 200), (64, 64), "corner", (0, 0, 32, 64)),
        ((1, 1_000_000), (64, 64), "letterbox", (31, 0, 1, 64)),
    ],
)
def test_a_picture_is_placed_in_the_input(size, into, how, place):
    assert fit(size, into, how) == Place(*place)


# The input is flat, so place c·64·64 + y·64 + x in nchw and 3·(64·y + x) + c in nhwc.
@pytest.mark.parametrize(
    ("change", "watch", "expected"),
    [
        ({}, 0, 200 / 255),
        ({}, 64 * 64, 100 / 255),
        ({"colours": "bgr"}, 0, 0.0),
        ({"layout": "nhwc"}, 1, 100 / 255),
        ({"range": [-1, 1]}, 0, 200 / 255 * 2 - 1),
        ({"mean": [0.5, 0, 0], "deviation": [0.5, 1, 1]}, 0, (200 / 255 - 0.5) / 0.5),
        ({"fit": "letterbox", "fill": 51}, 0, 0.2),
        ({"fit": "letterbox", "fill": 51}, 16 * 64, 200 / 255),
    ],
)
def test_the_input_is_made_as_the_format_says(onnx_model, tmp_path, change, watch, expected):
    shape = (1, 64, 64, 3) if change.get("layout") == "nhwc" else (1, 3, 64, 64)
    path = onnx_model(table() | {"output0": [[[*PERSON, 0, 0]]]}, shape=shape, watch=watch)
    columns = {"columns": ["x0", "y0", "x1", "y1", "score", "class"]}
    form = own(tmp_path, input=change, outputs=[columns])
    found = OnnxDetector(path, form, limits=Limits(score=0), device="cpu").detect(
        [Image.new("RGB", (200, 100), (200, 100, 0))]
    )
    assert found[0][0].score == pytest.approx(expected, abs=1e-6)


def test_bytes_are_given_to_a_model_that_takes_bytes(onnx_model, tmp_path):
    path = onnx_model({"o": [[[*PERSON, 0, 0]]]}, kind=TensorProto.UINT8, watch=0)
    columns = {"columns": ["x0", "y0", "x1", "y1", "score", "class"]}
    form = own(tmp_path, input={"range": [0, 255]}, outputs=[columns])
    made = OnnxDetector(path, form, limits=Limits(score=0), device="cpu")
    assert made.detect([Image.new("RGB", (9, 9), (1, 0, 0))])[0][0].score == 1


def test_a_model_of_any_batch_gets_all_pictures_at_once_and_each_keeps_its_boxes(onnx_model):
    rows = [[*PERSON, 0.9, 0]], [[*CAT, 0.8, 0]], [[*PERSON, 0.1, 0]]
    path = onnx_model({"o": rows}, shape=("B", 3, 64, 64))
    found = detector(path, "yolo-nms").detect([PICTURE] * 3)
    assert [[box.x1 for box in boxes] for boxes in found] == [[96], [20], []]


def test_a_large_input_is_filled_by_few_pictures_at_once(onnx_model):
    rows = [[*PERSON, 0.9, 0]], [[*CAT, 0.8, 0]]
    path = onnx_model({"o": rows}, shape=("B", 3, 640, 640))  # 2 are 0.8 million pixels, 3 would be 1.2
    found = detector(path, "yolo-nms").detect([PICTURE.resize((640, 640))] * 4)
    assert [[box.x1 for box in boxes] for boxes in found] == [[48], [10], [48], [10]]


def test_a_model_of_a_fixed_batch_gets_it_full(onnx_model):
    rows = [[*PERSON, 0.9, 0]], [[*CAT, 0.8, 0]]
    path = onnx_model({"o": rows}, shape=(2, 3, 64, 64))
    found = detector(path, "yolo-nms").detect([PICTURE] * 3)
    assert [[box.x1 for box in boxes] for boxes in found] == [[96], [20], [96]]


def test_rows_that_name_their_picture_go_to_it(onnx_model):
    rows = [[1, *PERSON, 0, 0.9], [0, *CAT, 0, 0.8], [1, *CAT, 0, 0.7]]
    path = onnx_model({"o": rows}, shape=("B", 3, 64, 64))
    found = detector(path, "yolov7-nms").detect([PICTURE] * 3)
    assert [[box.x1 for box in boxes] for boxes in found] == [[20], [96, 20], []]


def test_rows_without_a_batch_are_those_of_the_one_picture(onnx_model):
    path = onnx_model({"o": [[*PERSON, 0.5, 0], [*CAT, 0.4, 0]]})
    assert len(detector(path, "yolo-nms").detect([PICTURE])[0]) == 2


def test_no_picture_is_no_work(onnx_model):
    assert detector(onnx_model(table()), "yolo-nms").detect([]) == []


def test_an_output_without_candidates_is_nobody(onnx_model):
    path = onnx_model({"o": np.zeros((1, 0, 6))})
    assert detector(path, "yolo-nms").detect([PICTURE]) == [()]


def test_scores_that_are_no_numbers_are_nobody(onnx_model):
    path = onnx_model({"o": [[[*PERSON, np.nan, 0], [np.nan, 0, 9, 9, 0.9, 0]]]})
    assert detector(path, "yolo-nms").detect([PICTURE]) == [()]


def test_cells_lie_in_rows_also_where_the_input_is_no_square(onnx_model, tmp_path):
    # 96 × 32 has 3 cells of 32 pixels in a row; the last sees a person of its own size in its middle.
    columns = ["cx", "cy", "w", "h", "score"]
    path = onnx_model({"o": [[[0.5, 0.5, 0, 0, 0], [9, 9, 999, 0, 0.9], [0.5, 0.5, 0, 0, 0.9]]]}, shape=(1, 3, 32, 96))
    form = own(tmp_path, input={}, outputs=[{"columns": columns}], strides=[32])
    found = OnnxDetector(path, form, limits=LIMITS, device="cpu").detect([PICTURE.resize((96, 32))])
    assert [(box.x0, box.y0, box.x1, box.y1) for box in found[0]] == [(64, 0, 96, 32)]


def test_grids_with_another_number_of_cells_are_told(onnx_model):
    with pytest.raises(DataError, match=r"83 candidates, but grids of 8, 16, 32 .* 84 cells in 64"):
        detector(onnx_model({"o": np.zeros((1, 83, 7))}), "yolox").detect([PICTURE])


def test_offsets_of_cells_are_not_taken_for_boxes(onnx_model, tmp_path):
    form = dataclasses.replace(load_format("yolox"), strides=None)
    made = OnnxDetector(onnx_model(yolox()), form, limits=LIMITS, device="cpu")
    with pytest.raises(DataError, match=r"boxes of width or height -1: other columns, or off"):
        made.detect([PICTURE])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("{0: 'FACE', 1: 'person'}", "calls class 0 FACE: those are now the people"),
        ('{1: "cat", 0: "a\nb"}', r"calls class 0 a b: those"),
        ("{0: 'person', 1: 'cat'}", None),
        ("{0: 'Pedestrian'}", None),
        ("{10: 'cat'}", None),
        ("", None),
        ("{" * 200_000, None),
    ],
)
def test_a_class_that_the_model_calls_otherwise_is_doubted(onnx_model, caplog, names, told):
    path = onnx_model(table())
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"names": names})
    onnx.save(model, path)
    detector(path, "yolo-nms")
    assert [told in line for line in caplog.messages] == ([] if told is None else [True])


def test_softmax_makes_probabilities_of_logits(onnx_model, tmp_path):
    path = onnx_model({"o": [[[*PERSON, 0, np.log(3.0)], [*CAT, 800, -800]]]})
    columns = ["x0", "y0", "x1", "y1", "scores"]
    outputs = [{"columns": columns, "activation": "softmax"}]
    form = own(tmp_path, input={}, outputs=outputs, person=1)
    ((box,),) = OnnxDetector(path, form, limits=LIMITS, device="cpu").detect([PICTURE])
    assert box.score == pytest.approx(0.75)


def test_a_detector_says_what_it_is(onnx_model):
    source = detector(onnx_model(table()), "yolo-nms").source
    assert source.startswith("detector.onnx (SHA-256 ")
    assert "as yolo-nms, onnxruntime 1." in source
    assert source.endswith(f"; {LIMITS}")


@pytest.mark.parametrize(
    ("name", "outputs", "complaint"),
    [
        (
            "yolo-nms",
            yolov8(),
            r"its output output0 has the shape \(1, 6, 3\), but the columns .* need 6 in the last axis",
        ),
        ("yolov8", {"o": [[[1, 2, 3]]]}, r"output o has the shape \(1, 1, 3\).* at least 5 in the second"),
        ("yolo-nms", {"o": np.zeros((3, 5, 6))}, r"output o has the shape \(3, 5, 6\).* of 1 image"),
        ("yolo-nms", {"o": 3.0}, r"output o has the shape \(\)"),
        ("yolo-nms", {"o": [[[0, 0, 9, 9, 7.5, 0]]]}, r"has the score 7\.5, which is not from 0 to 1"),
        ("yolo-nms", {"a": [[0]], "b": [[0]]}, "an output has no name, but there are a, b"),
        ("rtdetr-hf", table(), "it has no output logits, but output0"),
        (
            "rtdetr-hf",
            {"logits": np.zeros((1, 3, 2)), "pred_boxes": np.zeros((1, 4, 4))},
            "its output pred_boxes has 4 candidates for 1 images, but logits has 3 for 1",
        ),
        ("rtdetr", rtdetr(), "it has no input orig_target_sizes, but images"),
    ],
)
def test_an_output_that_does_not_fit_is_named_with_its_shape(onnx_model, name, outputs, complaint):
    path = onnx_model(outputs)
    with pytest.raises(DataError, match=complaint) as caught:
        detector(path, name).detect([PICTURE])
    assert f"does not fit its format {name}" in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ((1, 64, 64, 3), r"input images has the shape \(1, 64, 64, 3\), not that of nchw"),
        ((1, 3, 64), r"the shape \(1, 3, 64\), not that"),
        ((1, 1, 64, 64), r"the shape \(1, 1, 64, 64\)"),
        ((0, 3, 64, 64), r"the shape \(0, 3, 64, 64\)"),
        ((1, 3, 9000, 64), r"input images of \(1, 3, 9000, 64\) is too large"),
        ((10**6, 3, 64, 64), r"is too large"),
        ((129, 3, 8, 8), r"is too large"),
        ((1, 3, 8, 4097), r"is too large"),
        ((41, 3, 640, 640), r"is too large"),
    ],
)
def test_an_input_that_is_no_picture_is_named_with_its_shape(onnx_model, shape, complaint):
    with pytest.raises(DataError, match=complaint):
        detector(onnx_model(table(), shape=shape), "yolo-nms")


def test_a_size_that_the_model_leaves_open_must_be_given(onnx_model):
    path = onnx_model(table(), shape=("B", 3, "H", "W"))
    with pytest.raises(DataError, match=r"leaves width and height open: give input\.size"):
        detector(path, "yolo-nms", size=None)
    assert len(detector(path, "yolo-nms", size=(64, 64)).detect([PICTURE])[0]) == 1


def test_inputs_that_the_format_does_not_mention_are_named(onnx_model, tmp_path):
    path = onnx_model(table(), sizes="orig_target_sizes")
    with pytest.raises(DataError, match="does not mention its input orig_target_sizes"):
        detector(path, "yolo-nms")
    with pytest.raises(DataError, match="has no input x, but images, orig"):
        OnnxDetector(
            path,
            own(tmp_path, input={"name": "x"}, outputs=[{"columns": ["x0", "y0", "x1", "y1", "score"]}]),
            limits=LIMITS,
        )


HOSTILE = {
    "nothing": b"",
    "a text": b"no model",
    "bytes": b"\x08\x09" * 50,
    "cut": lambda model: model.SerializeToString()[:-20],
    "an operation of others": lambda model: model.graph.node.add(op_type="Evil", domain="evil"),
    "weights elsewhere": lambda model: put_elsewhere(model, "../secret"),
    "weights in memory": lambda model: put_elsewhere(model, "*/_ORT_MEM_ADDR_/*"),
    "an absurd size": lambda model: model.graph.initializer[0].dims.append(2**40),
    "functions": lambda model: model.functions.add(name="Bomb", domain="ours"),
    "deep nesting": lambda model: nest(model, 30),
}


def put_elsewhere(model, place):
    weight = model.graph.initializer[0]
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=place)


def nest(model, depth):
    graph = model.graph
    for _ in range(depth):
        graph = graph.node.add(op_type="If").attribute.add(name="then_branch").g


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_before_onnxruntime_sees_it(
    onnx_model, tmp_path, monkeypatch, run, painted, name
):
    path, spoil = onnx_model(table()), HOSTILE[name]
    model = onnx.load(path)
    content = spoil if isinstance(spoil, bytes) else spoil(model)
    path.write_bytes(content if isinstance(content, bytes) else model.SerializeToString())
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)  # calling it would be another error
    with pytest.raises(CheckpointError) as caught:
        OnnxDetector(path, load_format("yolo-nms"), limits=LIMITS)
    assert "\n" not in str(caught.value)
    code, _, said = run(
        "data",
        "people",
        painted.path,
        "--detector",
        path,
        "--detector-format",
        "yolo-nms",
        "--out",
        tmp_path / "p.parquet",
    )
    assert code == 1
    assert said.count("\n") == 1
    assert str(path) in said


def test_weights_beside_the_model_are_part_of_what_it_says_of_itself(onnx_model):
    path = onnx_model(table())
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    found = detector(path, "yolo-nms")
    assert found.detect([PICTURE]) == detector(onnx_model(table()), "yolo-nms").detect([PICTURE])
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    with path.with_name("w.data").open("r+b") as file:
        file.write(b"\x01")
    assert detector(path, "yolo-nms").source != found.source


def test_a_device_that_is_not_there_is_told(onnx_model):
    path = onnx_model(table())
    with pytest.raises(ConfigError, match="device is mps, but a detector in ONNX runs on auto"):
        OnnxDetector(path, load_format("yolo-nms"), limits=LIMITS, device="mps")


def test_a_missing_onnxruntime_is_told_with_what_to_install(onnx_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'uniemox\[people\]'"):
        OnnxDetector(onnx_model(table()), load_format("yolo-nms"), limits=LIMITS)


def test_detecting_brings_no_torch():
    code = (
        "import sys, uniemox.people.search, uniemox.people.detectors.choice, uniemox.people.detectors.onnx_detector;"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


# A real detector


@pytest.fixture(scope="module")
def real(person_detector):
    return OnnxDetector(person_detector, load_format("centernet"), limits=Limits(), device="cpu")


def test_the_astronaut_is_one_person_where_she_is(real):
    ((box,),) = real.detect([Image.fromarray(skimage.data.astronaut())])
    # By hand on the 512 × 512 image: her face fills columns 175 to 285 and rows 30 to 170, her hair begins at row 10,
    # her suit reaches from about column 15 to the helmet at 375 and down to the edge.
    assert box.x0 < 60
    assert 285 < box.x1 < 420
    assert box.y0 < 30
    assert box.y1 > 490
    assert box.score > 0.5


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket"])
def test_nobody_is_found_where_nobody_is(real, name):
    assert real.detect([Image.fromarray(getattr(skimage.data, name)())]) == [()]


def test_a_larger_picture_gives_the_same_person_in_its_own_pixels(real):
    image = Image.fromarray(skimage.data.astronaut())
    ((small,), (large,)) = real.detect([image, image.resize((1024, 1024))])
    corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in (small, large)])
    np.testing.assert_allclose(corners[1] / 2, corners[0], atol=6)


# A real export


@pytest.fixture(scope="module")
def rtdetr(tmp_path_factory):
    """RT-DETR of transformers with seeded weights, small, and its export."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8] * 4,
        depths=[1] * 4,
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        d_model=16,
        encoder_in_channels=[8] * 3,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        decoder_in_channels=[16] * 3,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        decoder_layers=1,
        num_queries=30,
        num_labels=5,
    )
    torch.manual_seed(0)
    model = RTDetrForObjectDetection(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)

    class Outputs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixels):
            found = self.model(pixels)
            return found.logits, found.pred_boxes

    path = tmp_path_factory.mktemp("rtdetr") / "rtdetr.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old exporter is deprecated, and takes an eighth of the time
        torch.onnx.export(
            Outputs().eval(),
            (torch.zeros(1, 3, 160, 160),),
            path,
            input_names=["pixel_values"],
            output_names=["logits", "pred_boxes"],
            opset_version=17,
            dynamo=False,
        )
    return model.eval(), path


@pytest.mark.slow
def test_an_export_of_transformers_rtdetr_finds_what_transformers_does(rtdetr, tmp_path):
    from transformers import RTDetrImageProcessor

    model, path = rtdetr
    image = Image.fromarray(skimage.data.astronaut()).resize((300, 200))
    processor = RTDetrImageProcessor(size={"height": 160, "width": 160})
    with torch.no_grad():
        outputs = model(**processor(images=image, return_tensors="pt"))
    # The likeliest 30 of all classes.
    (theirs,) = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(200, 300)])
    form = yaml.safe_load((Path(onnx_detector.__file__).parent / "formats" / "rtdetr-hf.yaml").read_text())
    form["input"]["size"] = [160, 160]
    for person in theirs["labels"].unique().tolist():
        (tmp_path / "form.yaml").write_text(yaml.safe_dump(form | {"person": person}))
        limits = Limits(score=0.0, nms_iou=1.0, min_size=0, max_people=100)
        detector = build_detector(str(path), limits, form=str(tmp_path / "form.yaml"), device="cpu")
        found = detector.detect([image])[0]
        mine = np.array([[box.x0, box.y0, box.x1, box.y1, box.score] for box in found])
        own = theirs["labels"] == person
        boxes = theirs["boxes"][own].clamp(min=0).minimum(torch.tensor([300, 200, 300, 200]))
        for row in np.c_[boxes, theirs["scores"][own]]:
            assert np.abs(mine - row).max(axis=1).min() < 0.05
        assert len(found) <= 30
