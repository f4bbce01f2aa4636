"""What is known about emotion labels: taxonomies, polarity, places on the circumplex, bridges between taxonomies.

Names are canonical: lower-case nouns ("anger" for the folder `Angry`). How data sets spell them is resolved by one
function, `resolve`. Nothing here depends on a data set.

Sources. Mikels et al. 2005: Emotional category data on images from the International Affective Image System,
Behavior Research Methods 37. Shaver et al. 1987: Emotion knowledge: further exploration of a prototype approach, JPSP
52. Kosti et al. 2020: Context based emotion recognition using EMOTIC dataset, TPAMI 42. Ekman 1992: An argument for
basic emotions, Cognition & Emotion 6. Russell 1980: A circumplex model of affect, JPSP 39.
"""

import difflib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeVar

from uniemox.errors import DataError
from uniemox.wording import name_first

Row = TypeVar("Row")
Emotion = Literal["evoked", "felt"]  # The labels name the emotion of viewers, or that of a depicted person
Polarity = Literal["positive", "negative"]

MIKELS: Final = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
"""Mikels' eight emotions, the positive before the negative: EmoSet's label order."""

MIKELS_ALPHABETICAL: Final = tuple(sorted(MIKELS))  # As sorted folder names: the label order of FI and Emo8

DRAWN6: Final = ("anger", "fear", "sadness", "amusement", "contentment", "excitement")
"""The six of Mikels' emotions that the drawn people of the demo show; disgust and awe are not drawn."""

_EMOTIC: Final = (
    *("affection", "anger", "annoyance", "anticipation", "aversion", "confidence", "disapproval", "disconnection"),
    *("disquietment", "doubt/confusion", "embarrassment", "engagement", "esteem", "excitement", "fatigue", "fear"),
    *("happiness", "pain", "peace", "pleasure", "sadness", "sensitivity", "suffering", "surprise", "sympathy"),
    "yearning",
)


@dataclass(frozen=True)
class Taxonomy:
    """A set of emotions that labels are taken from."""

    name: str  # What it is called on the command line: the data set that uses it, or mikels, ekman, polarity
    classes: tuple[str, ...]  # Canonical names in label order
    several: bool = False  # Whether a sample may have several labels at once


_TAXONOMIES: Final = (
    Taxonomy("emoset", MIKELS),
    Taxonomy("fi", MIKELS_ALPHABETICAL),
    Taxonomy("emotion6", ("anger", "disgust", "fear", "joy", "sadness", "surprise")),
    Taxonomy("ube", ("anger", "fear", "joy", "love", "sadness", "surprise")),
    Taxonomy("emo8", MIKELS_ALPHABETICAL),
    # Folders are called Anger (once Angry), Happy, Sad; the order is the same.
    Taxonomy("caer-s", ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")),
    Taxonomy("heco", ("anger", "disgust", "excitement", "fear", "happiness", "peace", "sadness", "surprise")),
    Taxonomy("emotic", _EMOTIC, several=True),
    Taxonomy("mikels", MIKELS),
    Taxonomy("ekman", ("anger", "disgust", "fear", "happiness", "sadness", "surprise")),
    Taxonomy("polarity", ("positive", "negative")),
)

TAXONOMIES: Final[dict[str, Taxonomy]] = {taxonomy.name: taxonomy for taxonomy in _TAXONOMIES}
"""Every taxonomy by name: those of the eight data sets, Mikels' and Ekman's without a data set, and bare polarity."""


def look_up(name: str, table: Mapping[str, Row], *, what: str) -> Row:
    """Find a row of a table by its name.

    Args:
        name: In any case, with dashes, underscores and spaces or without: `CAER_S` is caer-s.
        table: Rows by their names.
        what: What a row is, for messages.

    Raises:
        DataError: The name is unknown; names the nearest one.
    """
    known = {_letters(own): own for own in table}
    own = known.get(_letters(name))
    if own is None:
        near = difflib.get_close_matches(_letters(name), known, 1, cutoff=0.7)
        meant = f"did you mean {known[near[0]]}? There" if near else "there"
        raise DataError(f"no {what} is called {name[:80]}: {meant} are {', '.join(table)}")
    return table[own]


def _letters(name: str) -> str:
    return "".join(char for char in name.casefold() if char.isalnum())


# --- Names -----------------------------------------------------------------------------------------------------------

_SPELLINGS: Final = {
    "amusement": ("amused",),
    "anger": ("angry",),
    "annoyance": ("annoyed",),
    "awe": ("awed",),
    "contentment": ("content", "contented"),
    "disgust": ("disgusted",),
    "doubt/confusion": ("confused", "confusion", "doubt", "doubt confusion"),
    "embarrassment": ("embarrassed",),
    "excitement": ("excited",),
    "fear": ("afraid", "fearful"),
    # Ekman's is called joy by some data sets and happiness by others; one row of HECO has a t too many.
    "happiness": ("happinesst", "happy", "joy", "joyful"),
    "peace": ("peaceful",),
    "sadness": ("sad",),
    "surprise": ("surprised", "surprize"),
}  # Other words for one and the same emotion
_CONCEPTS: Final = {word: emotion for emotion, words in _SPELLINGS.items() for word in words}


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


@dataclass(frozen=True)
class Match:
    """Which classes of two lists are the same."""

    mapped: Mapping[str, str]  # Class of the second list to that of the first
    missing: tuple[str, ...]  # Classes of the first list that the second lacks
    unknown: tuple[str, ...]  # Classes of the second list that the first lacks

    @property
    def is_whole(self) -> bool:
        """Whether both lists have the same classes."""
        return not self.missing and not self.unknown

    def describe(self, first: str, second: str) -> str:
        """Say what is missing on either side, in a few words, with the names of both lists."""
        sides = ((first, self.missing, second), (second, self.unknown, first))
        return ", and ".join(
            f"{own} has {name_first(names, most=8)}, which {other} lacks" for own, names, other in sides if names
        )


def match_classes(classes: Sequence[str], others: Sequence[str]) -> Match:
    """Match two lists of classes by name, in whatever order and spelling; each is matched at most once.

    Args:
        classes: The first list, distinct.
        others: The second list, distinct.
    """
    mapped: dict[str, str] = {}
    for key in (str, _word, _concept):
        taken = set(mapped.values())
        ours = _by_key(key, [name for name in classes if name not in taken])
        theirs = _by_key(key, [name for name in others if name not in mapped])
        mapped |= {
            names[0]: ours[word][0] for word, names in theirs.items() if len(names) == len(ours.get(word, ())) == 1
        }
    found = set(mapped.values())
    return Match(
        mapped,
        missing=tuple(name for name in classes if name not in found),
        unknown=tuple(name for name in others if name not in mapped),
    )


def _by_key(key: Callable[[str], str], names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return found


def _word(name: str) -> str:
    text = unicodedata.normalize("NFC", name).casefold()
    sign = "-" if re.match(r"-\d", text) else ""  # -1 is another class than 1
    return sign + " ".join(text.replace("_", " ").replace("-", " ").split())


def _concept(name: str) -> str:
    """Name the emotion that a word means, by one word for each."""
    word = _word(name)
    return _CONCEPTS.get(word, word)


# --- Polarity --------------------------------------------------------------------------------------------------------

# Mikels et al. 2005 sort their eight; Shaver et al. 1987 sort joy and love (positive), anger, sadness and fear
# (negative). EMOTIC's are sorted by its own definitions (Kosti et al. 2020).
_POLARITY: Final[dict[str, Polarity]] = {
    **dict.fromkeys(MIKELS[:4], "positive"),
    **dict.fromkeys(MIKELS[4:], "negative"),
    **dict.fromkeys(("happiness", "love", "affection", "confidence", "esteem", "peace", "pleasure"), "positive"),
    **dict.fromkeys(("annoyance", "aversion", "disapproval", "disquietment", "embarrassment"), "negative"),
    **dict.fromkeys(("fatigue", "pain", "sensitivity", "suffering"), "negative"),
    "positive": "positive",
    "negative": "negative",
}


def polarity(emotion: str) -> Polarity | None:
    """Classify an emotion as positive or negative.

    Surprise and neutral are neither; so are EMOTIC's anticipation, disconnection, doubt/confusion, engagement, sympathy
    and yearning, since their definitions leave both open.

    Args:
        emotion: Name of a label, in any case.

    Returns:
        Its polarity, or None where it has none or is not known.
    """
    return _POLARITY.get(_concept(emotion))


# --- The circumplex --------------------------------------------------------------------------------------------------

# Russell 1980, figure 2: words on a circle, in degrees from pleasant (0) over activated (90) to unpleasant (180) and
# sleepy (270). Of his 28, those that are an emotion of a taxonomy: happy, excited, astonished, angry, afraid, annoyed,
# sad, tired, content, serene and pleased.
_CIRCUMPLEX: Final = {
    "happiness": 7.8,
    "excitement": 48.6,
    "surprise": 69.8,
    "anger": 99.0,
    "fear": 116.0,
    "annoyance": 123.0,
    "sadness": 207.5,
    "fatigue": 267.7,
    "contentment": 323.0,
    "peace": 328.6,
    "pleasure": 353.2,
}


def circumplex(emotion: str) -> float | None:
    """Look up where an emotion lies on Russell's circumplex.

    Args:
        emotion: Name of a label, in any case.

    Returns:
        Degrees from pleasant, 90 being activated; None where Russell scaled no word for it, as for awe and disgust.
    """
    return _CIRCUMPLEX.get(_concept(emotion))


# --- Bridges ---------------------------------------------------------------------------------------------------------

# Steps from an emotion to others that a source allows: into the clusters of joy, anger, sadness and love of Shaver et
# al. 1987, and what EMOTIC defines (Kosti et al. 2020): love as affection, aversion by disgust and the reverse, peace
# by being relaxed and satisfied. They are not chained (DECISIONS 24).
_STEPS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("amusement", "excitement", "pleasure"), ("happiness",)),
    "contentment": ("happiness", "peace"),
    "annoyance": ("anger",),
    "suffering": ("sadness",),
    "affection": ("love",),
    "love": ("affection",),
    "aversion": ("disgust",),
    "disgust": ("aversion",),
    "peace": ("contentment",),
}


class Bridge(NamedTuple):
    """How labels of some classes become labels of another taxonomy, and which cannot."""

    mapped: dict[str, str]  # Class to class of the target
    dropped: dict[str, str]  # Why not, for each class that is not mapped


def build_bridge(classes: Sequence[str], target: Taxonomy) -> Bridge:
    """Map some classes to a taxonomy.

    A class goes to that of the same emotion, else where a published hierarchy or definition puts it, else nowhere: joy
    is not one of Mikels' eight, since it could be three of them.

    Args:
        classes: Classes of a data set, in any spelling.
        target: Taxonomy to map to.
    """
    bridge = Bridge({}, {})
    for name in classes:
        steps = _STEPS.get(_concept(name), ())
        wider = (other for other in target.classes if _concept(other) in steps)
        narrower = [other for other in target.classes if _concept(name) in _STEPS.get(_concept(other), ())]
        next_best = polarity(name) if target.name == "polarity" else next(wider, None)
        if found := resolve(name, target.classes) or next_best:
            bridge.mapped[name] = found
        elif target.name == "polarity":
            bridge.dropped[name] = "is not known as positive or negative"
        elif narrower:
            bridge.dropped[name] = f"could be {' or '.join(narrower)}"
        else:
            bridge.dropped[name] = f"has no counterpart among {', '.join(target.classes)}"
    return bridge


class Meeting(NamedTuple):
    """Classes that the answers of a model and the labels of a data set can both be mapped to."""

    place: Literal["data", "model", "polarity"]  # What they are classes of
    classes: tuple[str, ...]  # In its order, each reached from both sides
    model: Bridge  # From the model's classes
    data: Bridge  # From those of the data


def meet(model: Sequence[str], data: Sequence[str]) -> Meeting:
    """Find where a model and a data set of other classes have most classes in common.

    Both are mapped to the classes of the data, to those of the model and to polarity, and a class that one side alone
    reaches is dropped. Of equals, the place where fewest classes of the data, then of the model are dropped is taken.

    Args:
        model: Classes of the model, in any spelling.
        data: Classes of the data.

    Raises:
        DataError: They have fewer than two in common, so that no answer could be wrong.
    """
    targets = {"data": Taxonomy("", tuple(data)), "model": Taxonomy("", tuple(model)), **_POLAR}
    found = [_meet_in(place, target, model, data) for place, target in targets.items()]
    best = max(found, key=lambda one: (len(one.classes), len(one.data.mapped), len(one.model.mapped)))
    if len(best.classes) < 2:
        common = f"only {best.classes[0]}, so that no answer could be wrong," if best.classes else "nothing"
        sides = f"the model ({name_first(model, most=8)}) and the data ({name_first(data, most=8)})"
        raise DataError(f"no bridge: {sides} have {common} in common, in whatever words: take other data")
    return best


_POLAR: Final = {"polarity": TAXONOMIES["polarity"]}


def _meet_in(place: Any, target: Taxonomy, model: Sequence[str], data: Sequence[str]) -> Meeting:
    bridges = [build_bridge(names, target) for names in (model, data)]
    reached = set.intersection(*(set(bridge.mapped.values()) for bridge in bridges))
    sides = [
        Bridge(
            {name: into for name, into in bridge.mapped.items() if into in reached},
            bridge.dropped
            | {
                name: f"has no counterpart among {other}" for name, into in bridge.mapped.items() if into not in reached
            },
        )
        for bridge, other in zip(bridges, ("the labels of the data", "the answers of the model"), strict=True)
    ]
    return Meeting(place, tuple(name for name in target.classes if name in reached), *sides)
