"""What is known about a data set as a whole, and its form as JSON in the metadata of the file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from uniemox.emotions import Emotion
from uniemox.errors import ConfigError, DataError
from uniemox.validation import validate
from uniemox.wording import reason_of

VERSION: Final = 2  # Version of the format that this module writes, and the newest that it reads

METADATA_KEY: Final = b"uniemox"


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
        if len(set(self.classes)) != len(self.classes):
            raise DataError(f"the classes {', '.join(self.classes)} are not distinct")
        if len(self.classes) > np.iinfo(np.int16).max:
            raise DataError(f"{len(self.classes)} classes are more than a manifest can number")


def facts_to_metadata(facts: Facts, path: Path) -> dict[bytes, bytes]:
    """Write the facts of a file; a root at or below its folder is relative to it, so that both can be moved."""
    root, folder = facts.root, path.absolute().parent
    if root.is_relative_to(folder):
        root = root.relative_to(folder)
    return {METADATA_KEY: json.dumps(vars(facts) | {"root": root.as_posix(), "version": VERSION}).encode()}


def facts_from_metadata(metadata: dict[bytes, bytes] | None, path: Path) -> Facts:
    """Read the facts of a file; `DataError` if it is no manifest, of a newer version, or damaged."""
    text = (metadata or {}).get(METADATA_KEY)
    if text is None:
        raise DataError(f"{path} is a Parquet file but not a manifest: make one with `uniemox data prepare`")
    try:
        entries = json.loads(text)
        version = int(entries["version"])
        if version <= VERSION:
            root = path.absolute().parent / entries["root"]
            return validate(Facts, {**entries, "root": str(root)}, source="")
    except (ValueError, KeyError, TypeError, OverflowError, ConfigError, RecursionError) as error:
        raise DataError(f"the manifest {path} has damaged facts ({reason_of(error)}): prepare it again") from error
    raise DataError(
        f"the manifest {path} is of version {version}, this uniemox reads up to {VERSION}: upgrade uniemox, or "
        "prepare the data again"
    )
