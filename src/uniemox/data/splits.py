"""Recipes that cut a data set into train, val and test, the same on every machine.

The order of pictures comes from a digest of the seed and the picture's path, never from a listing or a generator, so it
depends neither on the file system nor on a library's version. Published cuts are read from lists instead.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import posixpath
import unicodedata
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple, assert_never

import numpy as np

from uniemox.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from uniemox.config import Rounding
    from uniemox.data.specs import Ratios

SPLITS: Final = ("train", "val", "test")

_SPLIT_OF_WORD: Final = {
    **{split: split for split in SPLITS},
    **dict.fromkeys(("training", "tr"), "train"),
    **dict.fromkeys(("validation", "valid", "dev"), "val"),
    **dict.fromkeys(("testing",), "test"),
}
_PATH_HEADINGS: Final = ("path", "image", "image_path", "file", "file_name", "filename")
_SPLIT_HEADINGS: Final = ("split", "set", "subset", "partition")
_SHOWN: Final = 80
"""Characters of a value that a message shows."""


# --- Recipes ---------------------------------------------------------------------------------------------------------


def split_rows(
    paths: Sequence[str],
    strata: Sequence[Hashable],
    *,
    ratios: Ratios,
    seed: int,
    groups: Sequence[str | None] | None = None,
    rounding: Rounding = "largest_remainder",
) -> list[str]:
    """Cut each stratum by itself, so that every split holds the strata in the same proportion.

    Single rows: a stratum gets its exact share of each split up to rounding. With `largest_remainder`, where that would
    leave a split with a positive share empty though the stratum has rows enough, one row moves there from the stratum's
    largest split.

    Groups: rows of one group, and rows of one path that are in no group, stay together. Groups are placed one after
    another, those of more rows first (by powers of two, and by digest among equals, so that a seed matters), each where
    it raises least the chi-square distance between the rows that the splits have and their shares, summed over the
    strata and the whole. With one stratum, no split then exceeds its share by as much as its largest group. A split
    with a positive share is not left empty if there are groups enough (DECISIONS 22).

    Args:
        paths: POSIX paths relative to the root; their order does not matter.
        strata: What each row is cut with: its class, or its class and object. None is a stratum like others.
        ratios: Shares of train, val and test; any positive sum (80, 5, 15 is 0.8, 0.05, 0.15). A share of 0 gets
            nothing.
        seed: Another seed gives another cut.
        groups: Name of what each row shares with others, such as its film; None for a row by itself.
        rounding: How shares become numbers of rows, where each row stands alone.

    Returns:
        The split of each path: train, val or test.

    Raises:
        ConfigError: A ratio is negative or not a number, or all are 0; or `truncate` is asked of groups.
    """
    shares = _to_shares(ratios)
    # A path is relative and so never begins with a slash: a group cannot be taken for a path.
    units = (
        paths
        if groups is None
        else [
            path if group is None else f"/{group}"
            for path, group in zip(paths, groups, strict=True)
        ]
    )
    if len(set(units)) == len(units):
        return _split_single_rows(units, strata, shares, seed=seed, rounding=rounding)
    if rounding == "truncate":
        raise ConfigError(
            "truncated shares are numbers of single rows, and some of these rows belong together: use the "
            "largest remainder"
        )
    return _split_groups(units, strata, shares, seed=seed)


def take_fraction(
    paths: Sequence[str], strata: Sequence[Hashable], *, fraction: float, seed: int
) -> np.ndarray:
    """Take a share of the rows of each stratum, for studies of how little data is enough.

    Of one seed, a smaller fraction is part of every larger one. A stratum that has rows keeps at least one. Rows of one
    path and stratum are taken together.

    Args:
        paths: POSIX paths relative to the root; their order does not matter.
        strata: What each row is counted with, such as its class.
        fraction: Share to take, above 0 and up to 1.
        seed: Another seed takes other rows.

    Returns:
        Whether each row is taken, (N,).

    Raises:
        ConfigError: The fraction is out of its range.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"the fraction is {fraction}, but must be above 0 and at most 1")
    taken = np.zeros(len(paths), dtype=bool)
    for indices in _members(strata).values():
        # Not the digest of the split: else a fraction would always be what a smaller train split had been.
        indices.sort(key=lambda index: (_rank(paths[index], f"fraction {seed}"), paths[index]))
        count = max(1, math.floor(_exact(len(indices), fraction) + 0.5))
        while count < len(indices) and paths[indices[count]] == paths[indices[count - 1]]:
            count += 1
        taken[indices[:count]] = True
    return taken


def paths_below(paths: Sequence[str]) -> list[str]:
    """Make paths relative to the deepest folder that holds all: a draw must not change with the level given as root."""
    if not paths:
        return []
    # What the first and the last of sorted paths have in common, all have.
    ends = [posixpath.dirname(path) for path in (min(paths), max(paths))]
    base = posixpath.commonpath(ends)
    return [path[len(base) + 1 :] for path in paths] if base else list(paths)


def describe_split(
    *,
    ratios: Ratios,
    by: str,
    seed: int,
    grouped_by: str = "",
    rounding: Rounding = "largest_remainder",
) -> str:
    """Say in one line how a cut was made, for `Facts.split_recipe`.

    Args:
        ratios: Shares of train, val and test.
        by: What was cut by itself, such as class; "all" where all rows were cut at once.
        seed: Seed of the cut.
        grouped_by: What was kept whole, in the plural.
        rounding: How shares became numbers of rows.
    """
    shares = "/".join(f"{100 * share:.6g}" for share in _to_shares(ratios))
    kept = f", {grouped_by} kept whole" if grouped_by else ""
    cut_off = ", truncated" if rounding == "truncate" else ""
    strata = "of all rows" if by == "all" else f"per {by}"
    return f"{shares} {strata}{kept}{cut_off}, seed {seed}"


def _to_shares(ratios: Ratios) -> list[float]:
    total = sum(ratios)
    if not (all(ratio >= 0 for ratio in ratios) and 0 < total < math.inf):
        raise ConfigError(
            f"ratios are {', '.join(map(str, ratios))}, but must be shares such as 0.8, 0.05, 0.15"
        )
    return [ratio / total for ratio in ratios]


def _rank(name: str, seed: int | str) -> bytes:
    # macOS lists accents decomposed, Linux as they were written; both must draw the same number.
    text = f"{seed}\n{unicodedata.normalize('NFC', name)}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _split_single_rows(
    paths: Sequence[str],
    strata: Sequence[Hashable],
    shares: Sequence[float],
    *,
    seed: int,
    rounding: Rounding,
) -> list[str]:
    result = [""] * len(paths)
    for indices in _members(strata).values():
        indices.sort(key=lambda index: (_rank(paths[index], seed), paths[index]))
        start = 0
        for split, count in zip(SPLITS, _count(len(indices), shares, rounding), strict=True):
            for index in indices[start : start + count]:
                result[index] = split
            start += count
    return result


def _members(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """List where each key stands."""
    members: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        members[key].append(index)
    return members


def _count(count: int, shares: Sequence[float], rounding: Rounding) -> list[int]:
    """Cut a number into whole parts in proportion to shares that add up to 1."""
    match rounding:
        case "largest_remainder":
            return _count_by_remainder(count, shares)
        case "truncate":
            return _count_truncated(count, shares)
        case _:
            assert_never(rounding)


def _count_by_remainder(count: int, shares: Sequence[float]) -> list[int]:
    exact = [_exact(count, share) for share in shares]
    parts = [math.floor(part) for part in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: count - sum(parts)]:
        parts[i] += 1
    wanted = [i for i, share in enumerate(shares) if share > 0]
    if count >= len(wanted):
        for i in wanted:
            if parts[i] == 0:
                parts[parts.index(max(parts))] -= 1
                parts[i] = 1
    return parts


def _count_truncated(count: int, shares: Sequence[float]) -> list[int]:
    # 330 * 0.7 is 230.99999999999997, hence the published 230 of Emotion6. A share that was divided by a sum of
    # 0.9999999999999999 is 0.7000000000000001 and would give 231, so the share, not the product, is rounded
    # (DECISIONS 23).
    parts = [int(count * round(share, 12)) for share in shares]
    last = max(i for i, share in enumerate(shares) if share > 0)
    parts[last] = count - sum(parts[:last])
    return parts


def _exact(count: int, share: float) -> float:
    """Multiply, free of noise: 0.15 * 100 is 15.000000000000002 in some sums and 14.999999999999998 in others."""
    return round(count * share, 9)


def _split_groups(
    units: Sequence[str], strata: Sequence[Hashable], shares: Sequence[float], *, seed: int
) -> list[str]:
    rows = _members(units)
    order = {unit: (_rank(str(unit), seed), unit) for unit in rows}
    filling = _Filling(strata, shares)
    for unit in sorted(rows, key=lambda unit: (-len(rows[unit]).bit_length(), order[unit])):
        filling.place(unit, Counter(strata[index] for index in rows[unit]))
    filling.leave_none_empty(key=lambda unit: (len(rows[unit]), order[unit]))
    split_of = {
        unit: split for split, placed in zip(SPLITS, filling.placed, strict=True) for unit in placed
    }
    return [split_of[unit] for unit in units]


class _Filling:
    """Splits that are being filled with groups of rows."""

    def __init__(self, strata: Sequence[Hashable], shares: Sequence[float]) -> None:
        self.placed: list[list[Hashable]] = [[] for _ in shares]
        self._wanted = [number for number, share in enumerate(shares) if share > 0]
        totals = Counter(strata)
        self._rows_per_share = [
            {stratum: total * share for stratum, total in totals.items()} for share in shares
        ]
        self._share_of_all = [len(strata) * share for share in shares]
        self._have: list[Counter[Hashable]] = [Counter() for _ in shares]
        self._filled = [0 for _ in shares]

    def place(self, unit: Hashable, rows: Mapping[Hashable, int]) -> None:
        """Put a group, given by its rows per stratum, into the split where it is missed most."""
        number = min(self._wanted, key=lambda number: (self._cost(number, rows), number))
        self.placed[number].append(unit)
        self._have[number].update(rows)
        self._filled[number] += sum(rows.values())

    def leave_none_empty(self, *, key: Callable[[Hashable], Any]) -> None:
        """Move the least group from the split of most groups into each empty one, if there are groups enough."""
        if sum(map(len, self.placed)) < len(self._wanted):
            return
        for number in self._wanted:
            if not self.placed[number]:
                giver = max(self.placed, key=len)
                least = min(giver, key=key)
                giver.remove(least)
                self.placed[number].append(least)

    def _cost(self, number: int, rows: Mapping[Hashable, int]) -> float:
        # The growth of sum(have² / want) / 2, which differs from the chi-square distance by constants.
        have, want = self._have[number], self._rows_per_share[number]
        size = sum(rows.values())
        # fsum: a sum that depends on the order of strata would depend on the order of the listing.
        return math.fsum(
            [
                size * (self._filled[number] + size / 2) / self._share_of_all[number],
                *(count * (have[s] + count / 2) / want[s] for s, count in rows.items()),
            ]
        )


def split_of_word(word: str) -> str | None:
    """Tell which split a word such as `training` or `validation` means, in any case; None for any other word."""
    return _SPLIT_OF_WORD.get(word.strip().lower())


# --- Lists -----------------------------------------------------------------------------------------------------------


class Assigned(NamedTuple):
    """The splits that a list gives to some paths, and what does not fit."""

    splits: list[str | None]
    """Of each path; None where the list does not name it."""
    unlisted: list[str]
    """Paths that the list does not name."""
    unknown: list[str]
    """What the list names and is not among the paths."""


def read_split_list(path: Path) -> dict[str, str]:
    """Read which split each picture belongs to, as others published it.

    Forms: a CSV or TSV file whose header names a column `path` (or image, file, filename, …) and a column `split` (or
    set, subset, …), further columns being ignored; a JSON file with one object, split to list of paths; a folder with
    some of train.txt, val.txt, test.txt, a path on each line. Words such as `training` or `validation` are understood.

    Returns:
        Path (POSIX, in normal form) to train, val or test.

    Raises:
        DataError: The list is missing, of another form, names another split, or puts a path into two.
    """
    try:
        found = _collect(_entries(path))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"cannot read the split list {path}: {reason}") from error
    if not found:
        raise DataError(f"the split list {path} names no picture")
    return found


def assign_splits(paths: Sequence[str], listed: Mapping[str, str]) -> Assigned:
    """Give each path the split that a list names for it.

    Args:
        paths: POSIX paths relative to the root; several rows may have the same.
        listed: What `read_split_list` gives.
    """
    # Accents may be stored decomposed on one side; nothing else is guessed.
    by_name = {unicodedata.normalize("NFC", name): split for name, split in listed.items()}
    names = [unicodedata.normalize("NFC", path) for path in paths]
    splits = [by_name.get(name) for name in names]
    there = set(names)
    return Assigned(
        splits,
        unlisted=[path for path, split in zip(paths, splits, strict=True) if split is None],
        unknown=[name for name in listed if unicodedata.normalize("NFC", name) not in there],
    )


_Entry = tuple[str, str, str]
"""A path, the word for its split, and where both stand."""


def _collect(entries: Iterable[_Entry]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, word, where in entries:
        split = split_of_word(word)
        if split is None:
            raise DataError(f"{where} has the split {_quote(word)}, not train, val or test")
        if found.setdefault(posixpath.normpath(name), split) != split:
            raise DataError(f"{where} puts {_quote(name)} into a second split")
    return found


def _entries(path: Path) -> Iterator[_Entry]:
    if path.is_dir():
        return _entries_of_folder(path)
    if not path.is_file():
        raise DataError(f"no split list at {path}: give a CSV, TSV or JSON file, or a folder")
    match path.suffix.lower():
        case ".csv":
            return _entries_of_table(path, ",")
        case ".tsv":
            return _entries_of_table(path, "\t")
        case ".json":
            return _entries_of_json(path)
        case _:
            raise DataError(
                f"{path} is no split list: give a .csv, .tsv or .json file, or a folder with train.txt"
            )


def _entries_of_table(path: Path, delimiter: str) -> Iterator[_Entry]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header = [name.strip().lower() for name in next(reader, [])]
        name_at = _find_column(path, header, _PATH_HEADINGS)
        split_at = _find_column(path, header, _SPLIT_HEADINGS)
        for cells in reader:
            where = f"line {reader.line_num} of {path}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(f"{where} has {len(cells)} cells, but the header {len(header)}")
            yield cells[name_at], cells[split_at], where


def _find_column(path: Path, header: Sequence[str], names: Sequence[str]) -> int:
    found = [index for index, name in enumerate(header) if name in names]
    if len(found) != 1:
        number = "no column" if not found else "more than one column"
        raise DataError(
            f"{path} has {number} called {' or '.join(names)}; its first line is {_quote(','.join(header))}"
        )
    return found[0]


def _entries_of_json(path: Path) -> Iterator[_Entry]:
    lists = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(lists, dict) or not all(isinstance(names, list) for names in lists.values()):
        raise DataError(f"{path} is no split list: it must hold one object, split to list of paths")
    for word, names in lists.items():
        for number, name in enumerate(names):
            where = f"entry {number} of {_quote(word)} in {path}"
            if not isinstance(name, str):
                raise DataError(f"{where} is no path but {_quote(str(name))}")
            yield name, word, where


def _entries_of_folder(folder: Path) -> Iterator[_Entry]:
    lists = {split: folder / f"{split}.txt" for split in SPLITS}
    present = {split: path for split, path in lists.items() if path.is_file()}
    if not present:
        raise DataError(f"{folder} is no split list: it holds no train.txt, val.txt or test.txt")
    for split, path in present.items():
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield line.strip(), split, f"line {number} of {path}"


def _quote(text: str) -> str:
    """Show a value of a file in a message: cut, and with what does not print escaped."""
    return ascii(text[:_SHOWN]) if not text.isprintable() else f"'{text[:_SHOWN]}'"
