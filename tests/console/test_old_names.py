"""What was typed before works, and a line says what to type now."""

import pytest

from uniemox.console import cli
from uniemox.console.flags import flag_of, parse
from uniemox.console.old_names import GONE, VALUES, renamed_flags
from uniemox.settings import list_settings


def given_by(command, line):
    return parse(command, "", cli.COMMANDS[command].config, line.split())


@pytest.mark.parametrize(
    ("command", "line", "now", "note"),
    [
        ("pretrain", "--num-workers 3", "--workers 3", "--num-workers is now called --workers"),
        ("predict", "m --num_workers=3", "m --workers=3", "--num-workers is now called --workers"),
        ("data prepare", "fi --people a", "fi --boxes a", "--people is now called --boxes"),
        ("data prepare", "fi --split 8/1/1", "fi --ratios 8/1/1", "--split is now called --ratios"),
        ("data split", "--list a", "--split-list a", "--list is now called --split-list"),
        ("data merge", "--classes a", "--taxonomy a", "--classes is now called --taxonomy"),
        (
            *("predict", "m --people --boxes a", "m --boxes a"),
            "omit --people, it changes nothing: --detector or --boxes ask for people",
        ),
        *(
            (command, f"--{old} a", f"--detector-{old} a", f"--{old} is now called --detector-{old}")
            for command in ("predict", "data people")
            for old in ("weights", "format")
        ),
        *(
            (
                *("data split", f"--group-by{between}picture", f"--group-by{between}image"),
                "--group-by picture is now called --group-by image",
            )
            for between in " ="
        ),
    ],
)
def test_an_old_name_is_replaced_and_a_line_says_so(command, line, now, note):
    values, notes = given_by(command, line)
    assert notes == [note]
    assert given_by(command, now) == (values, [])


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("data prepare", "folders --classes a,b --boxes c"),
        ("data show", "m --people"),
        ("export", "m --format onnx"),
        ("data merge", "m --taxonomy picture picture"),
        ("predict", "m -- --people --num-workers"),
        ("data split", "m --group-by=group"),
    ],
)
def test_what_is_right_today_stays_as_it_is(command, line):
    assert given_by(command, line)[1] == []


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_an_old_name_is_none_of_todays_and_a_new_one_is(command):
    flags = {flag_of(setting) for setting in list_settings(cli.COMMANDS[command].config)}
    renamed = renamed_flags(command)
    assert not flags & {*renamed}
    assert {*renamed.values()} <= {*flags, "--workers"}
    assert not flags & {flag for name, flag in GONE if name == command}
    assert flags >= {flag for name, flag, _ in VALUES if name == command}


def test_the_line_is_on_stderr_and_the_command_runs(run, tmp_path):
    code, out, err = run("finetune", "--print-config", "--num-workers", "5")
    assert code == cli.SUCCESS
    assert "\nworkers: 5\n" in out
    assert err == "uniemox: --num-workers is now called --workers\n"
