"""Heads on features, against scikit-learn used by itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uniemox.config.probe import NEIGHBOURS, STRENGTHS, ProbeConfig
from uniemox.errors import ConfigError, DataError, TrainingError
from uniemox.targets.calibration import sigmoid, softmax
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.single_label import SingleLabel
from uniemox.train.heads import Split, fit_head

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c", "d")


def config_of(head, **changes):
    return ProbeConfig(backbone="x", data=Path("d"), out=Path("o"), head=head, **changes)


def fit(head, train, val, target=None, **changes):
    target = target or SingleLabel().bind(CLASSES)
    return fit_head(config_of(head, **changes), target, target.selection(None), train, val, device=CPU)


def draw(count, *, seed, classes=4, several=False):
    """Features that show their class through noise, scaled and shifted by column; labels, or sets of them."""
    generator = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(4, 10))
    labels = generator.integers(0, classes, count)
    sets = np.eye(4, dtype=bool)[labels]
    if several:
        sets |= generator.random((count, 4)) < 0.2
    features = sets @ directions + generator.normal(size=(count, 10)) * 1.5
    features = features * np.logspace(-2, 2, 10) + np.arange(10)
    return Split(features.astype(np.float32), sets if several else labels)


TRAIN, VAL, TEST = (draw(count, seed=seed) for seed, count in enumerate((120, 60, 40)))
SEVERAL = tuple(draw(count, seed=seed, several=True) for seed, count in enumerate((120, 60, 40)))


def regression(strength, train):
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-9, max_iter=10_000))
    return model.fit(train.features.astype(np.float64), train.labels)


# Logistic regression


def test_the_regression_is_scikit_learns_and_val_chooses_its_strength():
    fitted = fit("logistic", TRAIN, VAL)
    models = {strength: regression(strength, TRAIN) for strength in STRENGTHS}
    scores = {
        strength: accuracy_score(VAL.labels, model.predict(VAL.features.astype(np.float64)))
        for strength, model in models.items()
    }
    best = max(scores, key=scores.get)  # the first of equals
    assert fitted.chosen == {"C": best}
    assert [trial["C"] for trial in fitted.trials] == list(STRENGTHS)
    np.testing.assert_allclose([trial["val_top1"] for trial in fitted.trials], list(scores.values()))
    assert fitted.score == scores[best]
    expected = models[best].predict_proba(TEST.features.astype(np.float64))
    np.testing.assert_allclose(softmax(fitted.logits(TEST.features)), expected, atol=1e-4)
    layer = fitted.linear
    logits = TEST.features @ layer.weight.T + layer.bias
    np.testing.assert_allclose(softmax(logits / 2), softmax(layer.divided(2)(TEST.features)), atol=1e-9)
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-4)


def test_two_classes_are_one_sigmoid():
    train, val = draw(80, seed=3, classes=2), draw(40, seed=4, classes=2)
    target = SingleLabel().bind(("a", "b"))
    fitted = fit("logistic", train, val, target)
    expected = regression(fitted.chosen["C"], train).predict_proba(val.features.astype(np.float64))
    # Separable and weakly regularised, so the worst case of the tolerance: measured 4e-4.
    np.testing.assert_allclose(softmax(fitted.logits(val.features)), expected, atol=1e-3)


def test_a_class_without_a_training_image_is_never_the_answer():
    train = draw(80, seed=5, classes=3)
    fitted = fit("logistic", train, VAL)
    probabilities = softmax(fitted.logits(VAL.features))
    assert probabilities[:, 3].max() < 1e-12
    expected = regression(fitted.chosen["C"], train).predict_proba(VAL.features.astype(np.float64))
    np.testing.assert_allclose(probabilities[:, :3], expected, atol=1e-4)


def test_several_labels_are_a_regression_each():
    train, val, test = SEVERAL
    fitted = fit("logistic", train, val, MultiLabel().bind(CLASSES))
    models = {}
    for strength in STRENGTHS:
        each = OneVsRestClassifier(LogisticRegression(C=strength, tol=1e-9, max_iter=10_000))
        models[strength] = make_pipeline(StandardScaler(), each).fit(
            train.features.astype(np.float64), train.labels.astype(int)
        )
    scores = [
        average_precision_score(val.labels, model.predict_proba(val.features.astype(np.float64)), average="macro")
        for model in models.values()
    ]
    np.testing.assert_allclose([t["val_mean_average_precision"] for t in fitted.trials], scores, atol=2e-3)
    expected = models[fitted.chosen["C"]].predict_proba(test.features.astype(np.float64))
    np.testing.assert_allclose(sigmoid(fitted.logits(test.features)), expected, atol=1e-4)


def test_a_label_that_all_or_none_have_is_answered_by_its_odds():
    train, val, _ = SEVERAL
    labels = train.labels.copy()
    labels[:, 0], labels[:, 1] = True, False
    fitted = fit("logistic", Split(train.features, labels), val, MultiLabel().bind(CLASSES))
    probabilities = sigmoid(fitted.logits(val.features))
    np.testing.assert_allclose(probabilities[:, 0], 121 / 122)
    np.testing.assert_allclose(probabilities[:, 1], 1 / 122)


def test_a_constant_feature_changes_nothing():
    def widened(split):
        return Split(np.concatenate([split.features, np.full((len(split.labels), 1), 7, np.float32)], 1), split.labels)

    wide = fit("logistic", widened(TRAIN), widened(VAL))
    np.testing.assert_allclose(
        wide.logits(widened(TEST).features), fit("logistic", TRAIN, VAL).logits(TEST.features), atol=1e-6
    )


def test_one_class_alone_cannot_be_learned():
    train = draw(20, seed=6, classes=1)
    with pytest.raises(DataError, match="one class alone"):
        fit("logistic", train, VAL)


def test_what_is_best_at_the_end_of_what_was_tried_is_reported():
    train = draw(40, seed=7)
    noise = Split(np.random.default_rng(8).normal(size=(60, 10)).astype(np.float32), np.zeros(60, int))
    fitted = fit("logistic", Split(train.features, np.r_[np.zeros(25, int), train.labels[25:]]), noise)
    assert fitted.chosen == {"C": STRENGTHS[0]}
    assert fitted.notes == ("the best C, 1e-06, is at the end of what was tried: 1e-06 to 100",)


# Nearest neighbours


@pytest.mark.parametrize("several", [False, True])
def test_neighbours_are_scikit_learns_and_val_chooses_their_number(several):
    train, val, test = SEVERAL if several else (TRAIN, VAL, TEST)
    target = (MultiLabel() if several else SingleLabel()).bind(CLASSES)
    fitted = fit("knn", train, val, target)
    tried = [count for count in NEIGHBOURS if count <= 120]
    assert [trial["k"] for trial in fitted.trials] == tried
    model = KNeighborsClassifier(fitted.chosen["k"], metric="cosine", algorithm="brute")
    model.fit(train.features, train.labels.astype(int))
    shares = model.predict_proba(test.features.astype(np.float64))
    found = (sigmoid if several else softmax)(fitted.logits(test.features))
    shares = np.stack([one[:, 1] for one in shares], 1) if several else shares
    np.testing.assert_allclose(found, shares, atol=1e-5)
    assert fitted.linear is None
    if not several:
        scores = []
        for count in tried:
            other = KNeighborsClassifier(count, metric="cosine", algorithm="brute").fit(*train)
            scores.append(accuracy_score(val.labels, other.predict(val.features)))
        np.testing.assert_allclose([trial["val_top1"] for trial in fitted.trials], scores)
        assert fitted.chosen["k"] == tried[int(np.argmax(scores))]


def test_a_single_training_image_is_everybodys_neighbour():
    fitted = fit("knn", Split(TRAIN.features[:1], TRAIN.labels[:1]), VAL)
    assert fitted.chosen == {"k": 1}
    assert (fitted.logits(TEST.features).argmax(1) == TRAIN.labels[0]).all()


# The linear layer of the released baselines


def test_the_layer_is_what_adam_makes_of_it_and_val_chooses_the_epoch():
    changes = {"epochs": 7, "batch_size": 32, "base_lr": 8e-2, "seed": 11}
    fitted = fit("linear", TRAIN, VAL, **changes)
    torch.manual_seed(11)
    layer = torch.nn.Linear(10, 4)
    generator = torch.Generator().manual_seed(11)
    optimizer = torch.optim.Adam(layer.parameters(), lr=8e-2 / 8)  # 32 of 256 features
    features, labels = torch.from_numpy(TRAIN.features), torch.from_numpy(TRAIN.labels)
    scores, states = [], []
    for _ in range(7):
        order = torch.randperm(120, generator=generator)
        for start in range(0, 120, 32):
            rows = order[start : start + 32]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(features[rows]), labels[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            scores.append(accuracy_score(VAL.labels, layer(torch.from_numpy(VAL.features)).argmax(1)))
            states.append(layer(torch.from_numpy(TEST.features)).numpy())
    best = int(np.argmax(scores))
    assert fitted.chosen == {"epoch": best + 1}
    np.testing.assert_allclose([trial["val_top1"] for trial in fitted.trials], scores)
    np.testing.assert_allclose(fitted.logits(TEST.features), states[best], atol=1e-4)


def test_the_layer_learns_several_labels():
    train, val, test = SEVERAL
    target = MultiLabel().bind(CLASSES)
    scaler = StandardScaler().fit(train.features)
    train, val, test = (Split(scaler.transform(s.features).astype(np.float32), s.labels) for s in (train, val, test))
    fitted = fit("linear", train, val, target, base_lr=5e-2, epochs=40)
    assert average_precision_score(test.labels, fitted.logits(test.features), average="macro") > 0.6


def test_a_seed_gives_the_same_layer_and_another_seed_another():
    logits = [fit("linear", TRAIN, VAL, epochs=3, seed=seed).logits(TEST.features) for seed in (1, 1, 2)]
    assert np.array_equal(logits[0], logits[1])
    assert not np.allclose(logits[0], logits[2])


def test_training_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    fit("linear", TRAIN, VAL, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_that_is_not_finite_ends_the_training():
    with pytest.raises(TrainingError, match=r"the loss is (inf|nan) in epoch \d: lower `base_lr`"):
        fit("linear", TRAIN, VAL, base_lr=8e37, batch_size=32, epochs=5)


# Labels of another kind


@pytest.mark.parametrize("head", ["logistic", "knn"])
def test_labels_that_are_no_classes_are_for_the_layer_alone(head):
    class Shares(SingleLabel):
        name = "shares"

    train = Split(TRAIN.features, np.eye(4, dtype=np.float32)[TRAIN.labels])
    with pytest.raises(
        ConfigError, match=f"^head is {head}, which cannot learn labels of the kind shares: take linear"
    ):
        fit(head, train, VAL, Shares().bind(CLASSES))
