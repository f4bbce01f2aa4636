"""Words of messages: values, names and reasons in one short, printable line, and the name that was perhaps meant."""

import difflib
import os
import textwrap
import unicodedata
from collections.abc import Collection, Sequence
from typing import Final

_LONGEST_VALUE: Final = 80
_JOINERS: Final = "\u200c\u200d"  # Persian parts a word with the first, and emoji of families are joined by the second
_FIRST_JOINED: Final = "\u0600"  # Arabic; the scripts before it have no use for joiners
_LONGEST_READ: Final = 10_000
_LONGEST_REASON: Final = 200


def one_line(text: str) -> str:
    """Join the lines of a text with single blanks."""
    return " ".join(text.split())


def reason_of(error: BaseException) -> str:
    """Quote an exception in one line of at most 200 characters; the system's errors without file names."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return one_line(str(error))[:_LONGEST_REASON] or type(error).__name__


def shorten(value: object) -> str:
    """Show a value of a file or a flag in one line and not at length."""
    try:
        text = str(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return textwrap.shorten(text[:_LONGEST_READ], _LONGEST_VALUE, placeholder=" …")[:_LONGEST_VALUE]


def printable(text: str, *, keep: str = "") -> str:
    """Write what is not seen as escapes: line breaks, marks that turn the direction, halves of characters and the like.

    Blanks of any width stay, and the two joiners where scripts and emoji need them; so do the characters to keep.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if _is_seen(text, place) or letter in keep else letter.encode("unicode_escape").decode()
        for place, letter in enumerate(text)
    )


def _is_seen(text: str, place: int) -> bool:
    letter = text[place]
    if letter in _JOINERS and 0 < place < len(text) - 1:  # between Latin letters they would be a second, equal word
        return min(text[place - 1], text[place + 1]) >= _FIRST_JOINED
    return letter.isprintable() or unicodedata.category(letter) == "Zs"


def counted(number: int, noun: str, *, several: str = "") -> str:
    """Say how many: 1 image, 1,200 images.

    Args:
        number: How many.
        noun: The word for one.
        several: The word for more; where it is empty, that is the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does: a, b and c."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def name_first(names: Sequence[str], *, most: int = 3, longest: int = 80) -> str:
    """Name the first few, and count the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(name[:longest] for name in names[:most]) + more) or "none"


def nearest(word: str, known: Collection[str]) -> str:
    """Name the known word that is like the given one, as the end of an error message; empty where none is."""
    # A setting is often given without its group or in another one, so the last part of the name counts as well.
    leaves = {name.rpartition(".")[2].lstrip("-"): name for name in known}
    leaf = word.rpartition(".")[2].lstrip("-")
    found = [leaves[leaf]] if leaf in leaves else difflib.get_close_matches(word, known, 1, 0.75)
    found = found or [leaves[name] for name in difflib.get_close_matches(leaf, leaves, 1)]
    return f"; did you mean {found[0]}?" if found else ""
