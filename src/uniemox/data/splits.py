"""Recipes that cut a data set into train, val and test, the same on every machine.

The order of pictures comes from a digest of the seed and the picture's path, never from a listing or a generator, so it
depends neither on the file system nor on a library's version.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from typing import TYPE_CHECKING, Final

from uniemox.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uniemox.data.specs import Ratios

SPLITS: Final = ("train", "val", "test")


def split_by_class(
    paths: Sequence[str], labels: Sequence[int | None], *, ratios: Ratios, seed: int
) -> list[str]:
    """Cut each class by itself, so that every split has the classes in the same proportion.

    A class gets its exact share of each split up to rounding (largest remainder). Where that would leave a split with a
    positive share empty though the class has pictures enough, one picture moves there from the class's largest split.

    Args:
        paths: POSIX paths relative to the root; their order does not matter.
        labels: Label of each path; those without one are cut like a class of their own.
        ratios: Shares of train, val and test; any positive sum (80, 5, 15 is 0.8, 0.05, 0.15).
        seed: Another seed gives another cut.

    Returns:
        The split of each path: train, val or test.

    Raises:
        ConfigError: A ratio is negative or not a number, or all are 0.
    """
    total = sum(ratios)
    if not (all(ratio >= 0 for ratio in ratios) and 0 < total < math.inf):
        raise ConfigError(
            f"ratios are {', '.join(map(str, ratios))}, but must be shares such as 0.8, 0.05, 0.15"
        )
    members: dict[int | None, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    result = [""] * len(paths)
    for indices in members.values():
        indices.sort(key=lambda index: (_rank(paths[index], seed), paths[index]))
        start = 0
        for split, count in zip(
            SPLITS, _shares(len(indices), [ratio / total for ratio in ratios]), strict=True
        ):
            for index in indices[start : start + count]:
                result[index] = split
            start += count
    return result


def _rank(path: str, seed: int) -> bytes:
    # macOS lists accents decomposed, Linux as they were written; both must draw the same number.
    text = f"{seed}\n{unicodedata.normalize('NFC', path)}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _shares(count: int, shares: Sequence[float]) -> list[int]:
    """Cut a number into whole parts in proportion to shares that add up to 1."""
    # Rounded first: 0.15 * 100 is 15.000000000000002 in some sums and 14.999999999999998 in others.
    exact = [round(count * share, 9) for share in shares]
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
