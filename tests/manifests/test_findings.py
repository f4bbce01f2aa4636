"""What an import counts."""

from uniemox.manifests.findings import Findings, Problem


def test_problems_are_counted_by_kind_with_the_first_example_of_each():
    findings = Findings()
    for kind, example in (("a", "1"), ("b", "2"), ("a", "3")):
        findings.add(kind, example)
    assert findings.problems() == (Problem("a", 2, "1"), Problem("b", 1, "2"))
    assert findings.notes() == ()


def test_notes_are_no_problems():
    findings = Findings()
    findings.note("class called otherwise", "Angry is anger")
    findings.note("class called otherwise", "Sad is sadness")
    findings.remark("the whole is odd")
    assert findings.problems() == ()
    assert findings.notes() == ("2 x class called otherwise (Angry is anger)", "the whole is odd")


def test_what_others_counted_is_added():
    findings = Findings()
    findings.add("a", "1")
    findings.include([Problem("a", 2, "x"), Problem("b", 3, "y")])
    assert findings.problems() == (Problem("a", 3, "1"), Problem("b", 3, "y"))
