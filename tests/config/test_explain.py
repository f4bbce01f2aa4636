"""Settings of `explain`."""

from pathlib import Path

import pytest

from uniemox.config.explain import ExplainConfig
from uniemox.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"paths": ()}, "`paths` must be given"),
        ({"map": False}, "nothing to explain: give `boxes` or `detector`, or omit `map` false"),
        ({"map": False, "boxes": Path("b"), "overlays": Path("o")}, "`overlays` show maps"),
    ],
)
def test_settings_that_explain_nothing_are_refused(given, message):
    with pytest.raises(ConfigError) as error:
        ExplainConfig(model="m", **{"paths": [Path("a.png")], **given})
    assert message in str(error.value)


def test_people_alone_are_enough():
    assert not ExplainConfig(model="m", paths=[Path("a.png")], map=False, boxes=Path("b.csv")).map
