"""The oldest dependencies that are allowed are those that `make oldest` tests."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GROUPS = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
WANTED = [line for lines in GROUPS.values() for line in lines if not line.startswith("uniemox[")]


@pytest.mark.parametrize("line", WANTED)
def test_a_dependency_has_a_lower_bound_and_no_upper_one(line):
    assert re.fullmatch(r"[\w-]+(\[\w+\])?>=[\d.]+", line)


def test_the_constraints_of_make_oldest_are_the_lower_bounds_line_by_line():
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins == list(dict.fromkeys(re.sub(r"(\[\w+\])?>=", "==", line) for line in WANTED))
