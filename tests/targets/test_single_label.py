import json
import math

import numpy as np
import pytest
from sklearn import metrics as oracle

from uniemox.config.training import ConfidenceConfig
from uniemox.errors import DataError
from uniemox.targets.scores import NUM_BINS, Interval
from uniemox.targets.single_label import SingleLabel


def evaluate_predictions(probabilities, labels, classes, **options):
    return SingleLabel(tuple(classes)).score_numbers(probabilities, labels, **options)


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def sample(seed, num_samples=200, num_classes=6, *, absent=()):
    """Probabilities that lean to the labels; the absent classes have no sample, but may be predicted."""
    rng = np.random.default_rng(seed)
    present = [c for c in range(num_classes) if c not in absent]
    labels = rng.choice(present, num_samples, p=rng.dirichlet(np.ones(len(present)) * 3))
    logits = rng.normal(size=(num_samples, num_classes)) * 1.5
    logits[np.arange(num_samples), labels] += 1.2
    return softmax(logits), labels, [f"class {c}" for c in range(num_classes)]


def report_of(confusion):
    """A report from certain predictions with the given confusion matrix."""
    confusion = np.asarray(confusion)
    cells = np.repeat(np.arange(confusion.size), confusion.ravel())
    labels, predicted = np.divmod(cells, len(confusion))
    names = [f"class {c}" for c in range(len(confusion))]
    return evaluate_predictions(np.eye(len(confusion))[predicted], labels, names)


@pytest.mark.parametrize("absent", [(), (2,)])
@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_those_of_scikit_learn(seed, absent):
    probabilities, labels, classes = sample(seed, absent=absent)
    predicted = probabilities.argmax(1)
    assert set(predicted) == set(range(6))  # else balanced accuracy and macro F1 are warned about
    report = evaluate_predictions(probabilities, labels, classes)
    everything = {"labels": range(6), "zero_division": 0}
    one_hot = np.eye(6)[labels]
    expected = {
        "top1": oracle.accuracy_score(labels, predicted),
        "top3": oracle.top_k_accuracy_score(labels, probabilities, k=3, labels=range(6)),
        "macro_f1": oracle.f1_score(labels, predicted, average="macro"),
        "weighted_f1": oracle.f1_score(labels, predicted, average="weighted"),
        "nll": oracle.log_loss(labels, probabilities, labels=range(6)),
        "brier": ((probabilities - one_hot) ** 2).sum(1).mean(),
        "balanced_accuracy": np.mean([(predicted[labels == c] == c).mean() for c in set(labels)]),
    }
    for name, value in expected.items():
        assert getattr(report, name) == pytest.approx(value, abs=1e-12), name
    per_class = oracle.precision_recall_fscore_support(labels, predicted, **everything)
    for name, values in zip(("precision", "recall", "f1", "support"), per_class, strict=True):
        np.testing.assert_allclose(getattr(report, name), values, atol=1e-12, err_msg=name)
    matrix = oracle.confusion_matrix(labels, predicted, labels=range(6))
    np.testing.assert_array_equal(report.confusion, matrix)


def test_balanced_accuracy_equals_that_of_scikit_learn_where_all_classes_are_present():
    probabilities, labels, classes = sample(0)
    report = evaluate_predictions(probabilities, labels, classes)
    expected = oracle.balanced_accuracy_score(labels, probabilities.argmax(1))
    assert report.balanced_accuracy == pytest.approx(expected)


def test_a_hand_worked_case():
    # Class 2 has no sample and no prediction: it counts in no mean.
    report = report_of([[3, 1, 0], [2, 2, 0], [0, 0, 0]])
    assert report.num_samples == 8
    assert report.top1 == 5 / 8
    assert report.balanced_accuracy == (3 / 4 + 2 / 4) / 2
    assert report.f1.tolist() == pytest.approx([6 / 9, 4 / 7, 0])
    assert report.macro_f1 == pytest.approx((6 / 9 + 4 / 7) / 2)
    assert report.precision.tolist() == pytest.approx([3 / 5, 2 / 3, 0])
    assert report.brier == 2 * 3 / 8
    assert report.nll == pytest.approx(-math.log(2.220446049250313e-16) * 3 / 8)


def test_the_majority_baseline_answers_the_most_frequent_class_and_the_first_of_equals():
    report = report_of([[0, 1, 0], [1, 4, 0], [5, 0, 0]])
    assert report.majority == ("class 1", 5 / 11, 1 / 3, pytest.approx(10 / 16 / 3))


def test_of_equal_probabilities_the_lower_label_is_the_likelier():
    even = np.full((5, 5), 0.2)
    report = evaluate_predictions(even, np.arange(5), list("abcde"))
    assert report.top1 == 1 / 5
    assert report.top3 == 3 / 5
    assert report.confusion[:, 0].tolist() == [1] * 5


@pytest.mark.parametrize("num_classes", [1, 2, 3])
def test_top3_of_at_most_three_classes_is_always_right(num_classes):
    probabilities, labels, classes = sample(1, num_classes=num_classes)
    report = evaluate_predictions(probabilities, labels, classes)
    assert report.top3 == 1
    assert report.top1 <= report.top3


def test_calibration_error_equals_that_of_a_plain_loop():
    probabilities, labels, classes = sample(2, num_samples=500)
    report = evaluate_predictions(probabilities, labels, classes)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    error = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            error += inside.mean() * gap
    assert report.ece == pytest.approx(error, abs=1e-12)
    assert sum(part.samples for part in report.bins) == 500
    assert len(report.bins) == NUM_BINS


def test_certain_and_right_is_calibrated_and_certain_and_wrong_is_not():
    right, wrong = report_of([[4, 0], [0, 4]]), report_of([[0, 4], [4, 0]])
    assert (right.ece, right.brier, right.nll) == (0, 0, 0)
    assert (wrong.ece, wrong.brier) == (1, 2)
    assert right.bins[-1].samples == 8
    assert math.isfinite(wrong.nll)


def test_confidence_on_the_edge_belongs_to_the_lower_bin():
    report = evaluate_predictions(np.array([[0.8, 0.2]]), np.array([0]), ["a", "b"])
    assert report.bins[11].samples == 1  # 12 / 15 closes the twelfth bin
    assert report.bins[11].high == pytest.approx(0.8)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_agree_with_resampling_sample_by_sample(seed):
    probabilities, labels, classes = sample(seed, num_samples=150)
    report = evaluate_predictions(probabilities, labels, classes)
    rng = np.random.default_rng(99)
    resamples = [rng.integers(0, 150, 150) for _ in range(400)]
    predicted = probabilities.argmax(1)
    tops = [(predicted[chosen] == labels[chosen]).mean() for chosen in resamples]
    macros = [oracle.f1_score(labels[chosen], predicted[chosen], average="macro") for chosen in resamples]
    for name, values in (("top1", tops), ("macro_f1", macros)):
        assert report.intervals[name] == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.03)


def test_groups_are_drawn_whole():
    probabilities, labels, classes = sample(0, num_samples=150)
    alone = evaluate_predictions(probabilities, labels, classes)
    groups = np.repeat(np.arange(150), 9)
    often = [np.repeat(values, 9, axis=0) for values in (probabilities, labels)]
    grouped = evaluate_predictions(*often, classes, groups=groups)
    assert (alone.resampled, grouped.resampled) == ("", "150 groups")
    assert "over 150 groups." in grouped.display.explanation
    for name, interval in alone.intervals.items():  # nine like copies of each sample are worth one
        assert grouped.intervals[name] == pytest.approx(interval, abs=0.02)
    narrow = evaluate_predictions(*often, classes).intervals["top1"]
    assert narrow.high - narrow.low < 0.4 * (alone.intervals["top1"].high - alone.intervals["top1"].low)
    shuffled = np.random.default_rng(0).permutation(len(groups))
    parts = (*(values[shuffled] for values in often), classes)
    assert evaluate_predictions(*parts, groups=groups[shuffled]).intervals == grouped.intervals


@pytest.mark.parametrize("count", [1, 12, 500])
def test_an_accuracy_of_1_or_0_has_an_interval_that_holds_wilsons(count):
    wilson = wilson_of(count)
    right, wrong = (
        evaluate_predictions(np.tile([share, 1 - share], (count, 1)), np.zeros(count, int), ["a", "b"])
        for share in (1.0, 0.0)
    )
    if count == 1:  # of one sample nothing can be said
        assert right.intervals == wrong.intervals == {}
        return
    assert right.intervals["top1"].high == 1
    assert wrong.intervals["top1"].low == 0
    assert 0 <= right.intervals["top1"].low <= wilson
    assert 1 - wilson <= wrong.intervals["top1"].high <= 1
    # As wide as Wilson's but for Student's t and what 1,000 resamples leave open.
    assert right.intervals["top1"].low == pytest.approx(wilson, abs=0.6 * (1 - wilson))


def wilson_of(count):
    """Wilson's lower bound where all of a number are right: of p = n / (n + z²)."""
    return count / (count + 1.959964**2)


def test_answers_that_are_all_alike_leave_open_how_often_they_would_be():
    labels = np.repeat(np.arange(4), 10)
    report = evaluate_predictions(np.tile([1.0, 0, 0, 0], (40, 1)), labels, list("abcd"))
    low, high = report.intervals["balanced_accuracy"]
    assert report.balanced_accuracy == 0.25
    assert 0.1 < low < 0.25 < high < 0.45  # resamples of such answers alone are all .25
    assert report.intervals["macro_f1"].low < report.macro_f1 < report.intervals["macro_f1"].high


def test_groups_of_one_name_leave_nothing_to_resample():
    report = evaluate_predictions(*sample(0), groups=np.zeros(len(sample(0)[1]), np.int64))
    assert report.intervals == {}
    assert "All samples are of 1 group" in report.display.explanation


def test_a_class_in_one_group_and_one_class_alone_have_intervals():
    labels = np.array([0] * 40 + [1] * 10)
    groups = np.array([*range(40), *[40] * 10])
    numbers = np.eye(2)[np.where(np.arange(50) % 3 > 0, labels, 1 - labels)]
    for rows in (slice(None), slice(0, 40)):
        report = evaluate_predictions(numbers[rows], labels[rows], ["a", "b"], groups=groups[rows])
        for name, interval in report.intervals.items():
            assert 0 <= interval.low <= report.values[name] <= interval.high <= 1
            assert interval.high - interval.low > 0.05


def test_intervals_hold_their_score_follow_the_seed_and_narrow_with_samples():
    few = report_of([[12, 4], [5, 9]])
    many = report_of([[1200, 400], [500, 900]])
    for name, interval in few.intervals.items():
        assert interval.low < few.values[name] < interval.high
        assert many.intervals[name].high - many.intervals[name].low < interval.high - interval.low
    probabilities, labels, classes = sample(0)
    first, again, other = (
        evaluate_predictions(probabilities, labels, classes, seed=seed).intervals for seed in (1, 1, 2)
    )
    assert first == again != other


def test_the_order_of_the_samples_does_not_matter():
    probabilities, labels, classes = sample(3)
    order = np.random.default_rng(0).permutation(len(labels))
    report = evaluate_predictions(probabilities, labels, classes)
    shuffled = evaluate_predictions(probabilities[order], labels[order], classes)
    assert shuffled.counts == report.counts
    assert shuffled.intervals == report.intervals
    assert shuffled.nll == pytest.approx(report.nll)


def test_every_metric_that_can_select_is_found_by_its_name():
    report = report_of([[3, 1], [0, 4]])
    for metric in SingleLabel.metrics:
        name = metric.name
        assert report.values[name] == getattr(report, name) == report.to_dict()[name]
    with pytest.raises(AttributeError, match="no metric micro_f1"):
        report.micro_f1  # noqa: B018


def test_a_report_survives_json():
    report = evaluate_predictions(*sample(5))
    again = SingleLabel().scores_from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))
    assert again == report
    assert isinstance(again.intervals["top1"], Interval)


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values.pop("confusion"),
        lambda values: values.update(confusion=3),
        lambda values: values.update(bins=[{"low": 0}]),
        lambda values: values.update(intervals=None),
        lambda values: values.update(top3="high"),
        lambda values: values.update(top3=float("nan")),
        lambda values: values.update(top3=10**400),
        lambda values: values.update(intervals={"top1": [0.1, float("inf")]}),
    ],
)
def test_a_damaged_saved_report_is_refused_in_one_line(damage):
    values = report_of([[3, 1], [0, 4]]).to_dict()
    damage(values)
    with pytest.raises(DataError, match="not a saved evaluation") as caught:
        SingleLabel().scores_from_dict(values)
    assert "\n" not in str(caught.value)


# The target

TARGET = SingleLabel(("a", "b", "c"))


def test_scores_of_logits_are_those_of_their_softmax():
    probabilities, labels, classes = sample(4)
    target = SingleLabel(tuple(classes))
    found = target.score(np.log(probabilities), labels)
    assert found.counts == target.score_numbers(probabilities, labels).counts
    assert target.score(np.log(probabilities), labels, num_resamples=0).intervals == {}


@pytest.mark.parametrize(
    ("logits", "told"),
    [(np.zeros((0, 3)), "no labelled sample"), (np.array([[0, 1, 2], [0, np.nan, 1]]), "sample 1 are not finite")],
)
def test_what_cannot_be_scored_is_refused(logits, told):
    with pytest.raises(DataError, match=told):
        TARGET.score(logits, np.zeros(len(logits), np.int64))


def test_an_answer_is_the_likeliest_class_and_the_first_of_equals():
    first, second = TARGET.answers(np.array([[0.0, 0.0, -9.0], [0.0, 1.0, 2.0]]))
    assert (first["predicted"], second["predicted"]) == ("a", "c")
    assert second["confidence"] == max(second["probabilities"].values())
    assert list(second["probabilities"]) == ["a", "b", "c"]
    assert sum(second["probabilities"].values()) == pytest.approx(1)
    assert TARGET.truths(np.array([2, 0])) == [{"label": "c"}, {"label": "a"}]


def test_models_agree_where_their_likeliest_classes_do():
    logits = np.array([[3.0, 0, 0], [0, 3, 0], [0, 0, 3], [0, 0, 3]])
    others = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [5, 0, 3]])
    assert TARGET.agreement(logits, others) == 3 / 4


def promising(seed=0, **asked):
    """A target with what was fitted on 500 samples, and logits and labels of 200 others."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (700, 4))
    labels = (softmax(logits).cumsum(1) > rng.random((700, 1))).argmax(1)
    target, notes = SingleLabel(tuple("abcd")).fit_guarantees(logits[:500], labels[:500], ConfidenceConfig(**asked))
    assert not notes
    return target, logits[500:], labels[500:]


def test_label_sets_and_abstention_are_answers_of_a_folder_that_keeps_their_numbers():
    target, logits, _ = promising(risk=0.3)
    facts = target.to_facts()
    again = SingleLabel().bind(target.classes, json.loads(json.dumps(facts["numbers"])))
    assert again == target
    answers = again.answers(logits)
    assert [column.name for column in again.columns[:4]] == ["predicted", "confidence", "label_set", "abstains"]
    assert {answer["abstains"] for answer in answers} == {True, False}
    for answer in answers:
        shares = answer["probabilities"]
        assert answer["label_set"] == sorted(answer["label_set"], key=lambda name: -shares[name])
        assert answer["label_set"][0] == answer["predicted"]


def test_a_folder_without_those_numbers_answers_without_them():
    target, logits, labels = promising(level=None)
    assert target.to_facts()["numbers"] == {}
    assert set(target.answers(logits)[0]) == {"predicted", "confidence", "probabilities"}
    assert target.score(logits, labels).values.keys() == {metric.name for metric in SingleLabel.metrics}


def test_scores_measure_what_was_promised_and_survive_json():
    target, logits, labels = promising(risk=0.3)
    scores = target.score(logits, labels)
    answers = target.answers(logits)
    named = [target.classes[label] for label in labels]
    held = [name in answer["label_set"] for name, answer in zip(named, answers, strict=True)]
    wrong = [name != answer["predicted"] for name, answer in zip(named, answers, strict=True) if not answer["abstains"]]
    assert scores.set_coverage == pytest.approx(np.mean(held))
    assert scores.set_size == pytest.approx(np.mean([len(answer["label_set"]) for answer in answers]))
    assert scores.abstained == pytest.approx(1 - len(wrong) / 200)
    assert scores.answered_error == pytest.approx(np.mean(wrong))
    saved = json.loads(json.dumps(scores.to_dict()))
    assert target.scores_from_dict(saved) == scores
    assert SingleLabel().scores_from_dict({**saved, "numbers": target.to_facts()["numbers"]}) == scores
    assert target.without_guarantees() == SingleLabel(target.classes)


def test_outputs_that_are_not_finite_fit_no_promise():
    logits = np.zeros((20, 3))
    logits[7, 1] = np.nan
    with pytest.raises(DataError, match="the outputs for sample 7 are not finite"):
        SingleLabel(tuple("abc")).fit_guarantees(logits, np.zeros(20, int), ConfidenceConfig())


def test_the_confidence_in_a_label_is_its_probability_and_no_word_on_the_others():
    numbers = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
    found = SingleLabel(("a", "b", "c")).self_confidence(numbers, np.array([0, 1]))
    np.testing.assert_allclose(found, [[0.7, np.inf, np.inf], [np.inf, 0.3, np.inf]])
