"""From an untrusted dict to a dataclass, by pydantic: types and ranges are those of the fields."""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Final, TypeVar, cast, get_args, get_type_hints

from uniemox.errors import ConfigError
from uniemox.wording import nearest, one_line, shorten

Made = TypeVar("Made")

_SHOWN: Final = 80  # Parts of a list that a message is made of

_WANTED: Final = {
    "bool_type": "true or false",
    "dataclass_type": "a mapping",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "string_too_long": "a shorter text",
    "string_too_short": "a longer text",
    "string_type": "text",
    "too_long": "a shorter list",
    "too_short": "a longer list",
    "tuple_type": "a list",
}  # Pydantic's kinds of errors in the words of a user of YAML


def validate(kind: type[Made], tree: object, *, source: str, prefix: str = "") -> Made:
    """Make a dataclass of plain values, converting nothing but lists to tuples.

    Args:
        kind: The dataclass. Each should have `__pydantic_config__ = ConfigDict(extra="forbid")`, since pydantic ignores
            unknown names otherwise.
        tree: Values as read from YAML or JSON.
        source: What messages call it; empty if the caller names it.
        prefix: Of the names of fields in messages.

    Raises:
        ConfigError: Names the first value that is unknown, missing, of another type or out of range, in one line.
    """
    from pydantic import ValidationError  # .1 s, which a help does not need

    start = f"{source}: " if source else ""
    try:
        # In JSON a list can be a tuple although everything else is strict.
        made: Made = make_adapter(cast("Any", kind)).validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(start + _describe(kind, error.errors()[0], prefix)) from None
    except ConfigError as error:  # of a dataclass that checks its own ranges
        raise ConfigError(f"{start}{prefix}{error}") from error
    except RecursionError as error:
        raise ConfigError(f"{start}{prefix.rstrip('.') or 'it'} is nested too deeply") from error
    return made


@cache
def make_adapter(kind: Any, *, only_finite: bool = False) -> Any:
    """Make pydantic's reader of a type, once; a dataclass has its own setting for numbers that are not finite."""
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False) if only_finite else None)


def _describe(kind: Any, error: Any, prefix: str) -> str:
    place = prefix + ".".join(map(str, error["loc"])) or "the whole"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        name = str(error["loc"][-1])
        return f"unknown setting {shorten(prefix + name)}{nearest(name, set(_names(kind)))}"
    if error["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{place} must be given"
    value = error["input"]
    listed = f"[{', '.join(map(shorten, value[:_SHOWN]))}]" if isinstance(value, list) else value
    shown = "null" if value is None else shorten(listed)
    place = shorten(place)
    wanted = _WANTED.get(error["type"]) or error["msg"].partition(" should be ")[2]
    if error["type"] == "literal_error":
        wanted = f"one of {error['ctx']['expected'].replace(chr(39), '')}"
    return f"{place} is {shown}, but must be {wanted or one_line(error['msg'])}"


def _names(kind: Any) -> Iterator[str]:
    """Name the fields of a dataclass and of all that its fields hold."""
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        for field in fields(kind):
            yield field.name
            yield from _names(hints[field.name])
    for part in get_args(kind):
        yield from _names(part)
