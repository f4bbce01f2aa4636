from pathlib import Path

from uniemox.config.demo import DemoConfig


def test_a_demo_needs_nothing_to_be_given():
    assert (DemoConfig().out, DemoConfig().seed) == (Path("uniemox-demo"), 0)
