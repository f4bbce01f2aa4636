"""The protocol of progress."""

from uniemox.files.progress import untracked


def test_untracked_items_come_through_unchanged():
    assert list(untracked(iter("abc"), total=3, what="letters")) == ["a", "b", "c"]
