import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import log_loss

from uniemox.errors import DataError
from uniemox.targets.calibration import Confidence, Uncalibrated, sigmoid
from uniemox.targets.calibration import softmax as our_softmax
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.single_label import SingleLabel


def fit_temperature(logits, labels):
    return (SingleLabel() if labels.ndim == 1 else MultiLabel()).fit_temperature(logits, labels)


def sample(count=400, *, sharpness=1.0, seed=0):
    """Logits whose softmax tells the truth, made too sharp by a factor, and labels drawn by the truth."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, 4)) * 1.5
    cumulated = np.exp(log_softmax(logits, axis=1)).cumsum(1)
    labels = (generator.random((count, 1)) > cumulated).sum(1).clip(0, 3)
    return logits * sharpness, labels


def nll(logits, labels):
    return log_loss(labels, np.exp(log_softmax(logits, axis=1)), labels=range(4))


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 3.0, 8.0])
def test_the_temperature_undoes_the_sharpness(sharpness):
    logits, labels = sample(20_000, sharpness=sharpness)
    assert fit_temperature(logits, labels) == pytest.approx(sharpness, rel=0.03)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
def test_it_lowers_the_likelihoods_loss_and_changes_no_prediction(seed, sharpness):
    logits, labels = sample(60, sharpness=sharpness, seed=seed)
    temperature = fit_temperature(logits, labels)
    assert nll(logits / temperature, labels) <= nll(logits, labels) + 1e-9
    assert (logits.argmax(1) == (logits / temperature).argmax(1)).all()


def test_no_other_temperature_is_better():
    logits, labels = sample(200, sharpness=2.0)
    best = nll(logits / fit_temperature(logits, labels), labels)
    for other in np.geomspace(0.05, 20, 50):
        assert best <= nll(logits / other, labels) + 1e-7


def test_a_classifier_that_is_always_right_or_never_stays_within_the_limits():
    logits, labels = np.eye(4), np.arange(4)
    assert fit_temperature(logits, labels) == pytest.approx(1 / 20, rel=0.01)
    assert fit_temperature(logits, (labels + 1) % 4) == pytest.approx(20, rel=0.01)


def test_without_a_sample_nothing_is_changed():
    assert fit_temperature(np.zeros((0, 4)), np.zeros(0, np.int64)) == 1.0


def test_half_precision_logits_are_no_obstacle():
    logits, labels = sample(2000, sharpness=3.0)
    temperature = fit_temperature(logits.astype(np.float32), labels)
    assert temperature == pytest.approx(fit_temperature(logits, labels), rel=1e-3)


# Several labels


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 3.0, 8.0])
def test_the_temperature_of_several_labels_undoes_the_sharpness(sharpness):
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(8000, 4)) * 1.5 - 1
    labels = generator.random(logits.shape) < expit(logits)
    assert fit_temperature(logits * sharpness, labels) == pytest.approx(sharpness, rel=0.03)


def test_no_sample_of_several_labels_means_no_change():
    assert fit_temperature(np.zeros((0, 4)), np.zeros((0, 4), bool)) == 1.0


# Probabilities


@pytest.mark.parametrize(("ours", "oracle", "options"), [(our_softmax, softmax, {"axis": 1}), (sigmoid, expit, {})])
def test_probabilities_are_scipys_and_do_not_overflow(ours, oracle, options):
    generator = np.random.default_rng(2)
    logits = (generator.normal(size=(50, 6)) * 30).astype(np.float32)
    logits[0] = [-1e30, 1e30, 0, 800, -800, 5]
    with np.errstate(over="raise", invalid="raise"):
        found = ours(logits)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, oracle(logits.astype(np.float64), **options), rtol=1e-12)


def test_confidence_before_the_temperature_is_shown_beside_that_after_and_survives_json():
    logits, labels = sample(sharpness=3.0)
    target = SingleLabel(tuple("abcd"))
    before, after = (target.score(one, labels, num_resamples=0) for one in (logits, logits / 3))
    metrics = (Confidence(title="calibration error", before=before.ece, after=after.ece),)
    scores = replace(after, uncalibrated=Uncalibrated(temperatures=(3.0,), metrics=metrics, bins=before.bins))
    ((title, text, (grid,)),) = scores.studies
    assert (title, list(grid.rows)) == ("Temperature", [("calibration error", before.ece, after.ece)])
    assert "val gave, 3," in text
    calibration = scores.calibration("confidence", "accuracy", "samples")
    assert (calibration.bins, calibration.before) == (after.bins, before.bins)
    assert f"{before.ece:.3f}" in calibration.caption
    saved = json.loads(json.dumps(scores.to_dict()))
    assert target.scores_from_dict(saved) == scores
    saved["uncalibrated"]["temperatures"] = ["hot"]
    with pytest.raises(DataError, match=r"uncalibrated.temperatures.0 is hot"):
        target.scores_from_dict(saved)
