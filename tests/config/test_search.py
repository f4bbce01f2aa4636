"""Settings of a search that are refused before anything is read."""

from pathlib import Path

import pytest

from uniemox.config.search import SearchConfig
from uniemox.errors import ConfigError

PLACE = {"model": "m", "paths": (Path("photos"),)}


@pytest.mark.parametrize("asked", [{"text": "a calm evening"}, {"image": Path("a.jpg")}, {"emotion": "joy"}])
def test_one_question_is_enough(asked):
    SearchConfig(**PLACE, **asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "give one of `text`, `image` and `emotion`, not none of them"),
        ({"text": "calm", "emotion": "joy"}, "not `text` and `emotion`"),
        ({"text": " \n"}, "text is empty"),
        ({"text": "a" * 1001}, "more than 1000 characters"),
        ({"emotion": "joy", "paths": ()}, "`paths` must be given"),
        ({"emotion": "joy", "top_k": 0}, "top_k is 0"),
        ({"emotion": "joy", "out": Path("a.xls")}, "a.xls, but must end in .csv, .jsonl, .parquet"),
        ({"emotion": "joy", "sheet": Path("a.gif")}, "a.gif, but must end in .html, .jpg, .png"),
    ],
)
def test_what_cannot_be_searched_is_refused(asked, said):
    with pytest.raises(ConfigError) as refused:
        SearchConfig(**{**PLACE, **asked})
    assert said in str(refused.value)
