from dataclasses import replace

import numpy as np
import torch

from uniemox.compute.devices import build_accelerator
from uniemox.config.people import PersonConfig
from uniemox.data.pixels import EvaluationViews
from uniemox.inference.outputs import Outputs, compute_outputs
from uniemox.targets.intervals import Groups
from uniemox.targets.multi_label import MultiLabel
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
