"""What is known about a data set as a whole, and its form as JSON in the metadata of the file."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from uniemox.config.checks import MAX_CLASSES
from uniemox.emotions import Emotion
from uniemox.errors import ConfigError, DataError
from uniemox.validation import validate
from uniemox.wording import name_first, reason_of, shorten

VERSION: Final = 2  # Version of the format that this module writes, and the newest that it reads

METADATA_KEY: Final = b"uniemox"
_MAX_NAME: Final = 255  # Characters of a class, as of the folder that is named after one
_MAX_BYTES: Final = 2**22  # Of the facts as JSON; those of a merge of a hundred data sets take a tenth


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known about a data set as a whole; the manifest's metadata."""

    name: str  # Short name, as in the table of data sets
    title: str
    classes: tuple[str, ...]  # Names of the labels; the i-th is label i
    emotion: Emotion | None  # The kind of emotion that labels name, evoked or felt; None where it is not known
    root: Path  # Folder that paths are relative to; made absolute
    licence: str = ""
    url: str = ""
    citation: str = ""
    layout: str = ""  # Layout on disk that the rows were read from
    labelled_by: str = ""  # What a label is, such as the searched keyword or the majority of raters
    split_recipe: str = ""  # How the splits were made: given, or the recipe with its seed
    people_source: str = ""  # Who found the boxes of people: an annotation, or a detector with its version and settings
    vad_range: tuple[float, float] | None = None  # Ends of the scale of valence, arousal and dominance
    version: int = VERSION  # Version of the manifest's format

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.absolute())
        if self.version < 1:
            raise DataError(f"there is no version {self.version}")
        if len(self.classes) > MAX_CLASSES:
            raise DataError(f"{len(self.classes):,} classes are more than the {MAX_CLASSES:,} of any set of emotions")
        if len(set(self.classes)) != len(self.classes):
            raise DataError(f"the classes {name_first(self.classes, most=20)} are not distinct")
        if "" in self.classes:
            raise DataError("a class has no name")
        if long := next((name for name in self.classes if len(name) > _MAX_NAME), ""):
            raise DataError(f"the class {shorten(long)} has {len(long):,} characters, more than {_MAX_NAME}")
        if self.vad_range is not None and not -math.inf < self.vad_range[0] < self.vad_range[1] < math.inf:
            low, high = self.vad_range
            raise DataError(f"{low:g} to {high:g} is no scale of valence, arousal and dominance")


def facts_to_metadata(facts: Facts, path: Path) -> dict[bytes, bytes]:
    """Write the facts of a file; a root at or below its folder is relative to it, so that both can be moved."""
    root, folder = facts.root, path.absolute().parent
    if root.is_relative_to(folder):
        root = root.relative_to(folder)
    return {METADATA_KEY: json.dumps(vars(facts) | {"root": root.as_posix(), "version": VERSION}).encode()}


def _read_json(text: bytes) -> Any:
    if len(text) > _MAX_BYTES:
        raise ValueError(f"they take {len(text):,} bytes, more than {_MAX_BYTES:,}")
    return json.loads(text)


def facts_from_metadata(metadata: dict[bytes, bytes] | None, path: Path) -> Facts:
    """Read the facts of a file; `DataError` if it is no manifest, of a newer version, or damaged."""
    text = (metadata or {}).get(METADATA_KEY)
    if text is None:
        raise DataError(f"{path} is a Parquet file but not a manifest: make one with `uniemox data prepare`")
    try:
        entries = _read_json(text)
        version = int(entries["version"])
        if version <= VERSION:
            root = path.absolute().parent / entries["root"]
            return validate(Facts, {**entries, "root": str(root)}, source="")
    except (ValueError, KeyError, TypeError, OverflowError, ConfigError, DataError, RecursionError) as error:
        raise DataError(f"the manifest {path} has damaged facts ({reason_of(error)}): prepare it again") from error
    raise DataError(
        f"the manifest {path} is of version {version}, this uniemox reads up to {VERSION}: upgrade uniemox, or "
        "prepare the data again"
    )
