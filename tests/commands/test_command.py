"""What commands have in common."""

import pytest

from uniemox import cli
from uniemox.commands import (
    audit,
    checkpoint,
    demo,
    export,
    people,
    predict,
    prepare,
    shard,
    split,
    train,
)
from uniemox.commands.command import add_compute_flags, check_compute_flags
from uniemox.errors import ConfigError
from uniemox.flags import Parser


def test_no_two_groups_have_a_command_of_the_same_name():
    groups = (demo, prepare, shard, split, people, audit, train, predict, checkpoint, export)
    assert len(cli.COMMANDS) == sum(len(group.COMMANDS) for group in groups)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_summary_is_one_short_sentence(name):
    summary = cli.COMMANDS[name].summary
    assert summary.endswith(".")
    assert summary[0].isupper()
    assert len(summary) < 80


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--batch-size", "0"], "--batch-size is 0, but must be at least 1"),
        (["--num-workers", "-1"], "--num-workers is -1, but must not be negative"),
        ([], None),
        (["--num-workers", "0", "--batch-size", "1"], None),
    ],
)
def test_impossible_flags_of_computing_are_refused(words, complaint):
    parser = Parser("x", "")
    add_compute_flags(parser)
    given = parser.parse(words)
    if complaint is None:
        check_compute_flags(given)
    else:
        with pytest.raises(ConfigError, match=complaint):
            check_compute_flags(given)
