"""Why a file or a folder could not be written, and what to do about it: the words of every writer."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from uniemox.errors import UniEmoXError
from uniemox.wording import reason_of

_ALMOST_NOTHING: Final = 2**20  # Bytes free below which an error without a number is taken for a full disk
# Rust's two forms (safetensors to 0.5 gives the second), and Python's.
_NUMBER: Final = re.compile(r"\(os error (\d+)\)|\bOs \{ code: (\d+),|\[[Ee]rrno (\d+)\]")


@contextmanager
def explained(
    path: Path,
    error: type[UniEmoXError],
    *,
    elsewhere: str = "choose another place",
    then: str = "",
    failures: tuple[type[Exception], ...] = (OSError,),
) -> Iterator[None]:
    """Raise what fails in the block as an error for the user, in the words of `explain_failure`.

    Args:
        path: The file or folder that is written.
        error: What is raised instead.
        elsewhere: As of `explain_failure`, like `then`.
        then: What follows once the reason is gone.
        failures: Exceptions that mean that the path cannot be written.
    """
    try:
        yield
    except failures as failure:
        why = explain_failure(path, failure, elsewhere=elsewhere, then=then)
        raise error(f"{path} cannot be written: {why}") from failure


def explain_failure(
    path: Path, error: BaseException, *, elsewhere: str = "choose another place", then: str = ""
) -> str:
    """Say why a path could not be written, then the next step: the end of an error message.

    Args:
        path: The file or folder that the user asked for, rather than a temporary one beside it.
        error: What was raised; libraries that wrap the system's error keep its number in their text.
        elsewhere: How the user names another place, such as "choose another `out`"; empty where there is no choice.
        then: What follows once the reason is gone, such as "continue with `resume`".

    Returns:
        "no space is left on the device. Free space or choose another place", for example.
    """
    reason, remedy = _diagnose(path, error)
    step = ", then ".join(filter(None, (" or ".join(filter(None, (remedy, elsewhere))), then)))
    return f"{reason}. {step[:1].upper()}{step[1:]}"


def _diagnose(path: Path, error: BaseException) -> tuple[str, str]:
    """Return the reason, and what removes it; empty where only another place helps."""
    number = error.errno if isinstance(error, OSError) else None
    if not number and (found := _NUMBER.search(str(error))):  # Rust's and Arrow's writers give it as text alone
        number = int(found[found.lastindex or 0])
    match number:
        case errno.EDQUOT:
            return "the disk quota is used up", "free space"
        case errno.ENOSPC:
            return "no space is left on the device", "free space"
        case errno.EACCES | errno.EPERM:
            nearest = _nearest(path)
            where = "" if nearest == path and not path.is_dir() else f" in the folder {nearest}"
            return f"permission denied{where}", "change its permissions"
        case errno.EISDIR:
            return f"{path} is a folder", ""
        case errno.ENOENT | errno.ENOTDIR | errno.EEXIST:
            # Of a path that exists, the path itself is no folder.
            folders = (*reversed(path.parents), *([path] if number == errno.EEXIST else []))
            if obstacle := next((folder for folder in folders if not folder.is_dir()), None):
                if obstacle.exists():
                    return f"{obstacle} is a file, not a folder", ""
                return f"the folder {obstacle} does not exist", "create it"
        case None | 0 if _is_full(path):
            return "no space is left on the device", "free space"
    return os.strerror(number).lower() if number else reason_of(error), ""


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(_nearest(path)).free < _ALMOST_NOTHING
    except OSError:
        return False


def _nearest(path: Path) -> Path:
    """Return the path itself, or else the nearest folder above it that exists."""
    return next((place for place in (path, *path.parents) if place.exists()), Path())
