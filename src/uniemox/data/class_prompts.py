"""The texts of zero-shot classes: an ensemble of prompts for each, several templates times several words.

CLIP's authors normalise the text features of a class's prompts, average them and normalise the average (Radford et al.
2021, Learning transferable visual models from natural language supervision, section 3.1.4, and the notebook of their
ImageNet prompts). This module makes the texts; `emotion_words` has the words.

An emotion that viewers feel is worded differently from one that a depicted person feels: a photo of a laughing crowd
may evoke fear.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from uniemox.data.prompts import describe
from uniemox.emotion_words import WORDS
from uniemox.emotions import DRAWN6, TAXONOMIES, Emotion, look_up, resolve
from uniemox.errors import ConfigError, DataError
from uniemox.manifests.columns import Attributes

SLOT: Final = "{}"  # Place of the word in a template


@dataclass(frozen=True)
class Templates:
    """Sentences with a slot for a noun, and others for an adjective."""

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]


TEMPLATES: Final[Mapping[Emotion, Templates]] = {
    "evoked": Templates(
        nouns=("a photo that evokes {}.", "a picture that fills viewers with {}.", "a scene that stirs {}."),
        adjectives=("a photo that makes people feel {}.", "a picture that leaves people feeling {}."),
    ),
    "felt": Templates(
        nouns=(
            "a photo of a person full of {}.",
            "a photo of a person expressing {}.",
            "a person whose face and posture show {}.",
        ),
        adjectives=("a photo of a {} person.", "a photo of someone who looks {}."),
    ),
}
"""Templates by whose emotion it is."""

_BESIDES_JOY: Final = tuple(name for name in WORDS if name != "joy")  # "Happy" would be joy as well as happiness
_ARTICLE: Final = re.compile(r"\b([Aa])n? (?=\{\})")
# Words are read aloud: an hour, an heir, but a European, a unit, a user, a one-off.
_TAKES_AN: Final = re.compile(
    r"(?!eu|uni(?![mn])|us[aeu]|ut[eio]|one\b|once\b)[aeiou]|hour|hon[eo]|heir", re.IGNORECASE
)


def class_prompts(classes: Sequence[str], emotion: Emotion) -> dict[str, tuple[str, ...]]:
    """Make the prompts of each class.

    A class of the taxonomies, in any spelling that `resolve` takes, is worded by all its words; any other by its own
    name, with blanks for underscores. A word that two of the classes have, such as *rage* where it is a class beside
    anger, stays with the one that is called so. Classes that are spelled as the taxonomies do share none, so each has
    the same prompts whatever the others are.

    Args:
        classes: Names, distinct.
        emotion: Whether viewers feel it or a depicted person. The evoked ones start with `pretraining_prompts`'s.

    Returns:
        Distinct prompts by class, in the order of the classes: nouns, then adjectives, each in every template.
    """
    templates = TEMPLATES[emotion]
    prompts = {}
    for name, (nouns, adjectives) in _tell_apart(classes).items():
        texts = [*pretraining_prompts([name])] if emotion == "evoked" else []
        texts += fill(templates.nouns, nouns) + fill(templates.adjectives, adjectives)
        prompts[name] = tuple(dict.fromkeys(texts))
    return prompts


def pretraining_prompts(classes: Sequence[str]) -> tuple[str, ...]:
    """Make the sentence that descriptions of pretraining say the emotion with, one for each class as it is spelled."""
    return tuple(describe(Attributes(), name) for name in classes)


def fill(templates: Iterable[str], words: Iterable[str]) -> list[str]:
    """Put each word into each template; an article before the slot becomes a or an, as the word needs it."""
    return [_put(template, word) for word in words for template in templates]


def class_nouns(name: str) -> tuple[str, ...]:
    """Give the nouns of a class, or its own name where it is none of the taxonomies'."""
    return _words_of(name)[0]


def taxonomy_classes(name: str) -> tuple[str, ...]:
    """Give the classes of a taxonomy, by a name that `look_up` takes; an unknown one is a `ConfigError`."""
    try:
        return look_up(name, TAXONOMIES, what="taxonomy").classes
    except DataError as error:
        raise ConfigError(f"{error}; name any other classes by `classes`") from error


def all_words() -> tuple[str, ...]:
    """Give the canonical name of every class of every taxonomy and data set, each once."""
    return tuple(dict.fromkeys((*(own for taxonomy in TAXONOMIES.values() for own in taxonomy.classes), *DRAWN6)))


def _put(template: str, word: str) -> str:
    article = r"\1n " if _TAKES_AN.match(word) else r"\1 "
    return _ARTICLE.sub(article, template).replace(SLOT, word)


def _tell_apart(classes: Sequence[str]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Give nouns and adjectives of each class, without the words that another has too."""
    words = {name: _words_of(name) for name in classes}
    users = Counter(word.casefold() for parts in words.values() for word in {*parts[0], *parts[1]})
    users.update({_plain(name).casefold() for name in classes})  # so a class's own name is counted twice, once as word
    kept = {}
    for name, parts in words.items():
        own = _plain(name)
        nouns, adjectives = (
            tuple(word for word in part if word.casefold() == own.casefold() or users[word] == 1) for part in parts
        )
        kept[name] = (nouns, adjectives) if nouns or adjectives else ((own,), ())
    return kept


def _words_of(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    known = resolve(name, tuple(WORDS)) or resolve(name, _BESIDES_JOY)
    if known is None:
        return (_plain(name),), ()
    return tuple(WORDS[known].nouns), tuple(WORDS[known].adjectives)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split())
