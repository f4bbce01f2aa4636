"""Words of a command line to values, by the fields of a dataclass: each is a flag, with dashes inside.

Words are read here, so that each error is one plain line; tyro makes the help.
"""

import inspect
import re
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, get_args, get_origin

from uniemox.console.old_names import GONE, VALUES, renamed_flags
from uniemox.errors import ConfigError
from uniemox.settings import Setting, Values, convert, list_groups, list_settings, list_values, summary_of
from uniemox.wording import nearest, shorten

_HELP: Final = "--help"
_METAVARS: Final = {int: "INTEGER", float: "NUMBER", bool: "[true|false]", Path: "PATH"}


def flag_of(setting: Setting) -> str:
    """Name what a user types for a setting: its flag, or the place of a positional one."""
    return setting.leaf.upper() if setting.is_positional else f"--{setting.name.replace('_', '-')}"


def command_line(command: str, config: Any) -> str:
    """Write the line that runs a command with settings, without those that have their defaults."""
    values, words = dict(list_values(config)), ["uniemox", *command.split()]
    for setting in list_settings(type(config)):
        if (value := values[setting.name]) != setting.default:
            for text in _texts(setting, value):
                words += [text] if setting.is_positional else [flag_of(setting), text]
    return shlex.join(words)


def _texts(setting: Setting, value: Any) -> list[str]:
    """Write a value so that `_read` reads it."""
    if value is None or setting.kind is bool:
        return ["null" if value is None else str(value).lower()]
    if setting.is_list and setting.kind is Path:
        return list(map(str, value))
    if setting.is_list or isinstance(value, tuple):
        return [",".join(f'"{part}"' if "," in str(part) else str(part) for part in value) or "[]"]
    return [str(value)]


def parse(
    command: str, summary: str, config: type[Any], words: Sequence[str], *, also: Sequence[Setting] = ()
) -> tuple[Values, list[str]]:
    """Read the words after a command by the fields of its dataclass, and by `also`, settings of the command line alone.

    Returns:
        The values that were given, by the dotted names of their settings; and a line about each old name among them.

    Raises:
        ConfigError: On an unknown flag, a value of another type or a superfluous word.
        SystemExit: After printing a help.
    """
    settings = list_settings(config)
    flags = {flag_of(setting): setting for setting in (*also, *settings) if not setting.is_positional}
    texts, others, notes = _sort_words(command, words, flags, takes_words=any(one.is_positional for one in settings))
    if _HELP in texts:
        own = inspect.get_annotations(config)
        inherited_last = sorted(settings, key=lambda s: not (s.is_positional or s.group or s.name in own))
        _print_help(command, summary, config, [*also, *inherited_last])
    given = {flags[flag].name: _read(flags[flag], parts) for flag, parts in texts.items()}
    for setting in settings:
        if setting.is_positional and others:
            taken = others if setting.is_list else others[:1]
            given[setting.name] = _read(setting, taken)
            others = others[len(taken) :]
    if others:
        raise ConfigError(f"unexpected argument {shorten(others[0])}")
    return given, notes


def name_flags(text: str, settings: Iterable[Setting]) -> str:
    """Write flags for the settings that an error names, in backticks or at its start."""
    flags = {setting.name: flag_of(setting) for setting in settings}
    text = re.sub(r"`([\w.]+)`", lambda found: flags.get(found[1], found[0]), text)
    return re.sub(r"^[\w.]+(?= (is|are|names|must) )", lambda found: flags.get(found[0], found[0]), text)


def _sort_words(
    command: str, words: Sequence[str], flags: Mapping[str, Setting], *, takes_words: bool
) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """Sort words into the texts of each flag, of which all count for a list and the last for others, and other words.

    Old names become those of today, with a line to print about each. A wish for help stands alone. `takes_words` says
    whether the command takes words without a flag; else they belong to the list before them.
    """
    renamed = renamed_flags(command)
    texts: dict[str, list[str]] = {}
    others: list[str] = []
    notes: list[str] = []
    queue = deque(words)
    while queue:
        word = queue.popleft()
        if word in ("-h", _HELP):
            return {_HELP: []}, [], []
        if word == "--":
            others += queue
            break
        if not re.match(r"--|-[^\W\d]", word):
            others.append(word)
            continue
        name, equals, text = word.partition("=")
        name = name.replace("_", "-")
        if (command, name) in GONE:
            notes.append(f"omit {name}, {GONE[command, name]}")
            continue
        if name in renamed:
            notes.append(f"{name} is now called {renamed[name]}")
            name = renamed[name]
        if name not in flags:
            raise ConfigError(f"unknown flag {shorten(name)}{nearest(name, [*flags, _HELP])}")
        if not equals:
            text = _take_text(name, flags[name], queue)
        if today := VALUES.get((command, name, text)):
            notes.append(f"{name} {text} is now called {name} {today}")
            text = today
        earlier = texts.get(name, []) if flags[name].is_list else []
        texts[name] = [*earlier, text, *_take_more(flags[name], queue, takes_words=takes_words)]
    return texts, others, notes


def _take_more(setting: Setting, queue: deque[str], *, takes_words: bool) -> Iterator[str]:
    """Take the words after the first of a list that can only be more of it."""
    choices = get_args(setting.kind)
    is_open = not choices and not takes_words
    while setting.is_list and queue and (queue[0] in choices or (is_open and not queue[0].startswith("-"))):
        yield queue.popleft()


def _take_text(flag: str, setting: Setting, queue: deque[str]) -> str:
    if setting.kind is bool:
        return queue.popleft() if queue and queue[0] in ("true", "false") else "true"
    if not queue or queue[0].startswith("--"):
        raise ConfigError(f"{flag} needs a value")
    return queue.popleft()


def _read(setting: Setting, words: list[str]) -> Any:
    if setting.is_optional and words[0].lower() in ("null", "none"):
        return None
    if setting.is_list and setting.kind is Path:
        return convert(setting, words)
    if setting.is_list:
        return convert(setting, [part for word in words for part in _parts(word, ",")])
    is_tuple = get_origin(setting.kind) is tuple
    return convert(setting, _parts(words[0], "[,/]") if is_tuple else words[0])


def _parts(text: str, between: str) -> list[str]:
    inside = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    outside_quotes = r'(?=(?:[^"]*"[^"]*")*[^"]*$)'  # an even number of quotes follows
    parts = re.split(between + outside_quotes, inside) if inside.strip() else []
    return [re.sub(r'^"([^"]*)"$', r"\1", part.strip()) for part in parts]


# The help


def _print_help(command: str, summary: str, config: type[Any], settings: Sequence[Setting]) -> NoReturn:
    """Describe the settings and their groups to tyro, which prints them and exits."""
    import tyro
    from tyro.constructors import MISSING_NONPROP, StructConstructorSpec, StructFieldSpec

    groups = list_groups(config)
    names = {config: "", **{kind: name for name, kind in groups.items()}}

    def describe(info: Any) -> StructConstructorSpec | None:
        if info.type not in names:
            return None
        fields = [
            StructFieldSpec(s.leaf, _annotate(s), MISSING_NONPROP if s.is_required else None, s.text)
            for s in settings
            if s.group == names[info.type]
        ]
        if info.type is config:
            fields += [StructFieldSpec(name, kind, MISSING_NONPROP, summary_of(kind)) for name, kind in groups.items()]
        return StructConstructorSpec(dict, tuple(fields))

    registry = tyro.constructors.ConstructorRegistry()
    registry.struct_rule(describe)
    tyro.cli(config, args=[_HELP], prog=f"uniemox {command}", description=summary, registry=registry)
    raise AssertionError("tyro exits after a help")


def _annotate(setting: Setting) -> Any:
    from tyro.conf import Positional, arg
    from tyro.constructors import PrimitiveConstructorSpec

    spec = PrimitiveConstructorSpec(
        nargs="*" if setting.is_list and setting.is_positional else 1,
        metavar=_metavar(setting),
        instance_from_str=list,
        is_instance=lambda _: True,
        str_from_instance=lambda _: [],
    )
    kind = Annotated[object, spec, arg(help_behavior_hint=_hint(setting))]
    return Annotated[kind, Positional] if setting.is_positional else kind


def _metavar(setting: Setting) -> str:
    if setting.is_positional:
        return setting.leaf.upper() + ("…" if setting.is_list else "")
    if setting.metavar is not None:
        return setting.metavar
    if get_origin(setting.kind) is Literal:
        return "{" + ",".join(get_args(setting.kind)) + "}"
    if get_origin(setting.kind) is tuple:
        return ",".join(["NUMBER"] * len(get_args(setting.kind)))
    if setting.is_list and setting.kind is str:
        return "NAME,…"
    return _METAVARS.get(setting.kind, "TEXT")


def _hint(setting: Setting) -> str:
    if setting.is_required:
        return "(required)"
    default = setting.default
    if default is None or default is False or default == ():
        return ""
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return f"(default: {shown.lower() if default is True else shown})"
