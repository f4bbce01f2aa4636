"""Copies: image files in a split, with their rows."""


def test_rows_of_several_people_are_one_picture(make, judge, photos):
    rows = [
        ("1.png", (photos[0], "train", 0, (0, 0, 50, 90))),
        ("1.png", (photos[0], "train", 1, (60, 0, 120, 90))),
        ("2.png", (photos[1], "train", 1, (60, 0, 120, 90))),
    ]
    result = judge(make("a", rows))
    assert result.findings == ()
    assert len(result.copies) == 2
    assert result.copies[0].rows == (0, 1)
    assert result.copies[0].label == "awe + fear"


def test_people_of_one_picture_in_two_splits_leak(make, judge, photos, found):
    rows = [("1.png", (photos[0], "train", 0, (0, 0, 50, 90))), ("1.png", (photos[0], "test", 1, (60, 0, 120, 90)))]
    result = judge(make("a", rows))
    assert found(result) == {("leak", "a", "1.png", "train", "1.png", True)}
    assert result.findings[0].text == "the same file"
    assert result.cleaned[0].table["split"].to_pylist() == ["test"]


def test_one_file_listed_twice_with_other_labels_is_a_conflict(make, judge, photos, found):
    rows = [("1.png", (photos[0], "train", 0)), ("1.png", (photos[0], "train", 1))]
    assert found(judge(make("a", rows))) == {("conflict", "a", "1.png", "train", None, True)}
