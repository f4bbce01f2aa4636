"""Words for detectors."""

import shutil

import pytest

from uniemox.config.people import Limits
from uniemox.errors import CheckpointError, ConfigError
from uniemox.people.detectors.choice import NICKNAMES, build_detector

LIMITS = Limits()


def test_the_short_names_are_those_of_torchvision():
    from torchvision.models import detection, list_models

    assert set(NICKNAMES.values()) <= set(list_models(module=detection))


@pytest.mark.parametrize("name", [*NICKNAMES, *NICKNAMES.values()])
def test_short_and_long_names_are_known(name, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pth cannot be read"):
        build_detector(name, LIMITS, weights=str(tmp_path / "nowhere.pth"), device="cpu")


@pytest.mark.parametrize(
    ("name", "words", "complaint"),
    [
        ("ssdlit", {}, "unknown detector ssdlit; did you mean ssdlite"),
        ("yolo", {}, r"unknown detector yolo.*or give an \.onnx file"),
        ("ssdlite", {"form": "yolov8"}, "`detector_format` is for models in ONNX; ssdlite needs none"),
        ("a.onnx", {"weights": "default"}, "`detector_weights` is for detectors of torchvision"),
        ("a.onnx", {}, r"`detector_format` must name what a\.onnx takes and gives: one of centernet, .*a\.yaml"),
        ("a.onnx", {"form": "yolov99"}, "unknown format yolov99"),
    ],
)
def test_words_that_do_not_go_together_are_refused(name, words, complaint):
    with pytest.raises(ConfigError, match=complaint):
        build_detector(name, LIMITS, **words)


def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.onnx cannot be read \(no such file"):
        build_detector(str(tmp_path / "a.onnx"), LIMITS, form="yolov8")


def test_the_format_may_lie_beside_the_model(onnx_model):
    path = onnx_model({"o": [[[16, 8, 48, 40, 0.9, 0]]]})
    path.with_suffix(".yaml").write_text(
        "input: {size: [64, 64]}\noutputs:\n- columns: [x0, y0, x1, y1, score, class]\n"
    )
    assert "as detector, onnxruntime" in build_detector(str(path), LIMITS).source
    upper = path.with_suffix(".ONNX")
    shutil.copy(path, upper)
    assert "DETECTOR" in build_detector(str(upper), LIMITS, form="yolo-nms").source.upper()
