import json

import numpy as np
import pytest

from uniemox.errors import DataError
from uniemox.inference.evaluate import evaluate
from uniemox.inference.slices import score_slices
from uniemox.targets.single_label import SingleLabel
from uniemox.targets.valence_arousal import ValenceArousal

TARGET = SingleLabel(tuple("ab"))


def answers(right):
    """Logits that answer as told, for labels that alternate."""
    labels = np.arange(len(right)) % 2
    given = np.where(right, labels, 1 - labels)
    return 3 * np.eye(2, dtype=np.float32)[given], labels


def slices_of(right, members, groups=None, **options):
    logits, labels = answers(np.asarray(right))
    masks = {name: np.isin(np.arange(len(right)), list(own)) for name, own in members.items()}
    return score_slices(TARGET, logits, labels, masks, groups, column="scene", **options)


def test_a_slice_is_scored_as_if_it_were_all():
    generator = np.random.default_rng(0)
    right = generator.random(200) < 0.7
    found = slices_of(right, {"one": range(80), "two": range(80, 200)})
    logits, labels = answers(right)
    for one, own in zip(found.slices, (slice(0, 80), slice(80, 200)), strict=True):
        alone = TARGET.score(logits[own], labels[own])
        assert one.values["top1"] == alone.top1 == pytest.approx(right[own].mean())
        assert one.intervals["top1"] == alone.intervals["top1"]
        assert one.num_samples == one.num_units == len(labels[own])
    assert found.whole == pytest.approx(right.mean())
    assert not found.overlaps


def test_the_largest_gap_is_between_the_slices_that_are_farthest_apart():
    right = [True] * 95 + [False] * 5 + [True] * 50 + [False] * 50 + [True] * 70 + [False] * 30
    found = slices_of(right, {"high": range(100), "low": range(100, 200), "middle": range(200, 300)})
    assert (found.gap.low, found.gap.high, found.gap.pairs) == ("low", "high", 3)
    assert found.gap.value == pytest.approx(0.45)
    assert 0 < found.gap.interval.low < 0.45 < found.gap.interval.high < 0.7
    # By hand: the deviation of a difference of shares, and Bonferroni's quantile of three pairs.
    half = 2.42 * np.sqrt(0.95 * 0.05 / 100 + 0.5 * 0.5 / 100)
    assert found.gap.interval.low == pytest.approx(0.45 - half, abs=0.02)


def test_small_slices_are_marked_and_not_compared():
    found = slices_of([True] * 100 + [False] * 29, {"large": range(100), "small": range(100, 129)})
    assert [one.is_small for one in found.slices] == [False, True]
    assert found.gap is None
    groups = np.repeat(np.arange(43), 3)  # as few units as 33 and 10
    grouped = slices_of([True] * 129, {"large": range(100), "small": range(100, 129)}, groups)
    assert [one.num_units for one in grouped.slices] == [34, 10]


def test_groups_that_both_slices_share_are_resampled_together():
    # Each group has a row in both slices, and both are right or wrong: the slices never differ.
    right = np.repeat(np.random.default_rng(0).random(100) < 0.5, 4)
    groups = np.repeat(np.arange(100), 4)
    even = np.arange(400) % 4 < 2
    members = {"even": np.flatnonzero(even), "odd": np.flatnonzero(~even)}
    together, alone = slices_of(right, members, groups), slices_of(right, members)
    assert together.gap.value == alone.gap.value == 0
    assert np.ptp(together.gap.interval) < np.ptp(alone.gap.interval) / 2


def test_a_sample_may_be_in_several_slices():
    found = slices_of([True] * 80, {"one": range(60), "two": range(40, 80), "none": ()})
    assert found.overlaps
    assert [one.num_samples for one in found.slices] == [60, 40]
    assert "An image is in each slice whose value it has." in found.text


@pytest.mark.slow
def test_equal_slices_show_a_gap_as_seldom_as_it_says():
    generator, false, rounds = np.random.default_rng(1), 0, 200
    members = {str(place): range(60 * place, 60 * place + 60) for place in range(5)}
    for _ in range(rounds):
        low, high = slices_of(generator.random(300) < 0.7, members, num_resamples=300).gap.interval
        false += not low <= 0 <= high
    assert false / rounds <= 0.08


def test_ratings_are_sliced_too():
    generator = np.random.default_rng(0)
    labels = generator.uniform(-1, 1, (100, 2)).astype(np.float32)
    masks = {"one": np.arange(100) < 50, "two": np.arange(100) >= 50}
    target = ValenceArousal(("valence", "arousal"))
    found = score_slices(target, labels + generator.normal(0, 0.3, (100, 2)), labels, masks, column="scene")
    assert found.metrics[0][0] in found.slices[0].values
    assert found.gap is not None


def test_an_evaluation_has_slices_of_every_column_that_is_asked_for(finetuned, painted, tmp_path):
    settings = {"device": "cpu", "num_workers": 0, "baselines": False, "out": tmp_path / "out"}
    report = evaluate(str(finetuned.model), data=painted.path, by=["scene", "people", "label"], **settings)
    assert [one.column for one in report.slices] == ["scene", "people", "label"]
    scene, people, label = ({one.name: one.num_samples for one in each.slices} for each in report.slices)
    assert scene == {"field": 3, "room": 4}
    assert people == {"nobody": 1, "1 person": 6}
    assert label == {"awe": 3, "fear": 2, "joy": 2}
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert SingleLabel().scores_from_dict(saved) == report
    assert SingleLabel().scores_from_dict(saved).slices == report.slices


def test_an_unknown_column_is_refused_before_the_model_runs(finetuned, painted, monkeypatch):
    monkeypatch.setattr("uniemox.inference.evaluate.compute_outputs", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(DataError, match="has no column mood"):
        evaluate(str(finetuned.model), data=painted.path, by=["mood"], device="cpu", num_workers=0)
