"""Ranges of settings, written in their types, and checks of several settings at once."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from uniemox.errors import ConfigError

# What a model may be: of settings, and of what a stranger's folder declares before anything of it is built. A batch of
# 32 images of the largest side takes 3 GB with its copies; attention over more patches is no model but a mistake.
MAX_SIDE: Final = 1536  # pixels of an image
MAX_PATCH: Final = 128  # pixels
MAX_GRID: Final = 128  # patches along a side
MAX_WIDTH: Final = 4096  # of a decoder
MAX_DEPTH: Final = 64
MAX_HEADS: Final = 256
MAX_CLASSES: Final = 4096  # The longest lists of words for emotions have some hundreds

TABLES: Final = (".csv", ".jsonl", ".parquet")  # Endings of tables that commands write
SHEETS: Final = (".md", ".tex", ".json", ".html")  # Endings of tables of results
Precision = Literal["fp32", "bf16"]
Number = TypeVar("Number", int, float)


class Range(NamedTuple):
    """What a value may be, in the words that complete "must be", and the test of it."""

    words: str
    holds: Callable[[Any], object]


Natural = Annotated[int, Range("at least 1", lambda value: value >= 1)]


def up_to(most: int) -> Range:
    """Make the range of whole numbers from 1."""
    return Range(f"between 1 and {most}", lambda value: 1 <= value <= most)


MAX_WORKERS = max(256, 4 * (os.cpu_count() or 1))
"""More processes or threads than this have never been of use, and take the memory or the process table of a machine."""

Workers = Annotated[int, Range(f"between 0 and {MAX_WORKERS}", lambda value: 0 <= value <= MAX_WORKERS)]
SomeWorkers = Annotated[int, Range(f"between 1 and {MAX_WORKERS}", lambda value: 1 <= value <= MAX_WORKERS)]
Positive = Annotated[float, Range("greater than 0", lambda value: value > 0)]
NotNegative = Annotated[Number, Range("at least 0", lambda value: 0 <= value < inf)]
Share = Annotated[float, Range("between 0 and 1", lambda value: 0 <= value <= 1)]
InnerShare = Annotated[float, Range("greater than 0 and less than 1", lambda value: 0 < value < 1)]
BelowOne = Annotated[float, Range("in [0, 1)", lambda value: 0 <= value < 1)]
AreaShares = Annotated[
    tuple[float, float], Range("in order, greater than 0 and at most 1", lambda value: 0 < value[0] <= value[1] <= 1)
]


@dataclass(frozen=True)
class Settings:
    """Base of all settings; raises `ConfigError`, its dotted name first, on a value outside the range in its type."""

    _prefix = ""

    def __init_subclass__(cls, *, group: str = "") -> None:
        cls._prefix = f"{group}." if group else ""

    def __post_init__(self) -> None:
        config: Any = type(self)
        for name, words, holds in _ranges(config):
            value = getattr(self, name)
            check(value is None or bool(holds(value)), f"{self._prefix}{name} is {value}, but must be {words}")


@cache
def _ranges(config: Any) -> list[tuple[str, str, Callable[[Any], object]]]:
    found = []
    for name, kind in get_type_hints(config, include_extras=True).items():
        for part in (kind, *get_args(kind)):
            if get_origin(part) is Annotated:
                words, holds = part.__metadata__[0]
                found.append((name, f"{words}, or null" if NoneType in get_args(kind) else words, holds))
    return found


@dataclass(frozen=True, kw_only=True)
class JsonConfig(Settings):
    """What every command has in common that prints tables or lines."""

    json: bool = False
    """Print JSON instead of tables or lines."""


@dataclass(frozen=True, kw_only=True)
class ReadsImages(Settings):
    """What every command has in common that decodes images."""

    max_pixels: Natural | None = None
    """Largest image that is read, in pixels (width × height); larger ones are skipped like damaged ones. Null takes
    89478485. Each pixel takes 8 bytes of memory, and what is decoded at once no more than 1 GB or one image."""


def check(holds: bool, message: str) -> None:
    """Raise a `ConfigError` with the message unless the condition holds."""
    if not holds:
        raise ConfigError(message)


def check_ending(name: str, path: Path | None, endings: Sequence[str]) -> None:
    """Raise a `ConfigError` if a setting is a file whose name has another ending, in any case."""
    check(path is None or path.suffix.lower() in endings, f"{name} is {path}, but must end in {', '.join(endings)}")


def check_grid(image_size: int, patch_size: int, *, prefix: str = "") -> None:
    """Refuse an image that is no whole number of patches, or of too many, by a `ConfigError` that names both sides."""
    image, patch = f"{prefix}image_size {image_size}", f"{prefix}patch_size {patch_size}"
    check(image_size % patch_size == 0, f"{image} is not a multiple of {patch}")
    check(image_size <= MAX_SIDE, f"{image} is more than {MAX_SIDE} pixels")
    check(patch_size <= MAX_PATCH, f"{patch} is more than {MAX_PATCH} pixels")
    check(image_size // patch_size <= MAX_GRID, f"{image} is more than {MAX_GRID} times {patch}")


def check_manifest_out(path: Path) -> None:
    """Refuse a folder, and a file that is not named like a Parquet file, by a `ConfigError` before anything is read."""
    check(not path.is_dir(), f"out is {path}, but must be a file and not a folder")
    parquet = path.with_suffix(".parquet")
    check(path.suffix.lower() == ".parquet", f"out is {path}, but a manifest is a Parquet file: write {parquet}")
