import dataclasses
import json

import pytest

from uniemox.errors import ConfigError
from uniemox.targets.robustness import Robustness, Shift
from uniemox.targets.scores import Grid, Interval, Ranges
from uniemox.validation import validate

FIRST = Shift(change="unchanged", strength="", values={"top1": 0.8}, interval=Interval(0.7, 0.9))
BLUR = Shift(
    change="blur",
    strength="σ 3 of 224",
    values={"top1": 0.5},
    interval=Interval(0.4, 0.6),
    difference=-0.3,
    difference_interval=Interval(-0.4, -0.2),
    flipped=0.45,
    flipped_interval=Interval(0.35, 0.55),
)
FLIP = Shift(change="flip", strength="", values={"top1": 0.8}, flipped=0.1)  # of a single group
FOUND = Robustness(
    metric="top1",
    title="accuracy",
    is_share=True,
    flips="images with another class",
    description="Words.",
    shifts=(FIRST, BLUR, FLIP),
)


def test_the_dictionary_becomes_json_and_the_same_again():
    assert validate(Robustness, json.loads(json.dumps(FOUND.to_dict())), source="") == FOUND


def test_what_is_no_robustness_is_refused_by_the_name_of_its_field():
    values = json.loads(json.dumps(FOUND.to_dict()))
    values["shifts"][1]["flipped"] = "much"
    with pytest.raises(ConfigError, match=r"robustness.shifts.1.flipped is much, but must be a number"):
        validate(Robustness, values, source="", prefix="robustness.")
    with pytest.raises(ConfigError, match="shifts"):
        validate(Robustness, {**values, "shifts": []}, source="")


def test_the_text_names_the_change_that_flips_most():
    assert "Most flip by blur, σ 3 of 224: 45.0 %." in FOUND.text
    assert "Flipped: images with another class." in FOUND.text
    still = dataclasses.replace(FOUND, shifts=(FIRST, dataclasses.replace(FLIP, flipped=0.0)))
    assert "No answer flips." in still.text


def test_charts_and_table_have_a_line_for_each_change():
    scores, flipped, table = FOUND.parts
    assert isinstance(scores, Ranges)
    assert list(scores.values) == [0.5, 0.8]
    assert scores.reference == 0.8
    assert list(flipped.names) == ["blur, σ 3 of 224", "flip"]
    assert list(flipped.values) == [0.45, 0.1]
    assert isinstance(table, Grid)
    assert {len(row) for row in table.rows} == {len(table.heads)}
    assert table.rows[1] == (
        "blur", "σ 3 of 224", 0.5, Interval(0.4, 0.6), -0.3, Interval(-0.4, -0.2), 0.45, Interval(0.35, 0.55)
    )  # fmt: skip
