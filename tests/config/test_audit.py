from pathlib import Path

import pytest

from uniemox.config.audit import KINDS, REMOVED, AuditConfig, AuditRules
from uniemox.errors import ConfigError


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ({"remove": ("leaks",)}, "`remove` names leaks"),
        ({"min_side": 0}, "min_side is 0"),
        ({"placeholder_copies": 1}, "placeholder_copies is 1"),
        ({"like": 0.2}, "like is 0.2"),
        ({"like": float("nan")}, "like is nan"),
    ],
)
def test_impossible_rules_are_refused(rules, complaint):
    for make in (AuditRules, lambda **rules: AuditConfig((), out=Path("o"), **rules)):
        with pytest.raises(ConfigError, match=f"^{complaint}"):
            make(**rules)


def test_an_audit_needs_somebody_to_do_it():
    with pytest.raises(ConfigError, match=r"^workers is 0"):
        AuditConfig((), out=Path("o"), workers=0)


def test_the_rules_are_those_of_the_config():
    config = AuditConfig((Path("m"),), out=Path("o"), like=0.9, remove=("leak",))
    assert config.rules == AuditRules(like=0.9, remove=("leak",))
    assert type(config.rules) is AuditRules


def test_what_is_removed_by_default_is_known():
    assert {*REMOVED} < {*KINDS}
