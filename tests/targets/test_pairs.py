"""Differences of models on the same samples, against oracles and by simulation of how often they are right."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from uniemox.errors import DataError
from uniemox.inference.predictor import Prediction
from uniemox.inference.tables import write_predictions
from uniemox.manifests.facts import Facts
from uniemox.manifests.table import manifest_from_columns
from uniemox.targets.kinds import KNOWN, build_target
from uniemox.targets.pairs import difference, draw_together, holm, mcnemar, over_seeds, paired_differences
from uniemox.targets.single_label import SingleLabel
from uniemox.targets.target import Target

CLASSES = ("awe", "fear", "joy")
KINDS = [[kind] for kind in KNOWN] + [list(KNOWN)]
COUNT = 60


@pytest.fixture
def manifest(tmp_path):
    generator = np.random.default_rng(0)
    facts = Facts(name="all", title="All", classes=CLASSES, emotion="evoked", root=tmp_path, vad_range=(1.0, 9.0))
    labels = generator.integers(0, 3, COUNT).tolist()
    return manifest_from_columns(
        facts,
        paths=[f"{place}.png" for place in range(COUNT)],
        splits=["test"] * COUNT,
        labels=labels,
        label_sets=[[label] if label else [0, 2] for label in labels],
        distributions=generator.dirichlet(np.ones(3), COUNT).tolist(),
        vad=[(*pair, None) for pair in generator.uniform(1, 9, (COUNT, 2)).tolist()],
    )


def answered(manifest, kinds, seed=1):
    """A target that is fitted to random logits, those and the labels."""
    target = build_target(kinds).bind_to(manifest)
    labels = target.read_labels(manifest)
    logits = np.random.default_rng(seed).normal(size=(COUNT, target.num_outputs)).astype(np.float32)
    return target.fit(logits, labels), logits, labels


# What a table says


@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
def test_numbers_and_labels_are_read_back_from_a_table(manifest, kinds, tmp_path):
    target, logits, labels = answered(manifest, kinds)
    pairs = zip(target.truths(labels), target.answers(logits), strict=True)
    rows = [Prediction(Path(f"{place}.png"), {**truth, **answer}) for place, (truth, answer) in enumerate(pairs)]
    write_predictions(rows, tmp_path / "table.parquet", target, is_evaluation=True)
    numbers, found = target.read_answers(pq.read_table(tmp_path / "table.parquet"))
    np.testing.assert_array_equal(numbers, target.numbers(logits))
    np.testing.assert_allclose(found.astype(float), labels.astype(float), atol=1e-5)
    assert (found.dtype, found.shape) == (labels.dtype, labels.shape)


def test_a_label_that_is_no_class_is_refused(manifest, tmp_path):
    target, logits, labels = answered(manifest, ["single_label"])
    pairs = zip(target.truths(labels), target.answers(logits), strict=True)
    rows = [Prediction(Path("a.png"), {**truth, **answer}) for truth, answer in pairs]
    write_predictions(rows, tmp_path / "table.parquet", target, is_evaluation=True)
    table = pq.read_table(tmp_path / "table.parquet")
    with pytest.raises(DataError, match=r"a label is (awe|fear), but must be one of joy"):
        target.bind(("joy",)).read_answers(table)


# Resamples


@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
def test_a_resample_scores_what_its_rows_score(manifest, kinds):
    """The default, which repeats rows and scores those, is the oracle; ranks are those of all samples by design."""
    target, logits, labels = answered(manifest, kinds)
    numbers, weights = target.numbers(logits), np.random.default_rng(2).integers(0, 4, (5, COUNT)).astype(np.float32)
    found = target.resampler(numbers, labels)(weights)
    expected = Target.resampler(target, numbers, labels)(weights)
    assert found.keys() == expected.keys()
    for name in found.keys() - {"spearman"}:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
def test_values_are_those_of_scores_and_intervals_hold_the_difference(manifest, kinds):
    target, logits, labels = answered(manifest, kinds)
    numbers, others = (target.numbers(one) for one in (logits, -logits))
    found = paired_differences(target, numbers, others, labels, num_resamples=50)
    one, two = (target.score_numbers(each, labels, num_resamples=0).values for each in (numbers, others))
    assert list(found) == [each.name for each in target.metrics if each.title and each.is_bootstrapped]
    for name, apart in found.items():
        assert apart.value == pytest.approx(two[name] - one[name], abs=1e-6)
        assert apart.interval.low <= apart.value <= apart.interval.high
        assert 0 <= apart.p <= 1


def single(count, shares, seed=0):
    """Labels of three classes, and two models whose answers are right or wrong together as four shares say."""
    generator = np.random.default_rng(seed)
    target = SingleLabel().bind(CLASSES)
    labels = generator.integers(0, 3, count)
    cell = generator.choice(4, count, p=shares)  # both, first alone, second alone, none
    right = np.isin(cell, (0, 1)), np.isin(cell, (0, 2))
    return target, *(np.eye(3)[np.where(one, labels, (labels + 1) % 3)] for one in right), labels


def test_the_interval_of_shares_is_that_of_agresti_and_min():
    """Their variance of the difference of two shares, with half a pair added to each of four cells."""
    target, first, second, labels = single(400, (0.6, 0.1, 0.2, 0.1))
    apart = paired_differences(target, first, second, labels, num_resamples=4000)["top1"]
    right = [numbers.argmax(1) == labels for numbers in (first, second)]
    worse, better = (right[0] & ~right[1]).sum() + 0.5, (right[1] & ~right[0]).sum() + 0.5
    count = len(labels) + 2
    error = np.sqrt((worse + better - (worse - better) ** 2 / count) / count**2)
    assert apart.value == pytest.approx(np.mean(right[1]) - np.mean(right[0]))
    half = (apart.interval.high - apart.interval.low) / 2
    assert half == pytest.approx(stats.t.ppf(0.975, 399) * error, rel=0.05)
    assert apart.p == pytest.approx(2 * stats.norm.sf(apart.value / error), abs=0.002)


def test_what_is_drawn_together_varies_less_than_what_is_drawn_apart():
    target, first, second, labels = single(300, (0.7, 0.05, 0.05, 0.2))
    one, two = draw_together([(target, numbers, labels) for numbers in (first, second)])
    first, second = (each.resampled["top1"] for each in (one, two))
    assert (second - first).std() < 0.7 * np.hypot(first.std(), second.std())


def test_samples_of_a_group_are_drawn_together():
    """Five equal frames of each clip say no more than one of each, but for the half pair that counts as large."""
    target, first, second, labels = single(60, (0.5, 0.2, 0.2, 0.1))
    alone = paired_differences(target, first, second, labels, num_resamples=2000)
    repeated = [np.repeat(one, 5, axis=0) for one in (first, second, labels)]
    grouped = paired_differences(target, *repeated, np.repeat(np.arange(60), 5), num_resamples=2000)
    for name in alone:
        np.testing.assert_allclose(grouped[name].interval, alone[name].interval, atol=0.02)
    right = [numbers.argmax(1) == labels for numbers in (first, second)]
    assert mcnemar(*(np.repeat(one, 5) for one in right), np.repeat(np.arange(60), 5)) == mcnemar(*right)


def test_models_that_never_disagree_may_still_differ_on_other_samples():
    target, first, _, labels = single(50, (0.8, 0, 0, 0.2))
    apart = paired_differences(target, first, first, labels)["top1"]
    assert apart.value == 0
    assert apart.interval.high == -apart.interval.low == pytest.approx(stats.t.ppf(0.975, 49) / 52)
    assert apart.p == 1


def test_one_group_has_no_interval():
    target, first, second, labels = single(50, (0.5, 0.2, 0.2, 0.1))
    apart = paired_differences(target, first, second, labels, np.zeros(50, np.int64))["top1"]
    assert apart.interval is None
    assert np.isnan(apart.p)


# Tests of no difference


def test_mcnemars_test_is_a_binomial_of_those_who_disagree():
    """Worked by hand: of ten samples that one alone gets right, one is the first's: 2 (1 + 10) / 1024."""
    first, second = np.zeros(30, bool), np.zeros(30, bool)
    first[:5] = second[:5] = True  # which say nothing
    first[5], second[6:15] = True, True
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(22 / 1024)
    assert mcnemar(first, first) == 1


def test_several_questions_are_corrected_by_holm():
    """Worked by hand: .01 times 3, .03 times 2, then no less than the one before."""
    np.testing.assert_allclose(holm([0.03, 0.01, np.nan, 0.04]), [0.06, 0.03, np.nan, 0.06])
    assert np.isnan(holm([np.nan])).all()
    assert holm([]).shape == (0,)


def test_right_answers_are_counted_where_there_are_any(manifest):
    for kinds in KINDS:
        target, logits, labels = answered(manifest, kinds)
        right = target.right(target.numbers(logits), labels)
        assert (right is not None) == target.is_judged
    target, logits, labels = answered(manifest, ["multi_label"])
    expected = (target.decisions(logits) == labels).all(1)
    np.testing.assert_array_equal(target.right(target.numbers(logits), labels), expected)


# Seeds


def test_seeds_are_described_by_students_interval():
    values = [0.5, 0.6, 0.55]
    found = over_seeds(values)
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert found.interval == pytest.approx(expected)
    assert over_seeds([0.5]) is None


def test_an_arm_of_several_seeds_has_the_mean_of_their_scores():
    target, first, second, labels = single(200, (0.4, 0.2, 0.3, 0.1))
    one, two = draw_together([(target, numbers, labels) for numbers in (first, second)], num_resamples=200)
    apart = difference([one], [one, two], "top1")
    assert apart.value == pytest.approx((two.values["top1"] - one.values["top1"]) / 2)
    assert apart.interval.high - apart.interval.low > 0


# Simulations: each question is asked of many worlds


def worlds(rounds, count, shares):
    for seed in range(rounds):
        yield single(count, shares, seed)


@pytest.mark.soak
@pytest.mark.parametrize("count", [40, 300])
@pytest.mark.parametrize("shares", [(0.6, 0.1, 0.2, 0.1), (0.93, 0.02, 0.03, 0.02)], ids=["often", "seldom"])
def test_intervals_of_differences_hold_the_true_difference(count, shares):
    """Of all samples the shares are known; macro F1 of all is that of 200,000 samples."""
    _, first, second, labels = single(200_000, shares, seed=10**6)
    truth = {"top1": shares[2] - shares[1], "macro_f1": f1_of(second, labels) - f1_of(first, labels)}
    rounds, held = 300, dict.fromkeys(truth, 0)
    for answers in worlds(rounds, count, shares):
        found = paired_differences(*answers, num_resamples=300)
        for name, value in truth.items():
            held[name] += found[name].interval.low <= value <= found[name].interval.high
    for name, number in held.items():
        # As many as 95 % give in all but one of a thousand simulations, or more: few samples make them wide.
        assert number >= stats.binom.ppf(0.001, rounds, 0.945), (name, number)


def f1_of(numbers, labels):
    return f1_score(labels, numbers.argmax(1), average="macro")


@pytest.mark.soak
def test_equal_models_are_seldom_called_different():
    """Four models are as good as a fifth: after Holm one of twenty comparisons may find any of them different."""
    rounds, found = 1000, 0
    for seed in range(rounds):
        right = np.random.default_rng(seed).random((5, 200)) < np.random.default_rng(-seed % 2**32).random(200)
        found += (holm([mcnemar(right[0], other) for other in right[1:]]) < 0.05).any()
    assert found <= stats.binom.ppf(0.999, rounds, 0.05)


@pytest.mark.soak
@pytest.mark.parametrize("seeds", [2, 4])
@pytest.mark.parametrize("spread", [0.0, 0.06])
def test_intervals_of_arms_hold_the_difference_over_seeds_and_samples(seeds, spread):
    """A run's skill differs by its seed; each answers each sample by its skill, and the samples differ too."""
    rounds, held, gap = 400, 0, 0.05
    target, count = SingleLabel().bind(CLASSES), 150
    for seed in range(rounds):
        generator = np.random.default_rng(seed)
        labels, hard = generator.integers(0, 3, count), generator.normal(0, 0.25, count)
        answers = []
        for skill in np.repeat([0.55, 0.55 + gap], seeds) + generator.normal(0, spread, 2 * seeds):
            right = generator.random(count) < skill + hard.clip(-0.3, 0.3)
            answers.append((target, np.eye(3)[np.where(right, labels, (labels + 1) % 3)], labels))
        drawn = draw_together(answers, num_resamples=200)
        low, high = difference(drawn[:seeds], drawn[seeds:], "top1").interval
        held += low <= gap <= high
    assert held >= stats.binom.ppf(0.001, rounds, 0.94), held
