import json
import warnings

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    precision_recall_curve,
    precision_recall_fscore_support,
)

from uniemox.errors import DataError
from uniemox.targets.multi_label import MultiLabel, fit_thresholds
from uniemox.targets.scores import bin_confidences


def evaluate_multilabel(probabilities, labels, classes, *, thresholds=(), **options):
    target = MultiLabel(tuple(classes), tuple(thresholds))
    return target.score_numbers(probabilities, labels, **options)


CLASSES = ("awe", "fear", "joy", "sadness")


def answers(num_samples=200, *, seed=0, ties=False, num_classes=4):
    """Labels, and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    labels = rng.random((num_samples, num_classes)) < np.linspace(0.1, 0.7, num_classes)
    probabilities = 1 / (1 + np.exp(-(rng.normal(size=labels.shape) + labels)))
    return (probabilities.round(1) if ties else probabilities), labels


def report_of(**options):
    return evaluate_multilabel(*answers(**options), CLASSES)


# Against scikit-learn


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_scikit_learns(seed, ties):
    probabilities, labels = answers(seed=seed, ties=ties)
    report = evaluate_multilabel(probabilities, labels, CLASSES)
    expected = average_precision_score(labels, probabilities, average=None)
    np.testing.assert_allclose(report.average_precision, expected, rtol=1e-12)
    assert report.mean_average_precision == pytest.approx(expected.mean(), rel=1e-12)


@pytest.mark.parametrize("thresholds", [(0.5,) * 4, (0.2, 0.9, 0.6, 0.0)])
def test_what_follows_from_the_thresholds_is_scikit_learns(thresholds):
    probabilities, labels = answers()
    report = evaluate_multilabel(probabilities, labels, CLASSES, thresholds=thresholds)
    given = probabilities >= np.array(thresholds)
    options = {"zero_division": 0}
    precision, recall, f1, support = precision_recall_fscore_support(labels, given, **options)
    np.testing.assert_allclose(report.precision, precision)
    np.testing.assert_allclose(report.recall, recall)
    np.testing.assert_allclose(report.f1, f1)
    assert report.support.tolist() == support.tolist()
    assert report.macro_f1 == pytest.approx(f1_score(labels, given, average="macro", **options))
    assert report.micro_f1 == pytest.approx(f1_score(labels, given, average="micro", **options))


def test_errors_of_probabilities_are_scikit_learns():
    probabilities, labels = answers()
    report = evaluate_multilabel(probabilities, labels, CLASSES)
    each = [brier_score_loss(*pair) for pair in zip(labels.T, probabilities.T, strict=True)]
    assert report.brier == pytest.approx(np.mean(each))
    likelihood = np.where(labels, probabilities, 1 - probabilities)
    assert report.nll == pytest.approx(-np.log(likelihood).mean())
    assert report.bins == bin_confidences(probabilities.ravel(), labels.ravel())
    assert sum(part.samples for part in report.bins) == labels.size


@pytest.mark.parametrize("ties", [False, True])
def test_a_threshold_has_the_best_f1_of_all_there_are(ties):
    probabilities, labels = answers(ties=ties)
    for threshold, share, truth in zip(fit_thresholds(probabilities, labels), probabilities.T, labels.T, strict=True):
        precision, recall, _ = precision_recall_curve(truth, share)
        with np.errstate(invalid="ignore"):
            best = np.nanmax(2 * precision * recall / (precision + recall))
        assert f1_score(truth, share >= threshold) == pytest.approx(best)


# By hand


def test_a_case_by_hand():
    labels = np.array([[1], [0], [1], [0]], dtype=bool)
    probabilities = np.array([[0.9], [0.8], [0.7], [0.1]])
    report = evaluate_multilabel(probabilities, labels, ["joy"])
    # Recall rises by a half at the first sample (precision 1) and by a half at the third (2/3).
    assert report.average_precision == (pytest.approx(0.5 * 1 + 0.5 * 2 / 3),)
    # Taking three: two hits of two, one false alarm: 4 / 5, against 2 / 3 of taking one.
    assert report.thresholds == (pytest.approx((0.7 + 0.1) / 2),)
    assert report.macro_f1 == pytest.approx(0.8)
    assert report.chance == 0.5
    assert report.decisions == ((2, 1, 0),)


def test_of_equally_good_thresholds_the_one_that_gives_fewer_labels_is_taken():
    labels = np.array([[1], [1], [0], [0], [1], [0]], dtype=bool)
    probabilities = np.array([[0.9], [0.8], [0.7], [0.6], [0.5], [0.1]])
    # Taking two: 2·2 / (2 + 3) = 0.8; taking five: 2·3 / (5 + 3) = 0.75.
    assert fit_thresholds(probabilities, labels) == (pytest.approx(0.75),)
    same = np.array([[1], [0], [0], [1]], dtype=bool)
    # Taking one or all four: 2 / 3 each.
    assert fit_thresholds(np.array([[0.9], [0.8], [0.7], [0.6]]), same) == (pytest.approx(0.85),)


def test_a_label_that_nothing_has_is_left_out_of_the_mean_and_gets_an_even_threshold():
    probabilities, labels = answers()
    labels[:, 1] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = evaluate_multilabel(probabilities, labels, CLASSES)
    assert report.average_precision[1] is None
    assert report.thresholds[1] == 0.5
    others = [value for value in report.average_precision if value is not None]
    assert report.mean_average_precision == pytest.approx(np.mean(others))
    low, high = report.intervals["mean_average_precision"]
    assert 0 < low < report.mean_average_precision < high < 1


def test_where_no_sample_has_a_label_there_is_nothing_to_rank():
    report = evaluate_multilabel(np.full((3, 2), 0.4), np.zeros((3, 2), bool), ["a", "b"])
    assert report.average_precision == (None, None)
    assert (report.mean_average_precision, report.macro_f1, report.chance) == (0, 0, 0)


def test_all_alike_probabilities_are_worth_the_share_that_applies():
    labels = answers()[1]
    report = evaluate_multilabel(np.full(labels.shape, 0.3), labels, CLASSES)
    np.testing.assert_allclose(report.average_precision, labels.mean(0))
    assert report.mean_average_precision == pytest.approx(report.chance)


# Properties


@pytest.mark.parametrize("seed", range(50))
def test_the_order_of_samples_changes_nothing(seed):
    num_samples = 1 + seed % 40
    probabilities, labels = answers(num_samples, seed=seed, ties=True)
    order = np.random.default_rng(seed).permutation(num_samples)
    first, second = (
        evaluate_multilabel(probabilities[rows], labels[rows], CLASSES, num_resamples=0)
        for rows in (slice(None), order)
    )
    assert first.thresholds == second.thresholds
    assert first.decisions == second.decisions
    for one, two in zip(first.average_precision, second.average_precision, strict=True):
        assert one == (None if two is None else pytest.approx(two))


def test_a_perfect_ranking_has_all_scores_at_1():
    labels = answers()[1]
    report = evaluate_multilabel(np.where(labels, 0.6, 0.4), labels, CLASSES)
    assert report.mean_average_precision == 1
    assert (report.macro_f1, report.micro_f1) == (1, 1)


# Intervals


def test_an_interval_is_that_of_drawing_samples_again():
    probabilities, labels = answers(150)
    interval = evaluate_multilabel(probabilities, labels, CLASSES).intervals["mean_average_precision"]
    rng = np.random.default_rng(7)
    drawn = []
    for _ in range(600):
        rows = rng.integers(0, 150, 150)
        drawn.append(average_precision_score(labels[rows], probabilities[rows], average="macro"))
    value = average_precision_score(labels, probabilities, average="macro")
    middle, half = 2 * value - np.mean(drawn), 1.976 * np.std(drawn)  # without the bias that resamples show
    assert interval.low == pytest.approx(middle - half, abs=0.025)  # two right and two wrong are added
    assert interval.high == pytest.approx(middle + half, abs=0.025)  # two right and two wrong are added


def test_intervals_do_not_depend_on_how_many_resamples_are_drawn_at_once(monkeypatch):
    whole = report_of().intervals
    monkeypatch.setattr("uniemox.targets.intervals._DRAWS_AT_ONCE", 1000)
    parts = report_of().intervals
    for name, interval in whole.items():
        np.testing.assert_allclose(parts[name], interval, atol=1e-12)


def test_intervals_that_are_not_asked_for_are_not_there():
    assert report_of().intervals.keys() == {"mean_average_precision", "macro_f1", "micro_f1"}
    assert evaluate_multilabel(*answers(), CLASSES, num_resamples=0).intervals == {}


# A report


def test_a_report_survives_json():
    report = report_of()
    saved = json.loads(json.dumps(report.to_dict()))
    assert saved["target"] == "multi_label"
    assert MultiLabel().scores_from_dict(saved) == report
    first = saved["per_class"][0]
    assert first["name"] == "awe"
    assert first["support"] == first["hits"] + first["misses"]
    for name, value in report.kept.items():
        assert saved[name] == value


@pytest.mark.parametrize("broken", [{}, {"classes": 3}, {"per_class": [{}]}, None])
def test_what_is_no_report_is_refused(broken):
    values = broken if not broken else {**report_of().to_dict(), **broken}
    with pytest.raises(DataError, match="not a saved evaluation"):
        MultiLabel().scores_from_dict(values)


# The target


def test_scores_of_logits_are_those_of_their_sigmoid():
    probabilities, labels = answers()
    logits = np.log(probabilities / (1 - probabilities))
    found = MultiLabel(CLASSES).score(logits, labels, num_resamples=0)
    assert found.decisions == report_of().decisions


@pytest.mark.parametrize(
    ("logits", "told"),
    [
        (np.zeros((0, 4)), "no labelled sample"),
        (np.array([[0, 1, 2, 0], [0, np.inf, 1, 0]]), "sample 1 are not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(logits, told):
    with pytest.raises(DataError, match=told):
        MultiLabel(CLASSES).score(logits, np.zeros(logits.shape, bool))


def test_an_answer_names_what_reaches_its_threshold_the_likeliest_first():
    target = MultiLabel(CLASSES, (0.5, 0.9, 0.2, 0.5))
    first, second = target.answers(np.array([[0.1, 2.0, 3.0, -1.0], [-9.0, -9.0, -9.0, -8.0]]))
    assert (first["predicted"], first["likeliest"]) == (["joy", "awe"], "joy")
    assert (second["predicted"], second["likeliest"]) == ([], "sadness")
    assert second["confidence"] == max(second["probabilities"].values())
    assert target.truths(np.array([[True, False, False, True]])) == [{"label": ["awe", "sadness"]}]


def test_what_was_not_fitted_is_answered_at_an_even_chance():
    target = MultiLabel(CLASSES)
    assert target.to_facts() == {"target": "multi_label", "thresholds": (0.5,) * 4}
    (answer,) = target.answers(np.array([[0.1, -0.1, 2.0, -3.0]]))
    assert answer["predicted"] == ["joy", "awe"]


def test_models_agree_as_far_as_the_labels_they_give_are_the_same():
    target = MultiLabel(CLASSES)
    logits = np.array([[1.0, 1, -1, -1], [-1, -1, -1, 1]])
    others = np.array([[1.0, -1, -1, -1], [-1, -1, 1, 1]])
    assert target.agreement(logits, others) == 2 / 4
    assert target.agreement(-np.ones((2, 4)), -np.ones((2, 4))) == 1


def test_the_confidence_in_labels_is_the_probability_of_what_they_say_of_each_class():
    numbers, labels = np.array([[0.9, 0.2, 0.5, 1.0]]), np.array([[True, True, False, False]])
    np.testing.assert_allclose(MultiLabel(CLASSES).self_confidence(numbers, labels), [[0.9, 0.2, 0.5, 0.0]])
