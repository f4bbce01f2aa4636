import numpy as np
import pytest
from scipy.special import softmax

from uniemox.targets.distribution import Distribution
from uniemox.targets.single_label import SingleLabel


@pytest.mark.parametrize("kind", [SingleLabel, Distribution])
def test_one_label_and_shares_answer_alike(kind):
    target, logits = kind(("awe", "fear", "joy")), np.random.default_rng(0).normal(size=(9, 3))
    assert np.allclose(target.numbers(logits), softmax(logits, axis=1))
    assert target.decisions(logits).tolist() == logits.argmax(1).tolist()
    for answer, row in zip(target.answers(logits), softmax(logits, axis=1), strict=True):
        assert answer["predicted"] == target.classes[row.argmax()]
        assert list(answer["probabilities"].values()) == pytest.approx(row.tolist())
