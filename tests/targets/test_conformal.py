import warnings
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from scipy.stats import binom

from uniemox.config.training import ConfidenceConfig
from uniemox.errors import DataError
from uniemox.targets.conformal import (
    DELTA,
    NUM_STEPS,
    Guarantees,
    describe_too_few,
    fit_cutoff,
    fit_guarantees,
    fit_label_sets,
    one_of_each,
)

SEEDS = 200


def answers(rng, count, *, num_classes=5, concentration=0.7):
    """Probabilities (N, C), and what is true, which is drawn from others: the model is too sure."""
    probabilities = rng.dirichlet([concentration] * num_classes, count)
    honest = 0.7 * probabilities + 0.3 / num_classes
    return probabilities, (honest.cumsum(1) > rng.random((count, 1))).argmax(1)


def flags(labels, num_classes=5):
    return np.eye(num_classes, dtype=bool)[labels]


def own(probabilities, labels):
    return probabilities[np.arange(len(labels)), labels]


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("seed", [0, 1])
def test_label_sets_are_those_of_mapie(level, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):
        """Answers with the probabilities that it is given."""

        classes_ = np.arange(5)

        def __sklearn_is_fitted__(self):
            return True

        def fit(self, rows, labels):
            return self

        def predict_proba(self, rows):
            return rows

        def predict(self, rows):
            return rows.argmax(1)

    rng = np.random.default_rng(seed)
    (val, labels), (new, _) = answers(rng, 76), answers(rng, 200)
    oracle = SplitConformalClassifier(Given(), confidence_level=level, conformity_score="lac", prefit=True)
    oracle.conformalize(val, labels)
    expected = oracle.predict_set(new)[1][..., 0]
    least = fit_label_sets(own(val, labels), level)
    assert ((new >= least) == expected).all()
    likeliest = flags(new.argmax(1))
    assert (Guarantees(level=level, threshold=least).sets(new) == (expected | likeliest)).all()
    if (level, seed) == (0.5, 0):
        assert (~expected.any(1)).any()  # some sets of MAPIE are empty


def test_the_probability_is_an_order_statistic():
    assert fit_label_sets(np.array([0.9, 0.2, 0.5, 0.7, 0.1, 0.3, 0.8, 0.6, 0.4]), 0.8) == 0.2  # 8 of 10 are above .2


@pytest.mark.parametrize("level", ["0.05", "0.07", "0.3", "0.5", "0.7", "0.8", "0.9", "0.95", "0.99"])
def test_the_rank_is_that_of_exact_numbers(level):
    for count in range(1, 150):
        rank = ceil((count + 1) * Fraction(level))
        expected = None if rank > count else count - rank
        assert fit_label_sets(np.arange(count) / count, float(level)) == (
            None if expected is None else expected / count
        )


def test_sets_hold_the_true_label_as_often_as_promised_within_the_binomial_interval():
    count, level = 20, 0.9
    exact = 19 / 21  # ⌈21 · .9⌉ of 21; the quantile of the sample alone would give 18 / 21
    first, shares = [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        (val, labels), (new, truth) = answers(rng, count), answers(rng, 1000)
        held = own(new, truth) >= fit_label_sets(own(val, labels), level)
        first.append(held[0])
        shares.append(held.mean())
    low, high = binom.interval(0.999, SEEDS, exact)
    assert low <= sum(first) <= high
    deviation = np.sqrt(exact * (1 - exact) / (count + 2) / SEEDS)  # of a mean of draws from Beta(19, 2)
    assert abs(np.mean(shares) - exact) < 4 * deviation
    assert exact - 4 * deviation > 18 / 21


def test_where_groups_differ_in_size_one_sample_of_each_keeps_the_promise():
    """Easy images come in groups of 30, hard ones alone, so rows are mostly easy and new groups mostly hard."""
    asked, held, by_rows = ConfidenceConfig(level=0.9), [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        is_easy = np.append(rng.random(60) < 0.3, [False, True])
        sizes = np.where(is_easy, 30, 1)
        groups = np.repeat(np.arange(62), sizes)
        share = np.where(is_easy, rng.uniform(0.9, 1, 62), rng.uniform(0, 1, 62))
        probabilities = np.stack([share, 1 - share], 1)
        val = groups < 60
        new = probabilities[60 + (rng.random() < 0.3)]
        is_true = np.broadcast_to([True, False], (val.sum(), 2))
        rows = probabilities[groups[val]]
        found, _ = fit_guarantees(rows, is_true, asked, groups[val])
        assert found.samples == 60
        held.append(new[0] >= found.threshold)
        by_rows.append(new[0] >= fit_guarantees(rows, is_true, asked)[0].threshold)
    low, high = binom.interval(0.999, SEEDS, 55 / 61)
    assert low <= sum(held) <= high
    assert sum(by_rows) < low


def test_one_of_each_group_is_taken_by_lot_and_always_the_same():
    groups = np.array([4, 4, 4, 4, 2, 2, 7])
    rows = one_of_each(groups, 7)
    assert sorted(groups[rows]) == [2, 4, 7]
    assert rows.tolist() == one_of_each(groups, 7).tolist()
    assert one_of_each(None, 3).tolist() == [0, 1, 2]
    many = np.repeat(np.arange(1000), 4)
    assert abs((one_of_each(many, 4000) % 4).mean() - 1.5) < 0.2


@pytest.mark.parametrize("level", [0.6, 0.8, 0.9, 0.95])
def test_a_val_too_small_for_the_level_says_what_it_allows_and_what_the_level_needs(level):
    for count in range(1, 20):
        fitted = fit_label_sets(np.linspace(0.1, 0.9, count), level)
        texts = describe_too_few(ConfidenceConfig(level=level), count)
        assert (fitted is None) == bool(texts)
        if texts:
            words = texts[0].split()
            needed, allowed = int(words[words.index("needs") + 1]), float(texts[0].split("at most ")[1].split(";")[0])
            assert fit_label_sets(np.linspace(0, 1, needed), level) is not None
            assert fit_label_sets(np.linspace(0, 1, needed - 1), level) is None
            assert fit_label_sets(np.linspace(0, 1, count), allowed) is not None
            assert count / (count + 1) - allowed < 0.001


def test_what_is_too_small_is_left_out_and_reported():
    probabilities, labels = answers(np.random.default_rng(0), 8)
    found, notes = fit_guarantees(probabilities, flags(labels), ConfidenceConfig(level=0.9))
    assert found == Guarantees(samples=8)
    assert notes == (
        "no label sets at level 0.9, which needs 9 independent samples: val has 8, which allow a level of at most "
        "0.888; lower `confidence.level`, or enlarge val",
    )
    assert found.columns == found.metrics == ()
    assert found.to_numbers() == {}
    assert found.fitted == ""


def test_errors_of_what_is_answered_exceed_the_risk_in_few_of_many_vals():
    risk, too_many, shares = 0.1, 0, []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        confidence = rng.uniform(0.5, 1, 2000)
        cutoff = fit_cutoff(confidence, rng.random(2000) < confidence, risk)
        # Of confidences from t to 1, each the probability to be right, (1 − t) / 2 are wrong.
        if cutoff is not None:
            too_many += (1 - cutoff) / 2 > risk
            shares.append((1 - cutoff) / 0.5)
    assert too_many <= binom.ppf(0.999, SEEDS, DELTA)
    assert len(shares) > 0.9 * SEEDS
    assert np.median(shares) >= 0.2  # of the .4 that who knows the truth could answer


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("risk", [0.05, 0.1, 0.3])
def test_the_cutoff_is_the_least_of_those_tried_whose_errors_would_be_rare_at_the_risk(seed, risk):
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.uniform(0.3, 1, 437), 2)  # with ties
    right = rng.random(437) < np.sqrt(confidence)
    tried = [0.0, *sorted(np.sort(confidence)[::-1][-(-437 * step // NUM_STEPS)] for step in range(1, NUM_STEPS))]
    good = [
        one
        for one in tried
        if binom.cdf((~right[confidence > one]).sum(), (confidence > one).sum(), risk) <= DELTA / NUM_STEPS
    ]
    assert fit_cutoff(confidence, right, risk) == (min(good) if good else None)


@pytest.mark.parametrize(("risk", "needed"), [(0.05, 117), (0.1, 57), (0.5, 9)])
def test_a_risk_needs_so_many_samples_even_if_all_are_right(risk, needed):
    confidence = np.linspace(0.5, 1, needed)
    assert fit_cutoff(confidence, np.full(needed, True), risk) == 0.0
    assert fit_cutoff(confidence[1:], np.full(needed - 1, True), risk) is None
    assert describe_too_few(ConfidenceConfig(level=None, risk=risk), needed) == ()
    (text,) = describe_too_few(ConfidenceConfig(level=None, risk=risk), needed - 1)
    assert text.startswith(f"risk {risk:g} needs {needed} independent samples, even if none is answered wrongly")


def test_a_risk_that_nothing_reaches_is_reported_and_makes_the_model_abstain_from_all():
    probabilities = np.full((300, 5), 0.2)
    found, notes = fit_guarantees(probabilities, flags(np.arange(300) % 5), ConfidenceConfig(level=None, risk=0.1))
    assert "the model abstains from every image" in notes[0]
    assert "raise `confidence.risk`" in notes[0]
    assert found.fitted == "It abstains from every image, as val shows no error rate of at most 10 %."
    certain = np.eye(5)
    assert found.abstains(certain).all()
    assert found.measure(certain, flags(np.arange(5))) == {"abstained": 1.0}


def test_predictions_that_are_all_alike_get_sets_of_all_classes_and_one_class_gets_itself():
    alike, _ = fit_guarantees(np.full((30, 5), 0.2), flags(np.arange(30) % 5), ConfidenceConfig())
    assert alike.sets(np.full((2, 5), 0.2)).all()
    one, notes = fit_guarantees(np.ones((150, 1)), np.ones((150, 1), bool), ConfidenceConfig(risk=0.05))
    assert not notes
    assert one.answers(np.ones((1, 1)), ["joy"]) == [{"label_set": ["joy"], "abstains": False}]


def test_answers_name_the_likeliest_first_and_abstain_up_to_the_cutoff():
    promised = Guarantees(level=0.9, threshold=0.3, risk=0.05, cutoff=0.5)
    probabilities = np.array([[0.3, 0.2, 0.5], [0.1, 0.6, 0.3], [0.29, 0.42, 0.29]])
    assert promised.answers(probabilities, "abc") == [
        {"label_set": ["c", "a"], "abstains": True},
        {"label_set": ["b", "c"], "abstains": False},
        {"label_set": ["b"], "abstains": True},
    ]
    assert [(column.name, column.kind) for column in promised.columns] == [("label_set", "texts"), ("abstains", "flag")]


def test_a_set_is_never_empty():
    assert Guarantees(level=0.5, threshold=0.9).answers(np.array([[0.4, 0.6]]), "ab") == [{"label_set": ["b"]}]


def test_the_measures_are_those_worked_by_hand():
    promised = Guarantees(level=0.9, threshold=0.3, risk=0.05, cutoff=0.45)
    probabilities = np.array([[0.3, 0.2, 0.5], [0.1, 0.6, 0.3], [0.29, 0.42, 0.29], [0.9, 0.05, 0.05]])
    found = promised.measure(probabilities, flags(np.array([0, 1, 0, 2]), 3))
    # Sets ca, bc, b, a; of the answers c, b and a, which are above .45, only b is right.
    assert found == pytest.approx(
        {"set_coverage": 2 / 4, "set_size": 6 / 4, "abstained": 1 / 4, "answered_error": 2 / 3}
    )
    assert {metric.name: metric.compute(found) for metric in promised.metrics} == found


def test_numbers_of_a_folder_make_them_again():
    for promised in (
        Guarantees(level=0.9, threshold=0.1234, samples=500),
        Guarantees(risk=0.05, cutoff=1.0, samples=30),
        Guarantees(level=0.5, threshold=0.5, risk=0.2, cutoff=0.0, samples=30),
    ):
        assert Guarantees.from_numbers({"others": (1.0,), **promised.to_numbers()}) == promised
    assert Guarantees.from_numbers({}) == Guarantees()


@pytest.mark.parametrize("damaged", [(), (0.9, 0.1), (1.0, 0.1, 9.0), (0.9, 1.1, 9.0), (0.9, float("nan"), 9.0)])
@pytest.mark.parametrize("name", ["label_set", "abstention"])
def test_numbers_that_cannot_be_are_named(name, damaged):
    with pytest.raises(DataError, match=rf"numbers\.{name} is \[.*must be two shares and a number of samples"):
        Guarantees.from_numbers({name: damaged})


def test_a_card_says_what_was_fitted_and_for_what_it_holds():
    text = Guarantees(level=0.9, threshold=0.125, risk=0.05, cutoff=0.75, samples=300).fitted
    assert "probability of at least 0.1250" in text
    assert "300 samples of val" in text
    assert "at least 90 % of images like those (split-conformal), over all, not in each class" in text
    assert "at most 5 % are answered wrongly, with a confidence of 95 %" in text
