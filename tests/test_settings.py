import dataclasses
import itertools
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import yaml

from uniemox import settings
from uniemox.config import training as configs
from uniemox.config.training import FinetuneConfig, ModelConfig, OptimConfig, PretrainConfig, TeacherConfig
from uniemox.console.commands.train import list_sources
from uniemox.console.flags import flag_of, parse
from uniemox.errors import ConfigError
from uniemox.targets.kinds import build_target

CONFIGS = [PretrainConfig, FinetuneConfig]
EVERY = [
    pytest.param(config, setting, id=f"{config.__name__}-{setting.name}")
    for config in CONFIGS
    for setting in settings.list_settings(config)
]
WHERE = ["--data", "d.parquet", "--out", "run"]


def combine(config, words):
    name = "pretrain" if config is PretrainConfig else "finetune"
    given, _ = parse(name, "", config, words, also=list_sources(config))
    preset, files = given.pop("preset", None), given.pop("config", ())
    return settings.combine(config, given, preset=preset, files=files)


def build(config, words):
    return settings.build(config, combine(config, words))


# What is checked beyond its kind: words of RandAugment, a metric of one label and of several, what a head can read.
CHOSEN = {"rand_augment": "rand-m7-n3", "select_by": "macro_f1", "pool": "fused"}
# What another value of a setting asks for.
NEEDS = {"head": ["--pool", "fused"], "teacher": ["--pool", "fused", "--head", "language"]}


def another(setting):
    """Make a valid value that is not the default."""
    kind, default = setting.kind, setting.default
    if setting.leaf in CHOSEN:
        return CHOSEN[setting.leaf]
    if setting.is_list:
        return get_args(kind)[-2:] if get_origin(kind) is Literal else ("val", "extra one")
    if get_origin(kind) is Literal:
        return next(word for word in get_args(kind) if word not in (default, "none"))
    if get_origin(kind) is tuple:
        return (0.25, 0.75)
    others = {
        Path: lambda: Path("some where/ü.parquet"),
        bool: lambda: not default,
        int: lambda: 2 * default if default else 32,
        float: lambda: default / 2 if default else 0.25,
        str: lambda: "something: else # é",
    }
    return others[kind]()


def as_words(setting, value):
    text = f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
    return [flag_of(setting), text.lower() if isinstance(value, bool) else text]


def value_of(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


# The list of settings


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_is_a_setting(config):
    def count(tree):
        return sum(count(value) if isinstance(value, dict) else 1 for value in tree.values())

    listed = [setting.name for setting in settings.list_settings(config)]
    made = config(data=Path("d"), out=Path("o"))
    assert len(listed) == len(set(listed)) == count(asdict(made))
    for name in listed:
        value_of(made, name)


@pytest.mark.parametrize(("config", "setting"), EVERY)
def test_every_setting_has_a_text_of_whole_sentences(config, setting):
    assert setting.text[0].isupper() or setting.text.split()[0].rstrip(":,") in ("auto", "crop")
    assert setting.text.endswith(".")
    assert "\n" not in setting.text


@pytest.mark.parametrize("config", CONFIGS)
def test_a_setting_without_a_default_is_one_that_the_class_wants(config):
    wanted = {setting.name for setting in settings.list_settings(config) if setting.is_required}
    assert wanted == {"data", "out"}


def test_the_default_of_a_setting_is_that_of_the_class():
    made = PretrainConfig(data=Path("d"), out=Path("o"))
    for setting in settings.list_settings(PretrainConfig):
        if not setting.is_required:
            assert value_of(made, setting.name) == setting.default


# Flags


@pytest.mark.parametrize(("config", "setting"), EVERY)
def test_every_setting_is_reachable_by_flag_with_dashes_or_underscores(config, setting):
    value = another(setting)
    flag, text = as_words(setting, value)
    others = [] if setting.is_required else WHERE
    where = others or [word for word in WHERE if setting.name not in ("data", "out")]
    where = where or {"data": WHERE[2:], "out": WHERE[:2]}[setting.name]
    where = [*where, *NEEDS.get(setting.name, [])]
    for words in ([flag, text], [f"{flag}={text}"], [flag.replace("-", "_").replace("__", "--", 1), text]):
        assert value_of(build(config, [*where, *words]), setting.name) == value


@pytest.mark.parametrize("config", CONFIGS)
def test_flags_alone_give_the_defaults(config):
    assert build(config, WHERE) == config(data=Path("d.parquet"), out=Path("run"))


def test_a_flag_for_yes_may_stand_alone():
    assert build(PretrainConfig, [*WHERE, "--resume"]).resume
    assert not build(PretrainConfig, [*WHERE, "--resume", "false"]).resume


def test_what_must_be_given_is_named():
    with pytest.raises(ConfigError, match=r"^`data` and `out` must be given$"):
        build(PretrainConfig, [])
    with pytest.raises(ConfigError, match=r"^`out` must be given"):
        build(FinetuneConfig, ["--data", "x"])


# Order of strength


LAYERS = {
    "preset": ["--preset", "released", "--data", "d"],
    "first": ["--config", "first.yaml"],
    "second": ["--config", "second.yaml"],
    "flag": ["--out", "o", "--optim.base-lr", "4e-4"],
}


@pytest.fixture
def two_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("first.yaml").write_text("optim: {epochs: 2, base_lr: 2e-4, min_lr: 2e-6}\nseed: 2\n")
    Path("second.yaml").write_text("optim:\n  base_lr: 3e-4\n  min_lr: 3e-6\n")


@pytest.mark.parametrize("order", list(itertools.permutations(LAYERS)), ids="-".join)
def test_flags_are_stronger_than_files_and_files_than_the_preset_wherever_they_stand(two_files, order):
    config = build(FinetuneConfig, [word for name in order for word in LAYERS[name]])
    later = order.index("second") > order.index("first")
    assert config.optim.base_lr == 4e-4  # flag, both files, preset
    assert config.optim.min_lr == (3e-6 if later else 2e-6)  # both files, preset
    assert config.optim.epochs == 2  # first file, preset
    assert config.seed == 2
    assert config.optim.batch_size == 16  # preset alone
    assert config.optim.accumulate == 1


def test_a_resumed_run_lays_its_own_settings_over_the_preset_and_under_the_flags(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    words = ["--preset", "mae", "--data", "d", "--out", str(out), "--seed", "7"]
    saved = build(FinetuneConfig, [*words, "--optim.epochs", "3"])
    settings.save_config(saved, out / settings.RUN_CONFIG)
    for given in (["--out", str(out), "--resume"], [*words, "--resume"]):
        resumed = build(FinetuneConfig, given)
        assert resumed == replace(saved, resume=True)
    grown = build(FinetuneConfig, ["--out", str(out), "--resume", "--optim.epochs", "9"])
    assert (grown.optim.epochs, grown.seed) == (9, 7)
    fresh = build(FinetuneConfig, words)
    assert fresh.optim.epochs == 100


@pytest.mark.parametrize(
    ("preset", "given", "told"), [("mae", (), 0), ("mae", ("--optim.epochs", "9"), 0), ("heco", (), 1)]
)
def test_a_resumed_run_says_that_it_does_not_take_another_preset(tmp_path, caplog, preset, given, told):
    words = ["--data", "d", "--out", str(tmp_path)]
    settings.save_config(build(FinetuneConfig, ["--preset", "mae", *words]), tmp_path / settings.RUN_CONFIG)
    (tmp_path / "my.yaml").write_text("optim:\n  min_lr: 1.0e-5\n")
    for file in ((), ("--config", str(tmp_path / "my.yaml"))):
        caplog.clear()
        build(FinetuneConfig, ["--preset", preset, *words, *given, *file, "--resume"])
    assert len(caplog.messages) == told
    assert all(f"differ from the preset {preset}" in message for message in caplog.messages)


def test_a_typo_in_the_folder_to_resume_is_named(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    told = {"absent": "does not exist", "file": "is a file", "empty": "holds no config.yaml"}
    for name, reason in told.items():
        with pytest.raises(ConfigError, match=rf"{name} {reason}, so there is no run to resume"):
            build(FinetuneConfig, ["--out", str(tmp_path / name), "--resume"])


def test_the_later_of_two_equal_flags_wins():
    assert build(PretrainConfig, [*WHERE, "--seed", "1", "--seed", "2"]).seed == 2


def test_paths_in_a_file_are_relative_to_the_working_directory(tmp_path, monkeypatch):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "c.yaml").write_text("data: d.parquet\nout: runs/p\ninit: runs/before\n")
    monkeypatch.chdir(tmp_path)
    config = build(PretrainConfig, ["--config", "configs/c.yaml"])
    assert (config.data, config.out) == (Path("d.parquet"), Path("runs/p"))
    assert config.init == "runs/before"


# Presets


@pytest.mark.parametrize(("config", "known"), [(PretrainConfig, "small"), (FinetuneConfig, "mae")])
def test_an_unknown_preset_is_refused_with_the_known_ones(config, known):
    with pytest.raises(ConfigError) as caught:
        combine(config, ["--preset", "huge"])
    assert str(caught.value) == (f"unknown preset huge; known are {', '.join(settings.preset_names(config))}")
    assert known in str(caught.value)


@pytest.mark.parametrize("name", ["../finetune/mae", "base.yaml", "", "/etc/passwd", "x" * 9999])
def test_a_preset_is_a_name_and_no_path(name):
    with pytest.raises(ConfigError, match="unknown preset") as caught:
        settings.load_preset(PretrainConfig, name)
    assert len(str(caught.value)) < 200


# Files


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sed: 1", "unknown setting sed; did you mean seed?"),
        ("optim: {base_lrr: 1}", "unknown setting optim.base_lrr; did you mean optim.base_lr?"),
        ("optim: {base-lr: 1}", "unknown setting optim.base-lr; did you mean optim.base_lr?"),
        ("base_lr: 1", "unknown setting base_lr; did you mean optim.base_lr?"),
        ("views: {batch_size: 1}", "did you mean optim.batch_size?"),
        ("1: 2", "unknown setting 1"),
        ("null: 2", "unknown setting None"),
        ("preset: base", "unknown setting preset"),
        ("extends: base", "unknown setting extends"),
        ("config: other.yaml", "unknown setting config"),
        ("print_config: true", "unknown setting print_config"),
        ("debug: true", "unknown setting debug"),
        ("optim: 3", "optim is 3, but must be a group of settings such as optim.epochs"),
        ("optim: [1]", "optim is [1], but must be a group of settings"),
        ("seed: {a: 1}", "seed is {'a': 1}, but must be a whole number"),
        ("seed: abc", "seed is abc, but must be a whole number"),
        ("seed: true", "seed is True, but must be a whole number"),
        ("seed: 1.5", "seed is 1.5, but must be a whole number"),
        ("seed: null", "seed is null, but must be a whole number"),
        ("seed: [1]", "seed is [1], but must be a whole number"),
        ("optim: {base_lr: much}", "optim.base_lr is much, but must be a number"),
        ("optim: {base_lr: true}", "optim.base_lr is True, but must be a number"),
        ("optim: {base_lr: .inf}", "optim.base_lr is inf, but must be a number"),
        ("optim: {base_lr: .nan}", "optim.base_lr is nan, but must be a number"),
        ("optim: {betas: [0.9, .nan]}", "optim.betas is [0.9, nan], but must be 2 numbers"),
        ("optim: {betas: 0.9}", "optim.betas is 0.9, but must be 2 numbers"),
        ("optim: {betas: [1, 2, 3]}", "optim.betas is [1, 2, 3], but must be 2 numbers"),
        ("optim: {clip_norm: high}", "optim.clip_norm is high, but must be a number, or null"),
        ("model: {size: bse}", "model.size is bse, but must be one of mini, tiny, small, base"),
        ("device: 0", "device is 0, but must be text"),
        ("device: null", "device is null, but must be text"),
        ("init: false", "init is False, but must be text, or null"),
        ("data: 3", "data is 3, but must be a path"),
        ("data: ''", "data is empty, but must be a path"),
        ('data: "a\\0b"', "data is a"),
        ('device: "a\\0b"', "device is a"),
        ("data: null", "data is null, but must be a path"),
        ("splits: train", "splits is train, but must be a list"),
        ("splits: [1]", "splits is [1], but must be a list in brackets"),
        ("resume: perhaps", "resume is perhaps, but must be true or false"),
        ("resume: 1", "resume is 1, but must be true or false"),
        ("model: {class_path: os.path.join, init_args: {}}", "unknown setting model.class_path"),
        ("model: {__class__: 1}", "unknown setting model.__class__"),
        ("optim: {'a b': 1}", "unknown setting optim.a b"),
        ("optim: {'': 1}", "unknown setting optim."),
        ("'': 1", "unknown setting"),
        ("'" + "x" * 999 + "': 1", "unknown setting"),
        ("device: ['" + "x" * 9999 + "']", "but must be text"),
        ("- 1", "must be a mapping"),
        ("seed: 1\nseed: 2", "given twice"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_in_a_file_is_refused_in_one_line_with_file_and_name(file, text, complaint):
    path = file(text)
    with pytest.raises(ConfigError) as caught:
        combine(PretrainConfig, ["--config", str(path)])
    message = str(caught.value)
    assert message.startswith(str(path))
    assert complaint in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 250


def test_the_text_of_a_flag_that_is_wrong_is_refused_in_one_line():
    with pytest.raises(ConfigError) as caught:
        combine(PretrainConfig, ["--optim.base-lr", "inf"])
    assert str(caught.value) == "optim.base_lr is inf, but must be a number"


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("optim: {base_lr: 1e-3}", "optim.base_lr", 1e-3),  # text in YAML 1.1
        ("optim: {base_lr: 1}", "optim.base_lr", 1.0),
        ("optim: {betas: [9e-1, 1e-1]}", "optim.betas", (0.9, 0.1)),
        ("optim.base_lr: 0.5", "optim.base_lr", 0.5),
        ("num_workers: 3", "workers", 3),  # its name before
        ("splits: [train, val]", "splits", ("train", "val")),
        ("splits: [val]", "splits", ("val",)),
        ("device: 'null'", "device", "null"),
        ("optim:\nseed: 4", "seed", 4),
        ("resume: yes", "resume", True),
        ("optim: {clip_norm: null}", "optim.clip_norm", None),
    ],
)
def test_what_a_file_says_is_the_value_and_its_type(file, text, name, value):
    values = combine(PretrainConfig, ["--config", str(file(text))])
    assert values[name] == value
    assert type(values[name]) is type(value)


def test_values_that_contradict_each_other_are_refused(file):
    path = file("model: {image_size: 200}")
    with pytest.raises(ConfigError, match=r"image_size 200 is not a multiple"):
        build(PretrainConfig, [*WHERE, "--config", str(path)])
    build(PretrainConfig, [*WHERE, "--config", str(path), "--model.patch-size", "8"])


# Back to YAML


@pytest.fixture
def saved(tmp_path):
    """Give the text of a configuration that was saved."""

    def save(made):
        settings.save_config(made, tmp_path / "saved.yaml")
        return (tmp_path / "saved.yaml").read_text(encoding="utf-8")

    return save


@pytest.mark.parametrize("config", CONFIGS)
def test_a_saved_configuration_comes_back_equal(tmp_path, config):
    words = [word for setting in settings.list_settings(config) for word in as_words(setting, another(setting))]
    for made in (build(config, WHERE), build(config, words)):
        path = tmp_path / "config.yaml"
        settings.save_config(made, path)
        assert settings.load_config(config, path) == made
        assert build(config, ["--config", str(path)]) == made
        # The YAML means the same to any reader of YAML, but for tuples and paths.
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert plain["optim"] == {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(made.optim).items()
        }


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "\t", "é\n", "a\nb\n\nc", "\u2028", "\u200b", "🙂", "a" * 300 + " b"),
        *("null", "true", "1e-3", "~", "a: b", "# c", "'", '"', "[x]", "- a", "&a", "*a", "!x", "%"),
    ],
)
def test_any_text_survives_in_a_file(text, saved):
    made = PretrainConfig(
        data=Path("d"), out=Path("o"), device=text, splits=(text, "b"), teacher=TeacherConfig(model=text)
    )
    tree = yaml.safe_load(saved(made))
    assert (tree["device"], tree["splits"]) == (text, [text, "b"])
    assert tree["teacher"]["model"] == text


@pytest.mark.parametrize("number", [1e-3, 2e-5, 1e-12, 1 / 3, 1e30, 5e-324, 0.1 + 0.2])
def test_any_number_survives_in_a_file(tmp_path, number):
    made = PretrainConfig(data=Path("d"), out=Path("o"), optim=OptimConfig(base_lr=number))
    settings.save_config(made, tmp_path / "c.yaml")
    assert settings.load_config(PretrainConfig, tmp_path / "c.yaml").optim.base_lr == number


@pytest.mark.parametrize("config", CONFIGS)
def test_the_yaml_has_the_text_of_every_setting_above_it(config, saved):
    lines = saved(config(data=Path("d"), out=Path("o"))).split("\n")[:-1]
    assert max(map(len, lines)) <= 100
    for setting in settings.list_settings(config):
        indent = "  " if setting.group else ""
        place = next(i for i, line in enumerate(lines) if line.startswith(f"{indent}{setting.leaf}:"))
        above = itertools.takewhile(lambda line: line.strip().startswith("#"), lines[:place][::-1])
        comment = " ".join(line.strip(" #") for line in [*above][::-1])
        assert setting.text in comment


def test_a_configuration_that_lacks_something_does_not_load(file):
    with pytest.raises(ConfigError, match="`out` must be given"):
        settings.load_config(PretrainConfig, file("data: d\n"))


@pytest.mark.parametrize(
    "target", [["single_label"], ["multi_label"], ["valence_arousal"], ["distribution", "valence_arousal"]]
)
@pytest.mark.parametrize("preset", settings.preset_names(FinetuneConfig))
def test_the_metric_of_a_preset_is_that_of_its_own_target_alone(preset, target):
    own = settings.load_preset(FinetuneConfig, preset)
    words = ["--preset", preset, "--head", "random", "--target", *target, *WHERE]
    config = build(FinetuneConfig, words)
    assert config.select_by == (own["select_by"] if config.target == own["target"] else None)
    assert build_target(config.target).selection(config.select_by).is_selectable
    assert build(FinetuneConfig, [*words, "--select-by", "x"]).select_by == "x"


def test_the_metric_of_a_file_is_its_users_whatever_the_target(file):
    words = ["--preset", "mae", "--config", str(file("select_by: macro_f1")), "--target", "valence_arousal", *WHERE]
    assert build(FinetuneConfig, words).select_by == "macro_f1"


@pytest.mark.parametrize("config", CONFIGS)
def test_the_preview_is_the_configuration_with_what_is_missing_as_a_comment(config, file):
    values = combine(config, ["--preset", "demo", "--seed", "5"])
    text = settings.preview(config, values)
    assert re.search(r"^# data: .*--data$", text, re.MULTILINE)
    assert re.search(r"^# out: .*--out$", text, re.MULTILINE)
    again = build(config, ["--config", str(file(text)), "--data", "d", "--out", "o"])
    assert again == build(config, ["--preset", "demo", "--seed", "5", "--data", "d", "--out", "o"])


def test_the_preview_of_a_whole_configuration_is_what_is_saved(saved):
    words = ["--preset", "demo", "--data", "d", "--out", "o"]
    assert settings.preview(PretrainConfig, combine(PretrainConfig, words)) == saved(build(PretrainConfig, words))


def test_the_preview_refuses_what_is_out_of_range():
    with pytest.raises(ConfigError, match=r"views\.flip is 7\.0"):
        settings.preview(PretrainConfig, combine(PretrainConfig, ["--views.flip", "7"]))


def test_a_group_of_settings_keeps_its_class():
    config = build(PretrainConfig, [*WHERE, "--model.size", "tiny"])
    assert config.model == ModelConfig(size="tiny")
    groups = [field for field in dataclasses.fields(config) if field.name in ("model", "optim")]
    assert [field.type for field in groups] == [ModelConfig, OptimConfig]
    assert {type(getattr(config, field.name)) for field in groups} == {configs.ModelConfig, configs.OptimConfig}


@pytest.mark.parametrize(
    "value", [10**4000, 2**63, -(2**63), "9" * 4000, "9" * 5000, int("f" * 9000, 16)], ids=list("abcdef")
)
def test_a_whole_number_that_no_computer_counts_is_refused_in_one_line(value):
    (seed,) = (setting for setting in settings.list_settings(PretrainConfig) if setting.name == "seed")
    with pytest.raises(ConfigError, match=r"^file: seed is .*, but must be a whole number$") as caught:
        settings.convert(seed, value, source="file")
    assert len(str(caught.value)) < 150
    assert settings.convert(seed, 2**62) == 2**62
