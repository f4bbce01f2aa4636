"""Settings of `explain`."""

from pathlib import Path

import pytest

from uniemox.config.explain import ExplainConfig
from uniemox.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"paths": ()}, "`paths` must be given"),
        ({}, "nothing to show: give `overlays` for maps, and `boxes` or `detector`"),
        ({"map": False, "json": True}, "nothing to show"),
        ({"map": False, "boxes": Path("b"), "overlays": Path("o")}, "`overlays` show maps"),
    ],
)
def test_settings_that_explain_nothing_are_refused(given, message):
    with pytest.raises(ConfigError) as error:
        ExplainConfig(model="m", **{"paths": [Path("a.png")], **given})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "shows_maps"),
    [
        ({"boxes": Path("b.csv")}, False),
        ({"boxes": Path("b.csv"), "out": Path("t.csv")}, False),
        ({"boxes": Path("b.csv"), "json": True, "map": False}, False),
        ({"json": True}, True),
        ({"overlays": Path("o")}, True),
    ],
)
def test_maps_are_made_where_they_are_shown(given, shows_maps):
    assert ExplainConfig(model="m", paths=[Path("a.png")], **given).shows_maps == shows_maps
