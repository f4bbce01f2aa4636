"""Words for emotions: nouns and adjectives of every class of the taxonomies, each with its source.

Sources are those of `emotions`, and Fellbaum 1998: WordNet, an electronic lexical database (version 3.0); Diener et al.
2010: New well-being measures, Social Indicators Research 97.

No word belongs to two classes, so a text of one class never names another; joy and happiness, one and the same emotion,
divide theirs. A class without a second sourced word has its grammatical forms only.

Adjectives say how somebody feels ("an angry person", "people feel angry"), so "afraid", which is never put before a
noun, and "esteemed", which is what others feel, are not among them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Source = Literal["name", "form", "WordNet", "Shaver", "EMOTIC", "SPANE"]

_NAME: Final = "name"
_FORM: Final = "form"
_WORDNET: Final = "WordNet"
_SHAVER: Final = "Shaver"
_EMOTIC: Final = "EMOTIC"
_SPANE: Final = "SPANE"

SOURCES: Final[Mapping[Source, str]] = {
    _NAME: "the name of the class",
    _FORM: "a grammatical form of another of its words",
    _WORDNET: "WordNet 3.0 (Fellbaum 1998): in one synset with another of its words",
    _SHAVER: "Shaver et al. 1987: in the same cluster of the 135 words for emotions that people sorted",
    _EMOTIC: "Kosti et al. 2020: in EMOTIC's definition of the category",
    _SPANE: "Diener et al. 2010: beside its name among the items of the Scale of Positive and Negative Experience",
}
"""Where a word comes from."""


@dataclass(frozen=True)
class Words:
    """Words for one emotion, with the source of each."""

    nouns: Mapping[str, Source]  # What is evoked or felt, without an article
    adjectives: Mapping[str, Source]  # How somebody feels


_BASIC: Final = {  # Of Mikels' eight, Ekman's six, Emotion6, UBE, CAER-S and HECO
    "amusement": Words({"amusement": _NAME}, {"amused": _FORM, "entertained": _WORDNET}),
    "anger": Words({"anger": _NAME, "rage": _EMOTIC, "fury": _SHAVER}, {"angry": _FORM, "furious": _EMOTIC}),
    "awe": Words({"awe": _NAME, "reverence": _WORDNET}, {"awed": _FORM, "awestruck": _WORDNET}),
    "contentment": Words({"contentment": _NAME}, {"contented": _FORM, "content": _WORDNET}),
    "disgust": Words({"disgust": _NAME, "revulsion": _SHAVER}, {"disgusted": _FORM}),
    "excitement": Words(
        {"excitement": _NAME, "exhilaration": _WORDNET, "enthusiasm": _EMOTIC},
        {"excited": _FORM, "exhilarated": _FORM, "enthusiastic": _FORM},
    ),
    "fear": Words(
        {"fear": _NAME, "fright": _WORDNET, "terror": _SHAVER},
        {"fearful": _FORM, "frightened": _FORM, "terrified": _FORM},
    ),
    "happiness": Words({"happiness": _NAME, "enjoyment": _EMOTIC}, {"happy": _FORM, "delighted": _EMOTIC}),
    "joy": Words({"joy": _NAME, "gladness": _SHAVER}, {"joyful": _FORM, "joyous": _FORM, "glad": _FORM}),
    "love": Words({"love": _NAME, "adoration": _SHAVER}, {"loving": _FORM, "adoring": _FORM}),
    "neutral": Words({"emotional neutrality": _FORM}, {"neutral": _NAME}),
    "peace": Words({"peace": _NAME, "serenity": _WORDNET}, {"peaceful": _FORM, "serene": _FORM, "relaxed": _EMOTIC}),
    "sadness": Words(
        {"sadness": _NAME, "sorrow": _WORDNET, "unhappiness": _WORDNET},
        {"sad": _FORM, "sorrowful": _FORM, "unhappy": _EMOTIC},
    ),
    "surprise": Words(
        {"surprise": _NAME, "astonishment": _SHAVER, "amazement": _SHAVER},
        {"surprised": _FORM, "astonished": _FORM, "amazed": _FORM},
    ),
}

_OF_EMOTIC: Final = {  # The other categories of EMOTIC
    "affection": Words(
        {"affection": _NAME, "fondness": _WORDNET, "tenderness": _EMOTIC}, {"affectionate": _FORM, "tender": _WORDNET}
    ),
    "annoyance": Words(
        {"annoyance": _NAME, "irritation": _WORDNET}, {"annoyed": _FORM, "irritated": _EMOTIC, "frustrated": _EMOTIC}
    ),
    "anticipation": Words({"anticipation": _NAME, "expectancy": _WORDNET}, {"expectant": _FORM}),
    "aversion": Words(
        {"aversion": _NAME, "dislike": _EMOTIC, "repulsion": _EMOTIC}, {"averse": _FORM, "repulsed": _FORM}
    ),
    "confidence": Words({"confidence": _NAME}, {"confident": _FORM, "proud": _EMOTIC}),
    "disapproval": Words({"disapproval": _NAME, "hostility": _FORM}, {"disapproving": _FORM, "hostile": _EMOTIC}),
    "disconnection": Words(
        {"disconnection": _NAME, "indifference": _FORM, "boredom": _FORM},
        {"disconnected": _FORM, "indifferent": _EMOTIC, "bored": _EMOTIC, "distracted": _EMOTIC},
    ),
    "disquietment": Words(
        {"disquietment": _NAME, "worry": _FORM, "anxiety": _FORM, "nervousness": _FORM},
        {"worried": _EMOTIC, "anxious": _EMOTIC, "nervous": _EMOTIC, "tense": _EMOTIC},
    ),
    "doubt/confusion": Words({"doubt": _NAME, "confusion": _NAME}, {"doubtful": _FORM, "confused": _FORM}),
    "embarrassment": Words({"embarrassment": _NAME, "shame": _FORM}, {"embarrassed": _FORM, "ashamed": _EMOTIC}),
    "engagement": Words(
        {"engagement": _NAME, "interest": _FORM, "curiosity": _FORM},
        {"engaged": _FORM, "interested": _EMOTIC, "curious": _EMOTIC, "absorbed": _EMOTIC},
    ),
    "esteem": Words(
        {"esteem": _NAME, "respect": _EMOTIC, "admiration": _EMOTIC}, {"respectful": _FORM, "admiring": _FORM}
    ),
    "fatigue": Words(
        {"fatigue": _NAME, "weariness": _EMOTIC, "tiredness": _EMOTIC},
        {"fatigued": _FORM, "weary": _FORM, "tired": _FORM, "sleepy": _EMOTIC},
    ),
    "pain": Words({"pain": _NAME}, {"pained": _FORM}),
    "pleasure": Words({"pleasure": _NAME}, {"pleased": _FORM}),
    "sensitivity": Words({"sensitivity": _NAME, "vulnerability": _FORM}, {"sensitive": _FORM, "vulnerable": _EMOTIC}),
    "suffering": Words(
        {"suffering": _NAME, "anguish": _SHAVER, "distress": _WORDNET}, {"anguished": _EMOTIC, "distressed": _EMOTIC}
    ),
    "sympathy": Words(
        {"sympathy": _NAME, "compassion": _FORM},
        {"sympathetic": _FORM, "compassionate": _EMOTIC, "supportive": _EMOTIC},
    ),
    "yearning": Words({"yearning": _NAME, "longing": _WORDNET}, {"envious": _EMOTIC, "jealous": _EMOTIC}),
}

_OF_POLARITY: Final = {
    "positive": Words(
        {"positive feelings": _FORM, "pleasant feelings": _SPANE, "good feelings": _SPANE}, {"positive": _NAME}
    ),
    "negative": Words(
        {"negative feelings": _FORM, "unpleasant feelings": _SPANE, "bad feelings": _SPANE}, {"negative": _NAME}
    ),
}

WORDS: Final[Mapping[str, Words]] = {**_BASIC, **_OF_EMOTIC, **_OF_POLARITY}
"""Words by the canonical name of the class."""
