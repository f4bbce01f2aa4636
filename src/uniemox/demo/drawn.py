"""The embedded data: drawn people in scenes, six emotions, in EmoSet's format."""

import zipfile
from pathlib import Path
from typing import NamedTuple

from uniemox.errors import DataError
from uniemox.files.writing import explained
from uniemox.importers.importing import import_dataset
from uniemox.manifests.table import write_manifest

ARCHIVE = Path(__file__).parent / "assets" / "drawn6.zip"


class DrawnData(NamedTuple):
    """Manifests of the unpacked data."""

    seen: Path  # Splits train, val and test: test holds pairs of character and pose that train does not
    unseen: Path  # Only the split test: characters that no training image shows


def unpack(folder: Path) -> DrawnData:
    """Unpack the embedded images into a folder, made if absent, and import them, or raise `DataError`."""
    with explained(folder, DataError), zipfile.ZipFile(ARCHIVE) as archive:
        folder.mkdir(parents=True, exist_ok=True)
        archive.extractall(folder)
    for root in (folder / "drawn6", folder / "drawn6-unseen"):
        found = import_dataset("drawn6", root, people=root / "people.csv", strict=True)
        write_manifest(found.manifest, root.with_suffix(".parquet"))
    return DrawnData(folder / "drawn6.parquet", folder / "drawn6-unseen.parquet")
