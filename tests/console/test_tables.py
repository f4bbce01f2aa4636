"""Results as tables."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from uniemox.checkpoints.inspection import Inspection
from uniemox.console import tables
from uniemox.inference.predictor import Prediction
from uniemox.inference.search import Hit
from uniemox.manifests.findings import Problem
from uniemox.manifests.population import count_people
from uniemox.manifests.table import Box, Facts, manifest_from_columns
from uniemox.people.agreement import compare_people
from uniemox.targets.conformal import Guarantees
from uniemox.targets.distribution import Distribution
from uniemox.targets.multi_label import MultiLabel
from uniemox.targets.robustness import Robustness, Shift
from uniemox.targets.scores import Baseline, Interval
from uniemox.targets.several import Several
from uniemox.targets.single_label import SingleLabel
from uniemox.targets.slices import Slice, Slices
from uniemox.targets.valence_arousal import ValenceArousal


def evaluate_predictions(probabilities, labels, classes):
    return SingleLabel(tuple(classes)).score_numbers(probabilities, labels)


def evaluate_multilabel(probabilities, labels, classes, **options):
    return MultiLabel(tuple(classes)).score_numbers(probabilities, labels, **options)


EVERY_REPORT = [
    SingleLabel(("awe", "fear")).score_numbers(np.array([[0.7, 0.3]] * 4), np.array([0, 1, 0, 1])),
    MultiLabel(("awe", "fear")).score_numbers(np.array([[0.7, 0.3]] * 4), np.array([[True, False], [False, True]] * 2)),
    Distribution(("awe", "fear")).score_numbers(np.array([[0.7, 0.3]] * 4), np.array([[0.4, 0.6]] * 4)),
    ValenceArousal(("valence",)).score_numbers(np.array([[0.1], [0.2]]), np.array([[0.3], [0.2]])),
]
ESCAPE = "\x1b[31m\x07 [bold]:smile:"


def rows_of(splits, *, classes=("awe",), **columns):
    facts = Facts(name="fi", title="FI", classes=classes, emotion="evoked", root=Path("/data"))
    columns = {"paths": list(map(str, range(len(splits)))), **columns}
    return manifest_from_columns(facts, splits=splits, **columns)


def predicted(path, probabilities, reason=None, box=None, labels=None):
    if probabilities is None:
        return Prediction(Path(path), None, reason, box)
    likeliest = max(probabilities, key=probabilities.get)
    answer = {
        "predicted": likeliest if labels is None else labels,
        "confidence": probabilities[likeliest],
        "probabilities": probabilities,
    }
    return Prediction(Path(path), answer, box=box)


def test_predictions_show_the_likeliest_classes_or_the_reason(console, text_of):
    rows = [predicted("a.png", {"awe": 0.25, "fear": 0.62, "joy": 0.13}), predicted("b.png", None, "not an image")]
    console.print(tables.predictions_table(rows, SingleLabel(), top_k=2))
    text = text_of(console)
    assert "fear 62.0, awe 25.0" in text
    assert "joy" not in text
    assert "not read: not an image" in text


def test_ratings_have_no_columns_of_confidences_and_classes(console, text_of):
    rows = [Prediction(Path("a.png"), {"valence": 5.5, "arousal": 3.25})]
    console.print(tables.predictions_table(rows, ValenceArousal(("valence", "arousal")), top_k=3))
    text = text_of(console)
    assert "valence 5.50, arousal 3.25" in text
    assert "%" not in text
    assert "likeliest" not in text
    assert "valence and arousal from -1 to 1" in text


def test_found_images_have_their_score_and_what_the_model_says_of_them(console, text_of):
    ratings = Prediction(Path("b.png"), {"valence": 7.25, "arousal": 3.0})
    hits = [Hit(0.912, predicted("a.png", {"awe": 0.7, "fear": 0.3})), Hit(0.5, ratings)]
    console.print(tables.hits_table(hits))
    text = text_of(console)
    assert re.search(r"a\.png +│ +0\.912 │ awe 70\.0, fear 30\.0 +│", text)
    assert re.search(r"b\.png +│ +0\.500 │ valence 7\.25, arousal 3\.00 +│", text)


def heads_of(text):
    return [head.strip() for head in text.splitlines()[1].split("┃")[1:-1]]


def test_usual_answers_have_no_column_for_what_few_have(console, text_of):
    console.print(tables.predictions_table([predicted("a.png", {"awe": 1.0})], SingleLabel(("awe",)), top_k=1))
    assert heads_of(text_of(console)) == ["path", "emotion", "%", "likeliest"]


def test_label_sets_notes_and_times_are_shown_where_they_exist(console, text_of):
    target = SingleLabel(("awe", "fear"), guarantees=Guarantees(level=0.9, threshold=0.2, risk=0.1, cutoff=0.6))
    answers = target.answers(np.log([[0.55, 0.45], [0.9, 0.1]]))
    answers[1] |= {"out_of_domain": 3.5, "is_unfamiliar": True}
    rows = [Prediction(Path("v.mp4"), answer, time=1.5 * place) for place, answer in enumerate(answers)]
    console.width = 120
    console.print(tables.predictions_table(rows, target, top_k=1))
    text = text_of(console)
    assert heads_of(text) == ["path", "time", "emotion", "%", "label set", "likeliest", "note"]
    assert re.search(r"v\.mp4 +│ +0 s │ awe +│ 55\.0 │ awe, fear +│ awe 55\.0 +│ abstains +│", text)
    assert re.search(r"v\.mp4 +│ +1\.5 s │ awe +│ 90\.0 │ awe +│ awe 90\.0 +│ unfamiliar +│", text)


def test_the_answers_of_every_kind_are_shown_and_none_twice(console, text_of):
    kinds = (SingleLabel(("awe", "fear")), Distribution(("awe", "fear")), ValenceArousal(("valence",), (1.0, 9.0)))
    target = Several(parts=kinds)
    answers = target.answers(np.array([[1.0, 0.0, 0.0, 1.0, 0.5]]))
    console.width = 120
    console.print(tables.predictions_table([Prediction(Path("a.png"), answers[0])], target, top_k=1))
    text = text_of(console)
    assert heads_of(text) == ["path", "emotion", "%", "distribution predicted", "likeliest"]
    assert re.search(r"awe, valence 7\.00 +│ 73\.1 │ fear +│ awe 73\.1 +│", text)
    assert "valence from 1 to 9" in text


def test_predictions_of_several_labels_name_all_that_apply(console, text_of):
    rows = [
        predicted("a.png", {"awe": 0.9, "fear": 0.3, "joy": 0.8}, labels=["awe", "joy"]),
        predicted("b.png", {"awe": 0.1, "fear": 0.2, "joy": 0.1}, labels=[]),
    ]
    console.print(tables.predictions_table(rows, MultiLabel(), top_k=1))
    lines = text_of(console).splitlines()
    assert any("a.png" in line and "awe, joy" in line and "awe 90.0" in line for line in lines)
    assert any("b.png" in line and "–" in line and "fear 20.0" in line for line in lines)


def test_predictions_of_people_say_of_whom(console, text_of):
    rows = [
        predicted("a.png", {"awe": 1.0}),
        predicted("a.png", {"awe": 1.0}, box=Box(12.4, 3.0, 52.4, 99.6)),
        predicted("a.png", None, "the box lies outside the image", Box(900, 0, 950, 10)),
    ]
    console.print(tables.predictions_table(rows, SingleLabel(), top_k=1))
    text = text_of(console)
    assert "person" in text
    assert "12,3 40×97" in text
    (line,) = (line for line in text.splitlines() if "900,0 50×10" in line)
    assert "not read: the box lies outside" in line


def test_a_long_path_is_folded_and_not_cut(console, text_of):
    console.width = 60
    path = "/".join("abcdefghij" for _ in range(12))
    console.print(tables.predictions_table([predicted(path, {"awe": 1.0})], SingleLabel(), top_k=1))
    column = "".join(line.split("│")[1].strip() for line in text_of(console).splitlines()[3:-1])
    assert column == path


def test_no_table_lets_text_steer_the_terminal(console, text_of):
    facts = Facts(name=ESCAPE, title=ESCAPE, classes=(ESCAPE,), emotion=None, root=Path(ESCAPE))
    manifest = manifest_from_columns(facts, paths=["a"], splits=[ESCAPE], labels=[0])
    report = evaluate_predictions(np.ones((3, 1)), np.zeros(3, dtype=int), [ESCAPE])
    prediction = predicted(ESCAPE, {ESCAPE: 1.0})
    for table in (
        tables.facts_table(manifest),
        tables.counts_table(manifest),
        tables.problems_table([Problem(ESCAPE, 1, ESCAPE)]),
        tables.sources_table({ESCAPE: 1}),
        tables.predictions_table([prediction, predicted("b", None, ESCAPE)], SingleLabel(), top_k=1),
        *tables.report_tables(report),
    ):
        console.print(table)
    text = text_of(console)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert text.count("[bold]:smile:") == 14


def test_counts_have_a_row_for_each_class_and_one_for_no_label_where_there_is_any(console, text_of):
    manifest = rows_of(["train"] * 12 + ["test"], labels=[0] * 3 + [1] * 4 + [None] * 5 + [0], classes=("awe", "fear"))
    console.print(tables.counts_table(manifest))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text_of(console).splitlines() if "│" in line]
    assert rows == [["awe", "3", "1"], ["fear", "4", "0"], ["no label", "5", "0"], ["all", "12", "1"]]


def test_counts_have_no_row_for_no_label_where_all_have_one(console, text_of):
    console.print(tables.counts_table(rows_of(["train"] * 3, labels=[0] * 3)))
    assert "no label" not in text_of(console)


def test_a_row_with_several_labels_is_one_of_all(console, text_of):
    sets = rows_of(["train", "train"], label_sets=[[0, 1], [1]], classes=("awe", "fear"))
    console.print(tables.counts_table(sets))
    counts = [int(found) for found in re.findall(r"│ +(\d+) │", text_of(console))]
    assert counts == [1, 2, 2]


@pytest.mark.parametrize(("paths", "told"), [("ab", "2"), ("aab", "2, in 3 rows")])
def test_people_of_one_picture_are_one_picture(console, paths, told, text_of):
    console.print(tables.facts_table(rows_of(["train"] * len(paths), paths=list(paths))))
    assert re.search(rf"│ images +│ {told} +│", text_of(console))


def test_facts_that_are_not_known_are_left_out(console, text_of):
    console.print(tables.facts_table(rows_of(["train"] * 7)))
    text = text_of(console)
    assert "FI (fi)" in text
    assert "evoked" in text
    assert "/data" in text
    assert "licence" not in text


def test_an_evaluation_shows_scores_with_intervals_and_every_class(console, text_of):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 60)
    probabilities = np.full((60, 3), 0.2)
    guesses = np.where(generator.random(60) < 0.7, labels, 0)
    probabilities[np.arange(60), guesses] = 0.6
    report = evaluate_predictions(probabilities, labels, ["awe", "fear", "joy"])
    for table in tables.report_tables(report):
        console.print(table)
    text = text_of(console)
    for metric in ("top-1", "top-3", "balanced accuracy", "macro F1", "weighted F1"):
        assert metric in text
    assert tables.percent(report.top1) in text
    low, high = report.intervals["top1"]
    assert f"{100 * low:.1f} to {100 * high:.1f}" in text
    assert all(name in text for name in report.classes)
    assert "60 images" in text


def test_an_evaluation_shows_its_baselines_beside_the_model(console, text_of):
    report = evaluate_predictions(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1]), ["awe", "fear"])
    majority = Baseline("majority", {"top1": 1 / 3, "balanced_accuracy": 0.5, "macro_f1": 0.25}, "by the labels")
    gone = Baseline("colour", note=f"{ESCAPE} cannot be read")
    for table in tables.report_tables(replace(report, baselines=(majority, gone))):
        console.print(table)
    text = text_of(console)
    assert re.search(r"this model +│ +66\.7 │ +75\.0 │", text)
    assert re.search(r"majority +│ +33\.3 │ +50\.0 │ +25\.0 │", text)
    assert "Majority: by the labels." in text
    assert "Colour omitted: " in text
    assert "\x1b" not in text
    assert "majority class" not in text  # the row says it


def test_an_evaluation_without_baselines_says_why(console, text_of):
    report = evaluate_predictions(np.array([[0.9, 0.1]]), np.array([0]), ["awe", "fear"])
    for table in tables.report_tables(replace(report, baselines=(Baseline("majority", note="no train"),))):
        console.print(table)
    text = text_of(console)
    assert "Majority omitted: no train." in text
    assert "this model" not in text
    assert "majority class (awe)" in text


def test_measures_of_distributions_are_decimals_as_papers_print_them(console, text_of):
    report = Distribution(("awe", "fear")).score_numbers(np.array([[0.7, 0.3]] * 4), np.array([[0.4, 0.6]] * 4))
    metrics, *_ = tables.report_tables(report)
    console.print(metrics)
    text = text_of(console)
    assert re.search(r"Chebyshev +│ +0\.300 │", text)
    assert re.search(r"intersection +│ +0\.700 │", text)
    assert re.search(r"top-1 of the mode +│ +0\.0 % │", text)


def test_shares_beside_other_scores_say_that_they_are_percentages(console, text_of):
    report = EVERY_REPORT[2]
    compared = tables._compared_table(replace(report, baselines=(Baseline("majority", dict(report.values), "note"),)))
    console.print(compared)
    assert heads_of(text_of(console)) == ["compared", "KL divergence", "top-1 of the mode %", "cosine"]


@pytest.mark.parametrize("report", EVERY_REPORT)
def test_the_terminal_calls_scores_what_a_page_calls_them(console, text_of, report):
    replaced = replace(report, baselines=(Baseline("majority", dict(report.values), "note"),))
    for table in tables.report_tables(replaced):
        console.print(table)
    text = text_of(console)
    for metric in report.metrics:
        if metric.title and metric.name in report.values:
            assert metric.title in text
            assert metric.name == metric.title or f"│ {metric.name} " not in text


def test_an_evaluation_of_several_labels_shows_average_precision(console, text_of):
    generator = np.random.default_rng(0)
    labels = generator.random((60, 3)) < 0.4
    labels[:, 1] = False
    report = evaluate_multilabel(generator.random((60, 3)), labels, ["awe", "fear", "joy"])
    for table in tables.report_tables(report):
        console.print(table)
    text = text_of(console)
    for metric in ("mean average precision", "macro F1", "micro F1", "random order"):
        assert metric in text
    assert "top-1" not in text
    assert tables.percent(report.mean_average_precision) in text
    assert tables.percent(report.average_precision[0]) in text
    low, high = report.intervals["mean_average_precision"]
    assert f"{100 * low:.1f} to {100 * high:.1f}" in text


def test_an_inspection_shows_what_there_is_to_say_and_nothing_else(console, text_of):
    found = Inspection(
        path="a.pth",
        format="torch",
        layout="bare state dict",
        kind="encoder",
        architecture={"width": 768},
        parameters=1234,
        sha256={"a.pth": "abc"},
        extra=tuple(f"blocks.{index}.{ESCAPE}" for index in range(9)),
        facts={"metrics": {"test_top1": 0.5}, "emotion": None},
    )
    console.print(tables.inspection_table(found))
    shown = text_of(console)
    assert "1,234" in shown
    assert "and 3 more" in shown
    assert "\x1b" not in shown
    assert "test_top1: 0.5" in shown
    assert "not stated" in shown
    for absent in ("missing", "classes", "note", "emotion"):
        assert absent not in shown


@pytest.mark.parametrize(
    ("emotion", "title", "rows"),
    [
        ("felt", "HECO", ["trained on │ mine, HECO", "emotion │ felt"]),
        (None, "", ["trained on │ mine", "emotion │ evoked or felt: not recorded"]),
    ],
)
def test_an_inspection_says_what_a_model_was_trained_on(console, emotion, title, rows, text_of):
    found = Inspection(
        path="a",
        format="safetensors",
        layout="uniemox, model folder",
        kind="classifier",
        architecture={},
        parameters=1,
        sha256={},
        facts={"dataset": "mine", "title": title, "emotion": emotion},
    )
    console.print(tables.inspection_table(found))
    shown = " ".join(text_of(console).split())
    assert all(f"{row} │" in shown for row in rows)
    assert "title" not in shown


def test_an_audit_shows_what_it_found_and_what_is_kept(console, text_of):
    console.print(tables.findings_table({"leak": {"found": 12, "removed": 7}}))
    audit = SimpleNamespace(names=(ESCAPE,), manifests=(range(100),), cleaned=(range(93),))
    console.print(tables.kept_table(audit))
    text = text_of(console)
    for words in (r"leak +│ +12 │ +7", r"│ +100 │ +93"):
        assert re.search(words, text)
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ["1 box in 1 row", "1 pair of boxes overlaps by 0.5", "1 image was compared"]),
        (2, ["2 boxes in 2 rows", "2 pairs of boxes overlap by 0.5", "2 images were compared"]),
    ],
)
def test_tables_of_people_tell_one_from_several(console, count, expected, text_of):
    boxes = [Box(0, 0, 4, 4)]
    rows = rows_of(["train"] * count, people=[boxes] * count)
    console.print(tables.population_table(count_people(rows)))
    console.print(tables.agreement_table(compare_people(rows, rows), names=("a", "b")))
    text = " ".join(text_of(console).split())
    assert [part for part in expected if part in text] == expected


def test_an_evaluation_shows_robustness_and_slices_with_their_cautions(console, text_of):
    report = evaluate_predictions(np.array([[0.9, 0.1], [0.2, 0.8]] * 40), np.array([0, 1] * 40), ["awe", "fear"])
    kept = Shift(change="unchanged", strength="", values={"top1": 1.0}, interval=Interval(0.9, 1.0))
    blur = Shift(change=ESCAPE, strength="much", values={"top1": 0.5}, flipped=0.25)
    robust = Robustness(
        metric="top1", title="top-1", is_share=True, flips="images", description="As told.", shifts=(kept, blur)
    )
    room = Slice(name="room", num_samples=9, num_units=9, values={"top1": 0.5}, intervals={"top1": Interval(0.1, 0.9)})
    sliced = Slices(
        column="scene", overlaps=False, metrics=(("top1", "top-1"),), is_share=True, whole=1.0, slices=(room,), gap=None
    )
    for table in tables.report_tables(replace(report, robustness=robust, slices=(sliced,))):
        console.print(table)
    text = text_of(console)
    assert re.search(r"unchanged +│ +│ +100\.0 │ +90\.0 to 100\.0 │", text)
    assert re.search(r"much +│ +50\.0 │ +│ +0\.0 │ +│ +25\.0 │", text)
    assert re.search(r"room \* +│ +9 │ +50\.0 │ +10\.0 to 90\.0 │", text)
    assert "As told." in text
    assert "which say little: room" in " ".join(text.split())
    assert "\x1b" not in text
