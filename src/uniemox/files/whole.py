"""Files and folders that appear whole or not at all.

What is new is written beside its place under a hidden name, flushed to the disk, then renamed, so that a crash, a full
disk or a power cut leaves what was there before. Modes follow the umask, whatever a library chose for its own files.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from uniemox.errors import UniEmoXError
from uniemox.files.writing import explained

_UNFINISHED: Final = ".writing"
OLD_SUFFIX: Final = ".old"  # End of the hidden name of a folder that is being replaced


@contextmanager
def write_whole(
    path: Path,
    error: type[UniEmoXError],
    *,
    inside: Path | None = None,
    elsewhere: str = "choose another place",
    then: str = "",
) -> Iterator[Path]:
    """Yield the path of a file to write, which takes the place of `path` when the block ends without an error.

    Args:
        path: The file; its folder is made if absent.
        error: What is raised, as by `explained`, where it cannot be written; an older file is then untouched.
        inside: Folder for the unfinished file, on the same file system; None is the file's own.
        elsewhere: As of `explain_failure`, like `then`.
        then: What follows that step.
    """
    beside = _beside(path, inside or path.parent)
    with explained(path, error, elsewhere=elsewhere, then=then):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            flush(beside)
            beside.replace(path)
            flush(path.parent)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def replace_folder(
    folder: Path,
    error: type[UniEmoXError],
    *,
    elsewhere: str = "choose another place",
    then: str = "",
    failures: tuple[type[Exception], ...] = (OSError,),
) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of `folder` when the block ends without an error.

    The arguments are those of `write_whole` and `explained`.
    """
    beside = _beside(folder, folder.absolute().parent)
    with explained(folder, error, elsewhere=elsewhere, then=then, failures=failures):
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        try:
            yield beside
            _put(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def check_vacant(out: Path, error: type[UniEmoXError], *, otherwise: str = "") -> None:
    """Raise an error unless a path is absent or an empty folder; `otherwise` follows "choose another `out`"."""
    if out.is_dir() and any(out.iterdir()):
        raise error(f"{out} exists and is not empty: choose another `out`{otherwise}")
    if out.exists() and not out.is_dir():
        raise error(f"{out} is a file, not a folder: choose another `out`")


def is_unfinished(path: Path) -> bool:
    """Whether a name is one that a killed writer leaves."""
    return path.name.startswith(".") and path.name.endswith(_UNFINISHED)


def flush(path: Path) -> None:
    """Put a file, or the list of a folder, on the disk, so that a rename never outlives what it names."""
    if os.name == "nt" and path.is_dir():  # where a folder cannot be opened
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(path: Path, folder: Path) -> Path:
    return folder / f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}"


def _put(beside: Path, folder: Path) -> None:
    """Put a finished folder in its place; if that fails, the old one is put back."""
    mode = beside.stat().st_mode & 0o666
    for path in beside.rglob("*"):
        if path.is_file():
            path.chmod(mode)  # safetensors' are private, but a folder is for others
        flush(path)
    flush(beside)
    old = beside.with_name(f"{beside.name}{OLD_SUFFIX}")
    try:
        if folder.exists():
            folder.rename(old)
        beside.rename(folder)
    finally:  # also where Ctrl-C comes between the two
        if old.exists() and not folder.exists():
            old.rename(folder)
    flush(beside.parent)
    shutil.rmtree(old, ignore_errors=True)
