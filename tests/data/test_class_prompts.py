"""Prompts of zero-shot classes: every class, both wordings, articles, the teacher's context, and lists of any names."""

import random
import re
import string
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest

from uniemox.data.class_prompts import (
    SLOT,
    TEMPLATES,
    all_words,
    class_nouns,
    class_prompts,
    fill,
    pretraining_prompts,
    taxonomy_classes,
)
from uniemox.data.prompts import describe
from uniemox.emotions import MIKELS, TAXONOMIES
from uniemox.errors import ConfigError
from uniemox.importers.specs import SPECS
from uniemox.manifests.table import Attributes

# FindingEmo's 24 are degrees of each other (annoyance, anger, rage): words of one would be classes of another.
DEGREES = "findingemo"
SETS = {name: spec.classes for name, spec in SPECS.items() if name != DEGREES}
LISTS = {**{name: own.classes for name, own in TAXONOMIES.items()}, **SETS}
every_list = pytest.mark.parametrize(
    "classes", [own for own in LISTS.values() if own], ids=[n for n in LISTS if LISTS[n]]
)
both_wordings = pytest.mark.parametrize("emotion", ["evoked", "felt"])


# The classes that are known


def test_the_prompts_of_one_class_in_full():
    assert class_prompts(["anger"], "evoked")["anger"] == (
        "The overall emotion conveyed is anger.",
        "a photo that evokes anger.",
        "a picture that fills viewers with anger.",
        "a scene that stirs anger.",
        "a photo that evokes rage.",
        "a picture that fills viewers with rage.",
        "a scene that stirs rage.",
        "a photo that evokes fury.",
        "a picture that fills viewers with fury.",
        "a scene that stirs fury.",
        "a photo that makes people feel angry.",
        "a picture that leaves people feeling angry.",
        "a photo that makes people feel furious.",
        "a picture that leaves people feeling furious.",
    )
    assert class_prompts(["amusement"], "felt")["amusement"] == (
        "a photo of a person full of amusement.",
        "a photo of a person expressing amusement.",
        "a person whose face and posture show amusement.",
        "a photo of an amused person.",
        "a photo of someone who looks amused.",
        "a photo of an entertained person.",
        "a photo of someone who looks entertained.",
    )


@every_list
@both_wordings
def test_every_class_has_several_prompts_of_several_words_and_no_two_share_one(classes, emotion):
    prompts = class_prompts(classes, emotion)
    assert tuple(prompts) == classes
    assert all(len(texts) >= 5 for texts in prompts.values())
    texts = [text for own in prompts.values() for text in own]
    assert len(set(texts)) == len(texts)
    assert all(SLOT not in text for text in texts)


@both_wordings
def test_degrees_of_one_emotion_are_told_apart_by_their_own_names(emotion):
    prompts = class_prompts(SPECS[DEGREES].classes, emotion)
    assert len(prompts) == 24
    texts = [text for own in prompts.values() for text in own]
    assert len(set(texts)) == len(texts)
    for name, own in prompts.items():
        assert any(name in text for text in own)


@both_wordings
def test_the_prompts_of_a_known_class_do_not_depend_on_the_other_classes(emotion):
    together = class_prompts(all_words(), emotion)
    assert together == {name: class_prompts([name], emotion)[name] for name in all_words()}
    assert class_prompts(MIKELS, emotion) == {name: together[name] for name in MIKELS}


@both_wordings
def test_every_prompt_is_within_the_context_of_clip(emotion):
    tokenizer = open_clip.SimpleTokenizer()
    lengths = [len(tokenizer.encode(text)) + 2 for own in class_prompts(all_words(), emotion).values() for text in own]
    assert max(lengths) <= tokenizer.context_length == 77


@both_wordings
def test_articles_are_those_of_english(emotion):
    for text in (text for own in class_prompts(all_words(), emotion).values() for text in own):
        for article, word in re.findall(r"\b(an?) (\w+)", text):
            # None of these words starts with a silent h, or with a vowel that sounds like a consonant.
            assert not word.startswith(("hour", "hon", "heir", "eu", "uni", "us", "one"))
            assert article == ("an" if word[0] in "aeiou" else "a"), text


def test_what_is_evoked_is_worded_otherwise_than_what_is_felt():
    evoked, felt = (class_prompts(all_words(), emotion) for emotion in ("evoked", "felt"))
    assert not {text for own in evoked.values() for text in own} & {text for own in felt.values() for text in own}
    assert all(re.search(r"\b(person|someone)\b", text) for own in felt.values() for text in own)
    assert not any(re.search(r"\b(person|someone)\b", text) for own in evoked.values() for text in own)


@pytest.mark.parametrize("name", [*all_words(), "Angry", "my_class"])
def test_the_evoked_prompts_start_with_the_sentence_of_pretraining(name):
    sentence = describe(Attributes(), name)
    assert class_prompts([name], "evoked")[name][0] == sentence == f"The overall emotion conveyed is {name}."
    assert pretraining_prompts([name, name]) == (sentence, sentence)


# Other spellings and other names


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("Angry", "anger"),
        ("SAD", "sadness"),
        ("happy", "happiness"),
        ("JOY", "joy"),
        ("doubt_confusion", "doubt/confusion"),
    ],
)
def test_a_known_class_has_its_words_in_any_spelling(spelled, name):
    assert class_prompts([spelled], "felt")[spelled] == class_prompts([name], "felt")[name]
    assert class_nouns(spelled) == class_nouns(name)


@both_wordings
def test_an_unknown_class_has_its_own_name_in_the_templates_for_nouns(emotion):
    prompts = class_prompts(["home_sickness"], emotion)["home_sickness"]
    assert prompts[-3:] == tuple(text.replace(SLOT, "home sickness") for text in TEMPLATES[emotion].nouns)
    assert class_nouns("home_sickness") == ("home sickness",)


def test_a_word_that_is_another_class_is_left_to_that_class():
    prompts = class_prompts(["anger", "Rage"], "felt")
    assert "a photo of a person full of Rage." in prompts["Rage"]
    assert not any("rage" in text for text in prompts["anger"])
    assert any("fury" in text for text in prompts["anger"])


@pytest.mark.parametrize(
    "classes", [("doubt", "confusion"), ("anger", "Angry"), ("joy", "joyful", "happiness", "happy")]
)
@both_wordings
def test_two_names_of_one_emotion_get_different_prompts(classes, emotion):
    prompts = class_prompts(classes, emotion)
    texts = [text for own in prompts.values() for text in own]
    assert len(set(texts)) == len(texts)
    assert all(prompts.values())


def invent(generator):
    letters = string.ascii_letters + "éüßж漢{}\\$ _-/'0123456789"
    return "".join(generator.choice(letters) for _ in range(generator.randint(1, 12)))


@pytest.mark.parametrize("seed", range(30))
@both_wordings
def test_any_list_of_names_gets_distinct_prompts_that_hold_the_name(seed, emotion):
    generator = random.Random(seed)
    made = {
        name.casefold().replace("_", " ").replace("-", " ").strip(): name
        for name in (invent(generator) for _ in range(9))
    }
    classes = [*(name for key, name in made.items() if key), *generator.sample(all_words(), 5)]
    prompts = class_prompts(classes, emotion)
    assert list(prompts) == classes
    texts = [text for own in prompts.values() for text in own]
    assert len(set(texts)) == len(texts)
    for name in set(classes) - set(all_words()):
        assert all(" ".join(name.replace("_", " ").split()) in text for text in prompts[name][-3:])


def test_no_classes_have_no_prompts():
    assert class_prompts([], "evoked") == {}
    assert pretraining_prompts([]) == ()


# Templates


@pytest.mark.parametrize(
    ("word", "phrase"),
    [
        ("angry", "an angry face"),
        ("sad", "a sad face"),
        ("Uneasy", "an Uneasy face"),
        ("unhappy", "an unhappy face"),
        ("uninterested", "an uninterested face"),
        ("unique", "a unique face"),
        ("euphoric", "a euphoric face"),
        ("useless", "a useless face"),
        ("honest", "an honest face"),
        ("hopeful", "a hopeful face"),
        ("one-eyed", "a one-eyed face"),
        ("\\1 {}", "a \\1 {} face"),
    ],
)
def test_the_article_before_the_slot_follows_the_word(word, phrase):
    assert fill(["a {} face", "an {} face"], [word]) == [phrase, phrase]
    assert fill(["A {} face"], [word]) == ["A" + phrase[1:]]


def test_templates_are_filled_word_by_word_and_the_rest_of_them_stays():
    assert fill(["{} and {}", "a man, banana {}"], ["x", "y"]) == [
        "x and x",
        "a man, banana x",
        "y and y",
        "a man, banana y",
    ]


# Taxonomies


@pytest.mark.parametrize("name", TAXONOMIES)
def test_a_taxonomy_is_found_by_its_name(name):
    assert taxonomy_classes(name.upper()) == TAXONOMIES[name].classes


def test_ekmans_six_are_those_of_caer_s_without_neutral():
    assert taxonomy_classes("ekman") == tuple(name for name in taxonomy_classes("caer-s") if name != "neutral")


@pytest.mark.parametrize(
    ("name", "hint"), [("mikel", "did you mean mikels"), ("drawn6", ""), ("a/b.parquet", ""), ("", "")]
)
def test_an_unknown_taxonomy_is_an_error_that_says_which_there_are(name, hint):
    with pytest.raises(
        ConfigError, match=rf"no taxonomy is called {name}.*{hint}.*mikels, ekman, polarity; .*`classes`"
    ):
        taxonomy_classes(name)


def test_all_words_are_the_classes_of_all_taxonomies_and_data_sets_once_each():
    assert set(all_words()) == {name for classes in LISTS.values() for name in classes}
    assert len(set(all_words())) == len(all_words()) == 35


def test_prompts_are_made_without_torch():
    code = "import sys, uniemox.data.prompt_files; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_the_page_of_labels_shows_the_templates():
    page = (Path(__file__).parents[2] / "docs" / "labels.md").read_text(encoding="utf-8")
    for emotion, templates in TEMPLATES.items():
        assert f"| `{emotion}` | {' '.join(templates.nouns)} | {' '.join(templates.adjectives)} |\n" in page
