"""What an import has to say besides its rows: problems, which `--strict` refuses, and notes, which it does not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set that did not keep it from being read."""

    kind: str
    """What is wrong, in a few words."""
    count: int
    example: str
    """Where, the first time."""

    def __str__(self) -> str:
        return f"{self.count} x {self.kind} ({self.example})"


class Findings:
    """Counts of what an import met, with one example of each kind."""

    def __init__(self) -> None:
        self._problems: dict[str, Problem] = {}
        self._notes: dict[str, Problem] = {}
        self._remarks: list[str] = []

    def add(self, kind: str, example: str) -> None:
        """Count something wrong."""
        _count(self._problems, kind, example)

    def include(self, problems: Iterable[Problem]) -> None:
        """Count what somebody else counted."""
        for problem in problems:
            known = self._problems.get(problem.kind)
            more = 0 if known is None else known.count
            self._problems[problem.kind] = replace(known or problem, count=problem.count + more)

    def note(self, kind: str, example: str) -> None:
        """Count something that was understood but is worth knowing."""
        _count(self._notes, kind, example)

    def remark(self, text: str) -> None:
        """Say something about the data set as a whole."""
        self._remarks.append(text)

    def problems(self) -> tuple[Problem, ...]:
        """List what is wrong, in the order in which it was met."""
        return tuple(self._problems.values())

    def notes(self) -> tuple[str, ...]:
        """List what is worth knowing, each in one line."""
        return (*map(str, self._notes.values()), *self._remarks)


def _count(found: dict[str, Problem], kind: str, example: str) -> None:
    known = found.get(kind) or Problem(kind, 0, printable(example))
    found[kind] = replace(known, count=known.count + 1)


def counted(number: int, noun: str, *, several: str = "") -> str:
    """Say how many: 1 picture, 1,200 pictures.

    Args:
        number: How many.
        noun: The word for one.
        several: The word for more; where it is empty, that is the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"


def printable(text: str) -> str:
    """Write line breaks, control characters and halves of characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
