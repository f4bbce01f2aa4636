"""The images below a folder, without what systems and programs keep beside them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from uniemox.files.images import is_image_name

_CLUTTER: Final = frozenset(
    (
        *("@eadir", "@recycle", "#recycle", "#snapshot", "@tmp"),  # disk stations: thumbnails, deleted files
        *("$recycle.bin", "recycler", "system volume information"),  # Windows
        *("thumbs.db", "ehthumbs.db", "desktop.ini"),
        *("lost+found", "__pycache__", "__macosx", "icon\r"),  # Unix, Python, archives and folders of a Mac
    )
)  # In lower case; whatever starts with a dot is hidden by its owner, or a Mac's shadow of a file


class Images(NamedTuple):
    """What was found below a folder."""

    paths: list[Path]  # By name
    skipped: list[Path]  # Folders and images that are not the user's own, such as thumbnails


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name belongs to a system or a program, not to a collection of images."""
    return name.startswith(".") or name.casefold() in _CLUTTER


def find_images_below(folder: Path, *, refuse: Callable[[OSError], None]) -> Images:
    """Find all files below a folder that are named like images; links to folders are not followed.

    Args:
        folder: Where to look.
        refuse: Is called with the error of a folder that cannot be listed.
    """
    found = Images([], [])
    for place, folders, names in os.walk(folder, onerror=refuse):
        found.skipped.extend(Path(place) / name for name in folders if is_clutter(name))
        folders[:] = [name for name in folders if not is_clutter(name)]
        for name in filter(is_image_name, names):
            (found.skipped if is_clutter(name) else found.paths).append(Path(place) / name)
    return Images(sorted(found.paths), sorted(found.skipped))
