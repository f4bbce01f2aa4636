import logging
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import pearsonr, spearmanr

from uniemox.errors import DataError
from uniemox.manifests import columns
from uniemox.manifests.table import Facts, manifest_from_columns
from uniemox.targets.valence_arousal import VAD, ValenceArousal, correlations

DIMENSIONS = ("valence", "arousal")
TARGET = ValenceArousal(DIMENSIONS, scale=(1.0, 9.0))


def draw(count=200, seed=0):
    """Ratings from 1 to 9, and answers that are related to them."""
    generator = np.random.default_rng(seed)
    rated = generator.uniform(1, 9, (count, 2))
    return (0.6 * rated + generator.normal(2, 0.8, (count, 2))).clip(1, 9), rated


def to_outputs(rated):
    return ((rated - 5) / 4).astype(np.float32)


def manifest_of(tmp_path, ratings, scale=(1.0, 9.0)):
    facts = Facts(name="rated", title="Rated", classes=("joy",), emotion="evoked", root=tmp_path, vad_range=scale)
    paths = [f"{place}.png" for place in range(len(ratings))]
    return manifest_from_columns(facts, paths=paths, splits=["train"] * len(ratings), vad=ratings)


def test_scores_are_those_of_scipy_and_of_lins_formula():
    answered, rated = draw()
    scores = TARGET.score_numbers(answered, to_outputs(rated))
    for place in range(2):
        ours, theirs = answered[:, place], rated[:, place]
        together = np.cov(ours, theirs, bias=True)
        lin = 2 * together[0, 1] / (together[0, 0] + together[1, 1] + (ours.mean() - theirs.mean()) ** 2)
        found = {name: values[place] for name, values in scores.per_dimension.items()}
        assert found["ccc"] == pytest.approx(lin, abs=1e-5)
        assert found["pearson"] == pytest.approx(pearsonr(ours, theirs).statistic, abs=1e-5)
        assert found["spearman"] == pytest.approx(spearmanr(ours, theirs).statistic, abs=1e-3)  # labels are in fp32
        assert found["mae"] == pytest.approx(np.abs(ours - theirs).mean(), abs=1e-5)
    assert scores.ccc == pytest.approx(np.mean(scores.per_dimension["ccc"]))


def related(count=400, seed=3):
    """Outputs of the right order on a wrong scale, and ratings, from −1 to 1."""
    generator = np.random.default_rng(seed)
    rated = generator.normal([0.1, -0.2], [0.3, 0.2], (count, 2)).clip(-1, 1)
    return 0.2 * rated + generator.normal(0.4, 0.03, (count, 2)), rated.astype(np.float32)


def test_what_is_fitted_on_val_has_the_largest_concordance_of_all_affine_maps():
    outputs, rated = related()
    fitted = TARGET.fit(outputs, rated)
    for place in range(2):

        def loss(two, place=place):
            brought = two[0] * outputs[:, [place]] + two[1]
            return -correlations(brought, rated[:, [place]].astype(float), np.ones((1, len(rated))))[0].item()

        best = minimize(
            loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 4000}
        )
        assert best.x == pytest.approx([fitted.slopes[place], fitted.offsets[place]], abs=1e-4)
        assert -best.fun == pytest.approx(pearsonr(outputs[:, place], rated[:, place]).statistic, abs=1e-6)
    brought = fitted.decisions(outputs)
    assert brought.mean(0) == pytest.approx(rated.mean(0), abs=1e-6)
    assert brought.std(0) == pytest.approx(rated.std(0), abs=1e-6)


def test_what_is_fitted_on_val_helps_on_other_images():
    fitted, (outputs, rated) = TARGET.fit(*related()), related(seed=4)
    before, after = (target.score(outputs, rated, num_resamples=0) for target in (TARGET, fitted))
    assert before.ccc < 0.5
    assert after.ccc == pytest.approx(after.pearson, abs=0.02)
    assert after.pearson == pytest.approx(before.pearson, abs=1e-6)
    assert after.mae < before.mae


@pytest.mark.parametrize(
    "change", [lambda outputs, rated: (outputs[:29], rated[:29]), lambda outputs, rated: (outputs * 0, rated)]
)
def test_few_samples_and_constant_answers_leave_outputs_as_they_are(change):
    outputs, rated = change(*related())
    assert TARGET.fit(outputs, rated).decisions(outputs) == pytest.approx(outputs)


def test_answers_that_chance_explains_are_not_spread():
    # One of forty by chance: of 400 unrelated dimensions 10 are expected, and 20 are three deviations above.
    generator = np.random.default_rng(0)
    pairs = (generator.normal(size=(2, 100, 2)) * [[[0.01]], [[0.3]]] for _ in range(200))
    fitted = [TARGET.fit(outputs, rated) for outputs, rated in pairs]
    assert 1 <= sum(slope != 1 for target in fitted for slope in target.slopes) <= 20
    outputs, rated = related()
    assert TARGET.fit(-outputs, rated).slopes == (1, 1)


def test_what_is_fitted_is_kept_by_a_folder_named_by_its_card_and_dropped_for_other_models():
    outputs, rated = related()
    fitted = TARGET.fit(outputs, rated)
    assert TARGET.bind(DIMENSIONS, fitted.to_facts()["numbers"]) == fitted
    assert f"valence {fitted.slopes[0]:.3f} × output {fitted.offsets[0]:+.3f}" in fitted.fitted
    assert fitted.without_guarantees() == TARGET
    for broken in (
        {"slopes": (1, 1)},
        {"slopes": (1, 0), "offsets": (0, 0)},
        {"slopes": (1, np.nan), "offsets": (0, 0)},
    ):
        with pytest.raises(DataError, match="a slope above 0 and an offset for each dimension"):
            TARGET.bind(DIMENSIONS, broken)


def test_concordance_is_that_of_a_hand_worked_case():
    # Means 2 and 3, variances 2/3 and 2/3, covariance 2/3: 4/3 over (4/3 + 1).
    concordance, pearson = correlations(np.array([[1.0], [2], [3]]), np.array([[2.0], [3], [4]]), np.ones((1, 3)))
    assert concordance.item() == pytest.approx(4 / 7)
    assert pearson.item() == pytest.approx(1)


def test_weights_count_a_sample_as_often_as_they_say():
    answered, rated = draw(30)
    times = np.random.default_rng(1).integers(1, 4, 30)
    repeated = correlations(np.repeat(answered, times, 0), np.repeat(rated, times, 0), np.ones((1, times.sum())))
    weighted = correlations(answered, rated, times[None].astype(float))
    assert np.allclose(repeated, weighted)


@pytest.mark.parametrize("alike", ["answered", "rated", "both"])
def test_where_one_side_does_not_vary_nothing_agrees(alike):
    answered, rated = draw(20)
    answered = np.full_like(answered, 5) if alike != "rated" else answered
    rated = np.full_like(rated, 5) if alike != "answered" else rated
    scores = TARGET.score_numbers(answered, to_outputs(rated))
    assert (scores.ccc, scores.pearson, scores.spearman) == (0, 0, 0)
    assert np.isfinite(list(scores.values.values())).all()


def test_one_sample_alone_is_scored_without_intervals():
    answered, rated = draw(1)
    scores = TARGET.score_numbers(answered, to_outputs(rated))
    assert scores.intervals == {}
    assert scores.mae == pytest.approx(np.abs(answered - rated).mean(), abs=1e-5)


def test_intervals_hold_the_scores():
    answered, rated = draw()
    scores = TARGET.score_numbers(answered, to_outputs(rated))
    assert scores.intervals.keys() == {"ccc", "pearson", "spearman", "mae"}
    for name, (low, high) in scores.intervals.items():
        assert low < scores.values[name] < high


def test_the_loss_falls_to_nothing_at_the_ratings_and_is_lins_formula_elsewhere():
    answered, rated = (torch.from_numpy(to_outputs(values)) for values in draw(64))
    assert TARGET.loss(rated, rated).item() == pytest.approx(0, abs=1e-6)
    concordance, _ = correlations(answered.double().numpy(), rated.double().numpy(), np.ones((1, 64)))
    expected = 1 - concordance.mean() + ((answered - rated) ** 2).mean().item()
    assert TARGET.loss(answered, rated).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_loss_of_few_or_equal_ratings_has_a_finite_gradient(count):
    outputs = torch.zeros(count, 2, requires_grad=True)
    TARGET.loss(outputs, torch.full((count, 2), 0.5)).backward()
    assert outputs.grad.isfinite().all()
    assert (outputs.grad < 0).any()


def test_answers_stay_on_the_scale_and_in_its_units():
    outputs = np.array([[-1.0, 0.5], [3.0, -7.0]])
    assert TARGET.answers(outputs) == [{"valence": 1.0, "arousal": 7.0}, {"valence": 9.0, "arousal": 1.0}]
    (truth,) = TARGET.truths(np.array([[0.25, -0.5]], np.float32))
    assert truth == {"label_valence": 6.0, "label_arousal": 3.0}


def test_ratings_are_read_in_the_dimensions_that_the_data_have(tmp_path):
    manifest = manifest_of(tmp_path, [(1, 5, None), (9, 3, None)])
    target = ValenceArousal().bind_to(manifest)
    assert (target.classes, target.scale) == (DIMENSIONS, (1.0, 9.0))
    assert target.read_labels(manifest).tolist() == [[-1, 0], [1, -0.5]]
    whole = manifest_of(tmp_path, [(1, 5, 5), (9, 3, 9)])
    assert ValenceArousal().bind_to(whole).classes == ("valence", "arousal", "dominance")


def test_data_of_another_scale_are_scored_in_their_own_units(tmp_path, caplog):
    manifest = manifest_of(tmp_path, [(0, 50, None), (100, 75, None)], scale=(0.0, 100.0))
    with caplog.at_level(logging.INFO, logger="uniemox"):
        target, same = TARGET.align(manifest)
    assert same is manifest
    assert "a scale of 1 to 9; its answers are brought to that of the data, 0 to 100" in caplog.text
    assert target.answers(np.array([[0.0, 1.0]])) == [{"valence": 50.0, "arousal": 100.0}]


@pytest.mark.parametrize(
    ("ratings", "scale", "message"),
    [
        ([(None, None, None)], (1.0, 9.0), "rated holds no ratings of valence or arousal"),
        ([(1, 5, None)], None, "does not say the scale of its valence and arousal"),
        ([(1, 5, None), (None, 4, None)], (1.0, 9.0), r"1 of 2 rows have no label, the first being .*1\.png"),
        ([(1, 5, None), (9.5, 4, None)], (1.0, 9.0), r"1 of 2 rows are beyond .* 1 to 9, .*1\.png \(valence 9\.5"),
    ],
)
def test_ratings_that_cannot_be_used_are_refused(tmp_path, ratings, scale, message):
    manifest = manifest_of(tmp_path, ratings, scale)
    with pytest.raises(DataError, match=message):
        ValenceArousal().bind_to(manifest).read_labels(manifest)


def test_data_without_a_dimension_of_the_model_are_refused(tmp_path):
    model = ValenceArousal(("valence", "arousal", "dominance"), scale=(1.0, 9.0))
    with pytest.raises(DataError, match="but rated has valence and arousal, not dominance"):
        model.align(manifest_of(tmp_path, [(1, 5, None)]))


def test_the_constant_answer_is_the_mean_and_the_head_starts_there():
    labels = to_outputs(draw()[1])
    head = torch.nn.Linear(3, 2)
    TARGET.start_head(head, labels)
    assert head.bias.tolist() == pytest.approx(labels.mean(0).tolist(), abs=1e-6)


@pytest.mark.parametrize("numbers", [{"scale": (1.0,)}, {"scale": (2.0, 1.0)}, {"scale": (float("nan"), 1.0)}])
def test_a_scale_that_is_none_is_refused(numbers):
    with pytest.raises(DataError, match="must be the two ends of a scale"):
        ValenceArousal().bind(DIMENSIONS, numbers)


def test_a_dimension_that_is_none_is_refused():
    with pytest.raises(DataError, match="classes name joy, but the dimensions"):
        ValenceArousal().bind(("joy",))


def test_answers_agree_while_they_move_by_less_than_a_hundredth_of_the_scale():
    outputs = np.zeros((4, 2))
    moved = outputs + np.array([0.0, 0.019, 0.021, 0.5])[:, None]
    assert TARGET.agreement(outputs, moved) == 0.5


def test_scores_come_back_from_their_dictionary_and_are_shown():
    answered, rated = draw(1200)
    scores = TARGET.score_numbers(answered, to_outputs(rated), num_resamples=20)
    assert ValenceArousal().scores_from_dict(scores.to_dict()) == scores
    assert len(scores.rated) == 500
    ((_, parts),) = scores.display.panels
    assert [getattr(part, "title", "") for part in parts] == ["", "valence", "arousal", "valence and arousal"]
    assert all(first.limits == second.limits == (1.0, 9.0) for first, second in pairwise(parts[1:]))


def test_the_dimensions_are_those_of_a_manifest():
    assert VAD == columns.VAD


def test_rows_without_a_rating_are_left_out_and_counted(tmp_path, caplog):
    manifest = manifest_of(tmp_path, [(1, 5, None), (None, 4, None), None, (9, 3, None)])
    target = ValenceArousal().bind_to(manifest)
    with caplog.at_level(logging.INFO, logger="uniemox"):
        kept = target.rated(manifest)
    assert kept.table["path"].to_pylist() == ["0.png", "3.png"]
    assert kept.places.tolist() == [0, 3]
    assert "target valence_arousal leaves out 2 of 4 rows of rated, which have no valence and arousal" in caplog.text
    assert target.rated(kept) is kept
    with pytest.raises(DataError, match="none of 2 rows of rated has valence and arousal"):
        target.rated(manifest.where(np.array([False, True, True, False])))
