"""What readers of layouts have in common."""

import pytest

from uniemox.importers.samples import ClassNames, Sample, drop_repeats
from uniemox.manifests.findings import Findings
from uniemox.manifests.table import Box


@pytest.mark.parametrize(
    ("word", "classes", "label", "note"),
    [
        ("anger", ("anger", "joy"), 0, None),
        ("Anger", ("anger", "joy"), 0, None),
        ("Angry", ("anger", "joy"), 0, "1 x class called otherwise (Angry is anger)"),
        ("Happinesst", ("fear", "happiness"), 1, "1 x class called otherwise (Happinesst is happiness)"),
        ("Content", ("awe", "contentment"), 1, "1 x class called otherwise (Content is contentment)"),
        ("Sad", ("Sadness",), 0, "1 x class called otherwise (Sad is Sadness)"),
        ("calm", ("anger", "joy"), None, None),
    ],
)
def test_a_class_is_found_by_its_other_names_which_are_noted(word, classes, label, note):
    findings = Findings()
    assert ClassNames(classes, findings).label(word) == label
    assert findings.notes() == (() if note is None else (note,))
    assert findings.problems() == ()


@pytest.mark.parametrize(("name", "label"), [("2", None), ("1", 1), ("10", 0), ("calm", None)])
def test_a_listed_class_may_be_a_number_and_an_unknown_one_is_counted(name, label):
    findings = Findings()
    assert ClassNames(("10", "b"), findings).listed(name, "line 3", or_number=True) == label
    problems = [(problem.kind, problem.example) for problem in findings.problems()]
    assert problems == ([("unknown class", f"{name} in line 3")] if label is None else [])


def test_what_is_listed_again_is_taken_once_and_counted():
    first, other = Sample("a", 0, "train", boxes=(Box(0, 0, 1, 1),)), Sample("a", 1, "train", boxes=(Box(0, 0, 2, 2),))
    bare, moved = Sample("a", 0, "train"), Sample("a", 0, "test")
    findings = Findings()
    rows = [(sample, "line") for sample in (first, other, bare, first, bare, moved)]
    assert drop_repeats(rows, findings) == [first, other, bare]
    assert {problem.kind: problem.count for problem in findings.problems()} == {
        "person listed twice": 1,
        "image listed twice": 1,
        "image listed in two splits": 1,
    }
