"""What is shown of scores, as data that the page draws."""

from typing import get_args

import numpy as np

from uniemox.report.page import draw
from uniemox.targets import parts

WORDS = {"alt": "What is seen.", "caption": "What it means."}
EXAMPLES = (
    parts.Grid(("class", "F1"), [("awe", 0.5)]),
    parts.Bars("F1", ["awe"], [0.5], (("precision", [0.4], "circle"),), [3], **WORDS),
    parts.Matrix(["awe", "fear"], np.eye(2, dtype=np.int64), **WORDS),
    parts.Calibration([parts.Bin(0, 1, 3, 0.5, 0.6)], 0.1, axes=("confidence", "accuracy", "samples"), **WORDS),
    parts.Curve("surest", ("share", "accuracy"), [(0.5, 1.0), (1.0, 0.5)], 0.5, **WORDS),
    parts.Scatter("plane", ("across", "up"), [("", np.zeros(2), np.ones(2))], (0, 1), **WORDS),
    parts.Ranges("score", ["blur"], [0.5], [parts.Interval(0.4, 0.6)], **WORDS),
)


def test_the_page_draws_every_part_with_its_words():
    assert {type(part) for part in EXAMPLES} == set(get_args(parts.Part))
    for part in EXAMPLES[1:]:
        figure = draw(part)
        assert (figure.alt, figure.caption) == (WORDS["alt"], WORDS["caption"])
        assert figure.data.startswith(b"<?xml")
    assert draw(EXAMPLES[0]).rows == [("awe", 0.5)]
