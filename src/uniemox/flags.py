"""The parser of one command: jsonargparse with dashes or underscores in flags, plain help, and errors in one line."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import jsonargparse

from uniemox.errors import ConfigError

_PARSER_COMPLAINT = re.compile(
    r'Parser key "(?P<name>[\w.]+)":.*?(?:(?:Got|Given) value: (?P<value>.*))?', re.DOTALL
)
_MISSING = "the following arguments are required: "
_LONGEST_VALUE = 80


def is_optional(kind: Any) -> bool:
    """Say whether a type takes null."""
    return get_origin(kind) in (UnionType, Union) and NoneType in get_args(kind)


def without_null(kind: Any) -> Any:
    """Give `X` for `X | None`."""
    if not is_optional(kind):
        return kind
    (inner,) = (part for part in get_args(kind) if part is not NoneType)
    return inner


def is_list(kind: Any) -> bool:
    """Say whether a type takes several values: a tuple or a sequence."""
    return get_origin(without_null(kind)) in (tuple, Sequence)


def expectation(kind: Any) -> str:
    """Say in words what values a type takes, for an error message."""
    if is_optional(kind):
        return f"{expectation(without_null(kind))}, or null"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        return f"{len(get_args(kind))} numbers in brackets"
    if get_origin(kind) is Sequence:
        return "a list of names in brackets"
    words = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    return words.get(kind, "text")


def path(text: str | Path) -> Path:
    """Make a path; jsonargparse's own way refuses names that are not UTF-8."""
    if text == "":  # which would be the working directory; mostly a shell variable that is not set
        raise ValueError("empty")
    return Path(text)


def _metavar(kind: Any) -> str:
    """Say in one word what a flag takes, for the help."""
    kind = without_null(kind)
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    if get_origin(kind) is tuple:
        return ",".join(["NUMBER"] * len(get_args(kind)))
    if get_origin(kind) is Sequence:
        return "NAME,…"
    words = {int: "INTEGER", float: "NUMBER", bool: "{true,false}", Path: "PATH"}
    return words.get(kind, "TEXT")


def nearest(word: str, known: Collection[str]) -> str:
    """Name the known word that is like the given one, as the end of an error message; empty where none is."""
    # A setting is often given without its group or in another one, so the last part of the name counts as well.
    leaves = {name.rpartition(".")[2].lstrip("-"): name for name in known}
    leaf = word.rpartition(".")[2].lstrip("-")
    found = [leaves[leaf]] if leaf in leaves else difflib.get_close_matches(word, known, 1, 0.75)
    found = found or [leaves[name] for name in difflib.get_close_matches(leaf, leaves, 1)]
    return f"; did you mean {found[0]}?" if found else ""


def one_line(text: str) -> str:
    """Bring a message to one line."""
    return " ".join(text.split())


class _HelpFormatter(argparse.HelpFormatter):
    """Help with defaults, but without Python's names of types."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.required and action.option_strings:
            return f"{text} (required)"
        if action.default in (None, argparse.SUPPRESS) or action.nargs == 0:
            return text
        default = action.default
        shown = ",".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        shown = shown.lower() if isinstance(default, bool) else shown
        return f"{text} (default: {shown.replace('%', '%%')})"


class Parser(jsonargparse.ArgumentParser):
    """Parser of one command; every error is a `ConfigError` of one line.

    Arguments are added with `add_flag`, `add_switch` and `add_words`.
    """

    def __init__(self, command: str, summary: str, *, usage: str | None = None) -> None:
        super().__init__(
            prog=f"uniemox {command}",
            description=summary,
            usage=usage,
            formatter_class=_HelpFormatter,
            print_config=None,
            allow_abbrev=False,
            add_help=False,
        )
        self._kinds: dict[str, Any] = {}
        self.add_argument("-h", "--help", action="help", help="Show this help and leave.")
        self._kinds["--help"] = None
        self.add_switch("--debug", "Show where an error comes from.")

    def add_flag(
        self,
        name: str,
        kind: Any,
        text: str,
        *,
        default: Any = None,
        required: bool = False,
        group: argparse._ArgumentGroup | None = None,
        metavar: str | None = None,
        repeat: bool = False,
    ) -> None:
        """Add a flag with a value; a bool may stand alone, a list takes its parts with commas between them.

        Args:
            name: With its two dashes, and dashes inside.
            kind: A type as in `config`.
            text: Help.
            default: Shown in the help, and the value where the flag is absent.
            required: Whether the flag must be given.
            group: Section of the help.
            metavar: What the help calls the value, instead of a word for its type.
            repeat: Whether the flag may be given several times, which makes the value a list of `kind`.
        """
        self._kinds[name] = kind
        options: dict[str, Any] = {
            "type": path if kind is Path else kind,
            "metavar": metavar or _metavar(kind),
        }
        if kind is bool:
            options |= {"nargs": "?", "const": True}
        if repeat:
            options |= {"action": "append"}
        if required:
            options |= {"required": True}
        else:
            options |= {"default": default}
        container: Any = self if group is None else group
        action = container.add_argument(name, help=text.replace("%", "%%"), **options)
        action.option_strings[:] = [name]  # jsonargparse adds `--name+` to lists

    def add_switch(self, name: str, text: str) -> None:
        """Add a flag without a value."""
        self._kinds[name] = None
        self.add_argument(name, action="store_true", help=text.replace("%", "%%"))

    def add_words(self, name: str, kind: Any, text: str, *, many: bool = False) -> None:
        """Add a positional argument, or one or more of them."""
        options: dict[str, Any] = {"nargs": "+"} if many else {}
        convert = path if kind is Path else kind
        self.add_argument(name, type=convert, metavar=name.upper(), help=text, **options)

    def parse(self, words: Iterable[str], *, defaults: bool = True) -> jsonargparse.Namespace:
        """Parse the words after the command.

        Args:
            words: As the shell gives them.
            defaults: Whether what is absent has its default in the result, or is left out of it.

        Raises:
            ConfigError: On an unknown flag, a wrong type, a missing or a superfluous word.
        """
        given: jsonargparse.Namespace = self.parse_args(self._tidy(list(words)), defaults=defaults)
        return given

    def parse_values(self, values: dict[str, Any]) -> jsonargparse.Namespace:
        """Check and convert nested values, such as those of a file, that take the place of flags.

        Raises:
            ConfigError: On a wrong type.
        """
        given: jsonargparse.Namespace = self.parse_object(values, defaults=False)
        return given

    def _tidy(self, words: list[str]) -> list[str]:
        """Write flags with dashes and lists with brackets."""
        tidy: list[str] = []
        queue = deque(words)
        while queue:
            word = queue.popleft()
            if word == "--":
                return [*tidy, word, *queue]
            if word.startswith("--"):
                name, equals, value = word.partition("=")
                name = name.replace("_", "-")
                if name not in self._kinds:
                    raise ConfigError(
                        f"there is no flag {shorten(name)}{nearest(name, self._kinds)}"
                    )
                if is_list(self._kinds[name]):
                    if not equals and queue and not queue[0].startswith("--"):
                        equals, value = "=", queue.popleft()
                    value = value if value.startswith("[") or not equals else f"[{value}]"
                word = name + equals + value
            tidy.append(word)
        return tidy

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a `ConfigError` of one line instead of printing the usage and leaving."""
        raise ConfigError(self._reword(message)) from ex

    def _reword(self, message: str) -> str:
        if message.startswith(_MISSING):
            names = message.removeprefix(_MISSING).split(", ")
            flags = (f"--{name.replace('_', '-')}" for name in names)
            shown = (
                flag if flag in self._kinds else name.upper()
                for flag, name in zip(flags, names, strict=True)
            )
            return f"{' and '.join(shown)} must be given; see `{self.prog} --help`"
        complaint = _PARSER_COMPLAINT.fullmatch(message)
        if complaint is None:
            return one_line(message)
        name, value = complaint["name"], complaint["value"]
        kind = self._kinds.get(f"--{name.replace('_', '-')}", str)
        shown_value = f" is {shorten(value)}, but" if value is not None else ""
        return f"{name}{shown_value} must be {expectation(kind)}"


def shorten(value: object) -> str:
    """Show a value of a file or a flag in one line and not at length."""
    return textwrap.shorten(str(value), _LONGEST_VALUE, placeholder=" …")[:_LONGEST_VALUE]
