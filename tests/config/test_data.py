from pathlib import Path

import pytest

from uniemox.config.data import MergeConfig, PrepareConfig, ShardConfig, ShowConfig, SplitConfig
from uniemox.config.people import PersonConfig
from uniemox.errors import ConfigError

OUT = Path("o.parquet")


@pytest.mark.parametrize(
    ("ratios", "shares"),
    [((80, 5, 15), (0.8, 0.05, 0.15)), ((0.7, 0.1, 0.2), (0.7, 0.1, 0.2)), ((3, 0, 1), (0.75, 0, 0.25))],
)
def test_shares_of_a_split_sum_to_one(ratios, shares):
    config = PrepareConfig("fi", root=Path("r"), out=OUT, ratios=ratios)
    assert config.shares == pytest.approx(shares)
    assert PrepareConfig("fi", root=Path("r"), out=OUT).shares is None


@pytest.mark.parametrize("ratios", [(0, 1, 1), (1, -1, 1), (float("nan"), 1, 1)])
def test_ratios_that_are_no_shares_are_refused(ratios):
    with pytest.raises(ConfigError, match=r"^ratios are"):
        PrepareConfig("fi", root=Path("r"), out=OUT, ratios=ratios)


@pytest.mark.parametrize("scale", [(9, 1), (1, 1), (0, float("inf")), (float("nan"), 1)])
def test_ends_that_are_no_scale_are_refused(scale):
    with pytest.raises(ConfigError, match=r"^scale is .* two ends, the low one first"):
        PrepareConfig("table", root=Path("r"), out=OUT, scale=scale)


def test_no_manifest_goes_into_a_folder_of_the_data(tmp_path):
    PrepareConfig("fi", root=tmp_path, out=tmp_path / "m.parquet")
    PrepareConfig("fi", root=tmp_path / "x", out=tmp_path / "m.parquet")
    for out in (tmp_path / "awe/m.parquet", tmp_path / "awe/../new/m.parquet"):
        with pytest.raises(ConfigError, match="in a folder of the data set: write"):
            PrepareConfig("fi", root=tmp_path, out=out)


@pytest.mark.parametrize(
    ("config", "place", "settings", "complaint"),
    [
        (SplitConfig, OUT, {}, "nothing to do: give `ratios`, `split_list` or `fraction`"),
        (SplitConfig, OUT, {"ratios": (1, 1, 1), "split_list": OUT}, "both make the splits"),
        (SplitConfig, OUT, {"fraction": 0.5, "group_by": "folder"}, "give `ratios` with it"),
        (MergeConfig, (OUT,), {}, "two or more manifests"),
        (ShardConfig, OUT, {"shard_size": 0}, "shard_size is 0"),
        (ShardConfig, OUT, {"workers": 0}, "workers is 0"),
        (ShardConfig, OUT, {"seed": -1}, "seed is -1"),
        (ShowConfig, OUT, {"out": Path("s.html")}, "`out` is for the sheet of `people`"),
        (ShowConfig, OUT, {"count": 3}, "`count` is about the sheet"),
        (ShowConfig, OUT, {"people": True, "out": Path("s.pdf")}, "must end in .html or .png"),
        (ShowConfig, OUT, {"people": True, "out": Path("s.png"), "count": 0}, "count is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(config, place, settings, complaint):
    where = {} if config is ShowConfig else {"out": OUT}
    with pytest.raises(ConfigError, match=complaint):
        config(place, **where | settings)


def test_the_sheet_crops_as_runs_do_unless_it_is_asked_to():
    assert ShowConfig(OUT).person == PersonConfig()
    sheet = {"people": True, "out": Path("s.html")}
    assert ShowConfig(OUT, **sheet, margin=0.5).person == PersonConfig(margin=0.5)
