import io
import math
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from uniemox.errors import DataError
from uniemox.report import charts
from uniemox.targets.scores import Curve, Interval, Ranges
from uniemox.targets.single_label import SingleLabel


def evaluate_predictions(probabilities, labels, classes):
    return SingleLabel(tuple(classes)).score_numbers(probabilities, labels)


HOSTILE = ("<script>", "$x^{", "恐れ", "a\"b'c&d", "long " * 20, "\x00tab\tline\n\udcff", "$\\frac{a}$")
STEPS = range(1, 101)


def report(classes=HOSTILE, num_samples=120):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(classes), num_samples)
    labels[labels == len(classes) - 1] = 0  # the last class has no sample
    return evaluate_predictions(rng.dirichlet(np.ones(len(classes)), num_samples), labels, classes)


def bars(scored):
    _, parts = scored.display.panels[0]
    return parts[0]


def texts(svg):
    """Every text of a chart; fails where the chart is no well-formed XML."""
    tree = ElementTree.fromstring(svg)
    return [node.text for node in tree.iter("{http://www.w3.org/2000/svg}text")]


def open_picture(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def plain(colour, height=32, width=32):
    return np.full((height, width, 3), colour, dtype=np.uint8)


@pytest.mark.parametrize(
    "draw",
    [lambda scored: charts.confusion(scored.matrix), lambda scored: charts.class_bars(bars(scored))],
    ids=["confusion", "per class"],
)
def test_charts_of_classes_hold_any_name_as_it_is(draw):
    shown = texts(draw(report()))
    for name in ("<script>", "$x^{", "恐れ", "a\"b'c&d", "$\\frac{a}$"):
        assert name in shown
    assert "\\x00tab line \\udcff" in shown
    assert max(map(len, shown)) <= 28


def test_a_confusion_matrix_shows_shares_and_numbers_while_there_is_room():
    few, many = report(("a", "b", "c")), report([f"c{i}" for i in range(20)])
    shown = texts(charts.confusion(few.matrix, "Title"))
    assert "Title" in shown
    assert str(few.confusion[0, 0]) in shown
    assert f"{100 * few.confusion[0, 0] / few.support[0]:.0f} %" in shown
    assert not any("%" in text for text in texts(charts.confusion(many.matrix)))


def test_reliability_says_the_error():
    scored = report(("a", "b", "c"))
    _, parts = scored.display.panels[1]
    calibration = parts[1]
    assert f"calibration error {scored.ece:.3f}" in texts(charts.reliability(calibration))


def test_reliability_rings_what_was_before_the_temperature():
    scored = report(("a", "b", "c"))
    calibration = scored.calibration("confidence", "accuracy", "samples")
    before = [part for part in scored.bins if part.samples]
    rings = [charts.reliability(calibration._replace(before=bins)).count(charts.RUST.encode()) for bins in ((), before)]
    assert rings[0] == 0 < rings[1]


def test_a_curve_names_its_axes_and_draws_the_line_for_comparison():
    points = [(0.25, 1.0), (0.5, 0.9), (1.0, 0.6)]
    curve = Curve("surest", ("share answered", "accuracy"), points, 0.6, "alt", "caption")
    svg = charts.curve(curve)
    assert {"surest", "share answered", "accuracy"} <= set(texts(svg))
    assert svg.count(b"stroke-dasharray") >= 1
    assert texts(charts.curve(curve._replace(points=[(1.0, 0.6)])))


def test_equal_charts_are_equal_bytes():
    scored = report(("a", "b", "c"))
    assert charts.confusion(scored.matrix) == charts.confusion(scored.matrix)


def test_loss_curves_draw_each_term_once_in_the_order_of_the_objective():
    lines = [
        {"step": step, "reconstruction": 1 / step, "loss": 2 / step, "lr": 0.1, "zest": 1.0,
         "images_per_second": 9.0, "note": "text", "none": None}
        for step in STEPS
    ]  # fmt: skip
    titles = {"loss", "reconstruction", "zest", "lr", "images per second", "note", "none"}
    shown = [text for text in texts(charts.loss_curves(lines)) if text in titles]
    assert shown == ["loss", "reconstruction", "zest"]
    assert "lr" in texts(charts.loss_curves(lines, terms=["lr"]))


def test_loss_curves_pass_over_lines_without_the_term_and_values_that_are_not_finite():
    lines = [{"step": step, "loss": float(step)} for step in STEPS]
    gaps = [*lines, {"step": 7, "loss": math.nan}, {"epoch": 1}, {"step": 8, "loss": math.inf}]
    assert charts.loss_curves(gaps, terms=["loss"]) == charts.loss_curves(lines, terms=["loss"])


def test_a_curve_of_one_point_shows_it():
    one, none = ([{"step": 4, "loss": value}] for value in (1.5, math.nan))
    assert len(charts.loss_curves(one)) > len(charts.loss_curves(none, terms=["loss"]))
    assert b"<use " in charts.loss_curves(one).split(b'id="line2d')[-1]


def test_a_curve_of_one_step_marks_no_part_of_a_step():
    shown = texts(charts.loss_curves([{"step": 1, "loss": 0.5}], titles={"loss": "What is lost"}))
    assert "1" in shown
    assert not {"0.96", "0.99", "1.02", "1.05"} & set(shown)
    assert "What is lost" in shown


def test_loss_curves_of_two_runs_name_them_and_leave_the_empty_place_empty():
    first = [{"step": s, **dict.fromkeys("abcde", 1.0 / s)} for s in STEPS]
    shown = texts(charts.loss_curves({"mini": first, "$random$": first[:50]}))
    assert {"mini", "$random$", *"abcde"} <= set(shown)


@pytest.mark.parametrize("lines", [[], [{"event": "start"}]])
def test_a_run_without_steps_has_no_curve(lines):
    with pytest.raises(DataError, match="no curve to draw"):
        charts.loss_curves(lines)


def test_smoothing_keeps_a_straight_line_and_calms_noise():
    line = np.linspace(3, -1, 205)
    np.testing.assert_allclose(charts._smooth(line), line)
    noise = np.random.default_rng(0).normal(size=400)
    assert charts._smooth(noise).std() < 0.5 * noise.std()
    assert charts._smooth(noise[:5]).tolist() == pytest.approx(noise[:5].tolist())


def test_comparison_bars_show_every_name_condition_and_value():
    rows = [
        charts.ScoreBar("mini", "pairs", 0.75, 0.7, 0.8),
        charts.ScoreBar("majority", "pairs", 0.17),
        charts.ScoreBar("mini", "characters", 0.41, 0.3, 0.5),
    ]
    shown = texts(charts.comparison_bars(rows))
    assert {"mini", "majority", "pairs", "characters", "0.75", "0.17", "0.41"} <= set(shown)


def test_hide_covers_hidden_patches_and_leaves_the_others():
    picture = np.random.default_rng(0).integers(0, 200, (12, 16, 3), dtype=np.uint8)
    hidden = np.array([[True, False], [False, False]])
    seen = charts.hide(picture, hidden)
    assert (seen[:6, :8] == charts.HIDDEN).all()
    np.testing.assert_array_equal(seen[6:], picture[6:])
    np.testing.assert_array_equal(seen[:, 8:], picture[:, 8:])


def test_a_grid_shows_the_images_of_each_row_in_order():
    colours = ([200, 30, 30], [30, 160, 30], [30, 30, 200])
    triple = tuple(plain(colour) for colour in colours)
    for number in (1, 3):
        sheet = open_picture(
            charts.image_grid(("seen", "predicted", "original"), [triple] * number, side=144, groups=2)
        )
        middles = [2 * (150 * i + 72) for i in range(3)]
        for x, colour in zip(middles, colours, strict=True):
            assert abs(sheet[2 * (26 + 72), x] - colour).max() < 12
        assert sheet.shape[0] == 2 * (26 + 150 * math.ceil(number / 2) - 6)
        second_group = sheet[2 * (26 + 72), 2 * (3 * 150 + 24 + 72)]
        assert (abs(second_group - colours[0]).max() < 12) == (number == 3)


def test_a_box_is_drawn_on_the_first_image_of_its_row():
    scene, person = plain([40, 90, 160], 100, 200), plain([160, 160, 40], 50, 50)
    boxed, bare = (
        open_picture(charts.image_grid(("scene", "person"), [(scene, person)], boxes=boxes, side=216))
        for boxes in ([(50, 20, 150, 80)], ())
    )
    scale, top = 216 / 200, 26 + 54  # the scene is centred in a square of 216
    rust = np.array([0xC0, 0x56, 0x38])
    for x, y in [(50, 50), (150, 50), (100, 20), (100, 80)]:
        column, row = round(2 * scale * x), round(2 * (top + scale * y))
        assert abs(boxed[row, column] - rust).max() < 40
        assert abs(bare[row, column] - [40, 90, 160]).max() < 12
    assert abs(boxed[2 * (26 + 108), 2 * (222 + 108)] - [160, 160, 40]).max() < 12


def test_an_image_of_another_type_is_a_mistake():
    with pytest.raises(AssertionError, match="float64"):
        charts.image_grid(("a",), [(np.ones((4, 4, 3)),)], side=9)


@pytest.mark.parametrize(("height", "width", "size"), [(600, 300, (120, 240)), (20, 30, (30, 20))])
def test_a_thumbnail_is_small_and_keeps_its_shape(height, width, size):
    data = charts.thumbnail(plain(120, height, width))
    image = Image.open(io.BytesIO(data))
    assert image.size == size
    assert image.format == "WEBP"


def test_charts_leave_pyplot_and_the_style_of_others_alone():
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "from uniemox.report import charts\n"
        "charts.comparison_bars([charts.ScoreBar('a', 'b', 0.5)])\n"
        "assert matplotlib.rcParams.copy() == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_person_whom_a_row_is_about_is_framed():
    image = Image.new("RGB", (80, 80), "white")
    framed = np.asarray(charts.frame(image, [10.0, 10.0, 50.0, 60.0]))
    assert (framed[10, 10:51] != 255).any(-1).all()
    assert (framed[30, 30] == 255).all()
    assert charts.frame(image, [None] * 4) is image


def test_ranges_draw_every_name_and_the_bounds_that_are_known():
    plot = Ranges("top-1", HOSTILE, [0.5] * 7, [Interval(0.4, 0.6), None] * 3 + [None], "", "", reference=0.7)
    alone = Ranges("top-1", ["a"], [0.5], [None], "", "")
    for one in (plot, alone):
        ElementTree.fromstring(charts.ranges(one))
    text = charts.ranges(plot).decode()
    assert "恐れ" in text
    assert "&lt;script&gt;" in text
