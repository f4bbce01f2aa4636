"""Which models need a notice, and that it names the law."""

import dataclasses

import pytest

from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.notice import use_notice

FELT = ModelFacts(
    kind="classifier", size="mini", patch_size=8, image_size=32, dataset="x", emotion="felt", classes=("a", "b")
)


@pytest.mark.parametrize("view", ["scene", "person", "both"])
def test_a_model_of_what_people_feel_has_a_notice_that_names_the_article(view):
    notice = use_notice(dataclasses.replace(FELT, view=view))
    assert "seems to feel" in notice
    assert "Article 5(1)(f)" in notice
    assert "(EU) 2024/1689" in notice
    assert "\n" not in notice


@pytest.mark.parametrize("view", ["scene", "person", "both"])
def test_a_model_of_what_viewers_feel_has_none(view):
    assert use_notice(dataclasses.replace(FELT, emotion="evoked", view=view)) is None


def test_a_model_of_unknown_emotions_has_one_only_where_it_reads_a_person():
    unknown = dataclasses.replace(FELT, emotion=None)
    assert use_notice(unknown) is None
    assert "not recorded" in use_notice(dataclasses.replace(unknown, view="both"))
