"""What the columns of a table of predictions answer, found by their names alone: CSV holds nothing else.

A table of a model of several kinds has several readings. Letters: M rows of a batch, C names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, get_args

import numpy as np
import numpy.typing as npt

from uniemox.config.training import Target
from uniemox.errors import DataError
from uniemox.targets.columns import SHARE, Column
from uniemox.targets.scores import Flags, Floats
from uniemox.wording import shorten

if TYPE_CHECKING:
    import pyarrow as pa

_DIMENSIONS: Final = ("valence", "arousal", "dominance")
_SETS: Final = "multi_label_"  # Start of the columns of lists, where an earlier part has their names


@dataclass(frozen=True)
class Reading(ABC):
    """Answers of one kind, as some columns hold them."""

    part: str  # What its columns start with, of a table with several readings; the first has nothing
    names: tuple[str, ...]  # Of what each row has a value for: emotions, or dimensions

    is_mix: ClassVar[bool]  # Whether a value is whether the name was answered, so that the mean is a share
    adds_up: ClassVar[bool] = False  # Whether the shares of all names are 1 together
    has_typical: ClassVar[str]  # How the rows that are typical of a name were chosen, as a sentence
    has_doubt: ClassVar[str] = ""  # What makes an answer doubtful, as a sentence; empty where nothing does

    @property
    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """The columns that it reads, with `Column.kind` as a table of predictions has it."""

    @abstractmethod
    def values(self, batch: pa.RecordBatch) -> Floats:
        """Read the values (M, C); rows without an answer hold NaN. `DataError` for an answer that has no column."""

    @abstractmethod
    def typical(self, batch: pa.RecordBatch, values: Floats) -> Iterator[tuple[str, Floats]]:
        """Yield what images can be typical of, and how typical each row is (M,), more being more; NaN for not."""

    def doubt(self, batch: pa.RecordBatch) -> Floats | None:
        """Compute how doubtful each answer is (M,), more being more; None if nothing is known of that."""
        del batch
        return None

    def confidence(self, batch: pa.RecordBatch) -> Floats | None:
        """Read how sure each answer is (M,), in [0, 1]; None for answers without."""
        del batch
        return None

    def shares(self, batch: pa.RecordBatch) -> Floats | None:
        """Read the probabilities (M, C); None for answers without."""
        del batch
        return None

    @abstractmethod
    def in_words(self, row: Mapping[str, Any]) -> str:
        """Describe the answer of one row, of its values by the names of `columns`."""


@dataclass(frozen=True)
class Named(Reading):
    """Emotions: one for each row, or a list of those that apply."""

    has_sets: bool = False  # Whether rows have lists

    is_mix = True
    has_typical = "The answers with the highest probability of each emotion, at most one of each file."

    @property
    def adds_up(self) -> bool:  # type: ignore[override]
        """Whether each row names one emotion."""
        return not self.has_sets

    @property
    def has_doubt(self) -> str:  # type: ignore[override]
        """What makes an answer doubtful."""
        if self.has_sets:
            return "Answers whose likeliest emotion has the lowest probability."
        return "Answers whose two likeliest emotions are closest in probability."

    @property
    def columns(self) -> tuple[Column, ...]:
        """The answer, its confidence, and the probabilities."""
        answer = Column(f"{self.part}predicted", "texts" if self.has_sets else "text")
        shares = (Column(f"{self.part}{SHARE}{name}", "share") for name in self.names)
        return (answer, Column(f"{self.part}confidence", "share"), *shares)

    def values(self, batch: pa.RecordBatch) -> Floats:
        """Mark the emotions that were answered with 1, others with 0."""
        import pyarrow as pa
        import pyarrow.compute as pc

        answers = batch.column(f"{self.part}predicted")
        found: Floats = np.zeros((len(batch), len(self.names)))
        found[answers.is_null().to_numpy(zero_copy_only=False)] = np.nan
        if self.has_sets:
            rows, named = pc.list_parent_indices(answers).to_numpy(), answers.flatten()
        else:
            rows, named = pc.indices_nonzero(answers.is_valid()).to_numpy(), answers.drop_null()
        places = pc.index_in(named, pa.array(self.names, named.type))
        if places.null_count:
            strange = named.filter(places.is_null())[0].as_py()
            column = f"{self.part}{SHARE}{shorten(strange)}"
            raise DataError(f"predicted is {shorten(strange)}, but no column is called {column}")
        found[rows, places.to_numpy(zero_copy_only=False)] = 1
        return found

    def confidence(self, batch: pa.RecordBatch) -> Floats | None:
        """Read the probability of the likeliest emotion."""
        return _numbers(batch, f"{self.part}confidence")

    def shares(self, batch: pa.RecordBatch) -> Floats | None:
        """Read the probabilities."""
        return np.stack([_numbers(batch, f"{self.part}{SHARE}{name}") for name in self.names], 1)

    def typical(self, batch: pa.RecordBatch, values: Floats) -> Iterator[tuple[str, Floats]]:
        """Yield each emotion that a row names, with the probability of it."""
        shares = self.shares(batch)
        assert shares is not None
        for place in np.flatnonzero((values == 1).any(0)):
            yield self.names[place], np.where(values[:, place] == 1, shares[:, place], np.nan)

    def doubt(self, batch: pa.RecordBatch) -> Floats | None:
        """Compute 1 less the lead of the likeliest emotion; of lists, 1 less its probability."""
        shares = self.shares(batch)
        if self.has_sets or shares is None or len(self.names) < 2:
            confidence = self.confidence(batch)
            return None if confidence is None else 1 - confidence
        first_two = np.partition(shares, -2, axis=1)[:, -2:]
        doubts: Floats = 1 - (first_two[:, 1] - first_two[:, 0])
        return doubts

    def in_words(self, row: Mapping[str, Any]) -> str:
        """Name the emotions."""
        answer = row[f"{self.part}predicted"]
        return (", ".join(answer) or "none") if isinstance(answer, list) else str(answer)


@dataclass(frozen=True)
class Rated(Reading):
    """Ratings in valence, arousal and dominance."""

    is_mix = False
    has_typical = "The highest and the lowest ratings, at most one of each file."

    @property
    def columns(self) -> tuple[Column, ...]:
        """The dimensions."""
        return tuple(Column(name, "number") for name in self.names)

    def values(self, batch: pa.RecordBatch) -> Floats:
        """Read the ratings."""
        found = np.stack([_numbers(batch, name) for name in self.names], 1)
        found[~np.isfinite(found).all(1)] = np.nan
        return found

    def typical(self, batch: pa.RecordBatch, values: Floats) -> Iterator[tuple[str, Floats]]:
        """Yield both ends of each dimension."""
        del batch
        for place, name in enumerate(self.names):
            yield f"highest {name}", values[:, place]
            yield f"lowest {name}", -values[:, place]

    def in_words(self, row: Mapping[str, Any]) -> str:
        """List the ratings."""
        return ", ".join(f"{name} {row[name]:z.2f}" for name in self.names)


def find_readings(columns: Sequence[str]) -> tuple[Reading, ...]:
    """Find what a table answers by the names of its columns; empty if they are none of a table of predictions."""
    found: list[Reading] = []
    for part in ("", *(f"{kind}_" for kind in get_args(Target))):
        start = f"{part}{SHARE}"
        names = tuple(name.removeprefix(start) for name in columns if name.startswith(start) and name != start)
        if names and {f"{part}predicted", f"{part}confidence"} <= set(columns):
            is_first = part == "" and f"{_SETS}predicted" not in columns and "likeliest" in columns
            found.append(Named(part, names, has_sets=is_first or part == _SETS))
    if dimensions := tuple(name for name in _DIMENSIONS if name in columns):
        found.append(Rated("", dimensions))
    return tuple(found)


def _numbers(batch: pa.RecordBatch, name: str) -> npt.NDArray[np.float64]:
    """Read a column of numbers, NaN where there is none."""
    numbers: npt.NDArray[np.float64] = batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
    return numbers


def given(batch: pa.RecordBatch, name: str) -> Flags:
    """Find the rows (M,) in which a column of flags is true."""
    flags: Flags = batch.column(name).fill_null(False).to_numpy(zero_copy_only=False)
    return flags
