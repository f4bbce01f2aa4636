import numpy as np

from uniemox.multilabel import evaluate_multilabel
from uniemox.report.multilabel import multilabel_page
from uniemox.report.page import GalleryItem, render

ATTACK = "\"'><script>alert(1)</script>"


def report(classes=("awe", "fear", "joy"), *, absent=None, **options):
    rng = np.random.default_rng(0)
    labels = rng.random((80, len(classes))) < 0.4
    if absent is not None:
        labels[:, absent] = False
    return evaluate_multilabel(rng.random(labels.shape), labels, classes, **options)


def page_of(report, **more):
    return render(multilabel_page(report, title="T", provenance={"model": "demo"}, **more))


def test_a_page_shows_the_scores_with_their_intervals_and_what_chance_would_reach():
    found = report()
    html = page_of(found)
    assert f"{found.mean_average_precision:.3f}" in html
    low, high = found.intervals["mean_average_precision"]
    assert f"{low:.3f} to {high:.3f}" in html
    assert f"{found.chance:.3f}" in html
    assert "80 samples, each with any number of 3 labels" in html
    assert html.count("data:image/svg+xml") == 2


def test_a_page_says_which_label_nothing_has():
    html = page_of(report(absent=1))
    assert "No sample here has the label fear" in html
    assert "–" in html  # in its row
    assert "No sample here has" not in page_of(report())


def test_a_page_without_intervals_shows_the_scores_alone():
    found = report(num_resamples=0)
    assert f"{found.mean_average_precision:.3f}" in page_of(found)


def test_pictures_have_their_labels_and_hostile_words_stay_words():
    item = GalleryItem(np.zeros((8, 8, 3), np.uint8), ATTACK, 0.5, "joy", ATTACK)
    html = page_of(report(classes=(ATTACK, "b", "c")), gallery=[item])
    assert "<script" not in html
    assert "data:image/webp" in html
