from typing import get_args

import pytest

from uniemox.config.training import Target as Kind
from uniemox.errors import CheckpointError, ConfigError
from uniemox.manifests.table import Facts, manifest_from_columns
from uniemox.targets.kinds import (
    DEFAULT,
    PROBLEM_TYPES,
    build_target,
    find_target,
    kind_of_data,
    kinds_in,
    resolve_target,
)
from uniemox.targets.single_label import SingleLabel

every_kind = pytest.mark.parametrize("kind", get_args(Kind))
CLASSES = {"valence_arousal": ("valence", "arousal")}  # Of kinds that are not free to name theirs


@every_kind
def test_a_word_is_the_name_of_its_kind(kind):
    assert build_target(kind).name == kind


@every_kind
def test_what_a_folder_keeps_of_a_target_makes_it_again(kind):
    classes = CLASSES.get(kind, ("a", "b"))
    target = build_target(kind).bind(classes)
    facts = target.to_facts()
    again = resolve_target(facts["target"], classes, {"thresholds": facts["thresholds"], **facts.get("numbers", {})})
    assert again.to_facts() == facts
    assert again.classes == classes


@every_kind
def test_metrics_have_names_of_their_own_and_one_chooses_epochs(kind):
    target = build_target(kind)
    names = [metric.name for metric in target.metrics]
    assert len(set(names)) == len(names)
    assert target.selection(None).is_selectable
    for metric in target.metrics:
        if metric.is_selectable:
            assert target.selection(metric.name) is metric
        else:
            with pytest.raises(ConfigError, match=f"select_by is {metric.name}, but for target"):
                target.selection(metric.name)


@every_kind
def test_a_report_says_its_kind_and_only_shown_metrics_have_titles_of_their_own(kind):
    titles = [metric.title for metric in build_target(kind).metrics if metric.title]
    assert len(set(titles)) == len(titles)


def test_what_is_not_known_must_be_given():
    assert find_target("ordinal", ("a",)) is None
    with pytest.raises(CheckpointError, match=r"answers with 'ordinal', and .*target="):
        resolve_target("ordinal", ("a",))


def test_what_is_given_must_be_of_the_models_kind():
    assert resolve_target(DEFAULT, ("a",), given=SingleLabel()) == SingleLabel(("a",))
    with pytest.raises(CheckpointError, match="answers with ordinal, but the target given is"):
        resolve_target("ordinal", ("a",), given=SingleLabel())


def test_data_and_transformers_name_a_kind_too():
    assert {kind_of_data(has_label_sets=has) for has in (True, False)} <= set(get_args(Kind))
    assert set(PROBLEM_TYPES.values()) == {"single_label", "multi_label", "valence_arousal"}


def test_the_kinds_of_labels_that_data_have_are_those_that_can_be_learned(tmp_path):
    facts = Facts(name="rated", title="Rated", classes=("awe", "joy"), emotion=None, root=tmp_path, vad_range=(1, 9))
    rows = {"paths": ["a.png", "b.png"], "splits": ["train", "test"]}
    shares = {"distributions": [[0.5, 0.5], None], "vad": [(1, 2, None), None]}
    assert kinds_in(manifest_from_columns(facts, **rows, labels=[0, 1])) == ["single_label", "multi_label"]
    assert kinds_in(manifest_from_columns(facts, **rows, label_sets=[[0], [0, 1]])) == ["multi_label"]
    assert kinds_in(manifest_from_columns(facts, **rows, **shares)) == ["distribution", "valence_arousal"]
    some = {"splits": ["train"] * 2, "distributions": [[0.5, 0.5], None], "vad": [None, (1, 2, None)]}
    assert kinds_in(manifest_from_columns(facts, **(rows | some))) == ["distribution", "valence_arousal"]
    assert kinds_in(manifest_from_columns(facts, **rows)) == []
