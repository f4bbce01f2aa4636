import pytest

from uniemox.config.serve import ServeConfig
from uniemox.errors import ConfigError


def test_by_default_a_service_is_reached_from_this_machine_alone_and_fetches_nothing():
    config = ServeConfig(model="demo")
    assert (config.host, config.allow_urls) == ("127.0.0.1", False)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"port": 65536}, "port is 65536"),
        ({"port": -1}, "port is -1"),
        ({"max_bytes": 10}, "max_bytes is 10"),
        ({"max_images": 0}, "max_images is 0"),
        ({"queue": 0}, "queue is 0"),
        ({"timeout": 0.5}, "timeout is 0.5"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"score": 0.9}, "`score` is about a detector: give `detector` too"),
    ],
)
def test_impossible_settings_are_refused(settings, complaint):
    with pytest.raises(ConfigError, match=f"^{complaint}"):
        ServeConfig(model="demo", **settings)
