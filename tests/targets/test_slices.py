import dataclasses
import json

import pytest

from uniemox.errors import ConfigError
from uniemox.targets.scores import Interval
from uniemox.targets.slices import Gap, Slice, Slices
from uniemox.validation import validate

ROOM, FIELD, CAVE = (
    Slice(name=name, num_samples=count, num_units=count, values={"top1": value}, intervals={"top1": Interval(*ends)})
    for name, count, value, ends in (
        ("room", 200, 0.8, (0.7, 0.9)),
        ("field", 100, 0.6, (0.5, 0.7)),
        ("cave", 29, 0.1, (0.0, 0.3)),
    )
)
GAP = Gap(low="field", high="room", value=0.2, interval=Interval(0.05, 0.35), pairs=1)
FOUND = Slices(
    column="scene",
    overlaps=False,
    metrics=(("top1", "accuracy"),),
    is_share=True,
    whole=0.7,
    slices=(ROOM, FIELD, CAVE),
    gap=GAP,
)


def test_the_dictionary_becomes_json_and_the_same_again():
    assert validate(Slices, json.loads(json.dumps(FOUND.to_dict())), source="") == FOUND
    assert validate(Slices, dataclasses.replace(FOUND, gap=None).to_dict(), source="").gap is None
    values = {name: value for name, value in FOUND.to_dict().items() if name != "whole"}
    with pytest.raises(ConfigError, match=r"slices.whole must be given"):
        validate(Slices, values, source="", prefix="slices.")


def test_a_small_slice_is_marked_and_named():
    chart, table = FOUND.parts
    assert list(chart.names) == ["room", "field", "cave *"] == [row[0] for row in table.rows]
    assert "fewer than 30 independent images, which say little: cave." in FOUND.text
    assert {len(row) for row in table.rows} == {len(table.heads)}


def test_the_largest_gap_comes_with_its_interval_and_a_caution():
    largest = "Largest gap in accuracy, between field and room: 20.0 points (5.0 to 35.0; 95 %"
    assert f"{largest})." in FOUND.text
    of_three = dataclasses.replace(FOUND, gap=dataclasses.replace(FOUND.gap, pairs=3))
    assert f"{largest} for all 3 pairs together" in of_three.text
    assert "large by chance" in of_three.text
    on_a_scale = dataclasses.replace(FOUND, is_share=False)
    assert "field and room: 0.200 (0.050 to 0.350;" in on_a_scale.text
    assert not on_a_scale.parts[1].are_shares
    lone = dataclasses.replace(FOUND, gap=None)
    assert "No two slices are large enough to be compared." in lone.text
