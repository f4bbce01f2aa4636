"""Files and folders that appear whole or not at all.

What is new is written beside its place under a hidden name, flushed to the disk, then renamed, so that a crash, a full
disk or a power cut leaves what was there before. Modes follow the umask, whatever a library chose for its own files.
A writer holds a lock of what it has not finished; the next one to the same place clears what nobody holds any more.
"""

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from uniemox.errors import ConfigError, UniEmoXError
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
    with explained(path, error, elsewhere=elsewhere, then=then), ExitStack() as stack:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = stack.enter_context(_held(path, inside or path.parent, Path.touch))
        mode = beside.stat().st_mode
        try:
            yield beside
            beside.chmod(mode)  # safetensors' are private
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
    home = folder.absolute().parent
    with explained(folder, error, elsewhere=elsewhere, then=then, failures=failures), ExitStack() as stack:
        home.mkdir(parents=True, exist_ok=True)
        beside = stack.enter_context(_held(folder, home, Path.mkdir))
        try:
            yield beside
            _put(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def check_vacant(out: Path, error: type[UniEmoXError], *, name: str = "out", otherwise: str = "") -> None:
    """Raise an error unless a path is absent or an empty folder; `otherwise` follows "choose another `out`"."""
    if out.is_dir() and any(out.iterdir()):
        raise error(f"{out} exists and is not empty: choose another `{name}`{otherwise}")
    if out.exists() and not out.is_dir():
        raise error(f"{out} is a file, not a folder: choose another `{name}`")


def check_absent(file: Path | None, *, overwrite: bool) -> None:
    """Raise a `ConfigError` if a file exists that was not to be overwritten."""
    if file is not None and file.exists() and not overwrite:
        raise ConfigError(f"{file} exists; `overwrite` replaces it")


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


@contextmanager
def _held(path: Path, folder: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Make what will take the place of a path, under a hidden name in a folder, and hold it."""
    _clear(path, folder)
    with ExitStack() as stack:
        while True:
            beside = folder / f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}"
            make(beside)
            handle = _hold(beside, waits=True)  # for one that is about to clear it
            if handle is not None:
                stack.callback(os.close, handle)
            if beside.exists():  # else another writer cleared it before it was held
                break
        yield beside


def _clear(path: Path, folder: Path) -> None:
    """Remove what killed writers of a path left, unless it is all that there is of it.

    What has another's name, or cannot be locked for sure, stays.
    """
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}{re.escape(_UNFINISHED)}({re.escape(OLD_SUFFIX)})?")
    left = [one for one in folder.iterdir() if name.fullmatch(one.name)] if folder.is_dir() else []
    if not path.exists() and any(one.name.endswith(OLD_SUFFIX) for one in left):
        return  # killed between two renames: the former and the new one are for the user to choose from
    for one in left:
        handle = _hold(one)
        if handle is not None:
            shutil.rmtree(one, ignore_errors=True) if one.is_dir() else one.unlink(missing_ok=True)
            os.close(handle)


def _hold(path: Path, *, waits: bool = False) -> int | None:
    """Lock a file or a folder until the handle is closed; None where it is held, or where there are no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    with ExitStack() as stack:
        try:
            # Not a record lock: those end when the process closes the file anywhere, as a library that writes it does.
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            is_there = os.path.samestat(os.fstat(handle), path.lstat())
        except OSError:
            return None
        if is_there:
            stack.pop_all()
            return handle
    return None


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
