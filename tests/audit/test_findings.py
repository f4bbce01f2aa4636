"""What is wrong with copies."""

import pytest
from PIL import ImageOps


def test_the_held_out_copy_stays(make, judge, photos, found, kept):
    first, second = photos[:2]
    result = judge(
        make(
            "a",
            [
                ("1.png", (first, "train", 0)),
                ("2.png", (first, "val", 0)),
                ("3.png", (ImageOps.mirror(first), "test", 0)),
                ("4.png", (second, "train", 1)),
                ("5.png", (second, "elsewhere", 1)),
            ],
        )
    )
    assert found(result, "leak") == {
        ("leak", "a", "1.png", "train", "2.png", True),
        ("leak", "a", "2.png", "val", "3.png", True),
        ("leak", "a", "4.png", "train", "5.png", True),
    }
    assert kept(result) == ["3.png", "5.png"]


def test_copies_with_other_labels_go_from_train_alone(make, judge, photos, found, kept):
    result = judge(
        make(
            "a",
            [
                ("1.png", (photos[0], "train", 0)),
                ("2.jpg", (photos[0], "train", 1)),
                ("3.png", (photos[1], "test", 0)),
                ("4.png", (photos[1], "test", 1)),
                ("5.png", (photos[2], "train", None)),
                ("6.png", (photos[2], "train", 1)),
            ],
        )
    )
    assert found(result, "conflict") == {
        ("conflict", "a", "1.png", "train", "2.jpg", True),
        ("conflict", "a", "2.jpg", "train", "1.png", True),
        ("conflict", "a", "3.png", "test", "4.png", False),
        ("conflict", "a", "4.png", "test", "3.png", False),
    }
    assert kept(result) == ["3.png", "4.png", "5.png", "6.png"]


def test_labels_of_other_classes_are_no_conflict(make, judge, photos, found):
    one = make("one", [("1.png", (photos[0], "train", 0))])
    same = make("same", [("2.png", (photos[0], "train", 0))], classes=("Fear", "Awe"))
    other = make("other", [("3.png", (photos[0], "train", 0))], classes=("joy", "awe"))
    assert found(judge(one, other), "conflict") == set()
    assert {row[1] for row in found(judge(one, same), "conflict")} == {"one", "same"}


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ((float("nan"), 0, 10, 10), "not numbers"),
        ((0, 0, float("inf"), 10), "not numbers"),
        ((30, 30, 20, 60), "empty"),
        ((250, 10, 300, 90), "outside the image"),
        ((150, 10, 230, 90), "over the edge"),
        ((20, 100, 120, 190), "for the image turned by a quarter"),
        ((20, 20, 25, 60), "tiny"),
        ((0, 0, 200.5, 150), None),
    ],
)
def test_boxes_that_cannot_be_right_are_told_and_stay(make, judge, photos, box, problem, kept):
    good = (10, 10, 60, 60)
    result = judge(make("a", [("1.png", (photos[0], "train", 0, good, box))]))
    texts = [finding.text for finding in result.findings]
    assert len(texts) == (problem is not None)
    if problem is not None:
        assert texts[0].startswith(problem)
        assert "in 200 x 150 pixels" in texts[0]
    assert len(kept(result)) == 1
    assert len(kept(judge(result.manifests[0], remove=("box",)))) == (problem is None)


def test_more_people_than_a_picture_holds_are_told(make, judge, photos):
    boxes = [(x, 0, x + 40, 90) for x in range(101)]
    (finding,) = judge(make("a", [("1.png", (photos[0], "train", 0, *boxes))])).findings
    assert finding.text == "101 boxes in a row"


def test_a_box_of_a_picture_that_cannot_be_read_is_judged_by_itself(make, judge):
    rows = [("1.png", (b"broken", "train", 0, (900, 900, 950, 990), (5, 5, 5, 9)))]
    texts = [finding.text for finding in judge(make("a", rows)).findings if finding.kind == "box"]
    assert len(texts) == 1
    assert texts[0].startswith("empty")


def test_a_chain_of_likeness_leaks_only_where_two_are_alike(make, judge, photos, found):
    """Each crop is like the next; what is like the test image goes, and what is not stays."""
    big = photos[0].resize((400, 300))

    def window(shift):
        return big.crop((shift, 0, shift + 240, 300))

    entries = [(f"{n}.png", (window(8 * n), "train", 0)) for n in range(12)]
    entries.append(("test.png", (window(0), "test", 0)))
    leaks = {row[2] for row in found(judge(make("a", entries)), "leak")}
    assert "0.png" in leaks
    assert "11.png" not in leaks
