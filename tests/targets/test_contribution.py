"""What the person adds, as it is shown and kept; how it is computed is tested with the outputs."""

import json
from dataclasses import replace

import numpy as np
import pytest

from uniemox.errors import DataError
from uniemox.targets.contribution import Contribution, Gain
from uniemox.targets.scores import Interval
from uniemox.targets.single_label import SingleLabel


def test_it_is_shown_beside_the_scores_and_survives_json():
    target = SingleLabel(("awe", "fear"))
    gain = {"title": "top-1", "without": 0.5, "value": 0.75, "difference": 0.25}
    gains = (Gain(name="top1", **gain, interval=Interval(-0.1, 0.6)), Gain(name="macro_f1", **gain, interval=None))
    person = Contribution(num_samples=200, num_with_person=150, gains=gains)
    scores = replace(target.score_numbers(np.eye(2), np.array([0, 1])), person=person)
    saved = json.loads(json.dumps(scores.to_dict()))
    assert target.scores_from_dict(saved) == scores
    ((title, text, (grid,)),) = scores.studies
    assert title == "The person's contribution"
    assert "150 of 200 samples" in text
    assert grid.rows[0] == ("top-1", 0.5, 0.75, 0.25, Interval(-0.1, 0.6))
    del saved["person"]["gains"][0]["without"]
    with pytest.raises(DataError, match=r"person.gains.0.without must be given"):
        target.scores_from_dict(saved)
