import numpy as np
import pytest
import torch
from scipy.spatial import distance
from scipy.special import softmax
from scipy.stats import entropy

from uniemox.config.training import ConfidenceConfig
from uniemox.errors import DataError
from uniemox.manifests.table import Facts, manifest_from_columns
from uniemox.targets.distribution import Distribution, measure_distributions

CLASSES = ("awe", "fear", "joy", "rage")
TARGET = Distribution(CLASSES)


def draw(count, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(4, 0.6), count)


def manifest_of(tmp_path, shares):
    facts = Facts(name="rated", title="Rated", classes=CLASSES, emotion="evoked", root=tmp_path)
    paths = [f"{place}.png" for place in range(len(shares))]
    return manifest_from_columns(facts, paths=paths, splits=["train"] * len(shares), distributions=shares)


def test_measures_are_those_of_scipy():
    answered, shares = draw(50), draw(50, seed=1)
    found = measure_distributions(answered, shares)
    pairs = list(zip(answered, shares, strict=True))
    assert np.allclose(found["kl"], [entropy(d, p) for p, d in pairs])
    assert np.allclose(found["cosine"], [1 - distance.cosine(p, d) for p, d in pairs])
    assert np.allclose(found["chebyshev"], [distance.chebyshev(p, d) for p, d in pairs])
    assert np.allclose(found["canberra"], [distance.canberra(p, d) for p, d in pairs])
    assert np.allclose(found["intersection"], 1 - np.abs(answered - shares).sum(1) / 2)


def test_measures_are_those_of_a_hand_worked_case():
    found = measure_distributions(np.array([[0.5, 0.25, 0.25, 0.0]]), np.array([[0.25, 0.75, 0.0, 0.0]]))
    expected = {
        "kl": 0.25 * np.log(0.5) + 0.75 * np.log(3),
        "intersection": 0.5,
        "chebyshev": 0.5,
        "clark": np.sqrt((1 / 3) ** 2 + 0.5**2 + 1),  # 0 against 0 counts nothing
        "canberra": 1 / 3 + 0.5 + 1,
        "top1": 0.0,
    }
    assert {name: found[name].item() for name in expected} == pytest.approx(expected)


def test_the_likeliest_emotion_is_right_where_it_is_one_of_equal_modes():
    answered = np.eye(4)[[0, 1, 2]]
    assert measure_distributions(answered, np.array([[0.4, 0.4, 0.2, 0.0]] * 3))["top1"].tolist() == [1, 1, 0]


def test_equal_distributions_have_the_best_of_every_score():
    shares = draw(20)
    scores = TARGET.score_numbers(shares, shares.astype(np.float32))
    best = {"kl": 0, "cosine": 1, "intersection": 1, "chebyshev": 0, "clark": 0, "canberra": 0, "top1": 1}
    assert scores.values == pytest.approx(best, abs=1e-5)


def test_intervals_hold_the_scores_and_groups_widen_them():
    answered, shares = draw(60), draw(60, seed=1)
    repeated, again = np.repeat(answered, 10, 0), np.repeat(shares, 10, 0).astype(np.float32)
    alone = TARGET.score_numbers(repeated, again)
    grouped = TARGET.score_numbers(repeated, again, groups=np.repeat(np.arange(60), 10))
    assert alone.intervals.keys() == {metric.name for metric in TARGET.metrics}
    for name, (low, high) in grouped.intervals.items():
        assert low <= grouped.values[name] <= high
        assert high - low > 2 * (alone.intervals[name].high - alone.intervals[name].low)


def test_the_loss_is_the_divergence_and_its_least_is_at_the_shares():
    shares = torch.from_numpy(draw(8)).float()
    logits = torch.from_numpy(np.random.default_rng(2).normal(size=(8, 4))).float()
    expected = np.mean([entropy(d, p) for p, d in zip(softmax(logits.numpy(), 1), shares.numpy(), strict=True)])
    assert TARGET.loss(logits, TARGET.soften(shares, 0.0)).item() == pytest.approx(expected, rel=1e-5)
    assert TARGET.loss(shares.log(), shares).item() == pytest.approx(0, abs=1e-6)


def test_smoothing_spreads_a_share_over_all_emotions():
    softened = TARGET.soften(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 0.2)
    assert softened.tolist() == [pytest.approx([0.85, 0.05, 0.05, 0.05])]


def test_a_vote_that_nobody_gave_leaves_the_loss_finite():
    softened = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    logits = torch.zeros(1, 4, requires_grad=True)
    TARGET.loss(logits, softened).backward()
    assert logits.grad.isfinite().all()


def test_the_best_constant_answer_is_the_mean_of_the_shares():
    shares = draw(200).astype(np.float32)
    assert TARGET.numbers(TARGET.prior(shares)[None])[0] == pytest.approx(shares.mean(0), abs=1e-6)


def test_a_temperature_undoes_a_scale():
    shares = draw(300)
    assert TARGET.fit_temperature(3 * np.log(shares), shares.astype(np.float32)) == pytest.approx(3, rel=1e-2)


def test_shares_are_read_and_brought_to_a_sum_of_one(tmp_path):
    votes = [[1, 3, 0, 0], [0.2, 0.2, 0.2, 0.2]]
    labels = TARGET.read_labels(manifest_of(tmp_path, votes))
    assert labels.tolist() == [[0.25, 0.75, 0, 0], [0.25] * 4]


@pytest.mark.parametrize("bad", [[0.5, 0.6, -0.1, 0], [0, 0, 0, 0], [float("nan"), 1, 0, 0], [float("inf"), 1, 0, 0]])
def test_shares_that_are_none_are_refused_by_their_row(tmp_path, bad):
    manifest = manifest_of(tmp_path, [[0.25] * 4, bad])
    with pytest.raises(DataError, match=r"the shares of .*1\.png are .* must be numbers of at least 0"):
        TARGET.read_labels(manifest)


def test_a_row_without_shares_is_named_and_data_without_any_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"1 of 2 rows have no label, the first being .*1\.png"):
        TARGET.read_labels(manifest_of(tmp_path, [[0.25] * 4, None]))
    with pytest.raises(DataError, match="rated holds no distributions: take another `target`"):
        TARGET.read_labels(manifest_of(tmp_path, [None, None]))


def test_emotions_that_nobody_named_are_missing(tmp_path):
    assert TARGET.missing(manifest_of(tmp_path, [[1, 0, 1, 0], [0, 0, 1, 0]])) == ["fear", "rage"]


def test_answers_and_truths_fill_their_columns():
    (answer,) = TARGET.answers(np.log([[0.1, 0.2, 0.6, 0.1]]))
    assert answer["predicted"] == "joy"
    assert answer["confidence"] == pytest.approx(0.6)
    assert answer["probabilities"] == pytest.approx(dict(zip(CLASSES, (0.1, 0.2, 0.6, 0.1), strict=True)))
    (truth,) = TARGET.truths(np.array([[0.5, 0.5, 0, 0]], np.float32))
    assert list(truth) == [column.name for column in TARGET.truth]
    assert truth == {"label": "awe", "share_awe": 0.5, "share_fear": 0.5, "share_joy": 0.0, "share_rage": 0.0}


def test_the_truth_in_words_is_what_most_raters_chose_with_their_shares():
    row = {"predicted": "joy", **TARGET.truths(np.array([[0.25, 0.75, 0, 0]], np.float32))[0]}
    assert TARGET.in_words(row) == ("joy", "fear 75 %, awe 25 %")
    assert TARGET.in_words({**row, "share_awe": 0.0, "share_fear": 1.0}) == ("joy", "fear 100 %")
    assert not TARGET.is_judged


def test_scores_come_back_from_their_dictionary():
    scores = TARGET.score_numbers(draw(9), draw(9, seed=3).astype(np.float32), num_resamples=20)
    assert Distribution().scores_from_dict(scores.to_dict()) == scores


def test_label_sets_hold_a_mode_of_the_raters():
    logits, shares = np.log(draw(300)), draw(300, seed=1)
    shares[:150, :2] = shares[:150].max(1, keepdims=True)  # two modes
    target, notes = TARGET.fit_guarantees(logits, shares, ConfidenceConfig(level=0.8, risk=0.9))
    assert not notes
    modes = shares == shares.max(1, keepdims=True)
    own = np.where(modes, softmax(logits, axis=1), 0).max(1)
    assert target.guarantees.threshold == np.sort(own)[300 - 241]  # ⌈301 · .8⌉ from above
    again = Distribution().bind(CLASSES, target.to_facts()["numbers"])
    assert again == target
    scores = again.score(logits, shares, num_resamples=0)
    assert scores.set_coverage >= 0.8
    assert scores.answered_error == pytest.approx(1 - scores.top1)
    assert again.answers(logits)[0].keys() == {"predicted", "confidence", "label_set", "abstains", "probabilities"}
    assert again.scores_from_dict(scores.to_dict()) == scores


def test_rows_without_shares_are_left_out(tmp_path):
    manifest = manifest_of(tmp_path, [[0.25] * 4, None, [0, 1, 0, 0]])
    assert TARGET.rated(manifest).table["path"].to_pylist() == ["0.png", "2.png"]
    with pytest.raises(DataError, match="none of 1 rows of rated has shares of raters"):
        TARGET.rated(manifest.where(np.array([False, True, False])))
