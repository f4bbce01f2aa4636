"""What is known about emotion labels: taxonomies, polarity, bridges between taxonomies, valence and arousal.

Names are canonical: lower-case nouns ("anger" for the folder `Angry`). How data sets spell them is resolved by one
function, `resolve`. Nothing here depends on a data set being at hand.

Sources. Mikels et al. 2005: Emotional category data on images from the International Affective Picture System,
Behavior Research Methods 37. Shaver et al. 1987: Emotion knowledge: further exploration of a prototype approach, JPSP
52. Kosti et al. 2020: Context based emotion recognition using EMOTIC dataset, TPAMI 42. Russell and Mehrabian 1977:
Evidence for a three-factor theory of emotions, Journal of Research in Personality 11.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Emotion = Literal["evoked", "felt"]
"""Whose emotion the labels name: that of viewers, or that of a depicted person."""

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

_EMOTIC: Final = (
    "affection",
    "anger",
    "annoyance",
    "anticipation",
    "aversion",
    "confidence",
    "disapproval",
    "disconnection",
    "disquietment",
    "doubt/confusion",
    "embarrassment",
    "engagement",
    "esteem",
    "excitement",
    "fatigue",
    "fear",
    "happiness",
    "pain",
    "peace",
    "pleasure",
    "sadness",
    "sensitivity",
    "suffering",
    "surprise",
    "sympathy",
    "yearning",
)


# --- Taxonomies ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """A set of emotions that labels are taken from."""

    name: str
    """What it is called on the command line: the data set that uses it, or mikels, or polarity."""
    classes: tuple[str, ...]
    """Canonical names in label order."""
    emotion: Emotion | None = None
    """Whose emotion the data set labels; None for a taxonomy that is no data set's."""
    several: bool = False
    """Whether a sample may have several labels at once."""


_TAXONOMIES: Final = (
    Taxonomy(name="emoset", classes=MIKELS, emotion="evoked"),
    Taxonomy(name="fi", classes=MIKELS_ALPHABETICAL, emotion="evoked"),
    Taxonomy(
        name="emotion6",
        classes=("anger", "disgust", "fear", "joy", "sadness", "surprise"),
        emotion="evoked",
    ),
    Taxonomy(
        name="ube",
        classes=("anger", "fear", "joy", "love", "sadness", "surprise"),
        emotion="evoked",
    ),
    Taxonomy(name="emo8", classes=MIKELS_ALPHABETICAL, emotion="evoked"),
    # Folders are called Anger (once Angry), Happy, Sad; the order is the same.
    Taxonomy(
        name="caer-s",
        classes=("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
        emotion="felt",
    ),
    Taxonomy(
        name="heco",
        classes=(
            "anger",
            "disgust",
            "excitement",
            "fear",
            "happiness",
            "peace",
            "sadness",
            "surprise",
        ),
        emotion="felt",
    ),
    Taxonomy(name="emotic", classes=_EMOTIC, emotion="felt", several=True),
    Taxonomy(name="mikels", classes=MIKELS),
    Taxonomy(name="polarity", classes=("positive", "negative")),
)

TAXONOMIES: Final[dict[str, Taxonomy]] = {taxonomy.name: taxonomy for taxonomy in _TAXONOMIES}
"""Every taxonomy by name: those of the eight data sets, Mikels' without a data set, and bare polarity."""


def get_taxonomy(name: str) -> Taxonomy:
    """Look up a taxonomy.

    Raises:
        DataError: There is none of this name.
    """
    taxonomy = TAXONOMIES.get(name)
    if taxonomy is None:
        raise DataError(f"no taxonomy is called {name[:80]}: there are {', '.join(TAXONOMIES)}")
    return taxonomy


# --- Names -----------------------------------------------------------------------------------------------------------

_CANONICAL: Final = {
    "afraid": "fear",
    "amused": "amusement",
    "angry": "anger",
    "annoyed": "annoyance",
    "awed": "awe",
    "confused": "doubt/confusion",
    "confusion": "doubt/confusion",
    "content": "contentment",
    "contented": "contentment",
    "disgusted": "disgust",
    "doubt": "doubt/confusion",
    "doubt confusion": "doubt/confusion",
    "embarrassed": "embarrassment",
    "excited": "excitement",
    "fearful": "fear",
    "happinesst": "happiness",  # one row of HECO says so
    "happy": "happiness",
    "joyful": "joy",
    "peaceful": "peace",
    "sad": "sadness",
    "surprised": "surprise",
    "surprize": "surprise",
}
"""Other spellings of the canonical names."""

_CONCEPTS: Final = {"joy": "happiness"}
"""Canonical names of one and the same emotion: Ekman's is called joy by some data sets and happiness by others."""


def resolve(name: str, classes: Sequence[str]) -> str | None:
    """Find the class that a data set's word means: `Angry` is anger, `Happinesst` is happiness or, in its absence, joy.

    Args:
        name: A label or the name of a folder, in any case.
        classes: The classes to choose from, in any spelling.

    Returns:
        The class as it is spelled among the classes; None where none or more than one is meant.
    """
    for key in (_word, _concept):
        found = [own for own in classes if key(own) == key(name)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _word(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _concept(name: str) -> str:
    """Name the emotion that a word means, one word for each."""
    word = _word(name)
    canonical = _CANONICAL.get(word, word)
    return _CONCEPTS.get(canonical, canonical)


# --- Polarity --------------------------------------------------------------------------------------------------------

# Mikels et al. 2005 sort their eight; Shaver et al. 1987 sort joy and love (positive), anger, sadness and fear
# (negative). EMOTIC's are sorted by its own definitions (Kosti et al. 2020).
_POLARITY: Final[dict[str, Polarity]] = {
    **dict.fromkeys(MIKELS[:4], "positive"),
    **dict.fromkeys(MIKELS[4:], "negative"),
    **dict.fromkeys(("happiness", "love"), "positive"),
    **dict.fromkeys(("affection", "confidence", "esteem", "peace", "pleasure"), "positive"),
    **dict.fromkeys(
        (
            "annoyance",
            "aversion",
            "disapproval",
            "disquietment",
            "embarrassment",
            "fatigue",
            "pain",
            "sensitivity",
            "suffering",
        ),
        "negative",
    ),
    "positive": "positive",
    "negative": "negative",
}


def polarity(emotion: str) -> Polarity | None:
    """Tell whether an emotion is positive or negative.

    Surprise and neutral are neither; so are EMOTIC's anticipation, disconnection, doubt/confusion, engagement, sympathy
    and yearning, whose definitions leave both open.

    Args:
        emotion: Name of a label, in any case.

    Returns:
        Its polarity, or None where it has none or is not known.
    """
    return _POLARITY.get(_concept(emotion))


# --- Bridges ---------------------------------------------------------------------------------------------------------

_SHAVER_JOY: Final = "lies in the cluster of joy (Shaver et al. 1987)"

_STEPS: Final = {
    ("amusement", "happiness"): _SHAVER_JOY,
    ("contentment", "happiness"): _SHAVER_JOY,
    ("excitement", "happiness"): _SHAVER_JOY,
    ("pleasure", "happiness"): _SHAVER_JOY,
    ("annoyance", "anger"): "lies in the cluster of anger (Shaver et al. 1987)",
    ("suffering", "sadness"): "lies in the cluster of sadness (Shaver et al. 1987)",
    ("affection", "love"): "lies in the cluster of love (Shaver et al. 1987)",
    ("love", "affection"): "EMOTIC defines affection by fond feelings and love (Kosti et al. 2020)",
    ("aversion", "disgust"): "EMOTIC defines aversion by disgust (Kosti et al. 2020)",
    ("disgust", "aversion"): "EMOTIC defines aversion by disgust (Kosti et al. 2020)",
    (
        "peace",
        "contentment",
    ): "EMOTIC defines peace by being relaxed and satisfied (Kosti et al. 2020)",
    (
        "contentment",
        "peace",
    ): "EMOTIC defines peace by being relaxed and satisfied (Kosti et al. 2020)",
}
"""Steps from an emotion to another that a source allows, and the source. They are not chained (DECISIONS 24)."""


@dataclass(frozen=True)
class Bridge:
    """How labels of some classes become labels of another taxonomy, and which cannot."""

    target: Taxonomy
    mapped: Mapping[str, str]
    """Class to class of the target."""
    reasons: Mapping[str, str]
    """Why, for each class that is mapped."""
    dropped: Mapping[str, str]
    """Why not, for each class that is not mapped."""


def build_bridge(classes: Sequence[str], target: Taxonomy) -> Bridge:
    """Lead from some classes to a taxonomy.

    A class goes to that of the same emotion, else where a published hierarchy or definition puts it, else nowhere: joy
    is not one of Mikels' eight, since it could be three of them.

    Args:
        classes: Classes of a data set, in any spelling.
        target: Where to lead.
    """
    mapped, reasons, dropped = {}, {}, {}
    for name in classes:
        step = _find_step(name, target)
        if isinstance(step, str):
            dropped[name] = step
        else:
            mapped[name], reasons[name] = step
    return Bridge(target, mapped, reasons, dropped)


def _find_step(name: str, target: Taxonomy) -> tuple[str, str] | str:
    """Give the target's class and the reason, or only the reason why there is none."""
    same = resolve(name, target.classes)
    if same is not None:
        return same, "the same emotion"
    if target.name == "polarity":
        sign = polarity(name)
        if sign is None:
            return "is neither positive nor negative by itself, or not known"
        return sign, f"{name} is {sign} (see the sources of `polarity`)"
    own = _concept(name)
    for other in target.classes:
        reason = _STEPS.get((own, _concept(other)))
        if reason is not None:
            return other, reason
    narrower = [other for other in target.classes if (_concept(other), own) in _STEPS]
    if narrower:
        return f"could be {' or '.join(narrower)}"
    return f"has no counterpart among {', '.join(target.classes)}"


# --- Valence and arousal ---------------------------------------------------------------------------------------------


class Affect(NamedTuple):
    """Where an emotion lies, as rated by people who were given the word."""

    valence: float
    """-1 (unpleasant) to 1."""
    arousal: float
    """-1 (calm) to 1."""
    dominance: float
    """-1 (submissive) to 1."""
    term: str
    """The word that was rated."""
    source: str


_RATED: Final = "Russell and Mehrabian 1977, mean ratings of 151 terms"

AFFECT: Final[dict[str, Affect]] = {
    "anger": Affect(-0.51, 0.59, 0.25, "angry", _RATED),
    "disgust": Affect(-0.60, 0.35, 0.11, "disgusted", _RATED),
    "excitement": Affect(0.62, 0.75, 0.38, "excited", _RATED),
    "fear": Affect(-0.64, 0.60, -0.43, "fearful", _RATED),
    "happiness": Affect(0.81, 0.51, 0.46, "happy", _RATED),
    "joy": Affect(0.76, 0.48, 0.35, "joyful", _RATED),
    "sadness": Affect(-0.63, -0.27, -0.33, "sad", _RATED),
    "surprise": Affect(0.40, 0.67, -0.13, "surprised", _RATED),
}
"""Valence, arousal and dominance of the emotions for which two independent transcripts of the published table agree.

Left out, since no number could be had with certainty (DECISIONS 25): amusement, awe, contentment, love, neutral,
peace, and those that only EMOTIC names. Norms that are for research alone (NRC-VAD, ANEW) are not used.
"""
