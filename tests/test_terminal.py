import io
import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from uniemox import terminal
from uniemox.checkpoints.inspection import Inspection
from uniemox.data.agreement import compare_people
from uniemox.data.findings import Problem
from uniemox.data.manifest import Box, Facts, manifest_from_columns
from uniemox.data.population import count_people
from uniemox.metrics import evaluate_predictions
from uniemox.multilabel import evaluate_multilabel
from uniemox.train.events import Message, Progress

ESCAPE = "\x1b[31m\x07 [bold]:smile:"


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200, highlight=False, markup=False, emoji=False)


@pytest.fixture
def tty():
    return Console(
        file=io.StringIO(), width=120, force_terminal=True, color_system=None, markup=False
    )


def text_of(console):
    return console.file.getvalue()


def rows_of(splits, *, classes=("awe",), **columns):
    facts = Facts(name="fi", title="FI", classes=classes, emotion="evoked", root=Path("/data"))
    columns = {"paths": list(map(str, range(len(splits)))), **columns}
    return manifest_from_columns(facts, splits=splits, **columns)


def progress(step, total=100, **changes):
    values = {
        "step": step,
        "total_steps": total,
        "epoch": 2,
        "epochs": 5,
        "scalars": {"loss": 1.23456, "contrast": 1e-5},
        "images_per_second": 210.4,
        "seconds_left": 125.0,
    }
    return Progress(**(values | changes))


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


# Processes


@pytest.mark.parametrize(
    ("variables", "speaks"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "1", "LOCAL_RANK": "1"}, False),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, False),
    ],
)
def test_one_process_speaks(monkeypatch, capsys, variables, speaks):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert terminal.is_main_process() == speaks
    terminal.stdout_console().print("result")
    terminal.write_line(terminal.stderr_console(), "progress")
    shown = capsys.readouterr()
    assert ("result" in shown.out, "progress" in shown.err) == (speaks, speaks)


# Text


@pytest.mark.parametrize("text", ["plain", "Müller, Ωmega 漢字 🙂", "[bold]", ""])
def test_printable_text_stays(text):
    assert terminal.printable(text) == text


@pytest.mark.parametrize("text", ["\x1b[31m", "\x07", "a\rb", "a\nb", "\x9b", "\udcff", "\u202e"])
def test_what_steers_a_terminal_is_escaped(text):
    shown = terminal.printable(text)
    assert shown.isprintable()
    assert shown.isascii()
    assert shown.encode().decode("unicode_escape") == text


def test_a_long_line_is_not_wrapped(console):
    terminal.write_line(console, "x " * 400)
    assert text_of(console) == "x " * 400 + "\n"


def test_lines_of_a_text_stay_lines(console):
    terminal.write_line(console, f"one\ntwo {ESCAPE}")
    assert text_of(console) == "one\ntwo \\x1b[31m\\x07 [bold]:smile:\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (89, "1 min"),
        (125, "2 min"),
        (3540, "59 min"),
        (3599, "1 h 00 min"),
        (3700, "1 h 02 min"),
        (90_000, "25 h 00 min"),
        (math.inf, "unknown time"),
        (math.nan, "unknown time"),
    ],
)
def test_a_duration_is_told_in_the_unit_that_fits(seconds, text):
    assert terminal.duration(seconds) == text


# Logs


def test_logs_are_shown_while_the_block_runs_and_not_after(console):
    ours, theirs = logging.getLogger("uniemox.somewhere"), logging.getLogger("elsewhere")
    level = logging.getLogger("uniemox").level
    with terminal.logs_on(console):
        ours.debug("too fine")
        ours.info("skipped %s", "a\x1bb")
        ours.warning("careful")
        theirs.info("not ours")
        theirs.error("broken")
    ours.error("after")
    assert text_of(console) == "skipped a\\x1bb\nwarning: careful\nerror: broken\n"
    assert logging.getLogger("uniemox").level == level


def test_logs_end_with_an_error_too(console):
    with pytest.raises(KeyboardInterrupt), terminal.logs_on(console):
        raise KeyboardInterrupt
    logging.getLogger("uniemox").error("after")
    assert text_of(console) == ""


# Progress


def test_without_a_terminal_a_line_comes_at_once_then_every_ten_seconds_and_at_the_end(console):
    clock = Clock()
    with terminal.Display(console, clock=clock) as display:
        for step in range(1, 101):
            display(progress(step))
            clock.now += 0.3
    lines = text_of(console).splitlines()
    assert [line.split()[1].rstrip(",") for line in lines] == [
        "1/100",
        "35/100",
        "69/100",
        "100/100",
    ]
    assert lines[0] == (
        "step 1/100, epoch 2/5: loss 1.235, contrast 1e-05, 210 images/s, 2 min left"
    )


def test_the_first_step_of_a_second_run_has_its_line(console):
    clock = Clock()
    with terminal.Display(console, clock=clock) as display:
        for total in (3, 3, 4):
            for step in range(1, total + 1):
                display(progress(step, total))
    steps = [line.split()[1].rstrip(",") for line in text_of(console).splitlines()]
    assert steps == ["1/3", "3/3", "1/3", "3/3", "1/4", "4/4"]


def test_a_message_is_a_line_of_its_own(console):
    with terminal.Display(console) as display:
        display(Message("3 pictures were skipped"))
    assert text_of(console) == "3 pictures were skipped\n"


def test_on_a_terminal_there_is_a_bar(tty):
    with terminal.Display(tty) as display:
        display(progress(1))
        display(Message("state saved"))
        display(progress(50))
        display(progress(100))
    text = text_of(tty)
    assert "━" in text
    assert "100/100" in text
    assert "epoch 2/5" in text
    assert "loss 1.235" in text
    assert "210 images/s" in text
    assert "state saved\n" in text


def test_on_a_terminal_each_run_has_its_bar(tty):
    with terminal.Display(tty) as display:
        for total in (30, 40):
            for step in (1, total):
                display(progress(step, total))
    last = text_of(tty).split("\x1b[1A")[-1]
    assert "30/30" in last
    assert "40/40" in last


@pytest.mark.parametrize("seconds", [0.0, 11.0])
def test_tracked_items_come_through_unchanged(console, tty, seconds):
    for where in (console, tty):
        clock = Clock()

        def slow(clock=clock):
            for item in "abc":
                clock.now += seconds
                yield item

        assert [*terminal.track(slow(), where, total=3, what="pictures", clock=clock)] == [*"abc"]
    lines = text_of(console).splitlines()
    assert lines == (["1/3 pictures", "2/3 pictures", "3/3 pictures"] if seconds else [])


# Tables


class Prediction:
    def __init__(self, path, probabilities, reason=None, box=None, labels=None):
        self.path = Path(path)
        self.labels = labels
        self.probabilities = probabilities
        self.label = max(probabilities, key=probabilities.get) if probabilities else None
        self.confidence = max(probabilities.values()) if probabilities else None
        self.reason = reason
        self.box = box

    def top(self, count):
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:count]


def test_predictions_show_the_likeliest_classes_or_the_reason(console):
    rows = [
        Prediction("a.png", {"awe": 0.25, "fear": 0.62, "joy": 0.13}),
        Prediction("b.png", None, "not an image"),
    ]
    console.print(terminal.predictions_table(rows, top_k=2))
    text = text_of(console)
    assert "fear 62.0, awe 25.0" in text
    assert "joy" not in text
    assert "not read: not an image" in text


def test_predictions_of_several_labels_name_all_that_apply(console):
    rows = [
        Prediction("a.png", {"awe": 0.9, "fear": 0.3, "joy": 0.8}, labels=("awe", "joy")),
        Prediction("b.png", {"awe": 0.1, "fear": 0.2, "joy": 0.1}, labels=()),
    ]
    console.print(terminal.predictions_table(rows, top_k=1))
    lines = text_of(console).splitlines()
    assert any("a.png" in line and "awe, joy" in line and "awe 90.0" in line for line in lines)
    assert any("b.png" in line and "–" in line and "fear 20.0" in line for line in lines)


def test_predictions_of_people_say_of_whom(console):
    rows = [
        Prediction("a.png", {"awe": 1.0}),
        Prediction("a.png", {"awe": 1.0}, box=Box(12.4, 3.0, 52.4, 99.6)),
        Prediction("a.png", None, "the box lies outside the picture", Box(900, 0, 950, 10)),
    ]
    console.print(terminal.predictions_table(rows, top_k=1))
    text = text_of(console)
    assert "person" in text
    assert "12,3 40×97" in text
    (line,) = (line for line in text.splitlines() if "900,0 50×10" in line)
    assert "not read: the box lies outside" in line


def test_a_long_path_is_folded_and_not_cut(console):
    console.width = 60
    path = "/".join("abcdefghij" for _ in range(12))
    console.print(terminal.predictions_table([Prediction(path, {"awe": 1.0})], top_k=1))
    column = "".join(line.split("│")[1].strip() for line in text_of(console).splitlines()[3:-1])
    assert column == path


def test_no_table_lets_text_steer_the_terminal(console):
    facts = Facts(name=ESCAPE, title=ESCAPE, classes=(ESCAPE,), emotion=None, root=Path(ESCAPE))
    manifest = manifest_from_columns(facts, paths=["a"], splits=[ESCAPE], labels=[0])
    report = evaluate_predictions(np.ones((3, 1)), np.zeros(3, dtype=int), [ESCAPE])
    prediction = Prediction(ESCAPE, {ESCAPE: 1.0})
    for table in (
        terminal.facts_table(manifest),
        terminal.counts_table(manifest),
        terminal.problems_table([Problem(ESCAPE, 1, ESCAPE)]),
        terminal.sources_table({ESCAPE: 1}),
        terminal.predictions_table([prediction, Prediction("b", None, ESCAPE)], top_k=1),
        *terminal.report_tables(report),
    ):
        console.print(table)
    text = text_of(console)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert text.count("[bold]:smile:") == 14


def test_counts_have_a_row_for_each_class_and_one_for_no_label_where_there_is_any(console):
    manifest = rows_of(
        ["train"] * 12 + ["test"],
        labels=[0] * 3 + [1] * 4 + [None] * 5 + [0],
        classes=("awe", "fear"),
    )
    console.print(terminal.counts_table(manifest))
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in text_of(console).splitlines()
        if "│" in line
    ]
    assert rows == [
        ["awe", "3", "1"],
        ["fear", "4", "0"],
        ["no label", "5", "0"],
        ["all", "12", "1"],
    ]


def test_counts_have_no_row_for_no_label_where_all_have_one(console):
    console.print(terminal.counts_table(rows_of(["train"] * 3, labels=[0] * 3)))
    assert "no label" not in text_of(console)


def test_a_row_with_several_labels_is_one_of_all(console):
    sets = rows_of(["train", "train"], label_sets=[[0, 1], [1]], classes=("awe", "fear"))
    console.print(terminal.counts_table(sets))
    counts = [int(found) for found in re.findall(r"│ +(\d+) │", text_of(console))]
    assert counts == [1, 2, 2]


@pytest.mark.parametrize(("paths", "told"), [("ab", "2"), ("aab", "2, in 3 rows")])
def test_people_of_one_picture_are_one_picture(console, paths, told):
    console.print(terminal.facts_table(rows_of(["train"] * len(paths), paths=list(paths))))
    assert re.search(rf"│ pictures +│ {told} +│", text_of(console))


def test_facts_that_are_not_known_are_left_out(console):
    console.print(terminal.facts_table(rows_of(["train"] * 7)))
    text = text_of(console)
    assert "FI (fi)" in text
    assert "evoked" in text
    assert "/data" in text
    assert "licence" not in text


def test_an_evaluation_shows_scores_with_intervals_and_every_class(console):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 60)
    probabilities = np.full((60, 3), 0.2)
    guesses = np.where(generator.random(60) < 0.7, labels, 0)
    probabilities[np.arange(60), guesses] = 0.6
    report = evaluate_predictions(probabilities, labels, ["awe", "fear", "joy"])
    for table in terminal.report_tables(report):
        console.print(table)
    text = text_of(console)
    for metric in ("top1", "top3", "balanced_accuracy", "macro_f1", "weighted_f1"):
        assert metric in text
    assert terminal.percent(report.top1) in text
    low, high = report.intervals["top1"]
    assert f"{100 * low:.1f} to {100 * high:.1f}" in text
    assert all(name in text for name in report.classes)
    assert "60 pictures" in text


def test_an_evaluation_of_several_labels_shows_average_precision(console):
    generator = np.random.default_rng(0)
    labels = generator.random((60, 3)) < 0.4
    labels[:, 1] = False
    report = evaluate_multilabel(generator.random((60, 3)), labels, ["awe", "fear", "joy"])
    for table in terminal.report_tables(report):
        console.print(table)
    text = text_of(console)
    for metric in ("mean_average_precision", "macro_f1", "micro_f1", "random order"):
        assert metric in text
    assert "top1" not in text
    assert terminal.percent(report.mean_average_precision) in text
    assert terminal.percent(report.average_precision[0]) in text
    low, high = report.intervals["mean_average_precision"]
    assert f"{100 * low:.1f} to {100 * high:.1f}" in text


def test_an_inspection_shows_what_there_is_to_say_and_nothing_else(console):
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
    console.print(terminal.inspection_table(found))
    shown = text_of(console)
    assert "1,234" in shown
    assert "(9 in all)" in shown
    assert "\x1b" not in shown
    assert "test_top1: 0.5" in shown
    assert "not stated" in shown
    for absent in ("missing", "classes", "note", "emotion"):
        assert absent not in shown


def test_an_audit_shows_what_it_found_and_what_is_kept(console):
    console.print(terminal.findings_table({"leak": {"found": 12, "removed": 7}}))
    console.print(terminal.kept_table({ESCAPE: (100, 93)}))
    text = text_of(console)
    for words in (r"leak +│ +12 │ +7", r"│ +100 │ +93"):
        assert re.search(words, text)
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ["1 box in 1 row", "1 pair of boxes overlaps by 0.5", "1 picture was compared"]),
        (2, ["2 boxes in 2 rows", "2 pairs of boxes overlap by 0.5", "2 pictures were compared"]),
    ],
)
def test_tables_of_people_tell_one_from_several(console, count, expected):
    boxes = [Box(0, 0, 4, 4)]
    rows = rows_of(["train"] * count, people=[boxes] * count)
    console.print(terminal.population_table(count_people(rows)))
    console.print(terminal.agreement_table(compare_people(rows, rows), names=("a", "b")))
    text = " ".join(text_of(console).split())
    assert [part for part in expected if part in text] == expected
