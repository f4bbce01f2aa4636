import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy

from uniemox.errors import ConfigError
from uniemox.targets.distribution import Distribution
from uniemox.targets.kinds import build_target
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.single_label import SingleLabel
from uniemox.targets.valence_arousal import ValenceArousal
from uniemox.targets.weights import BETA, weigh_classes

CLASSES = ("awe", "fear", "joy")
LABELS = np.array([0] * 60 + [1] * 30 + [2] * 10)


def test_balanced_weights_are_those_of_scikit_learn():
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert weigh_classes(np.bincount(LABELS), "balanced") == pytest.approx(theirs.tolist())


def test_effective_weights_are_those_of_a_hand_worked_case():
    numbers = [(1 - BETA**count) / (1 - BETA) for count in (1, 100, 5000)]
    assert numbers[0] == pytest.approx(1)  # one sample is one sample
    expected = np.array([1 / number for number in numbers])
    assert weigh_classes(np.array([1, 100, 5000]), "effective") == pytest.approx((expected / expected.mean()).tolist())


@pytest.mark.parametrize("how", ["balanced", "effective"])
def test_classes_that_occur_alike_weigh_alike_and_an_absent_one_changes_nothing(how):
    assert weigh_classes(np.array([7, 7, 0, 7]), how) == pytest.approx([1, 1, 1, 1])


def test_no_weights_are_none():
    assert weigh_classes(np.array([1, 2]), "none") == ()


def test_a_weighted_loss_is_torchs():
    target = SingleLabel(CLASSES).weigh("balanced", LABELS)
    logits, labels = torch.randn(8, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])
    theirs = cross_entropy(logits, labels, torch.tensor(target.weights), reduction="none").mean()
    assert target.loss(logits, target.soften(labels, 0.0)).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_weights_scale_the_term_of_each_class():
    yes = torch.eye(3)
    for target in (MultiLabel(CLASSES), Distribution(CLASSES)):
        labels = np.eye(3)[LABELS].astype(target.labels_kind)
        weighed = target.weigh("balanced", labels)
        assert weighed.weights == pytest.approx(weigh_classes(np.bincount(LABELS), "balanced"))
        gradients = []
        for one in (target, weighed):
            logits = torch.zeros(3, 3, requires_grad=True)
            one.loss(logits, yes).backward()
            gradients.append(logits.grad.diagonal())
        ratio = (gradients[1] / gradients[0]).tolist()
        assert ratio[2] > ratio[1] > ratio[0]  # the rarer, the more


def test_weights_are_no_part_of_a_folder():
    weighed = SingleLabel(CLASSES).weigh("balanced", LABELS)
    assert weighed.to_facts() == SingleLabel(CLASSES).to_facts()


def test_what_has_no_classes_cannot_be_weighed():
    with pytest.raises(ConfigError, match="class_weights is balanced, but target valence_arousal has no classes"):
        ValenceArousal(("valence",)).weigh("balanced", np.zeros((3, 1)))
    assert ValenceArousal(("valence",)).weigh("none", np.zeros((3, 1))) == ValenceArousal(("valence",))


def test_of_several_kinds_those_with_classes_are_weighed():
    target = build_target(("single_label", "valence_arousal")).bind((*CLASSES, "valence"), {"outputs": (3, 1)})
    labels = np.concatenate([LABELS[:, None], np.zeros((len(LABELS), 1))], axis=1).astype(np.float32)
    assert target.weigh("balanced", labels).parts[0].weights == SingleLabel(CLASSES).weigh("balanced", LABELS).weights
