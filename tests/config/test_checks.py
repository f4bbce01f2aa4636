import math
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from uniemox.config import audit, checks, data, inference, people, training
from uniemox.config.checks import MAX_WORKERS, Settings
from uniemox.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Wall(checks.Settings, group="wall"):
    coats: checks.Natural = 1
    width: checks.Positive = 1.0
    doors: checks.NotNegative[int] = 0
    gloss: checks.Share = 0.5
    waste: checks.BelowOne = 0.0
    area: checks.AreaShares = (0.5, 1.0)
    ladder: checks.Positive | None = None
    colour: str = "red"


# Setting, values that pass, values that are refused.
BORDERS = [
    ("coats", [1, 9], [0, -1, math.nan]),
    ("width", [1e-9], [0, -1, math.nan]),
    ("doors", [0, 9], [-1, math.inf, math.nan]),
    ("gloss", [0, 1], [-0.1, 1.1, math.nan]),
    ("waste", [0, 0.9], [1, -0.1, math.nan]),
    ("area", [(0.1, 1), (1, 1)], [(0, 1), (0.5, 0.4), (0.5, 1.1), (math.nan, 1)]),
    ("ladder", [1, None], [0, math.nan]),
    ("colour", ["", "blue"], []),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, good, _ in BORDERS for value in good])
def test_what_is_inside_passes(name, value):
    assert getattr(Wall(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, _, bad in BORDERS for value in bad])
def test_what_is_outside_is_refused_with_its_dotted_name_at_the_start(name, value):
    with pytest.raises(ConfigError, match=rf"^wall\.{name} is .*, but must be "):
        Wall(**{name: value})


def test_a_setting_that_takes_null_says_so():
    with pytest.raises(ConfigError, match=r"^wall\.ladder is 0, but must be greater than 0, or null$"):
        Wall(ladder=0)


def test_a_range_is_inherited_and_the_group_is_not():
    @dataclass(frozen=True, kw_only=True)
    class House(Wall):
        floors: checks.Natural = 1

    for name in ("floors", "coats"):
        with pytest.raises(ConfigError, match=rf"^{name} is 0, but must be at least 1$"):
            House(**{name: 0})


@pytest.mark.parametrize("sides", [(224, 16), (8, 8), (1536, 16), (1536, 128), (1024, 8)])
def test_a_grid_of_whole_patches_passes(sides):
    checks.check_grid(*sides)


@pytest.mark.parametrize(("sides", "reason"), [((224, 15), "multiple"), ((1544, 8), "1536"), ((1032, 8), "128")])
def test_a_grid_that_is_no_grid_or_too_large_is_refused(sides, reason):
    with pytest.raises(ConfigError, match=f"x.image_size {sides[0]} is .*{reason}"):
        checks.check_grid(*sides, prefix="x.")


def test_a_patch_larger_than_any_folder_may_have_is_refused():
    with pytest.raises(ConfigError, match=r"^patch_size 256 is more than 128 pixels"):
        checks.check_grid(512, 256)


def test_a_manifest_goes_into_a_parquet_file(tmp_path):
    checks.check_manifest_out(Path("a.PARQUET"))
    with pytest.raises(ConfigError, match=r"^out is .* a file and not a folder"):
        checks.check_manifest_out(tmp_path)
    with pytest.raises(ConfigError, match=r"^out is a\.csv, .*: write a\.parquet"):
        checks.check_manifest_out(Path("a.csv"))


def configs_with_workers():
    modules = (audit, data, inference, people, training)
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    found = [kind for kind in kinds if issubclass(kind, Settings) and kind.__dataclass_fields__.get("workers")]
    return sorted(
        (kind for kind in found if kind.__module__.startswith("uniemox.config")), key=lambda kind: kind.__name__
    )


@pytest.mark.parametrize("config", configs_with_workers(), ids=lambda config: config.__name__)
def test_workers_are_bounded_wherever_they_are_set(config):
    kind = get_type_hints(config, include_extras=True)["workers"]
    (bound,) = kind.__metadata__
    assert MAX_WORKERS >= 256
    assert bound.holds(1)
    assert bound.holds(MAX_WORKERS)
    for number in (-1, MAX_WORKERS + 1, 99_999):
        assert not bound.holds(number)


def test_too_many_workers_are_refused_in_one_line(run):
    code, _, err = run("data", "shard", "m.parquet", "--out", "x", "--workers", 99_999)
    assert code == 2
    assert err == f"uniemox: error: --workers is 99999, but must be between 1 and {MAX_WORKERS}\n"
