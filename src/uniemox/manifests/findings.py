"""What an import reports besides its rows: problems, which `strict` refuses, and notes, which it does not."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from uniemox.wording import printable


@dataclass(frozen=True)
class Problem:
    """A fault of a data set that did not keep it from being read."""

    kind: str  # What it is, in a few words
    count: int
    example: str  # Where, the first time

    def __str__(self) -> str:
        return f"{self.count} x {self.kind} ({self.example})"


class Findings:
    """Counts of what an import met, with one example of each kind."""

    def __init__(self) -> None:
        self._problems: dict[str, Problem] = {}
        self._notes: dict[str, Problem] = {}
        self._remarks: list[str] = []

    def add(self, kind: str, example: str) -> None:
        """Count a problem."""
        _count(self._problems, Problem(kind, 1, printable(example)))

    def include(self, problems: Iterable[Problem]) -> None:
        """Count what was counted elsewhere."""
        for problem in problems:
            _count(self._problems, problem)

    def note(self, kind: str, example: str) -> None:
        """Count something that was understood but is worth knowing."""
        _count(self._notes, Problem(kind, 1, printable(example)))

    def remark(self, text: str) -> None:
        """Note something about the data set as a whole."""
        self._remarks.append(text)

    def problems(self) -> tuple[Problem, ...]:
        """List the problems in the order in which they were met."""
        return tuple(self._problems.values())

    def notes(self) -> tuple[str, ...]:
        """List what is worth knowing, each in one line."""
        return (*map(str, self._notes.values()), *self._remarks)


def _count(found: dict[str, Problem], problem: Problem) -> None:
    known = found.get(problem.kind)
    found[problem.kind] = problem if known is None else replace(known, count=known.count + problem.count)
