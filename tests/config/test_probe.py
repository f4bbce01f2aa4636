"""Settings of a probe."""

from pathlib import Path
from typing import get_args

import pytest

from uniemox.config.probe import NEIGHBOURS, STRENGTHS, ProbeConfig, ProbePool
from uniemox.config.training import FinetuneConfig, Pool
from uniemox.errors import ConfigError
from uniemox.settings import list_settings

WHERE = {"backbone": "demo-pretrained", "data": Path("d"), "out": Path("o")}


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch_size", 0), ("base_lr", 0.0), ("seed", -1), ("seed", 2**63), ("workers", -1)],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"^{name} is "):
        ProbeConfig(**WHERE, **{name: value})


@pytest.mark.parametrize(
    ("splits", "name"),
    [
        ({"val_split": "train"}, "val_split"),
        ({"test_split": "train"}, "test_split"),
        ({"test_split": "val"}, "test_split"),
    ],
)
def test_no_split_is_used_twice(splits, name):
    with pytest.raises(ConfigError, match=f"^{name} is "):
        ProbeConfig(**WHERE, **splits)


def test_no_test_split_is_fine():
    assert ProbeConfig(**WHERE, test_split=None).test_split is None


def test_pooling_is_not_asked_of_a_tower_that_has_its_own():
    ProbeConfig(**WHERE | {"backbone": "timm:vit_tiny_patch16_224"}, pool="mean")
    with pytest.raises(ConfigError, match="pool is mean, but a clip: backbone pools"):
        ProbeConfig(**WHERE | {"backbone": "clip:demo"}, pool="mean")


def test_the_words_for_pooling_are_those_of_fine_tuning():
    assert set(get_args(ProbePool)) < set(get_args(Pool))


def test_what_a_probe_shares_with_fine_tuning_is_called_and_typed_the_same():
    ours, theirs = ({s.name: s.kind for s in list_settings(config)} for config in (ProbeConfig, FinetuneConfig))
    shared = ours.keys() & theirs.keys() - {"head", "pool"}
    assert {"data", "out", "train_split", "val_split", "test_split", "target", "select_by", "view", "seed"} <= shared
    assert all(ours[name] == theirs[name] for name in shared)


def test_what_val_chooses_from_rises():
    assert list(STRENGTHS) == sorted(STRENGTHS)
    assert (STRENGTHS[0], STRENGTHS[-1]) == (1e-6, 100.0)
    assert list(NEIGHBOURS) == sorted(set(NEIGHBOURS))
