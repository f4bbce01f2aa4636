"""A model whose answer is known from its pixels, for what explains answers."""

import types

import numpy as np
import pytest

from uniemox.config.people import PersonConfig
from uniemox.data.pixels import EvaluationViews, Preparation
from uniemox.inference.predictor import Predictor


class RedInside:
    """A backend whose first logit is how red a rectangle of the first view is, and whose second one is 0."""

    def __init__(self, inside, *, side, view, crop_share):
        preparation = Preparation(side, crop_share=crop_share, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        views = EvaluationViews(size=side, view=view, person=PersonConfig(margin=0), preparation=preparation)
        target = {"classes": ("red", "other"), "target": "single_label", "kept": {}}
        self.facts = types.SimpleNamespace(views=views, view=view, person=views.person, image_size=side, **target)
        self.domain, self.inside = None, inside

    def logits(self, pixels):
        left, top, right, bottom = self.inside
        red = pixels[:, 0, 0, top:bottom, left:right].mean((1, 2))
        return np.stack([6 * red, np.zeros_like(red)], 1)

    def outputs(self, pixels):
        return self.logits(pixels), None


@pytest.fixture
def red_inside():
    """Make a predictor that sees the red of a rectangle (left, top, right, bottom) of what it reads."""

    def make(inside=(4, 4, 12, 12), *, side=32, view="scene", crop_share=1.0):
        return Predictor(RedInside(inside, side=side, view=view, crop_share=crop_share))

    return make
