import colorsys
import itertools
import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as oracle
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression

from uniemox.inference import baselines
from uniemox.inference.baselines import Answer, fit_linear, measure_colours, score_baselines, shrink
from uniemox.inference.evaluate import evaluate
from uniemox.manifests.table import manifest_from_columns, write_manifest
from uniemox.targets.calibration import sigmoid, softmax
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.single_label import SingleLabel
from uniemox.train.finetune import finetune

CLASSES = ("awe", "fear", "joy")
NAMES = ["majority", "colour statistics"]


def compare(manifest, target, train="train", test="test", **options):
    """Score the baselines on a split of a manifest, by name."""
    rows = manifest.select([test])
    learnt = None if train is None else manifest.select([train])
    settings = {"test": rows, "labels": target.read_labels(rows), "train": learnt, "num_workers": 0}
    return {one.name: one for one in score_baselines(target, **settings | options)}


def solid(colour, size=(48, 40)):
    return Image.new("RGB", size, colour)


def measure(*images):
    return measure_colours(np.stack([shrink(image) for image in images]))


# Majority


def labelled(own_painted, *, train, test):
    """A manifest of given labels, or sets of them, whose images nobody reads."""
    both = [*train, *test]
    key = "label_sets" if isinstance(both[0], list) else "labels"
    return manifest_from_columns(
        own_painted.manifest.facts,
        paths=[f"absent/{place}.png" for place in range(len(both))],
        splits=["train"] * len(train) + ["test"] * len(test),
        **{key: both},
    )


def test_majority_has_the_scores_of_scikit_learns_dummy(own_painted):
    train, test = [0, 1, 1, 2, 1, 0, 1], [1, 0, 0, 2, 1]
    found = compare(labelled(own_painted, train=train, test=test), SingleLabel(CLASSES))["majority"]
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((7, 1)), train)
    told = dummy.predict(np.zeros((5, 1)))
    assert (told == 1).all()
    assert found.values["top1"] == oracle.accuracy_score(test, told) == 2 / 5
    assert found.values["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found.values["macro_f1"] == pytest.approx(oracle.f1_score(test, told, average="macro"))
    shares = dummy.predict_proba(np.zeros((5, 1)))
    assert found.values["nll"] == pytest.approx(oracle.log_loss(test, shares))
    assert found.note == "the same answer to all images, by the labels of 7 rows of train"


def test_a_class_that_train_lacks_is_never_the_answer(own_painted):
    found = compare(labelled(own_painted, train=[1, 1, 0], test=[2, 2, 1]), SingleLabel(CLASSES))["majority"]
    assert found.values["top1"] == pytest.approx(1 / 3)
    assert np.isfinite(found.values["nll"])


def test_majority_of_several_labels_answers_with_their_base_rates(own_painted):
    train, test = [[0], [0, 1], [0], [1], [0], []], [[0], [1], [0, 2], []]
    found = compare(labelled(own_painted, train=train, test=test), MultiLabel(CLASSES))["majority"]
    rates = np.array([4, 2, 0])
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]])
    shares = np.tile((rates + 1) / (6 + 2), (4, 1))
    assert found.values["mean_average_precision"] == pytest.approx(oracle.average_precision_score(truth, shares))
    assert found.values["mean_average_precision"] == pytest.approx((2 / 4 + 1 / 4 + 1 / 4) / 3)
    losses = [oracle.log_loss(truth[:, column], shares[:, column]) for column in range(3)]
    assert found.values["nll"] == pytest.approx(np.mean(losses))
    # Its own thresholds: to say yes always is the best constant answer, and what train lacks is never given.
    told = np.tile([1, 1, 0], (4, 1))
    assert found.values["macro_f1"] == pytest.approx(oracle.f1_score(truth, told, average="macro", zero_division=0))


# Colours


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (40, 90, 200)])
def test_an_image_of_one_colour_has_that_colour_everywhere(colour):
    (numbers,) = measure(solid(colour))
    assert numbers.shape == (baselines.NUM_STATISTICS,) == (66,)
    mean, deviation, percentiles = numbers[:5], numbers[5:10], numbers[10:25].reshape(5, 3)
    assert deviation == pytest.approx(np.zeros(5), abs=1e-5)
    assert percentiles == pytest.approx(mean.repeat(3).reshape(5, 3), abs=1e-5)
    hue, saturation, brightness = colorsys.rgb_to_hsv(*(part / 255 for part in colour))
    assert mean[3:] == pytest.approx([saturation, brightness], abs=1e-5)
    hues, direction, cells = numbers[25:37], numbers[37:39], numbers[39:]
    if saturation:
        assert hues[int(hue * 12)] == pytest.approx(1)
        assert direction == pytest.approx([np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)], abs=1e-5)
    else:
        assert not hues.any()
        assert not direction.any()
    red, green, blue = (3 * part // 256 for part in colour)
    assert cells[9 * red + 3 * green + blue] == cells.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("colour", "lab"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_lightness_and_opponent_colours_are_those_of_published_tables(colour, lab):
    """Of Lindbloom's calculator, sRGB under D65."""
    assert 100 * measure(solid(colour))[0, :3] == pytest.approx(lab, abs=0.05)


def test_a_half_of_each_colour_gives_means_and_shares_of_both():
    image = Image.new("RGB", (64, 64), (255, 0, 0))
    image.paste((0, 0, 0), (0, 32, 64, 64))
    (numbers,) = measure(image)
    assert numbers[4] == pytest.approx(0.5)  # brightness
    assert numbers[9] == pytest.approx(0.5)  # and its deviation
    assert numbers[22:25] == pytest.approx([0, 0, 1])  # percentiles; the median of evenly many is the lower one
    assert numbers[25] == pytest.approx(1)  # black has no hue
    assert sorted(numbers[39:])[-2:] == [0.5, 0.5]


def test_hues_are_those_of_the_standard_library():
    pixels = np.array(list(itertools.product(range(0, 256, 51), repeat=3)), dtype=np.uint8)
    ours = np.stack(baselines._hsv(pixels), axis=1)[:, [0, 2, 3]]
    theirs = [colorsys.rgb_to_hsv(*pixel) for pixel in (pixels / 255).tolist()]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_images_measured_together_are_measured_each():
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(3)]
    np.testing.assert_allclose(measure(*images), np.concatenate([measure(image) for image in images]), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (3000, 2)])
def test_images_of_any_shape_are_measured(size):
    usual, odd = measure(solid((10, 200, 30)), solid((10, 200, 30), size))
    assert odd == pytest.approx(usual, abs=1e-6)


# The linear model


def drawn(seed, count, width):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, width))
    return features, generator


def test_one_label_is_scikit_learns_logistic_regression():
    features, generator = drawn(0, 300, 6)
    labels = (features[:, :3] + generator.normal(size=(300, 3))).argmax(1)
    ours = softmax(fit_linear(SingleLabel(CLASSES), features, labels)(features))
    theirs = LogisticRegression(C=baselines.INVERSE_STRENGTH, tol=1e-8, max_iter=1000).fit(features, labels)
    np.testing.assert_allclose(ours, theirs.predict_proba(features), atol=1e-3)


def test_several_labels_are_a_regression_each():
    features, generator = drawn(1, 300, 5)
    labels = features[:, :3] + generator.normal(size=(300, 3)) > 0.5
    ours = sigmoid(fit_linear(MultiLabel(CLASSES), features, labels)(features))
    # The loss is the mean over classes, which the penalty is not.
    theirs = LogisticRegression(C=baselines.INVERSE_STRENGTH / 3, tol=1e-8, max_iter=1000)
    for column in range(3):
        fitted = theirs.fit(features, labels[:, column])
        np.testing.assert_allclose(ours[:, column], fitted.predict_proba(features)[:, 1], atol=1e-3)


def test_colour_is_the_regression_on_the_statistics_of_the_images(painted):
    found = compare(painted.manifest, SingleLabel(CLASSES))["colour statistics"]
    statistics, labels = {}, {}
    for split in ("train", "test"):
        rows = painted.manifest.select([split])
        statistics[split] = measure(*(Image.open(rows.row(i).path) for i in range(len(rows))))
        labels[split] = rows.labels
    mean, deviation = statistics["train"].mean(0), statistics["train"].std(0)
    deviation[deviation < 1e-6] = 1
    features = {split: (numbers - mean) / deviation for split, numbers in statistics.items()}
    oracles = LogisticRegression(C=baselines.INVERSE_STRENGTH, tol=1e-8, max_iter=5000)
    told = oracles.fit(features["train"], labels["train"]).predict_proba(features["test"])
    assert found.values["top1"] == pytest.approx(oracle.accuracy_score(labels["test"], told.argmax(1)))
    assert found.values["top1"] >= 6 / 7  # colours are all that differs, and one of seven shows nobody
    assert found.values["nll"] == pytest.approx(oracle.log_loss(labels["test"], told), rel=0.02)
    assert found.note == "a linear model of 66 numbers of each image, fitted on 24 images of train"


def test_threads_change_nothing(painted):
    alone, together = (compare(painted.manifest, SingleLabel(CLASSES), num_workers=number) for number in (0, 3))
    assert alone == together


def test_a_few_images_of_many_are_read_and_said_to_be(painted, monkeypatch):
    monkeypatch.setattr(baselines, "MAX_FITTED", 12)
    monkeypatch.setattr(baselines, "MAX_ANSWERED", 5)
    found = compare(painted.manifest, SingleLabel(CLASSES))["colour statistics"]
    expected = "fitted on 12 of 24 images of train; scored on 5 of 7 images"
    assert found.note == f"a linear model of 66 numbers of each image, {expected}"
    assert found.values["top1"] * 5 == pytest.approx(round(found.values["top1"] * 5))


# What there is not


def test_images_that_cannot_be_read_are_skipped_and_counted(own_painted):
    for split, place in (("train", 0), ("train", 5), ("test", 2)):
        own_painted.manifest.select([split]).row(place).path.write_bytes(b"")
    found = compare(own_painted.manifest, SingleLabel(CLASSES))["colour statistics"]
    expected = "22 of 24 images (2 cannot be read) of train; scored on 6 of 7 images (1 cannot be read)"
    assert found.note.endswith(f"fitted on {expected}")
    assert found.values["top1"] * 6 == pytest.approx(round(found.values["top1"] * 6))


def test_a_train_split_of_nothing_readable_leaves_majority_alone(own_painted):
    found = compare(labelled(own_painted, train=[0, 1, 1], test=[1, 0]), SingleLabel(CLASSES))
    assert found["majority"].values["top1"] == 0.5
    assert found["colour statistics"].values == {}
    assert found["colour statistics"].note.startswith("none of the images can be read: ")
    assert "absent/0.png: no such file" in found["colour statistics"].note.lower()


def test_without_train_both_are_omitted_and_say_why(painted):
    found = compare(painted.manifest, SingleLabel(CLASSES), train=None)
    for name in NAMES:
        assert found[name].values == {}
        assert found[name].note == "the manifest has no split train to learn from"


def test_a_train_split_of_another_kind_of_labels_is_a_reason(own_painted):
    manifest = labelled(own_painted, train=[[0, 1], [1]], test=[[0], [1]])
    single = replace(SingleLabel(CLASSES))
    rows = manifest.select(["test"])
    found = score_baselines(single, test=rows, labels=np.array([0, 1]), train=manifest.select(["train"]), num_workers=0)
    assert [one.values for one in found] == [{}, {}]
    assert all("several labels to one row" in one.note for one in found)


# Kinds of the user's own


@dataclass(frozen=True)
class Levels(SingleLabel):
    """The classes as levels: learns by the squared error of the expected one, and has no prior of its own."""

    name = "levels"

    def prior(self, labels):
        del labels

    def loss(self, logits, softened):
        levels = torch.arange(logits.shape[1], dtype=torch.float32)
        return (((logits.softmax(1) - softened) @ levels) ** 2).mean()


def test_a_kind_of_the_users_own_is_fitted_by_its_loss(own_painted):
    train = [0, 0, 2, 1, 2, 2]
    levels = Levels(CLASSES)
    bias = fit_linear(levels, np.empty((6, 0)), np.array(train)).bias
    assert softmax(bias[None])[0] @ [0, 1, 2] == pytest.approx(np.mean(train), abs=1e-3)
    found = compare(labelled(own_painted, train=train, test=[2, 0]), levels)["majority"]
    assert set(found.values) == {metric.name for metric in levels.metrics}


class Untrainable(Levels):
    """Scores logits of others."""

    def loss(self, logits, softened):
        raise NotImplementedError


class Diverging(Levels):
    """Has a loss without a minimum."""

    def loss(self, logits, softened):
        return torch.log(logits.mean())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Untrainable, "levels has no loss to fit it by"), (Diverging, "led the fit to numbers that are not finite")],
)
def test_what_a_kind_cannot_have_is_omitted_in_a_line(painted, kind, reason):
    for one in compare(painted.manifest, kind(CLASSES)).values():
        assert one.values == {}
        assert reason in one.note


# More of them


def test_a_further_baseline_is_scored_like_the_others(painted):
    def answer(question):
        truth = question.target.read_labels(question.test)
        return Answer(10.0 * np.eye(3)[truth][:4], np.arange(4), question.target, "cheats")

    found = compare(painted.manifest, SingleLabel(CLASSES), more={"oracle": answer, "no": lambda question: "no text"})
    assert list(found) == [*NAMES, "oracle", "no"]
    assert found["oracle"].values["top1"] == 1
    assert found["oracle"].note == "cheats"
    assert (found["no"].values, found["no"].note) == ({}, "no text")


def test_numbers_that_are_not_finite_fail_no_evaluation(painted):
    def answer(question):
        return Answer(np.full((7, 3), np.nan), np.arange(7), question.target, "")

    found = compare(painted.manifest, SingleLabel(CLASSES), more={"broken": answer})["broken"]
    assert found.values == {}
    assert "not finite" in found.note


# In an evaluation


def test_an_evaluation_has_them_on_the_images_that_the_model_read(finetuned, own_painted, tmp_path):
    own_painted.manifest.select(["test"]).row(3).path.write_bytes(b"")
    options = {"data": own_painted.path, "device": "cpu", "num_workers": 0}
    report = evaluate(str(finetuned.model), out=tmp_path / "out", **options)
    majority, colour, teacher = report.baselines
    assert teacher.name == "zero-shot of clip:tiny_clip"  # which was trained from a folder that is not at hand by name
    assert teacher.note.startswith("its weights are not at hand (")
    read = np.delete(own_painted.manifest.select(["test"]).labels, 3)
    assert majority.values["top1"] == pytest.approx(np.mean(read == 0))  # the first of equals in train
    assert colour.note == "a linear model of 66 numbers of each image, fitted on 24 images of train"
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [one["name"] for one in saved["baselines"]] == [*NAMES, teacher.name]
    assert saved["baselines"][1]["scores"] == colour.values
    assert SingleLabel().scores_from_dict(saved) == report
    alone = evaluate(str(finetuned.model), baselines=False, **options)
    assert alone.baselines == ()
    assert replace(report, baselines=()) == alone


def test_an_evaluation_of_a_manifest_of_a_test_alone_says_why_there_are_none(finetuned, painted, tmp_path):
    write_manifest(painted.manifest.select(["test"]), tmp_path / "test.parquet")
    report = evaluate(str(finetuned.model), data=tmp_path / "test.parquet", device="cpu", num_workers=0)
    assert report.compared == []
    without, teacher = report.notes
    assert without == "Majority and colour statistics omitted: the manifest has no split train to learn from."
    assert teacher.startswith("Zero-shot of clip:tiny_clip omitted: its weights are not at hand (")


def test_fine_tuning_has_them_beside_its_test_unless_they_are_not_wanted(finetune_config, tmp_path, heard):
    config = finetune_config(tmp_path / "with", optim={"epochs": 1})
    finetune(config, heard)
    saved = json.loads((config.out / "test" / "report.json").read_text())
    assert [one["name"] for one in saved["baselines"]] == NAMES
    lines = [text for text in heard.texts if text.startswith("test: ")]
    for one in saved["baselines"]:
        assert f"test: {one['name']} top-1 {one['scores']['top1']:.4f}, balanced acc" in "\n".join(lines)
    heard.clear()
    finetune(replace(config, out=tmp_path / "without", baselines=False), heard)
    assert json.loads((tmp_path / "without" / "test" / "report.json").read_text())["baselines"] == []
    assert "majority" not in "".join(heard.texts)
