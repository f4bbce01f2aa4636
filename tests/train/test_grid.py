from itertools import combinations
from pathlib import Path

import pytest
import yaml

from uniemox.config.ablate import AblateConfig
from uniemox.errors import ConfigError
from uniemox.train.grid import STEPS, grid_names, read_grid

WHOLE = {
    "seeds": [0, 1],
    "pretrain": {"preset": "demo", "data": "more.parquet"},
    "evaluate": {},
    "probe": {"head": "knn"},
    "finetune": {"preset": "released", "optim": {"epochs": 7}},
    "arms": {
        "plain": {},
        "light": {"pretrain": {"loss": {"contrast": 0}}, "finetune": {"optim": {"epochs": 3}}},
        "scratch": {"pretrain": False, "evaluate": False, "probe": False, "finetune": {"init": None}},
    },
}
TERMS = ("contrast", "similarity", "reconstruction")


@pytest.fixture
def read(tmp_path):
    """Read a grid from a tree, as YAML; other settings of the command are named."""

    def make(tree, **changes):
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return read_grid(AblateConfig(grid=str(path), **{"out": Path("runs"), "data": Path("own.parquet")} | changes))

    return make


def runs_of(grid, arm, seed=0):
    (run,) = (run for run in grid.runs if (run.arm, run.seed) == (arm, seed))
    return {step.name: step.config for step in run.steps}


# What becomes of a grid


def test_all_arms_come_with_the_first_seed_before_any_with_the_second(read):
    order = [(run.arm, run.seed) for run in read(WHOLE).runs]
    assert order == [(arm, seed) for seed in (0, 1) for arm in ("plain", "light", "scratch")]


def test_steps_run_in_the_order_of_what_they_take(read):
    assert list(runs_of(read(WHOLE), "plain")) == ["pretrain", "evaluate", "probe", "finetune"]


def test_each_step_takes_the_model_that_the_pretraining_makes(read):
    steps = runs_of(read(WHOLE), "plain", 1)
    model = str(steps["pretrain"].out / "model")
    assert model == "runs/plain/1/pretrain/model"
    assert [steps["evaluate"].model, steps["probe"].backbone, steps["finetune"].init] == [model] * 3


def test_an_arm_is_stronger_than_the_step_and_that_than_its_preset(read):
    grid = read(WHOLE)
    epochs = {arm: runs_of(grid, arm)["finetune"].optim.epochs for arm in grid.arms}
    assert epochs == {"plain": 7, "light": 3, "scratch": 7}
    assert runs_of(grid, "plain")["finetune"].optim.batch_size == 16  # of the preset


def test_what_is_set_for_all_is_weaker_than_an_arm(read):
    grid = read(WHOLE, set=["finetune.optim.epochs=2", "pretrain.optim.betas=[0.8, 0.9]", "pretrain.precision=fp32"])
    assert [runs_of(grid, arm)["finetune"].optim.epochs for arm in grid.arms] == [2, 3, 2]
    assert runs_of(grid, "plain")["pretrain"].optim.betas == (0.8, 0.9)


def test_a_preset_can_be_set_for_all(read):
    shape = runs_of(read(WHOLE, set=["pretrain.preset=small"]), "plain")["pretrain"].model
    assert shape.size == "small"


def test_false_skips_a_step_in_an_arm_and_null_starts_from_random_weights(read):
    steps = runs_of(read(WHOLE, start="mae.pth"), "scratch")
    assert list(steps) == ["finetune"]
    assert steps["finetune"].init is None


def test_the_start_is_that_of_the_first_step_which_takes_one(read):
    steps = runs_of(read(WHOLE, start="mae.pth"), "plain")
    assert steps["pretrain"].init == "mae.pth"
    assert steps["probe"].backbone == "runs/plain/0/pretrain/model"


def test_a_step_is_resumed_where_it_has_a_folder_and_else_started(read, tmp_path):
    (tmp_path / "plain" / "0" / "finetune").mkdir(parents=True)
    grid = read(WHOLE, out=tmp_path)
    assert [runs_of(grid, "plain", seed)["finetune"].resume for seed in (0, 1)] == [True, False]


def test_data_is_for_steps_that_name_none(read):
    steps = runs_of(read(WHOLE), "plain")
    assert {name: config.data.name for name, config in steps.items()} == {
        **dict.fromkeys(("evaluate", "probe", "finetune"), "own.parquet"),
        "pretrain": "more.parquet",
    }


def test_a_split_is_what_later_steps_learn_from_and_draws_by_the_seed(read):
    tree = {"split": {"fraction": 0.5}, "finetune": {}, "arms": {"half": {}, "tenth": {"split": {"fraction": 0.1}}}}
    steps = runs_of(read({**tree, "seeds": [4]}), "tenth", 4)
    assert steps["split"].manifest == Path("own.parquet")
    assert steps["finetune"].data == steps["split"].out == Path("runs/tenth/4/data.parquet")
    assert (steps["split"].seed, steps["finetune"].seed) == (4, 4)


def test_every_model_is_evaluated_on_each_further_test(read):
    grid = read({**WHOLE, "tests": {"unseen": "unseen.parquet"}}, tests=["fi=fi.parquet"])
    steps = runs_of(grid, "plain")
    assert {name for name in steps if name.endswith("-unseen")} == {
        f"{step}-unseen" for step in steps if step in ("evaluate", "probe", "finetune")
    }
    assert steps["finetune-fi"].model == "runs/plain/0/finetune"
    assert steps["evaluate-fi"].model == steps["evaluate"].model
    assert steps["probe-fi"].data == Path("fi.parquet")


def test_arms_are_compared_by_step_and_test(read):
    scored = read({**WHOLE, "tests": {"unseen": "unseen.parquet"}}).scored()
    steps = ("evaluate", "probe", "finetune")
    assert list(scored) == [f"{step}, {test}" for step in steps for test in ("test", "unseen")]
    assert [run.name for run, _ in scored["evaluate, test"]] == [
        f"{arm}, seed {seed}" for arm in ("plain", "light") for seed in (0, 1)
    ]
    found = [step.config.out for run, step in scored["finetune, unseen"] if run.arm == "scratch"]
    assert found == [Path(f"runs/scratch/{seed}/finetune-unseen") for seed in (0, 1)]


def test_arms_of_one_step_each_stand_side_by_side(read):
    tree = {"arms": {"tuned": {"finetune": {}}, "probed": {"seeds": [0], "probe": {"backbone": "clip:demo"}}}}
    ((title, found),) = read(tree, seeds=[0, 1]).scored().items()
    assert (title, [run.name for run, _ in found]) == ("test", ["tuned, seed 0", "tuned, seed 1", "probed, seed 0"])


def test_the_base_comes_first(read):
    assert read({**WHOLE, "base": "scratch"}).arms == ("scratch", "plain", "light")
    assert read(WHOLE, arms=["light", "plain"]).arms == ("light", "plain")


def test_settings_that_shape_nothing_do_not_tell_arms_apart(read):
    arms = {"two": {"finetune": {"workers": 2}}, "three": {"finetune": {"workers": 3}}}
    with pytest.raises(ConfigError, match="arm three changes nothing: all of its settings are those of arm two"):
        read({"finetune": {}, "arms": arms})


# What is refused


def odd(settings):
    """Change the arms of a grid: beside one that is empty comes one with these settings."""
    return {"arms": {"plain": {}, "odd": settings}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (odd({"finetune": {"pol": "cls"}}), r"arm odd, finetune: unknown setting pol; did you mean pool\?"),
        (odd({"finetune": {"pool": "max"}}), r"arm odd, finetune: pool is max, but must be one of mean"),
        (odd({"finetune": {"optim": {"epochs": 0}}}), "arm odd, finetune: optim.epochs is 0, but must be at least 1"),
        (odd({"finetun": {}}), r"arm odd: unknown setting finetun; did you mean finetune\?"),
        (odd({}), "arm odd is empty: all of its settings are those of arm plain"),
        (odd(None), "arm odd is empty"),
        ({"arms": {}}, "arms is empty"),
        ({"arms": {"plain": {}, "../odd": {"evaluate": False}}}, "../odd is the name of a folder"),
        ({"arms": {"plain": {"finetune": 3}}}, "arm plain, finetune is 3, but must be a group of settings, or false"),
        ({"arms": {"plain": {"seeds": ["x"]}}}, "arm plain: seeds.0 is x, but must be a whole number"),
        ({"finetune": {"seed": 3}}, "finetune: seed is what the grid itself sets for each run: omit it"),
        ({"finetune": {"preset": "relased"}}, r"arm plain, finetune: unknown preset relased; did you mean released\?"),
        ({"armz": {}}, r"unknown setting armz; did you mean arms\?"),
        ({"base": "plan"}, r"base: no arm is called plan; did you mean plain\?"),
        ({"arms": {"plain": {}, 10: {"evaluate": False}}}, "arm 10 is no text for YAML: put its name in quotes"),
        ({"arms": {"plain": {}, True: {"evaluate": False}}}, "arm True is no text for YAML"),
        ({"tests": {"a/b": "x.parquet"}}, "a/b is the name of a folder"),
        ({"tests": {"test": "x.parquet"}}, "test is the test of a step's own data: rename yours"),
        ({"pretrain": {"preset": "demo", "loss": 3}}, "pretrain: loss is 3, but must be a group of settings such as"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(read, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read({**WHOLE, **changes})
    assert "\n" not in str(caught.value)
    assert "grid.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "`data` must be given"),
        ({"set": ["epochs=3"]}, "set has epochs=3, but each must be like"),
        ({"set": ["finetune.epoch=3"]}, "`set`: unknown setting epoch"),
        ({"set": ["finetune.optim.epochs=[3"]}, "not plain YAML"),
        ({"tests": ["unseen"]}, "tests has unseen, but each must be like"),
        ({"arms": ["plan"]}, r"arms: no arm is called plan; did you mean plain\?"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_named(read, changes, message):
    with pytest.raises(ConfigError, match=message):
        read(WHOLE, **changes)


def test_an_arm_without_scores_is_refused(read):
    with pytest.raises(ConfigError, match="arm plain has no step with scores: add evaluate, probe or finetune"):
        read({"pretrain": {"preset": "demo"}, "arms": {"plain": {}}})


def test_an_unknown_name_of_a_grid_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown grid term; did you mean terms\?; known are baselines"):
        read_grid(AblateConfig(grid="term", out=Path("runs")))


# The grids that are shipped


def shipped(name):
    return read_grid(AblateConfig(grid=name, out=Path("runs"), data=Path("own.parquet"), start="demo-pretrained"))


@pytest.mark.parametrize("name", grid_names())
def test_a_shipped_grid_is_valid(name):
    assert len(shipped(name).arms) > 2


def test_the_help_names_the_shipped_grids():
    from uniemox.settings import list_settings

    (text,) = (setting.text for setting in list_settings(AblateConfig) if setting.name == "grid")
    assert all(name in text for name in grid_names())


def test_the_terms_are_every_subset_of_the_objective_with_and_without_fusion():
    found = set()
    for run in shipped("terms").runs:
        config = run.steps[0].config
        terms = frozenset(name for name in TERMS if getattr(config.loss, name) > 0)
        found.add((terms, config.model.fusion != "none"))
        assert run.arm.removesuffix("-unfused") == (
            "-".join(sorted(terms, key=TERMS.index)) if len(terms) < 3 else "all"
        )
    subsets = {frozenset(some) for size in (1, 2, 3) for some in combinations(TERMS, size)}
    without_teacher = (frozenset({"reconstruction"}), True)  # the person would be encoded for nobody
    assert found == {(some, fused) for some in subsets for fused in (True, False)} - {without_teacher}


def test_the_fractions_of_data_are_of_the_whole():
    grid = shipped("data")
    kept = {run.arm: run.steps[0].config.fraction for run in grid.runs}
    words = {"whole": 1, "half": 2, "fifth": 5, "tenth": 10, "twentieth": 20, "hundredth": 100}
    assert {arm: round(1 / fraction) for arm, fraction in kept.items()} == words


def test_every_step_is_a_command():
    from uniemox.console.cli import COMMANDS

    commands = {"data split" if name == "split" else name: config for name, config in STEPS.items()}
    assert {name: COMMANDS[name].config for name in commands} == commands
