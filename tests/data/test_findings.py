"""What an import counts."""

from uniemox.data.findings import Findings, Problem, counted, printable


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
    assert findings.notes() == (
        "2 x class called otherwise (Angry is anger)",
        "the whole is odd",
    )


def test_what_others_counted_is_added():
    findings = Findings()
    findings.add("a", "1")
    findings.include([Problem("a", 2, "x"), Problem("b", 3, "y")])
    assert findings.problems() == (Problem("a", 3, "1"), Problem("b", 3, "y"))


def test_what_could_steer_a_terminal_is_escaped():
    assert printable("a\x1b[2J\nb\udce9 é") == r"a\x1b[2J\nb\udce9 é"


def test_one_is_told_otherwise_than_several():
    told = [counted(number, "row") for number in (0, 1, 2, 1200)]
    assert told == ["0 rows", "1 row", "2 rows", "1,200 rows"]
    assert [counted(n, "box", several="boxes") for n in (1, 2)] == ["1 box", "2 boxes"]
