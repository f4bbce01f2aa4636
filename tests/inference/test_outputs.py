from dataclasses import replace

import numpy as np
import pytest
import torch

from uniemox.compute.devices import build_accelerator
from uniemox.config.people import PersonConfig
from uniemox.data.pixels import EvaluationViews
from uniemox.inference.outputs import Outputs, compute_outputs
from uniemox.manifests.table import Box
from uniemox.targets.intervals import Groups
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.pairs import paired_differences
from uniemox.targets.single_label import SingleLabel

CLASSES = ("awe", "fear", "joy")


def test_the_model_is_run_as_in_use_and_without_gradients(painted):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(1, 3)
            self.seen = []

        def forward(self, pixels):
            self.seen.append((self.training, torch.is_grad_enabled(), pixels.shape[0]))
            return self.head(pixels.mean((1, 2, 3))[:, None])

    model = Model().train()
    manifest = painted.manifest.select(["test"])
    outputs = compute_outputs(
        model,
        manifest,
        views=EvaluationViews(size=32, view="scene", person=PersonConfig()),
        accelerator=build_accelerator("cpu"),
        batch_size=4,
        num_workers=0,
        target=SingleLabel(CLASSES),
        precision="fp32",
    )
    assert model.seen == [(False, False, 4), (False, False, 3)]
    assert outputs.rows.tolist() == list(range(7))
    assert (outputs.labels == manifest.labels).all()
    assert outputs.logits.shape == (7, 3)


def outputs_of(logits, labels, target, rows=None):
    logits, labels = np.array(logits, np.float32), np.array(labels)
    rows = np.arange(len(logits)) if rows is None else rows
    return Outputs(logits, labels, rows, (None,) * len(rows), (), target, "fp32")


def test_two_precisions_agree_where_the_likeliest_class_stays():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(200, 4)), generator.integers(0, 4, 200)
    ours = outputs_of(logits, labels, SingleLabel(tuple("abcd")))
    assert ours.agreement(ours) == 1
    others = logits.copy()
    others[:30] = np.roll(others[:30], 1, axis=1)  # another class for each of these
    assert ours.agreement(outputs_of(others, labels, SingleLabel(tuple("abcd")))) == 0.85
    assert ours.agreement(outputs_of(3 * logits, labels, SingleLabel(tuple("abcd")))) == 1
    few = np.arange(30, 200)  # the others could not be read this time
    assert ours.agreement(outputs_of(others[30:], labels[30:], SingleLabel(tuple("abcd")), few)) == 1


def test_two_precisions_agree_on_several_labels_by_what_is_given():
    labels = np.zeros((100, 3), bool)
    labels[:40, 0] = labels[:10, 1] = True
    logits = np.where(labels, 4.0, -4.0)
    ours = outputs_of(logits, labels, MultiLabel(CLASSES))
    assert ours.agreement(ours) == 1
    others = logits.copy()
    others[0, 0] = -4.0  # given no more
    others[50, 0] = 4.0  # given now
    # 50 are given here and 50 there, 49 by both; the 250 given by nobody do not count
    assert ours.agreement(outputs_of(others, labels, MultiLabel(CLASSES))) == 49 / 51


def test_answers_to_rows_of_a_group_are_resampled_together():
    logits, labels = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 3
    rows = np.delete(np.arange(80), slice(10, 30))  # the others could not be read
    target, codes = SingleLabel(CLASSES), np.arange(80) // 4
    outputs = replace(outputs_of(logits, labels, target, rows), groups=Groups(codes, "image"))
    found = outputs.score()
    assert found.resampled == "16 images"  # two of which have lost some of their rows
    assert found.intervals == target.score(outputs.logits, labels, groups=codes[rows]).intervals
    assert found.intervals != target.score(outputs.logits, labels).intervals


def answered(logits, labels, *, rows=None, boxes=None, groups=None):
    """Answers to all rows, or to some of them."""
    rows = np.arange(len(labels)) if rows is None else rows
    boxes = (None,) * len(rows) if boxes is None else tuple(boxes[row] for row in rows)
    return Outputs(logits[rows], labels[rows], rows, boxes, (), SingleLabel(CLASSES), "fp32", groups)


def test_confidence_before_the_temperature_is_that_of_the_outputs_as_they_were():
    generator = np.random.default_rng(0)
    raw, labels = generator.normal(size=(50, 3)), generator.integers(0, 3, 50)
    temperatures = np.array([2.0, 2.0, 2.0])
    outputs = answered(raw / temperatures, labels)
    before, after = SingleLabel(CLASSES).score(raw, labels), outputs.score()
    found = outputs.before(temperatures)
    assert found.temperatures == (2.0,)
    assert found.bins == before.bins
    values = {one.title: (one.before, one.after) for one in found.metrics}
    assert values == {
        "calibration error": (before.ece, after.ece),
        "negative log likelihood": (before.nll, after.nll),
        "Brier score": (before.brier, after.brier),
    }


def test_what_the_person_adds_is_the_paired_difference_on_the_rows_that_both_read():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 90)
    truth = np.eye(3)[labels]
    logits = {share: generator.normal(size=(90, 3)) + share * truth for share in (1.5, 0.5)}
    boxes = [Box(0, 0, 9, 9) if row % 3 else None for row in range(90)]
    groups = Groups(np.arange(90) // 2, "image")
    with_person = answered(logits[1.5], labels, rows=np.arange(1, 90), boxes=boxes, groups=groups)
    without = answered(logits[0.5], labels, rows=np.arange(0, 89), groups=groups)
    found = with_person.against(without)
    both = np.arange(1, 89)
    target = SingleLabel(CLASSES)
    numbers = [target.numbers(logits[share][both]) for share in (0.5, 1.5)]
    differences = paired_differences(target, *numbers, labels[both], groups.codes[both])
    scores = [target.score_numbers(one, labels[both], num_resamples=0) for one in numbers]
    assert (found.num_samples, found.num_with_person) == (88, sum(boxes[row] is not None for row in both))
    assert [gain.name for gain in found.gains] == ["top1", "balanced_accuracy", "macro_f1", "weighted_f1"]
    for gain in found.gains:
        assert (gain.without, gain.value) == tuple(one.values[gain.name] for one in scores)
        assert (gain.difference, gain.interval) == differences[gain.name][:2]
        assert gain.difference == pytest.approx(gain.value - gain.without)


def test_a_person_that_changes_nothing_adds_nothing_and_one_group_has_no_interval():
    labels = np.arange(30) % 3
    logits = np.random.default_rng(2).normal(size=(30, 3))
    alike = Groups(np.zeros(30, int), "group")
    same, one_group = (answered(logits, labels, groups=groups) for groups in (None, alike))
    assert all(
        gain.difference == 0 and gain.interval.low <= 0 <= gain.interval.high for gain in same.against(same).gains
    )
    assert {gain.interval for gain in one_group.against(one_group).gains} == {None}
