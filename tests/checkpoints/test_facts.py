"""What a model folder says of itself, also where a stranger wrote it."""

import dataclasses
import json

import pytest

from uniemox.checkpoints import facts
from uniemox.checkpoints.facts import FORMAT_VERSION, ModelFacts, locate, read_facts
from uniemox.config import PersonConfig

FACTS = ModelFacts(
    kind="classifier",
    size="mini",
    patch_size=8,
    image_size=32,
    dataset="painted",
    emotion="evoked",
    classes=("awe", "fear", "joy"),
    temperature=1.25,
    provenance={"software": "a test"},
    licence="CC0-1.0",
)


@pytest.fixture
def folder(tmp_path):
    """A classifier's folder without weights, which nobody here reads."""
    (tmp_path / "config.json").write_text(json.dumps({"uniemox": FACTS.to_dict()}))
    return tmp_path


def test_a_model_is_found_by_its_folder_or_by_its_embedded_name(folder, monkeypatch, told_by):
    assert locate(str(folder)) == folder
    monkeypatch.setitem(facts.EMBEDDED, "demo", folder)
    assert locate("demo") == folder
    assert "there is no model folder nowhere" in told_by(locate, "nowhere")
    assert "demo-pretrained" in told_by(locate, "nowhere")


def test_a_folder_that_a_killed_run_left_under_a_hidden_name_is_named(tmp_path, told_by):
    old = tmp_path / ".model [1].x1y2.old"
    old.mkdir()
    place = tmp_path / "model [1]"
    told = told_by(locate, str(place))
    assert f"left the former as {old}: rename it to model [1]" in told
    assert str(old) not in told_by(locate, str(tmp_path / "model"))
    new = tmp_path / ".model [1].x1y2"
    new.mkdir()
    told = told_by(locate, str(place))
    assert f"left the new one as {new} and the former as {old}: rename the one you want to" in told
    old.rename(place)
    assert locate(str(place)) == place


def test_a_folder_without_a_configuration_is_no_model(tmp_path, told_by):
    assert "is not a model folder: it has no config.json" in told_by(read_facts, tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "nul", '"uniemox"', "\ufeff{}", "[" * 100_000, '{"uniemox": ' * 100_000],
)
def test_a_configuration_that_is_no_table_is_told(folder, text, told_by):
    (folder / "config.json").write_text(text)
    assert "config.json" in told_by(read_facts, folder)


def test_a_configuration_of_bytes_is_told(folder, told_by):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00{}")
    assert "cannot be read as JSON" in told_by(read_facts, folder)


def test_a_huge_configuration_is_not_read(folder, told_by):
    (folder / "config.json").write_bytes(b" " * (4 * 2**20 + 1))
    assert "it is refused" in told_by(read_facts, folder)


def test_a_folder_of_another_tool_is_told(folder, edit, told_by):
    edit(folder, lambda config: config.pop("uniemox"))
    assert "made by another tool" in told_by(read_facts, folder)


def test_a_newer_format_asks_for_an_upgrade_before_anything_else(folder, edit, told_by):
    def renew(config):
        config["uniemox"] = {"format_version": FORMAT_VERSION + 1, "kind": "a new kind"}

    edit(folder, renew)
    assert "upgrade uniemox" in told_by(read_facts, folder)


def test_fields_that_are_not_known_are_passed_over(folder, edit):
    edit(folder, lambda config: config["uniemox"].update(remark="hello"))
    assert read_facts(folder) == FACTS


HOSTILE = {
    "format_version": [None, "1", 0, -1, 1.0, True, [], 10**30],
    "kind": [None, "probe", [], {}],
    "size": [None, "gigantic", ["mini"], 3, "x" * 100_000],
    "patch_size": [None, 0, -8, 8.0, "8", True, 129, 10**12, [8]],
    "image_size": [None, 0, 33, "32", 8 * 129, 10**12, True],
    "classes": [None, [], "awe", ["awe", 3], ["awe", "awe"], {}, [str(i) for i in range(10_001)]],
    "dataset": [None, 3, []],
    "emotion": ["shown", 3, []],
    "temperature": [0, -1, "1", None, True, float("nan"), float("inf")],
    "pretraining": [None, [], "x"],
    "provenance": [None, [], "x", {"settings": 3}, {"a": float("nan")}],
    "licence": [None, 3],
    "metrics": [None, [], {"top1": "high"}, {"top1": float("nan")}, {"top1": True}],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in HOSTILE.items() for value in values],
    ids=lambda value: str(value)[:20],
)
def test_every_wrong_value_is_told_by_its_name(folder, name, value, edit, told_by):
    edit(folder, lambda config: config["uniemox"].update({name: value}))
    text = told_by(read_facts, folder)
    assert f"uniemox.{name}" in text or "format" in text


@pytest.mark.parametrize(
    "name", ["format_version", "kind", "size", "patch_size", "image_size", "dataset", "emotion"]
)
def test_what_must_be_there_is_missed_by_its_name(folder, name, edit, told_by):
    edit(folder, lambda config: config["uniemox"].pop(name))
    assert f"uniemox.{name}" in told_by(read_facts, folder)


def test_facts_survive_a_round_trip_of_every_field(folder):
    assert dataclasses.asdict(read_facts(folder)) == dataclasses.asdict(FACTS)


# Views

TWO_VIEWS = dataclasses.replace(
    FACTS, view="both", fusion="attention", person=PersonConfig(choice="union", margin=0.25)
)


def test_a_classifier_of_scenes_is_written_as_before_so_that_older_readers_read_it():
    section = FACTS.to_dict()
    assert section["format_version"] == 1
    assert not {"view", "fusion", "person"} & section.keys()


@pytest.mark.parametrize("view", ["person", "both"])
def test_a_classifier_of_persons_has_a_version_that_older_readers_refuse(folder, view, edit):
    fusion = "sum" if view == "both" else "none"
    given = dataclasses.replace(FACTS, view=view, fusion=fusion, person=TWO_VIEWS.person)
    edit(folder, lambda config: config.update(uniemox=given.to_dict()))
    assert json.loads((folder / "config.json").read_text())["uniemox"]["format_version"] == 2
    assert read_facts(folder) == given
    assert read_facts(folder).person == PersonConfig(choice="union", margin=0.25)


def test_views_in_a_folder_of_version_1_mean_nothing(folder, edit):
    edit(folder, lambda config: config["uniemox"].update(view="both", fusion="x", person=7))
    assert read_facts(folder) == FACTS


VIEWS_OF_STRANGERS = {
    "view": ["nobody", None, 1, ["both"]],
    "fusion": ["none", "sums", None, [], {}],
    "person": [
        None,
        [],
        {},
        {"choice": "largest", "margin": 0.1},
        {"choice": "tallest", "margin": 0.1, "shape": "pad"},
        {"choice": ["largest"], "margin": 0.1, "shape": "pad"},
        {"choice": "largest", "margin": 0.1, "shape": "round"},
        {"choice": "largest", "margin": 0.1, "shape": "pad", "more": 1},
        *(
            {"choice": "largest", "margin": margin, "shape": "pad"}
            for margin in (-0.1, 2.1, True, "0.1", None, float("nan"), float("inf"))
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in VIEWS_OF_STRANGERS.items() for value in values],
)
def test_views_of_a_stranger_are_refused_by_the_field(folder, name, value, edit, told_by):
    section = TWO_VIEWS.to_dict() | {name: value}
    edit(folder, lambda config: config.update(uniemox=section))
    assert f"uniemox.{name}" in told_by(read_facts, folder)


def test_a_pretrained_model_has_no_view(folder, edit, told_by):
    shape = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 1, "fusion": "sum"}
    pretraining = shape | {"embedding_width": 8, "reconstructs": True}
    given = dataclasses.replace(TWO_VIEWS, kind="pretraining", pretraining=pretraining)
    edit(folder, lambda config: config.update(uniemox=given.to_dict()))
    assert "uniemox.view is 'both', but must be scene" in told_by(read_facts, folder)


# Several labels

SEVERAL = dataclasses.replace(FACTS, target="multi_label", thresholds=(0.5, 0.25, 0))


def test_a_classifier_of_several_labels_has_a_version_that_older_readers_refuse(folder, edit):
    edit(folder, lambda config: config.update(uniemox=SEVERAL.to_dict()))
    assert json.loads((folder / "config.json").read_text())["uniemox"]["format_version"] == 3
    assert read_facts(folder) == SEVERAL
    assert not {"target", "thresholds"} & TWO_VIEWS.to_dict().keys()


@pytest.mark.parametrize("version", [1, 2])
def test_several_labels_in_a_folder_of_an_older_version_mean_nothing(folder, version, edit):
    section = TWO_VIEWS.to_dict() | {"format_version": version, "target": "all", "thresholds": 3}
    edit(folder, lambda config: config.update(uniemox=section))
    assert read_facts(folder) == (TWO_VIEWS if version == 2 else FACTS)


TARGETS_OF_STRANGERS = {
    "target": ["both", None, 1, ["multi_label"]],
    "thresholds": [
        None,
        [],
        0.5,
        {},
        [0.5, 0.5],
        [0.5] * 4,
        *([0.5, 0.5, value] for value in (-0.1, 1.1, "0.5", True, None, float("nan"))),
    ],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in TARGETS_OF_STRANGERS.items() for value in values],
)
def test_a_target_of_a_stranger_is_refused_by_the_field(folder, name, value, edit, told_by):
    section = SEVERAL.to_dict() | {name: value}
    edit(folder, lambda config: config.update(uniemox=section))
    assert f"uniemox.{name}" in told_by(read_facts, folder)


def test_one_label_has_no_thresholds_and_a_pretrained_model_no_target(folder, edit, told_by):
    section = SEVERAL.to_dict() | {"target": "single_label"}
    edit(folder, lambda config: config.update(uniemox=section))
    assert "must list 0 numbers" in told_by(read_facts, folder)
    section = SEVERAL.to_dict() | {"kind": "pretraining"}
    edit(folder, lambda config: config.update(uniemox=section))
    assert "uniemox.target is 'multi_label', but must be single_label" in told_by(
        read_facts, folder
    )
