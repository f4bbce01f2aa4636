"""Models that are scored on data of other classes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logit, softmax

from uniemox.emotions import MIKELS, TAXONOMIES
from uniemox.errors import DataError
from uniemox.manifests.table import Facts, manifest_from_columns
from uniemox.targets.bridges import Bridged
from uniemox.targets.conformal import Guarantees
from uniemox.targets.distribution import Distribution
from uniemox.targets.kinds import build_target
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.single_label import SingleLabel
from uniemox.targets.valence_arousal import ValenceArousal

EKMAN = TAXONOMIES["ekman"].classes  # anger, disgust, fear, happiness, sadness, surprise


def cross(target, manifest):
    return target.crossing(manifest, bridge=True)


def manifest_of(tmp_path, classes, splits, **columns):
    facts = Facts(name="others", title="Others", classes=classes, emotion="evoked", root=tmp_path)
    return manifest_from_columns(facts, paths=[f"{i}.png" for i in range(len(splits))], splits=splits, **columns)


@pytest.fixture
def ekman(tmp_path):
    """Eight rows of Ekman's six, of which the last but one is of train."""
    splits = ["test"] * 6 + ["train"] + ["test"]
    return manifest_of(tmp_path, EKMAN, splits, labels=[0, 1, 2, 3, 4, 5, 5, 3])


def test_a_classifier_of_mikels_eight_answers_five_of_ekmans_six_as_worked_by_hand(ekman):
    # amusement, awe, contentment, excitement, anger, disgust, fear, sadness
    probabilities = np.array([[0.1, 0.2, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1], [0.02, 0.5, 0.03, 0.05, 0.1, 0.1, 0.2, 0]])
    crossing = cross(SingleLabel(MIKELS), ekman)
    with np.errstate(divide="ignore"):
        led = crossing.target.numbers(crossing.lead(np.log(probabilities)))
    assert crossing.target.classes == ("anger", "disgust", "fear", "happiness", "sadness")
    # Without awe .8 and .5 are left, and happiness is amusement, contentment and excitement.
    np.testing.assert_allclose(led[0], np.array([0.1, 0.1, 0.1, 0.4, 0.1]) / 0.8)
    np.testing.assert_allclose(led[1], np.array([0.1, 0.1, 0.2, 0.1, 0.0]) / 0.5, atol=1e-12)


def test_rows_without_a_counterpart_are_dropped_and_counted_and_the_others_keep_their_places(ekman):
    crossing = cross(SingleLabel(MIKELS), ekman)
    rows, bridged = crossing.select("test", ekman)
    assert crossing.target.read_labels(rows).tolist() == [0, 1, 2, 3, 4, 3]
    assert rows.places.tolist() == [0, 1, 2, 3, 4, 7]
    assert rows.facts.classes == bridged.classes
    assert (bridged.num_rows, bridged.num_dropped, bridged.rows_of) == (7, 1, {"surprise": 1})
    assert set(bridged.model_dropped) == {"awe"}


def test_a_bridge_says_in_words_what_it_maps_and_drops(ekman):
    text = " ".join(cross(SingleLabel(MIKELS), ekman).select("test", ekman)[1].sentences)
    assert "amusement, contentment and excitement as happiness (their probabilities summed)" in text
    assert "awe has no counterpart" in text
    assert "surprise (1) has no counterpart" in text
    assert "1 of 7 rows are not scored" in text


def test_a_bridge_is_rebuilt_from_its_json(ekman):
    bridged = cross(SingleLabel(MIKELS), ekman).select("test", ekman)[1]
    assert Bridged.from_dict(json.loads(json.dumps(bridged.to_dict()))) == bridged


def test_data_of_polarity_meets_emotions_in_polarity(tmp_path):
    manifest = manifest_of(tmp_path, ("Negative", "Neutral", "Positive"), ["test"] * 3, labels=[0, 1, 2])
    crossing = cross(SingleLabel(MIKELS), manifest)
    rows, bridged = crossing.select("test", manifest)
    assert crossing.target.classes == ("positive", "negative")
    assert crossing.target.read_labels(rows).tolist() == [1, 0]
    assert bridged.place == "polarity"
    logits = np.random.default_rng(0).normal(size=(5, 8))
    expected = softmax(logits, axis=1)[:, :4].sum(1)  # the positive four
    np.testing.assert_allclose(crossing.target.numbers(crossing.lead(logits))[:, 0], expected)


def test_the_same_classes_in_other_words_need_no_bridge(tmp_path):
    manifest = manifest_of(tmp_path, ("Sad", "Joy", "Afraid"), ["test"] * 3, labels=[0, 1, 2])
    target = SingleLabel(("fear", "happiness", "sadness"), guarantees=Guarantees(level=0.9))
    crossing = cross(target, manifest)
    assert crossing.bridged is None
    assert crossing.target == target
    assert target.read_labels(crossing.manifest).tolist() == [2, 1, 0]
    assert crossing.select("test", manifest)[1] is None


def test_what_was_fitted_for_the_classes_of_the_model_is_not_promised_of_others(ekman):
    target = SingleLabel(MIKELS, guarantees=Guarantees(level=0.9, threshold=0.1), weights=(1.0,) * 8)
    crossed = cross(target, ekman).target
    assert crossed.guarantees == Guarantees()
    assert crossed.weights == ()


def test_no_or_one_common_class_is_one_line_that_names_both_sides(tmp_path, ekman):
    with pytest.raises(DataError, match=r"the model \(cat, dog\) and the data \(anger, .*\) have nothing in common"):
        cross(SingleLabel(("cat", "dog")), ekman)
    with pytest.raises(DataError, match="only surprise, so that no answer could be wrong"):
        cross(SingleLabel(("surprise", "neutral")), ekman)
    lone = manifest_of(tmp_path, EKMAN, ["test", "train", "train"], labels=[5, 2, 3])
    with pytest.raises(DataError, match="none of the 1 row of split test has a label that the model can answer"):
        cross(SingleLabel(MIKELS), lone).select("test", lone)


def test_shares_of_raters_are_summed_and_brought_to_a_sum_of_1(tmp_path):
    shares = [[0.25, 0, 0, 0.25, 0, 0.5], [0, 0, 0, 0, 0, 1], [0, 0.5, 0.5, 0, 0, 0]]
    manifest = manifest_of(tmp_path, EKMAN, ["test"] * 3, distributions=shares)
    crossing = cross(Distribution(MIKELS), manifest)
    rows, bridged = crossing.select("test", manifest)
    np.testing.assert_allclose(crossing.target.read_labels(rows), [[0.5, 0, 0, 0.5, 0], [0, 0.5, 0.5, 0, 0]])
    assert rows.places.tolist() == [0, 2]
    assert (bridged.num_dropped, bridged.rows_of) == (1, {})
    logits = np.random.default_rng(0).normal(size=(4, 8))
    single = cross(SingleLabel(MIKELS), replace(manifest, facts=manifest.facts))
    np.testing.assert_allclose(crossing.lead(logits), single.lead(logits))


def test_of_several_labels_a_class_is_given_where_any_of_its_parts_is(tmp_path):
    sets = [[3, 5], [5], [], [0, 2]]
    manifest = manifest_of(tmp_path, EKMAN, ["test"] * 4, label_sets=sets)
    thresholds = (0.3, 0.5, 0.6, 0.45, 0.5, 0.2, 1.0, 0.0)
    target = MultiLabel(MIKELS, thresholds=thresholds)
    crossing = cross(target, manifest)
    rows, bridged = crossing.select("test", manifest)
    # surprise alone is lost; an empty set says that nothing applies
    assert rows.places.tolist() == [0, 2, 3]
    assert crossing.target.read_labels(rows).tolist() == [
        [False, False, False, True, False],
        [False] * 5,
        [True, False, True, False, False],
    ]
    assert bridged.rows_of == {"surprise": 2}
    logits = logit(np.random.default_rng(1).uniform(0.01, 0.99, size=(200, 8)))
    given, led = target.decisions(logits), crossing.target.decisions(crossing.lead(logits))
    assert (led[:, 3] == given[:, [0, 2, 3]].any(1)).all()
    assert (led[:, [0, 1, 2, 4]] == given[:, 4:]).all()
    np.testing.assert_array_equal(crossing.lead(logits)[:, 1], logits[:, 5])  # a part of one is as it was


def test_equal_thresholds_take_the_largest_probability(ekman):
    crossing = cross(MultiLabel(MIKELS), ekman)
    logits = np.random.default_rng(2).normal(size=(20, 8))
    np.testing.assert_array_equal(crossing.lead(logits)[:, 3], logits[:, [0, 2, 3]].max(1))


def test_ratings_have_no_classes_to_bridge_and_are_aligned(tmp_path):
    facts = Facts(name="rated", title="R", classes=(), emotion="evoked", root=tmp_path, vad_range=(1.0, 9.0))
    manifest = manifest_from_columns(facts, paths=["a.png"], splits=["test"], vad=[(2.0, 3.0, None)])
    crossing = cross(ValenceArousal().bind(("valence", "arousal"), {"scale": (-1.0, 1.0)}), manifest)
    assert crossing.bridged is None
    assert crossing.target.scale == (1.0, 9.0)


def test_parts_of_several_targets_cross_side_by_side(tmp_path):
    shares = [[0.5, 0, 0, 0.5, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]]
    manifest = manifest_of(tmp_path, EKMAN, ["test"] * 3, labels=[0, 3, 5], distributions=shares)
    target = build_target(["single_label", "distribution"])
    target = target.bind((*MIKELS, *MIKELS), {"outputs": (8.0, 8.0)})
    crossing = target.crossing(manifest, bridge=True)
    rows, bridged = crossing.select("test", manifest)
    assert bridged.num_dropped == 1
    logits = np.random.default_rng(3).normal(size=(2, 16))
    led = crossing.lead(logits)
    one = cross(SingleLabel(MIKELS), manifest)
    np.testing.assert_allclose(led, np.concatenate([one.lead(logits[:, :8]), one.lead(logits[:, 8:])], axis=1))
    scores = crossing.target.score(led, crossing.target.read_labels(rows), num_resamples=0)
    assert scores.num_samples == 2
