"""Maps of the places that an answer depends on."""

import numpy as np
import pytest
import torch
from PIL import Image

from uniemox.errors import ConfigError
from uniemox.inference.maps import make_map, occlude
from uniemox.manifests.table import Box
from uniemox.wording import one_line


def red(side=32):
    return Image.new("RGB", (side, side), (255, 0, 0))


def test_a_map_of_occlusion_peaks_where_the_model_looks(red_inside):
    heat = occlude(red_inside((4, 4, 12, 12)), red(), None, 0)
    assert heat.shape == (8, 8)
    inside = np.zeros((8, 8), bool)
    inside[:4, :4] = True  # the windows that touch its pixels reach one cell beyond
    assert np.unravel_index(heat.argmax(), heat.shape) in {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert heat[inside].min() > 0
    assert heat[~inside].max() == pytest.approx(0, abs=1e-9)
    assert occlude(red_inside((4, 4, 12, 12)), red(), None, 1).min() < -0.01  # speaks against the other class


def test_occlusion_equals_a_case_worked_by_hand(red_inside):
    """One window hides all that counts: the logit falls from 6 to 0, so the share from σ(6) to 1/2."""
    heat = occlude(red_inside((0, 0, 8, 8)), red(), None, 0)
    drop = 1 / (1 + np.exp(-6)) - 0.5
    assert heat[0, 0] == pytest.approx(drop)
    half = 1 / (1 + np.exp(-6)) - 1 / (1 + np.exp(-3))
    assert heat[0, 1] == pytest.approx((drop + half) / 2)  # covered by a window that hides all and one that hides half


@pytest.mark.slow
def test_occlusion_equals_that_of_captum(red_inside):
    from captum.attr import Occlusion  # slow to import

    predictor = red_inside((3, 7, 18, 13))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    pixels = torch.from_numpy(predictor.facts.views.of(image, None)[0])[None]

    def numbers(batch):
        return torch.from_numpy(predictor.target.numbers(predictor.backend.logits(batch[:, None].numpy())))

    found = Occlusion(numbers).attribute(
        pixels, sliding_window_shapes=(3, 8, 8), strides=(3, 4, 4), baselines=0, target=0
    )
    cells = found[0, 0].numpy()[::4, ::4]
    np.testing.assert_allclose(occlude(predictor, image, None, 0), cells, atol=1e-6)


def test_what_the_model_does_not_read_is_zero(red_inside):
    wide = Image.new("RGB", (64, 32), (255, 0, 0))
    heat = occlude(red_inside((0, 0, 32, 32)), wide, None, 0)
    assert heat.shape == (4, 8)
    assert heat[:, 0].max() == heat[:, -1].max() == 0
    assert heat[:, 3:5].min() > 0


def test_a_map_of_a_person_lies_over_the_person(red_inside):
    predictor = red_inside((0, 0, 32, 32), view="person")
    heat = occlude(predictor, red(64), Box(32, 0, 64, 32), 0)
    assert heat[:4, 4:].min() > 0
    assert np.abs(heat[5:]).max() == np.abs(heat[:, :3]).max() == 0


def test_maps_of_views_are_laid_where_the_views_are(red_inside):
    predictor = red_inside(view="both", crop_share=0.5)
    maps = np.stack([np.zeros((4, 4)), np.ones((4, 4))])
    predictor.backend.activation_maps = lambda *_: maps
    heat, name = make_map(predictor, red(64), Box(32, 0, 64, 32), 0, "layercam")
    assert (name, heat.shape) == ("layercam", (32, 32))
    assert heat[:16, 16:].min() > 0.9
    assert heat[16:].max() == heat[:, :16].max() == 0
    predictor.backend.activation_maps = lambda *_: maps[::-1]
    heat, _ = make_map(predictor, red(64), Box(32, 0, 64, 32), 0, "gradcam")
    rows, columns = heat.nonzero()
    assert {rows.min(), columns.min()} == {8}  # the centre that half of the side keeps
    assert {rows.max(), columns.max()} == {23}


def test_an_export_names_the_method_that_fits(exported):
    from uniemox.inference.predictor import Predictor

    with pytest.raises(ConfigError, match="export, whose layers `method` gradcam cannot read: use occlusion") as error:
        make_map(Predictor.load(exported), red(), None, 0, "gradcam")
    assert one_line(str(error.value)) == str(error.value)
