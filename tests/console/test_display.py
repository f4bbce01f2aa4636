import io
import logging
import math
import sys

import pytest
from rich.console import Console

from uniemox.console import display
from uniemox.console.display import Display, Terminal
from uniemox.train.events import Message, Progress

ESCAPE = "\x1b[31m\x07 [bold]:smile:"


@pytest.fixture
def tty():
    return Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None, markup=False)


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
    assert display.is_main_process() == speaks
    display.stdout_console().print("result")
    Terminal().write("progress")
    shown = capsys.readouterr()
    assert ("result" in shown.out, "progress" in shown.err) == (speaks, speaks)


def test_a_long_line_is_not_wrapped(console, text_of):
    line = " ".join(["x"] * 400)
    Terminal(console).write(line)
    assert text_of(console) == line + "\n"


def test_lines_of_a_text_stay_lines(console, text_of):
    Terminal(console).write(f"one\ntwo {ESCAPE}")
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
    assert display.duration(seconds) == text


# Logs


def test_logs_are_shown_while_the_block_runs_and_not_after(console, text_of):
    ours, theirs = logging.getLogger("uniemox.somewhere"), logging.getLogger("elsewhere")
    level = logging.getLogger("uniemox").level
    with Terminal(console).logs():
        ours.debug("too fine")
        ours.info("skipped %s", "a\x1bb")
        ours.warning("careful")
        theirs.info("not ours")
        theirs.error("broken")
    ours.error("after")
    assert text_of(console) == "skipped a\\x1bb\nwarning: careful\nerror: broken\n"
    assert logging.getLogger("uniemox").level == level


def test_an_information_is_shown_once_in_a_command_and_a_warning_each_time(console, text_of):
    ours = logging.getLogger("uniemox.toy")
    with Terminal(console).logs():
        for _ in range(2):
            ours.info("precision: %s", "bf16")
            ours.warning("careful")
    assert text_of(console) == "precision: bf16\nwarning: careful\nwarning: careful\n"


def test_logs_end_with_an_error_too(console, text_of):
    with pytest.raises(KeyboardInterrupt), Terminal(console).logs():
        raise KeyboardInterrupt
    logging.getLogger("uniemox").error("after")
    assert text_of(console) == ""


# Progress


def test_without_a_terminal_a_line_comes_at_once_then_every_ten_seconds_and_at_the_end(console, text_of):
    clock = Clock()
    with Display(Terminal(console, clock=clock)) as show:
        for step in range(1, 101):
            show(progress(step))
            clock.now += 0.3
    lines = text_of(console).splitlines()
    assert [line.split()[1].rstrip(",") for line in lines] == ["1/100", "35/100", "69/100", "100/100"]
    assert lines[0] == ("step 1/100, epoch 2/5: loss 1.235, contrast 1e-05, 210 images/s, 2 min left")


def test_the_first_step_of_a_second_run_has_its_line(console, text_of):
    clock = Clock()
    with Display(Terminal(console, clock=clock)) as show:
        for total in (3, 3, 4):
            for step in range(1, total + 1):
                show(progress(step, total))
    steps = [line.split()[1].rstrip(",") for line in text_of(console).splitlines()]
    assert steps == ["1/3", "3/3", "1/3", "3/3", "1/4", "4/4"]


def test_a_message_is_a_line_of_its_own(console, text_of):
    with Display(Terminal(console)) as show:
        show(Message("3 images were skipped"))
    assert text_of(console) == "3 images were skipped\n"


def test_on_a_terminal_there_is_a_bar(tty, text_of):
    with Display(Terminal(tty)) as show:
        show(progress(1))
        show(Message("state saved"))
        show(progress(50))
        show(progress(100))
    text = text_of(tty)
    assert "━" in text
    assert "100/100" in text
    assert "epoch 2/5" in text
    assert "loss 1.235" in text
    assert "210 images/s" in text
    assert "state saved\n" in text


def test_on_a_terminal_each_run_has_its_bar(tty, text_of):
    with Display(Terminal(tty)) as show:
        for total in (30, 40):
            for step in (1, total):
                show(progress(step, total))
    last = text_of(tty).split("\x1b[1A")[-1]
    assert "30/30" in last
    assert "40/40" in last


@pytest.mark.parametrize("seconds", [0.0, 11.0])
def test_tracked_items_come_through_unchanged(console, tty, seconds, text_of):
    for where in (console, tty):
        clock = Clock()

        def slow(clock=clock):
            for item in "abc":
                clock.now += seconds
                yield item

        assert [*Terminal(where, clock=clock).track(slow(), total=3, what="images")] == [*"abc"]
    lines = text_of(console).splitlines()
    assert lines == (["1/3 images", "2/3 images", "3/3 images"] if seconds else [])


def test_results_stay_on_stdout_while_a_bar_is_drawn(tty, text_of, capsys):
    for item in Terminal(tty).track("ab", total=2, what="images"):
        sys.stdout.write(item)
    with Display(Terminal(tty)) as shown:
        shown(progress(1))
        sys.stdout.write("c")
    assert capsys.readouterr().out == "abc"
    assert "images" in text_of(tty)
