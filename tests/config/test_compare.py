from pathlib import Path

import pytest

from uniemox.config.compare import CompareConfig
from uniemox.errors import ConfigError


def test_files_end_in_what_can_be_written():
    CompareConfig(sources=["a"], out=[Path("a.md"), Path("b.TEX"), Path("c.json"), Path("d.html")])
    with pytest.raises(ConfigError, match=r"out is a\.csv, but must end in \.md, \.tex, \.json, \.html"):
        CompareConfig(sources=["a"], out=[Path("a.csv")])


def test_something_must_be_compared():
    with pytest.raises(ConfigError, match="`sources` must be given"):
        CompareConfig(sources=())
