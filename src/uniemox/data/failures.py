"""Exceptions of imaging libraries as errors for users, which name the image and the transform that failed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from uniemox.errors import DAMAGED, DataError

_OTHERS: Final = (BufferError, ImportError, NameError, SystemError)
_FAULTS: Final = (*_OTHERS, *(kind for kind in DAMAGED if kind is not MemoryError))
"""What a library raises where it does not accept an argument, or no longer has what it is asked for. A MemoryError is
not the fault of a transform."""


@contextmanager
def naming(transform: str, *, advice: str = "--debug shows where") -> Iterator[None]:
    """Turn a library's exception into a `DataError` of one line, with the exception as its cause.

    Args:
        transform: What is applied, such as "the augmentation".
        advice: What the user can do about it.

    Raises:
        DataError: "TRANSFORM failed: REASON; ADVICE".
    """
    try:
        yield
    except _FAULTS as error:
        reason = str(error).partition("\n")[0][:300]
        raise DataError(f"{transform} failed: {reason} ({type(error).__name__}); {advice}") from error


@contextmanager
def locating(path: Path) -> Iterator[None]:
    """Put the path of the image before the message of a `DataError`, as "PATH: MESSAGE"; its cause stays."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error.__cause__
