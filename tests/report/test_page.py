import errno
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from uniemox.errors import DataError
from uniemox.inference.slices import score_slices
from uniemox.report.page import (
    Figure,
    Gallery,
    GalleryItem,
    Notice,
    Page,
    Score,
    Scoreboard,
    Section,
    Table,
    Tile,
    TileGroup,
    TileGroups,
    data_uri,
    evaluation_page,
    render,
    show_cell,
    write_page,
)
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.robustness import Robustness, Shift
from uniemox.targets.scores import Baseline, Interval
from uniemox.targets.single_label import SingleLabel


def evaluate_predictions(probabilities, labels, classes):
    return SingleLabel(tuple(classes)).score_numbers(probabilities, labels)


ATTACK = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
VOID = {"meta", "img", "link", "br"}


class Reader(HTMLParser):
    """Collects tags and text, and checks that tags close in order."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.open = [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def one(*blocks, text=""):
    return Page("Title", "Lead", [Section("Heading", text, blocks)])


def picture(height=20, width=30):
    return np.zeros((height, width, 3), dtype=np.uint8)


def report(classes=("a", "b", "c"), labels=(0, 0, 1, 2, 2, 2)):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(len(classes)), len(labels))
    return evaluate_predictions(probabilities, np.array(labels), classes)


def hostile_page():
    item = GalleryItem(picture(), ATTACK, 0.5, f"not {ATTACK}", ATTACK)
    blocks = [
        Figure(SVG, ATTACK, ATTACK),
        Table([ATTACK, "n"], [[ATTACK, 1]], ATTACK),
        Gallery([item, GalleryItem(picture(), ATTACK, 1.0, None, ATTACK)], ATTACK),
        TileGroups([TileGroup(ATTACK, [Tile(picture(), ATTACK, ATTACK, ATTACK, ATTACK)])], ATTACK),
        Notice(ATTACK),
        Scoreboard([Score(ATTACK, ATTACK, ATTACK)]),
    ]
    return Page(ATTACK, ATTACK, [Section(ATTACK, f"{ATTACK}\n\n{ATTACK}", blocks)] * 3)


def test_hostile_words_stay_words_wherever_they_stand():
    page = Reader(render(hostile_page()))
    assert not page.all("script")
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert all(attrs["src"].startswith("data:image/") for attrs in page.all("img"))
    # Title, heading and lead; then a line of the contents and twenty-one places in each section.
    assert page.text.count(ATTACK) == 3 + 3 * (1 + 21)
    assert page.all("img")[0]["alt"] == ATTACK


def test_no_zero_has_a_sign_and_a_section_may_lead_to_a_file_beside_the_page():
    assert show_cell(-0.0001) == "0.000"
    read = Reader(render(Page("t", "l", [Section("s", link=("all of it", "test/report.html"))])))
    assert [attrs["href"] for attrs in read.all("a")] == ["test/report.html"]


def test_hostile_class_names_stay_words_in_an_evaluation():
    classes = (ATTACK, "b", f"c{ATTACK}")
    items = [GalleryItem(picture(), ATTACK, 0.9, "b", ATTACK)]
    page = evaluation_page(report(classes), title=ATTACK, provenance={ATTACK: ATTACK}, gallery=items)
    read = Reader(render(page))
    assert not read.all("script")
    assert len(read.all("img")) == 5
    assert ATTACK in read.text


def test_a_page_needs_nothing_from_outside():
    html = render(hostile_page())
    read = Reader(html)
    for tag in ("link", "iframe", "object", "base", "form"):
        assert not read.all(tag)
    assert all(attrs["href"].startswith("#section-") for attrs in read.all("a"))
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = [attrs["content"] for attrs in read.all("meta") if "http-equiv" in attrs]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_every_picture_says_in_words_what_it_shows():
    page = evaluation_page(report(), title="t", provenance={}, gallery=[GalleryItem(picture(), "a", 0.9, "b", "x.jpg")])
    alts = [attrs["alt"] for attrs in Reader(render(page)).all("img")]
    assert len(alts) == 5
    assert all(alts)
    assert alts[-1] == "x.jpg: predicted a, true b"


def test_contents_lead_to_every_section():
    page = Page("t", "l", [Section(name) for name in "abc"])
    read = Reader(render(page))
    assert [attrs["href"][1:] for attrs in read.all("a")] == [a["id"] for a in read.all("section")]
    assert not Reader(render(Page("t", "l", [Section("a")]))).all("nav")


def test_an_empty_line_parts_paragraphs():
    read = Reader(render(one(text="First.\n\nSecond.\n\n")))
    assert len(read.all("p")) == 3  # the lead is the first
    assert {"First.", "Second."} <= set(read.text)


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (None, "–"),
        (0.12345, "0.123"),
        (1.0, "1.000"),
        (7, "7"),
        (1234567, "1\u202f234\u202f567"),
        ("0.5", "0.5"),
        (np.float64(0.5), "0.500"),
    ],
)
def test_cells_are_written_alike(cell, shown):
    assert show_cell(cell) == shown


def test_columns_of_numbers_are_set_right_and_others_left():
    table = Table(["name", "score", "note"], [["a", 0.5, "x"], ["b", None, 3]])
    assert table.numeric == [False, True, False]
    read = Reader(render(one(table)))
    heads, cells = read.all("th"), read.all("td")
    assert [attrs.get("class") for attrs in heads[:3]] == [None, "number", None]
    assert [attrs.get("class") for attrs in cells] == ["number", None] * 2


def test_a_table_may_have_no_rows_and_none_has_uneven_ones():
    assert Reader(render(one(Table(["a"], [])))).all("table")
    with pytest.raises(ValueError, match="shorter"):
        render(one(Table(["a", "b"], [["x", 1], ["y"]])))


@pytest.mark.parametrize(("data", "kind"), [(b"RIFF....WEBP", "webp"), (SVG, "svg+xml")])
def test_a_picture_is_called_by_its_kind(data, kind):
    assert data_uri(data).startswith(f"data:image/{kind};base64,")


@pytest.mark.parametrize(
    ("true", "verdict", "said"),
    [("a", "right", "✓ correct"), ("b", "wrong", "✗ labelled b"), (None, "unknown", "x.jpg")],
)
def test_a_gallery_says_right_wrong_or_nothing(true, verdict, said):
    item = GalleryItem(picture(), "a", 0.614, true, "x.jpg")
    read = Reader(render(one(Gallery([item], "Caption"))))
    assert item.verdict == verdict
    assert {said, "61 %", "Caption"} <= set(read.text)
    assert {"class": verdict} in read.all("li")


def test_a_gallery_shows_the_further_answers_of_an_image():
    item = GalleryItem(picture(), "a", 0.614, "a", "x.jpg", more=("valence 2.00; raters: valence 3.00", ATTACK))
    read = Reader(render(one(Gallery([item], "Caption"))))
    assert {"valence 2.00; raters: valence 3.00", ATTACK} <= set(read.text)
    assert len([attrs for attrs in read.all("span") if attrs.get("class") == "more"]) == 2


def test_an_evaluation_shows_its_scores_classes_and_origin():
    scored = report()
    page = evaluation_page(scored, title="On test", provenance={"model": "runs/f"})
    text = Reader(render(page)).text
    assert {"On test", f"{scored.top1:.3f}", f"{scored.recall[2]:.3f}", "runs/f"} <= set(text)
    low, high = scored.intervals["balanced_accuracy"]
    assert f"{low:.3f} to {high:.3f}" in text
    assert "Images" not in text
    assert not any("No sample here" in line for line in text)


def test_an_evaluation_names_the_classes_without_samples():
    page = evaluation_page(report(labels=(0, 0, 2)), title="t", provenance={})
    assert any("No sample here is labelled b" in line for line in Reader(render(page)).text)


def test_an_evaluation_without_errors_says_so():
    perfect = evaluate_predictions(np.eye(2), np.array([0, 1]), ["a", "b"])
    alts = [a["alt"] for a in Reader(render(evaluation_page(perfect, title="t", provenance={}))).all("img")]
    assert any("without errors" in alt for alt in alts)


def test_a_page_is_written_in_a_new_folder_even_with_a_name_that_is_not_unicode(tmp_path):
    path = tmp_path / "new" / "report.html"
    write_page(one(Notice("caf\udce9.jpg")), path)
    assert "caf\\udce9.jpg" in path.read_text("utf-8")
    assert [child.name for child in path.parent.iterdir()] == ["report.html"]


def test_a_failed_write_is_one_line_and_leaves_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_page(one(Notice("old")), path)

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DataError, match=r"report\.html cannot be written: no space is left .* Free space") as caught:
        write_page(one(Notice("new")), path)
    assert "\n" not in str(caught.value)
    assert "old" in path.read_text("utf-8")
    assert [child.name for child in tmp_path.iterdir()] == ["report.html"]


def test_a_file_where_a_folder_should_be_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_page(one(), tmp_path / "file" / "report.html")


def test_pictures_side_by_side_show_what_tells_them_apart():
    tiles = [Tile(picture(), "a.png", "train", "awe", "likeness 0.93", is_struck=True), Tile(None, "b.png", "test")]
    html = render(one(TileGroups([TileGroup("Alike", tiles, more=1200)], "All of them")))
    read = Reader(html)
    assert [item.get("class") for item in read.all("li")] == [None, "struck", None]
    assert len(read.all("img")) == 1
    for text in ("Alike", "train", "awe", "likeness 0.93", "no image", "All of them"):
        assert text in read.text
    assert "and 1\N{NARROW NO-BREAK SPACE}200 more" in read.text


# Baselines


def test_baselines_are_rows_beside_the_model_and_say_how_they_were_made():
    majority = Baseline("majority", {"top1": 0.25, "balanced_accuracy": 1 / 3, "macro_f1": 0.125}, "by the labels")
    gone = Baseline("zero-shot", note="its weights are not at hand")
    found = replace(report(), baselines=(majority, gone))
    page = evaluation_page(found, title="t", provenance={})
    (section,) = [section for section in page.sections if section.title == "Baselines"]
    (table,) = section.blocks
    assert table.columns == ("", "top-1", "balanced accuracy", "macro F1")
    assert table.rows == [
        ("this model", found.top1, found.balanced_accuracy, found.macro_f1),
        ("majority", 0.25, 1 / 3, 0.125),
    ]
    assert table.caption == "Majority: by the labels. Zero-shot omitted: its weights are not at hand."
    assert "Always answering" not in render(page)  # the row says it


def test_without_any_baseline_the_page_says_why_in_a_line():
    found = replace(report(), baselines=(Baseline("majority", note="no train"), Baseline("colour", note="no train")))
    html = render(evaluation_page(found, title="t", provenance={}))
    assert "Majority and colour omitted: no train." in html
    assert "Always answering" in html


def test_an_evaluation_that_was_asked_for_no_baselines_has_no_such_section():
    assert ">Baselines<" not in render(evaluation_page(report(), title="t", provenance={}))


# Several labels


def several(classes=("awe", "fear", "joy"), *, absent=None, **options):
    rng = np.random.default_rng(0)
    labels = rng.random((80, len(classes))) < 0.4
    if absent is not None:
        labels[:, absent] = False
    target = MultiLabel(tuple(classes))
    return target.score_numbers(rng.random(labels.shape), labels, **options)


def page_of(report, **more):
    return render(evaluation_page(report, title="T", provenance={"model": "demo"}, **more))


def test_a_page_shows_the_scores_with_their_intervals_and_what_chance_would_reach():
    found = several()
    html = page_of(found)
    assert f"{found.mean_average_precision:.3f}" in html
    low, high = found.intervals["mean_average_precision"]
    assert f"{low:.3f} to {high:.3f}" in html
    assert f"{found.chance:.3f}" in html
    assert "80 samples, each with any number of 3 labels" in html
    assert html.count("data:image/svg+xml") == 2


def test_a_page_says_which_label_nothing_has():
    html = page_of(several(absent=1))
    assert "No sample here has the label fear" in html
    assert "–" in html  # in its row
    assert "No sample here has" not in page_of(several())


def test_a_page_without_intervals_shows_the_scores_alone():
    found = several(num_resamples=0)
    assert f"{found.mean_average_precision:.3f}" in page_of(found)


def test_pictures_have_their_labels_and_hostile_words_stay_words():
    item = GalleryItem(np.zeros((8, 8, 3), np.uint8), ATTACK, 0.5, "joy", ATTACK)
    html = page_of(several(classes=(ATTACK, "b", "c")), gallery=[item])
    assert "<script" not in html
    assert "data:image/webp" in html


HIDDEN = "fear \u202eyoj\u202c a\u200bb \u2066c\u2069 \x1b[31m"
SHOWN = "fear \\u202eyoj\\u202c a\\u200bb \\u2066c\\u2069 \\x1b[31m"


def test_what_would_let_a_class_read_otherwise_is_seen_the_same_in_text_table_chart_and_card(tmp_path):
    page = evaluation_page(
        report((HIDDEN, "joy", "awe")),
        title=HIDDEN,
        provenance={HIDDEN: HIDDEN},
        gallery=[GalleryItem(picture(), HIDDEN, 0.5, HIDDEN, HIDDEN)],
    )
    html = render(page)
    charts = [block.data.decode() for section in page.sections for block in section.blocks if isinstance(block, Figure)]
    assert len(charts) >= 2
    for text in (html, *charts):
        assert not {unicodedata.category(letter) for letter in text} & {"Cf", "Co", "Cs"}
    assert html.count(SHOWN) >= 6
    start = SHOWN[:27]  # names in charts are cut
    assert sum(start in chart for chart in charts) >= 2  # that of classes and that of confusions


def test_line_breaks_of_a_text_and_narrow_blanks_of_numbers_stay():
    html = render(one(Table(["n"], [[1234567]]), text="one\ntwo"))
    assert "1\u202f234\u202f567" in html
    assert "one\ntwo" in html


def test_an_evaluation_shows_its_robustness_and_slices_where_asked_for():
    scores = evaluate_predictions(np.array([[0.9, 0.1], [0.2, 0.8]] * 40), np.array([0, 1] * 40), ["awe", "fear"])
    kept, blur = (Shift(change=name, strength="", values={"top1": 1.0}) for name in ("unchanged", ATTACK))
    robust = Robustness(
        metric="top1", title="top-1", is_share=True, flips="images", description="As told.", shifts=(kept, blur)
    )
    masks = {ATTACK: np.arange(80) < 40, "few": np.arange(80) >= 60}
    logits = np.eye(2, dtype=np.float32)[[0, 1] * 40]
    sliced = score_slices(SingleLabel(("awe", "fear")), logits, np.array([0, 1] * 40), masks, column="scene")
    page = evaluation_page(replace(scores, robustness=robust, slices=(sliced,)), title="t", provenance={})
    assert [section.title for section in page.sections][-3:] == ["Robustness", "By scene", "Origin"]
    reader = Reader(render(page))
    text = " ".join(reader.text)
    assert ATTACK in text
    assert "few *" in text
    assert "0.900 to" in show_cell(Interval(0.9, 0.95))
    assert not [tag for tag, _ in reader.tags if tag == "script"]
