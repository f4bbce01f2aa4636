from pathlib import Path

import pytest

from uniemox.config.ablate import AblateConfig
from uniemox.errors import ConfigError


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_an_impossible_share_is_refused(shard):
    with pytest.raises(ConfigError, match=r"shard is .*, but must be like 2/4"):
        AblateConfig(grid="terms", out=Path("runs"), shard=shard)


def test_shares_divide_the_runs_and_each_gets_every_arm_where_it_can():
    runs = [(seed, arm) for seed in range(4) for arm in "abc"]
    shares = [AblateConfig(grid="terms", out=Path("r"), shard=f"{number}/4").take(runs) for number in range(1, 5)]
    assert sorted(place for share in shares for place in share) == list(range(12))
    assert all({runs[place][1] for place in share} == set("abc") for share in shares)


def test_all_runs_are_the_share_of_one_process_alone():
    assert AblateConfig(grid="terms", out=Path("r")).take("abc") == [0, 1, 2]


def test_the_comparison_goes_into_the_folder_of_the_runs_unless_files_are_named():
    assert AblateConfig(grid="terms", out=Path("r")).pages == [Path("r/comparison.md"), Path("r/comparison.html")]
    assert AblateConfig(grid="terms", out=Path("r"), write=[Path("x.tex")]).pages == [Path("x.tex")]
    with pytest.raises(ConfigError, match=r"write is x\.txt, but must end in \.md, \.tex, \.json, \.html"):
        AblateConfig(grid="terms", out=Path("r"), write=[Path("x.txt")])


def test_to_list_and_to_compare_are_two_questions():
    with pytest.raises(ConfigError, match="`dry_run` lists the runs and `table` compares them: give one of them"):
        AblateConfig(grid="terms", out=Path("r"), dry_run=True, table=True)
