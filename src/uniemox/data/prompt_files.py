"""Prompts of classes that a user wrote: a YAML or JSON file, read to distinct prompts by class.

Either prompts by class::

    anger: [a photo of a shouting crowd, a clenched fist]
    awe: a starry sky over mountains

or templates with `{}` for the word, and the words of the classes if not those of `emotion_words`::

    templates:
      - a painting that evokes {}.
      - the face of a person full of {}.
    words:
      anger: [anger, wrath]
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from uniemox.data.class_prompts import SLOT, class_nouns, fill
from uniemox.emotions import match_classes
from uniemox.errors import CheckpointError, ConfigError
from uniemox.files.json_file import read_json
from uniemox.files.yaml_file import MAX_BYTES, read_mapping
from uniemox.wording import counted, name_first, nearest, one_line, printable, shorten

MAX_PROMPTS: Final = 1000  # Of a class; CLIP's authors use 80 for ImageNet
MAX_ALL: Final = 100_000  # Of all classes: 80,000 for ImageNet, an hour on a CPU
MAX_LENGTH: Final = 1000  # Characters; CLIP reads no more than some 300


def read_prompts(path: Path, classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read the prompts of every class from a file.

    Args:
        path: A `.json` file, or a YAML file of any other name.
        classes: Names, distinct; the file may spell them as `match_classes` takes them.

    Returns:
        Distinct prompts by class, in the order of the classes and of the file.

    Raises:
        ConfigError: It cannot be read, lacks a class, has an unknown one or nothing for one, holds something else than
            text, too much of it, or the same prompts for two classes. The message names file and class.
    """
    tree = _read(path)
    if "templates" in tree and "templates" not in classes:
        prompts = _from_templates(path, tree, classes)
    else:
        lists = _by_class(path, tree, classes)
        if missing := [name for name in classes if name not in lists]:
            raise ConfigError(
                f"{path} has no prompts for {name_first(missing, most=8)}: add them, or give templates for all classes"
            )
        prompts = {name: lists[name] for name in classes}
    _check_number(sum(map(len, prompts.values())), MAX_ALL, str(path))
    _refuse_twins(path, prompts)
    return prompts


def _read(path: Path) -> dict[Any, Any]:
    if path.suffix.lower() == ".json":
        try:
            return read_json(path)
        except CheckpointError as error:
            raise ConfigError(str(error)) from error
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ConfigError(f"{path} is no regular file: give a YAML or JSON file of prompts")
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path} is longer than {MAX_BYTES:,} bytes: write it as .json, which may have 4 MB")
    return read_mapping(path, source=str(path))


def _by_class(path: Path, tree: Mapping[Any, Any], classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read a mapping from classes to texts; not every class must be there."""
    for key in tree:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: the class {shorten(key)} is no text: put it in quotes")
    match = match_classes(classes, list(tree))
    if match.unknown:
        name = match.unknown[0]
        known = f"; the classes are {name_first(classes, most=8)}"
        raise ConfigError(f"{path}: {shorten(name)} is none of the classes{nearest(name, classes) or known}")
    lists = {own: _texts(tree[key], f"{path}: {shorten(key)}") for key, own in match.mapped.items()}
    for name, texts in lists.items():
        if any(SLOT in text for text in texts):
            raise ConfigError(f"{path}: {shorten(name)} has a text with {SLOT}: only what is below templates takes it")
    return lists


def _from_templates(path: Path, tree: Mapping[Any, Any], classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    for key in tree:
        if key not in ("templates", "words"):
            raise ConfigError(
                f"{path}: {shorten(key)} stands beside templates, where only words may; put it below words"
            )
    templates = _texts(tree["templates"], f"{path}: templates")
    for template in templates:
        if SLOT not in template:
            raise ConfigError(f'{path}: the template "{shorten(template)}" has no {SLOT}: write {SLOT} for the word')
    words = tree.get("words", {})
    if not isinstance(words, dict):
        raise ConfigError(f"{path}: words is {_show(words)}, but must be a mapping from classes to words")
    given = _by_class(path, words, classes)
    used = {name: given.get(name) or class_nouns(name) for name in classes}
    for name, own in used.items():
        _check_number(len(templates) * len(own), MAX_PROMPTS, f"{path}: {shorten(name)}")
    _check_number(len(templates) * sum(map(len, used.values())), MAX_ALL, str(path))  # before any is made
    return {name: _distinct(fill(templates, own)) for name, own in used.items()}


def _texts(value: object, where: str) -> tuple[str, ...]:
    """Check one text or a list of them; `where` names file and class."""
    texts = value if isinstance(value, list) else [value]
    if not texts:
        raise ConfigError(f"{where} is an empty list: give at least one text")
    _check_number(len(texts), MAX_PROMPTS, where)
    for text in texts:
        if not isinstance(text, str):
            raise ConfigError(f"{where} has {_show(text)}, but must be a text or a list of texts: put it in quotes")
        if not text.strip():
            raise ConfigError(f"{where} has an empty text: fill it in or delete it")
        if len(text) > MAX_LENGTH:
            raise ConfigError(f"{where} has a text of {len(text):,} characters, more than {MAX_LENGTH:,}: shorten it")
        if printable(line := one_line(text)) != line:
            raise ConfigError(
                f"{where} has characters that cannot be printed, in {shorten(printable(line))}: delete them"
            )
    return _distinct(texts)


def _show(value: object) -> str:
    return "nothing" if value is None else "a mapping" if isinstance(value, dict) else shorten(value)


def _distinct(texts: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(one_line, texts)))


def _check_number(number: int, most: int, where: str) -> None:
    if number > most:
        raise ConfigError(f"{where} has {counted(number, 'prompt')}, more than {most:,}: give fewer")


def _refuse_twins(path: Path, prompts: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse two classes with the same prompts, which no image could tell apart."""
    first: dict[frozenset[str], str] = {}
    for name, texts in prompts.items():
        other = first.setdefault(frozenset(texts), name)
        if other != name:
            raise ConfigError(f"{path} has the same prompts for {other} and {name}: give each its own")
