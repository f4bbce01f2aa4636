"""Words for emotions: complete, of one class each, and found in the sources that they name."""

import re
from collections import Counter
from pathlib import Path

import pytest

from uniemox.emotion_words import SOURCES, WORDS
from uniemox.emotions import TAXONOMIES
from uniemox.importers.specs import SPECS

PAGE = (Path(__file__).parents[1] / "docs" / "labels.md").read_text(encoding="utf-8")
CLASSES = {name for taxonomy in TAXONOMIES.values() for name in taxonomy.classes}

# Looked up in the sources: key words of EMOTIC's definitions (http://sunai.uoc.edu/emotic/annotations.html), clusters
# of Shaver et al. 1987, and synsets of WordNet 3.0.
FOUND = {
    "EMOTIC": {
        "affection": "fond love tenderness",
        "anger": "displeasure rage furious resentful",
        "annoyance": "bothered irritated impatient frustrated",
        "aversion": "disgust dislike repulsion hate",
        "confidence": "certain conviction favorable encouraged proud",
        "disapproval": "wrong reprehensible contempt hostile",
        "disconnection": "indifferent bored distracted",
        "disquietment": "nervous worried upset anxious tense pressured alarmed",
        "embarrassment": "ashamed guilty",
        "engagement": "attention absorbed curious interested",
        "esteem": "favorable respect admiration gratefulness",
        "excitement": "enthusiasm stimulated energetic",
        "fatigue": "weariness tiredness sleepy",
        "happiness": "delighted enjoyment amusement",
        "peace": "well-being relaxed satisfied",
        "sadness": "unhappy sorrow disappointed discouraged",
        "sensitivity": "wounded delicate vulnerable",
        "suffering": "pain distressed anguished",
        "sympathy": "supportive compassionate",
        "yearning": "desire jealous envious lust",
    },
    "Shaver": {
        "anger": "anger rage outrage fury wrath hostility ferocity bitterness hate loathing scorn spite resentment",
        "disgust": "disgust revulsion contempt",
        "fear": "alarm shock fear fright horror terror panic hysteria mortification",
        "joy": "amusement bliss gaiety glee joy delight enjoyment gladness happiness elation satisfaction",
        "love": "adoration affection love fondness liking attraction caring tenderness compassion",
        "suffering": "agony suffering hurt anguish",
        "surprise": "amazement surprise astonishment",
    },
    "WordNet": {
        "affection": "affection fondness tenderness warmness / affectionate fond lovesome tender warm",
        "amusement": "amused diverted entertained",
        "annoyance": "irritation annoyance vexation botheration",
        "anticipation": "anticipation expectancy",
        "awe": "fear reverence awe veneration / awed awestruck awestricken",
        "contentment": "contented content",
        "excitement": "exhilaration excitement",
        "fear": "fear fearfulness fright",
        "peace": "peace peacefulness repose serenity heartsease ataraxis",
        "sadness": "sadness unhappiness / sadness sorrow sorrowfulness",
        "suffering": "distress hurt suffering",
        "yearning": "longing yearning hungriness",
    },
    "SPANE": {
        "positive": "positive feelings / pleasant feelings / good feelings",
        "negative": "negative feelings / unpleasant feelings / bad feelings",
    },
}


def words_of(name):
    return {**WORDS[name].nouns, **WORDS[name].adjectives}


def test_every_class_of_the_taxonomies_and_data_sets_has_words_and_nothing_else_has():
    # FindingEmo's are degrees of each other, such as annoyance, anger and rage, and are worded by their own names.
    sets = [spec for spec in SPECS.values() if spec.name != "findingemo"]
    assert set(WORDS) == CLASSES == CLASSES | {name for spec in sets for name in spec.classes}


@pytest.mark.parametrize("name", WORDS)
def test_a_class_has_nouns_and_adjectives_and_its_own_name_is_first(name):
    words = WORDS[name]
    assert words.nouns
    assert words.adjectives
    named = [word for word, source in words_of(name).items() if source == "name"]
    assert "/".join(named) == name
    assert named[0] in (next(iter(words.nouns)), next(iter(words.adjectives)))


def test_no_two_classes_share_a_word():
    uses = Counter(word for name in WORDS for word in words_of(name))
    assert {word for word, count in uses.items() if count > 1} == set()


def test_words_are_plain_lower_case():
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)?", word) for name in WORDS for word in words_of(name))


def test_every_source_is_used_and_explained():
    assert {source for name in WORDS for source in words_of(name).values()} == set(SOURCES)


@pytest.mark.parametrize(
    ("name", "word", "source"),
    [(name, word, source) for name in WORDS for word, source in words_of(name).items() if source in FOUND],
)
def test_a_word_stands_in_the_source_that_it_names(name, word, source):
    text = FOUND[source][name]
    entries = text.split(" / ") if source == "SPANE" else text.split()
    assert word in entries


@pytest.mark.parametrize(
    ("name", "word"), [(name, word) for name in WORDS for word, source in words_of(name).items() if source == "form"]
)
def test_a_form_shares_its_stem_with_another_word_of_its_class(name, word):
    stems = {part[:3] for other in words_of(name) if other != word for part in other.split()}
    assert any(stem in word for stem in stems) or any(word[:3] in other for other in words_of(name) if other != word)


def cell(words):
    return ", ".join(word if source in ("name", "form") else f"{word} ({source})" for word, source in words.items())


def test_the_page_of_labels_shows_all_words_and_their_sources():
    table = PAGE.partition("| class | nouns | adjectives |\n")[2]
    rows = re.findall(r"^\| ([a-z/]+) \| ([^|]+) \| ([^|]+) \|$", table, re.MULTILINE)
    assert rows == [(name, cell(words.nouns), cell(words.adjectives)) for name, words in WORDS.items()]
    text = " ".join(PAGE.split())
    assert all(meaning in text for source, meaning in SOURCES.items() if source not in ("name", "form"))
