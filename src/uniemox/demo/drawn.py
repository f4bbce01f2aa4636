"""The embedded data: drawn people in scenes, six emotions, in EmoSet's format."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

from uniemox.data.layouts import import_dataset
from uniemox.data.manifest import write_manifest
from uniemox.errors import DataError

ARCHIVE = Path(__file__).parent / "assets" / "drawn6.zip"


class DrawnData(NamedTuple):
    """Manifests of the unpacked data."""

    seen: Path
    """Splits train, val and test: test holds pairs of character and pose that train does not."""
    unseen: Path
    """Split test alone: characters that no training picture shows."""


def unpack(folder: Path) -> DrawnData:
    """Unpack the embedded pictures and import them, as a user imports EmoSet.

    Args:
        folder: Where to; made if absent.

    Raises:
        DataError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(ARCHIVE) as archive:
            archive.extractall(folder)
    except OSError as error:
        raise DataError(f"the demo's pictures cannot be unpacked to {folder} ({error})") from error
    return DrawnData(*(_import(folder / name) for name in ("drawn6", "drawn6-unseen")))


def _import(root: Path) -> Path:
    found = import_dataset("drawn6", root, people=root / "people.csv", strict=True)
    manifest = root.with_suffix(".parquet")
    write_manifest(found.manifest, manifest)
    return manifest
