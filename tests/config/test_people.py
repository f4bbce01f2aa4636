from pathlib import Path

import pytest

from uniemox.config.people import DetectorConfig, Limits, PeopleConfig
from uniemox.errors import ConfigError

MANIFEST, OUT = Path("m.parquet"), Path("o.parquet")


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"score": 1.1}, "score is 1.1"),
        ({"nms_iou": -0.1}, "nms_iou is -0.1"),
        ({"nms_iou": float("nan")}, "nms_iou is nan"),
        ({"min_size": -1}, "min_size is -1"),
        ({"min_size": float("inf")}, "min_size is inf"),
        ({"max_people": 0}, "max_people is 0"),
    ],
)
def test_impossible_limits_are_refused(limits, complaint):
    with pytest.raises(ConfigError, match=f"^{complaint}"):
        Limits(**limits)


def test_limits_say_all_that_they_are():
    text = str(Limits(score=0.3, nms_iou=0.45, min_size=12, max_people=5))
    assert text == "score from 0.3, NMS at IoU 0.45, from 12 pixels, at most 5 people"


def test_the_limits_of_a_detector_read_as_limits_alone_do():
    assert str(DetectorConfig(detector="ssdlite", score=0.7)) == str(Limits(score=0.7))


@pytest.mark.parametrize("settings", [{"score": 0.6}, {"detector_weights": "default"}, {"detector_format": "yolov8"}])
def test_settings_of_a_detector_need_one(settings):
    (name,) = settings
    with pytest.raises(ConfigError, match=f"^`{name}` is about a detector: give `detector` too"):
        DetectorConfig(**settings)
    with pytest.raises(ConfigError, match=f"^`{name}` is about a detector: omit it, or give `detector` instead"):
        DetectorConfig(boxes=Path("b.csv"), **settings)
    DetectorConfig(detector="x.onnx", **settings)


def test_boxes_have_one_source():
    with pytest.raises(ConfigError, match="both give boxes"):
        DetectorConfig(detector="ssdlite", boxes=Path("b.csv"))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "nothing to do"),
        ({"each": True}, "`out` must be given"),
        ({"compare": MANIFEST, "out": OUT}, "`compare` alone makes no new manifest"),
        ({"each": True, "out": Path("o.csv")}, "a manifest is a Parquet file"),
        ({"each": True, "out": OUT, "batch_size": 0}, "batch_size is 0"),
        ({"each": True, "out": OUT, "workers": -1}, "workers is -1"),
        ({"each": True, "out": OUT, "min_size": -1}, "min_size is -1"),
    ],
)
def test_what_makes_no_sense_together_is_refused(settings, complaint):
    with pytest.raises(ConfigError, match=f"^{complaint}|{complaint}"):
        PeopleConfig(MANIFEST, **settings)


def test_what_makes_sense_is_taken():
    assert PeopleConfig(MANIFEST, each=True, out=OUT).each
    assert PeopleConfig(MANIFEST, compare=MANIFEST).compare == MANIFEST
