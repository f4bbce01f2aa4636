"""Recipes that cut a data set into train, val and test, the same on every machine.

The order of images comes from a digest of the seed and the image's path, never from a listing or a generator, so it
depends neither on the file system nor on a library's version. Published cuts are read from lists instead.
"""

import hashlib
import json
import math
import posixpath
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, assert_never

import numpy as np

from uniemox.config.data import Ratios, Rounding
from uniemox.errors import ConfigError, DataError
from uniemox.files.delimited import damage_named, find_column, read_delimited, read_text
from uniemox.files.paths import PATH_HEADINGS, PathIndex, clean_path
from uniemox.wording import printable

SPLITS: Final = ("train", "val", "test")

_SPLIT_OF_WORD: Final = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "validation", "valid", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SPLIT_HEADINGS: Final = ("split", "set", "subset", "partition")


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
    strata and the whole. With one stratum, no split then exceeds its share by as much as its largest group. No split
    with a positive share stays empty if there are enough groups (DECISIONS 22).

    Args:
        paths: POSIX paths relative to the root; their order does not matter.
        strata: What each row is cut with: its class, or its class and object. None is a stratum like others.
        ratios: Shares of train, val and test; any positive sum (80, 5, 15 is 0.8, 0.05, 0.15). A share of 0 gets
            nothing.
        seed: Another seed gives another cut.
        groups: Name of what each row shares with others, such as its film; None for a row by itself.
        rounding: How shares become numbers of rows, where no rows belong together.

    Returns:
        The split of each path: train, val or test.

    Raises:
        ConfigError: A ratio is negative or not a number, or all are 0; or `truncate` is asked of groups.
    """
    shares = _to_shares(ratios)
    units = _units(paths, groups)
    if len(set(units)) == len(units):
        splits = [""] * len(paths)
        for rows in _drawn(strata, units, seed):
            counts = _count(len(rows), shares, rounding)
            own = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
            for row, split in zip(rows, own, strict=True):
                splits[row] = split
        return splits
    if rounding == "truncate":
        raise ConfigError("rows that belong together cannot be cut into truncated shares: use the largest remainder")
    return [SPLITS[place] for place in _place_groups(units, strata, shares, seed=seed)]


def fold_rows(
    paths: Sequence[str],
    strata: Sequence[Hashable],
    *,
    num_folds: int,
    seed: int,
    groups: Sequence[str | None] | None = None,
) -> list[int]:
    """Divide rows into folds of equal size in which every stratum has its share; groups stay together.

    The arguments are those of `split_rows`, and so is how rows and groups are placed.

    Returns:
        The fold of each row, from 0.

    Raises:
        DataError: There are fewer groups, or images, than folds.
    """
    units = _units(paths, groups)
    count = len(set(units))
    if count < num_folds:
        what = "images" if groups is None else "groups"
        raise DataError(f"{num_folds} folds need as many {what}, and there are {count}: set `folds` to fewer")
    if count < len(units):
        return _place_groups(units, strata, [1 / num_folds] * num_folds, seed=seed)
    folds, dealt = [0] * len(units), 0
    for rows in _drawn(strata, units, seed):  # a stratum is dealt from where the one before it ended
        for row in rows:
            folds[row], dealt = dealt % num_folds, dealt + 1
    return folds


def _units(paths: Sequence[str], groups: Sequence[str | None] | None) -> Sequence[str]:
    """Name what stays together: the group of each row, or its image."""
    if groups is None:
        return paths
    # A path is relative and so never starts with a slash: a group cannot be taken for a path.
    return [path if group is None else f"/{group}" for path, group in zip(paths, groups, strict=True)]


def take_fraction(paths: Sequence[str], strata: Sequence[Hashable], *, fraction: float, seed: int) -> np.ndarray:
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
        raise ConfigError(f"`fraction` is {fraction}, but must be above 0 and at most 1")
    taken = np.zeros(len(paths), dtype=bool)
    # Not the digest of the split: else a fraction would always be what a smaller train split had been.
    for rows in _drawn(strata, paths, f"fraction {seed}"):
        count = max(1, math.floor(_exact(len(rows), fraction) + 0.5))
        while count < len(rows) and paths[rows[count]] == paths[rows[count - 1]]:
            count += 1
        taken[rows[:count]] = True
    return taken


def paths_below(paths: Sequence[str]) -> list[str]:
    """Make paths relative to the deepest folder that holds all: a draw must not change with the level given as root."""
    if not paths:
        return []
    # What the first and the last of sorted paths have in common, all have.
    base = posixpath.commonpath([posixpath.dirname(path) for path in (min(paths), max(paths))])
    return [path[len(base) + 1 :] for path in paths] if base else list(paths)


def describe_split(
    *, ratios: Ratios, by: str, seed: int, grouped_by: str = "", rounding: Rounding = "largest_remainder"
) -> str:
    """Describe in one line how a cut was made, for `Facts.split_recipe`.

    `by` is what was cut by itself, such as class, or "all"; `grouped_by` is what was kept whole, in the plural.
    """
    shares = "/".join(f"{100 * share:.6g}" for share in _to_shares(ratios))
    kept = f", {grouped_by} kept whole" if grouped_by else ""
    cut_off = ", truncated" if rounding == "truncate" else ""
    strata = "of all rows" if by == "all" else f"per {by}"
    return f"{shares} {strata}{kept}{cut_off}, seed {seed}"


def _to_shares(ratios: Ratios) -> list[float]:
    total = sum(ratios)
    if not (all(ratio >= 0 for ratio in ratios) and 0 < total < math.inf):
        raise ConfigError(f"ratios are {', '.join(map(str, ratios))}, but must be shares such as 0.8, 0.05, 0.15")
    return [ratio / total for ratio in ratios]


def _rank(name: str, seed: int | str) -> bytes:
    # macOS lists accents decomposed, Linux as they were written; both must draw the same number.
    text = f"{seed}\n{unicodedata.normalize('NFC', name)}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _drawn(strata: Sequence[Hashable], names: Sequence[str], seed: int | str) -> Iterator[list[int]]:
    """Yield the rows of each stratum in a drawn order."""
    for rows in _members(strata).values():
        yield sorted(rows, key=lambda row: (_rank(names[row], seed), names[row]))


def _members(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    members: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        members[key].append(index)
    return members


def _count(count: int, shares: Sequence[float], rounding: Rounding) -> list[int]:
    """Cut a number into whole parts in proportion to shares that add up to 1."""
    wanted = [i for i, share in enumerate(shares) if share > 0]
    match rounding:
        case "largest_remainder":
            exact = [_exact(count, share) for share in shares]
            parts = [math.floor(part) for part in exact]
            by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
            for i in by_remainder[: count - sum(parts)]:
                parts[i] += 1
            for i in wanted:
                if parts[i] == 0 and count >= len(wanted):
                    parts[parts.index(max(parts))] -= 1
                    parts[i] = 1
        case "truncate":
            # 330 * 0.7 is 230.99999999999997, hence the published 230 of Emotion6. A share that was divided by a sum
            # of 0.9999999999999999 is 0.7000000000000001 and would give 231, so the share, not the product, is rounded
            # (DECISIONS 23).
            parts = [int(count * round(share, 12)) for share in shares]
            parts[wanted[-1]] = count - sum(parts[: wanted[-1]])
        case _:
            assert_never(rounding)
    return parts


def _exact(count: int, share: float) -> float:
    """Multiply, free of noise: 0.15 * 100 is 15.000000000000002 in some sums and 14.999999999999998 in others."""
    return round(count * share, 9)


def _place_groups(units: Sequence[str], strata: Sequence[Hashable], shares: Sequence[float], *, seed: int) -> list[int]:
    rows = _members(units)
    order = {unit: (_rank(str(unit), seed), unit) for unit in rows}
    wanted = [split for split, share in enumerate(shares) if share > 0]
    whole = object()  # counts like one more stratum, which every row is in
    totals = Counter([*strata, *[whole] * len(strata)])
    have: list[Counter[Hashable]] = [Counter() for _ in shares]
    placed: list[list[Hashable]] = [[] for _ in shares]
    for unit in sorted(rows, key=lambda unit: (-len(rows[unit]).bit_length(), order[unit])):
        counts = Counter([whole] * len(rows[unit]) + [strata[index] for index in rows[unit]])
        costs = {}
        for split in wanted:
            # The growth of sum(have² / want) / 2, which differs from the chi-square distance by constants. fsum: a sum
            # that depends on the order of strata would depend on the order of the listing.
            growth = (n * (have[split][s] + n / 2) / (totals[s] * shares[split]) for s, n in counts.items())
            costs[split] = math.fsum(growth)
        best = min(wanted, key=costs.__getitem__)
        placed[best].append(unit)
        have[best].update(counts)
    for split in wanted:
        if not placed[split] and len(rows) >= len(wanted):
            giver = max(placed, key=len)
            least = min(giver, key=lambda unit: (len(rows[unit]), order[unit]))
            giver.remove(least)
            placed[split].append(least)
    split_of = {unit: split for split, own in enumerate(placed) for unit in own}
    return [split_of[unit] for unit in units]


def split_of_word(word: str) -> str | None:
    """Find the split that a word such as `training` or `validation` means, in any case; None for any other word."""
    return _SPLIT_OF_WORD.get(word.strip().lower())


class Assigned(NamedTuple):
    """The splits of some paths by a list, and what does not fit."""

    splits: list[str | None]  # Of each path; None where the list does not name it
    unlisted: list[str]  # Paths that the list does not name
    unknown: list[str]  # What the list names and is not among the paths


def read_split_list(path: Path) -> dict[str, str]:
    """Read which split each image belongs to, as others published it.

    Forms: a CSV or TSV file with a column `path` (or image, file, filename, …) and a column `split` (or
    set, subset, …), further columns being ignored; a JSON file with one object, split to list of paths; a folder with
    some of train.txt, val.txt, test.txt, a path on each line. Words such as `training` or `validation` are understood.

    Returns:
        Path (POSIX, in normal form) to train, val or test.

    Raises:
        DataError: The list is missing, of another form, names another split, or puts a path into two.
    """
    found: dict[str, str] = {}
    with damage_named(path, (OSError, ValueError, RecursionError)):
        for name, word, where in _entries(path):
            split = split_of_word(word)
            if split is None:
                raise DataError(f"{where} has the split {_quote(word)}, not train, val or test")
            if found.setdefault(clean_path(name), split) != split:
                raise DataError(f"{where} puts {_quote(name)} into a second split")
    if not found:
        raise DataError(f"the split list {path} names no image")
    return found


def assign_splits(paths: Sequence[str], listed: Mapping[str, str]) -> Assigned:
    """Find the split that a list names for each path.

    Args:
        paths: POSIX paths relative to the root; several rows may have the same.
        listed: What `read_split_list` returns; a path may be written otherwise, as `files.paths` describes, if it then
            means no second image.
    """
    index = PathIndex(paths)
    split_of: dict[str, str] = {}
    unknown = []
    for name, split in listed.items():
        found = index.find(name)
        # Of a.jpg and A.jpg in a list, the second is another image than a.jpg.
        is_another = len(found) != 1 or (found[0] != name and found[0] in listed)
        if is_another or split_of.setdefault(found[0], split) != split:
            unknown.append(name)
    return Assigned(
        [split_of.get(path) for path in paths],
        unlisted=[path for path in paths if path not in split_of],
        unknown=unknown,
    )


_Entry = tuple[str, str, str]  # A path, the word for its split, and the place of both


def _entries(path: Path) -> Iterator[_Entry]:
    if path.is_dir():
        return _entries_of_folder(path)
    if not path.is_file():
        raise DataError(f"no split list at {path}: give a CSV, TSV or JSON file, or a folder")
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return _entries_of_table(path)
        case ".json":
            return _entries_of_json(path)
        case _:
            raise DataError(f"{path} is no split list: give a .csv, .tsv or .json file, or a folder with train.txt")


def _entries_of_table(path: Path) -> Iterator[_Entry]:
    table = read_delimited(path)
    name_column = find_column(table.headings, PATH_HEADINGS, path)
    split_column = find_column(table.headings, _SPLIT_HEADINGS, path)
    for line in table.lines:
        where = f"line {line.number} of {path}"
        if len(line.cells) != len(table.headings):
            raise DataError(f"{where} has {len(line.cells)} cells, but the header {len(table.headings)}")
        if line.lines > 1:
            raise DataError(f"{where} ends a quote that began {line.lines - 1} lines before: close it there")
        cells = dict(zip(table.headings, line.cells, strict=True))
        yield cells[name_column], cells[split_column], where


def _entries_of_json(path: Path) -> Iterator[_Entry]:
    lists = json.loads(read_text(path))
    if not isinstance(lists, dict) or not all(isinstance(names, list) for names in lists.values()):
        raise DataError(f"{path} is no split list: it must hold one object, split to list of paths")
    for word, names in lists.items():
        for number, name in enumerate(names):
            where = f"entry {number} of {_quote(word)} in {path}"
            if not isinstance(name, str):
                raise DataError(f"{where} is no path but {_quote(str(name))}")
            yield name, word, where


def _entries_of_folder(folder: Path) -> Iterator[_Entry]:
    present = [path for path in sorted(folder.glob("*.txt")) if split_of_word(path.stem) and path.is_file()]
    if not present:
        raise DataError(f"{folder} is no split list: it holds no train.txt, val.txt or test.txt")
    for path in present:
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            if line.strip():
                yield line.strip(), path.stem, f"line {number} of {path}"


def _quote(text: str) -> str:
    return f"'{printable(text[:80])}'"
