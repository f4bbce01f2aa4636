"""What is known about emotion labels: which taxonomies there are, in which order, and which of them feel good.

Mikels et al. 2005 sort eight emotions into four positive and four negative ones; EmoSet, FI and Emo8 use these eight
in two orders. Every name of a label that a data set uses stands here once, in lower case.
"""

from __future__ import annotations

from typing import Final, Literal

Polarity = Literal["positive", "negative"]

MIKELS: Final = (
    "amusement",
    "awe",
    "contentment",
    "excitement",
    "anger",
    "disgust",
    "fear",
    "sadness",
)
"""Mikels' eight emotions, the positive before the negative: EmoSet's label order."""

MIKELS_ALPHABETICAL: Final = tuple(sorted(MIKELS))
"""The same eight as sorted folder names: the label order of FI and Emo8."""

DRAWN6: Final = ("anger", "fear", "sadness", "amusement", "contentment", "excitement")
"""The six of Mikels' emotions that the drawn people of the demo show; disgust and awe are not drawn."""

_POLARITY: Final[dict[str, Polarity]] = {
    **dict.fromkeys(MIKELS[:4], "positive"),
    **dict.fromkeys(MIKELS[4:], "negative"),
}


def polarity(emotion: str) -> Polarity | None:
    """Tell whether an emotion is positive or negative (Mikels et al. 2005).

    Args:
        emotion: Name of a label, in any case.

    Returns:
        Its polarity, or None for a name that no taxonomy sorts.
    """
    return _POLARITY.get(emotion.casefold())
