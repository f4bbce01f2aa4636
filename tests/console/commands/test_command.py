"""What commands have in common."""

import importlib
import re
from pkgutil import iter_modules

import pytest

from uniemox.console import cli, commands
from uniemox.console.commands.command import check_not_replacing
from uniemox.console.commands.train import list_sources
from uniemox.errors import ConfigError
from uniemox.settings import list_settings


def test_no_two_groups_have_a_command_of_the_same_name():
    groups = [importlib.import_module(f"{commands.__name__}.{each.name}") for each in iter_modules(commands.__path__)]
    names = [name for group in groups for name in getattr(group, "COMMANDS", ())]
    assert sorted(names) == sorted(cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_summary_is_one_short_sentence(name):
    summary = cli.COMMANDS[name].summary
    assert summary.endswith(".")
    assert summary[0].isupper()
    assert len(summary) < 80


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_setting_is_explained_in_sentences(name):
    config = cli.COMMANDS[name].config
    for setting in (*list_settings(config), *(list_sources(config) if cli.COMMANDS[name].trains else ())):
        assert setting.text.endswith("."), setting.name
        assert "\n" not in setting.text
        assert not re.search(r"\b(picture|leave|tell|anew)", setting.text), setting.name


def test_the_same_thing_is_of_one_type_in_all_commands():
    kinds = {}
    for command in cli.COMMANDS.values():
        for setting in list_settings(command.config):
            if setting.name in ("data", "out", "seed", "workers", "device", "boxes", "taxonomy"):
                kinds.setdefault(setting.name, set()).add(setting.kind)
    assert all(len(found) == 1 for found in kinds.values())


def test_a_file_that_is_no_manifest_is_not_replaced(tmp_path):
    check_not_replacing(tmp_path / "absent.parquet")
    (tmp_path / "x.parquet").write_text("mine")
    with pytest.raises(ConfigError, match="a file that is no manifest, so it is not replaced"):
        check_not_replacing(tmp_path / "x.parquet")
