"""Prompts that a user wrote, and what is wrong with some."""

import json
import os
import random

import pytest
import yaml

from uniemox.data import prompt_files
from uniemox.data.prompt_files import MAX_LENGTH, MAX_PROMPTS, read_prompts
from uniemox.errors import ConfigError

CLASSES = ("joy", "anger", "my_class")


@pytest.fixture
def read(tmp_path):
    def read_text(text, *, name="prompts.yaml", classes=CLASSES):
        path = tmp_path / name
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        return read_prompts(path, classes)

    return read_text


GOOD = {"anger": ["a fist", "a shout"], "my_class": "mine", "joy": ["a smile"]}


@pytest.mark.parametrize("name", ["prompts.yaml", "prompts.yml", "prompts.txt", "prompts.json", "PROMPTS.JSON"])
def test_a_list_or_one_text_for_each_class_comes_in_the_order_of_the_classes(read, name):
    prompts = read(GOOD, name=name)
    assert prompts == {"joy": ("a smile",), "anger": ("a fist", "a shout"), "my_class": ("mine",)}
    assert tuple(prompts) == CLASSES


def test_classes_may_be_spelled_as_data_sets_do_and_come_as_they_were_asked_for(read):
    assert tuple(read({"Angry": "x", "My class": "y", "Happy": "z"})) == CLASSES


def test_lines_are_joined_and_repeated_texts_count_once(read):
    prompts = read("joy: |\n  a\n  smile\nanger: [x, x, ' x ']\nmy_class: y\n")
    assert prompts["joy"] == ("a smile",)
    assert prompts["anger"] == ("x",)


def test_templates_take_the_words_that_are_given_and_known_ones_otherwise(read):
    prompts = read("templates:\n- a face full of {}\n- an {} mood\nwords:\n  anger: [wrath, angry]\n")
    assert prompts["anger"] == ("a face full of wrath", "a wrath mood", "a face full of angry", "an angry mood")
    assert prompts["joy"] == ("a face full of joy", "a joy mood", "a face full of gladness", "a gladness mood")
    assert prompts["my_class"] == ("a face full of my class", "a my class mood")


def test_one_template_is_enough(read):
    assert read("templates: a photo of {}\n")["my_class"] == ("a photo of my class",)


def test_the_examples_of_the_module_can_be_read(read):
    first, second = prompt_files.__doc__.split("::\n")[1:]
    lines = [line[4:] for line in first.splitlines() if line.startswith("    ")]
    assert read("\n".join(lines), classes=("anger", "awe"))["awe"] == ("a starry sky over mountains",)
    lines = [line[4:] for line in second.splitlines() if line.startswith("    ")]
    assert read("\n".join(lines), classes=("anger", "awe"))["anger"][0] == "a painting that evokes anger."


def test_a_class_may_be_called_templates(read):
    assert read({"templates": "x", "words": "y"}, classes=("templates", "words")) == {
        "templates": ("x",),
        "words": ("y",),
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ({**GOOD, "angr": "x"}, "angr is none of the classes; did you mean anger?"),
        ({**GOOD, "zzz": "x"}, "zzz is none of the classes; the classes are joy, anger, my_class"),
        ({**GOOD, "Anger": "x"}, "Anger is none of the classes; did you mean anger?"),
        ({"anger": "x"}, "has no prompts for joy, my_class: add them"),
        ({}, "has no prompts for joy, anger, my_class"),
        ({**GOOD, "joy": []}, "joy is an empty list: give at least one text"),
        ({**GOOD, "joy": " \n"}, "joy has an empty text"),
        ({**GOOD, "joy": ["x", ""]}, "joy has an empty text"),
        ({**GOOD, "joy": None}, "joy has nothing, but must be a text or a list"),
        ({**GOOD, "joy": 3}, "joy has 3, but must be a text or a list"),
        ({**GOOD, "joy": [True]}, "joy has True, but must be a text"),
        ({**GOOD, "joy": {"a": "b"}}, "joy has a mapping, but must be a text"),
        ({**GOOD, "joy": [["x"]]}, "but must be a text"),
        ({**GOOD, "joy": "x" * (MAX_LENGTH + 1)}, "joy has a text of 1,001 characters, more than 1,000"),
        ({**GOOD, "joy": ["x"] * (MAX_PROMPTS + 1)}, "joy has 1,001 prompts, more than 1,000"),
        ({**GOOD, "joy": "half \ud800 a letter"}, "joy has characters that cannot be printed"),
        ({**GOOD, "joy": "escape \x1b[31m"}, "joy has characters that cannot be printed"),
        ({**GOOD, "joy": "a photo of {}"}, "joy has a text with {}: only what is below templates takes it"),
        ({**GOOD, "joy": "mine"}, "has the same prompts for joy and my_class: give each its own"),
        ({"templates": []}, "templates is an empty list"),
        ({"templates": ["x"]}, 'the template "x" has no {}'),
        ({"templates": ["{}"], "joy": "x"}, "joy stands beside templates"),
        ({"templates": ["{}"], "words": ["joy"]}, "words is ['joy'], but must be a mapping"),
        ({"templates": ["{}"], "words": None}, "words is nothing, but must be a mapping"),
        ({"templates": ["{}"], "words": {"jox": "x"}}, "jox is none of the classes; did you mean joy?"),
        ({"templates": ["{}"], "words": {"joy": []}}, "joy is an empty list"),
        ({"templates": ["{}"], "words": {"joy": "my class"}}, "has the same prompts for joy and my_class"),
        (
            {"templates": [f"{i} {{}}" for i in range(40)], "words": {"joy": [str(i) for i in range(30)]}},
            "joy has 1,200 prompts",
        ),
        ({"words": {"joy": "x"}}, "words is none of the classes"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
@pytest.mark.parametrize("name", ["prompts.yaml", "prompts.json"])
def test_what_is_wrong_is_one_line_that_names_file_and_class(read, tmp_path, text, complaint, name):
    with pytest.raises(ConfigError) as caught:
        read(text, name=name)
    message = str(caught.value)
    assert complaint in message
    assert message.startswith(str(tmp_path / name))
    assert message.isprintable()


def test_the_prompts_of_all_classes_are_bounded_together(read, monkeypatch):
    monkeypatch.setattr(prompt_files, "MAX_ALL", 5)
    with pytest.raises(ConfigError, match="has 6 prompts, more than 5"):
        read({"templates": ["x {}", "y {}"], "words": {"joy": "a", "anger": "b"}})
    with pytest.raises(ConfigError, match="has 6 prompts, more than 5"):
        read({name: [f"{name} 1", f"{name} 2"] for name in CLASSES})


@pytest.mark.parametrize(
    ("text", "complaint"), [("yes: x\n", "class True is no text"), ("1: x\n", "class 1 is no text: put it in quotes")]
)
def test_a_class_that_yaml_reads_as_another_kind_is_named(read, text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        read(text)


@pytest.mark.parametrize(
    ("name", "text"), [("x.yaml", "- a\n"), ("x.json", "[1]"), ("x.json", "{"), ("x.yaml", "a: [")]
)
def test_a_file_that_is_no_mapping_is_an_error_that_names_it(read, name, text):
    with pytest.raises(ConfigError, match=name):
        read(text, name=name)


def test_a_long_yaml_file_is_sent_to_json_which_takes_it(read):
    prompts = {name: [f"{name} {i} " + "x" * 900 for i in range(40)] for name in CLASSES}
    with pytest.raises(ConfigError, match=r"longer than 65,536 bytes: write it as \.json"):
        read(prompts)
    assert len(read(prompts, name="prompts.json")["joy"]) == 40


@pytest.mark.parametrize("name", ["none.yaml", "none.json"])
def test_a_file_that_does_not_exist_is_an_error(tmp_path, name):
    with pytest.raises(ConfigError, match=name):
        read_prompts(tmp_path / name, CLASSES)


@pytest.mark.parametrize("name", ["pipe.yaml", "pipe.json", "folder.yaml", "folder.json"])
def test_a_pipe_or_a_folder_is_refused_at_once(tmp_path, name):
    path = tmp_path / name
    path.mkdir() if name.startswith("folder") else os.mkfifo(path)
    with pytest.raises(ConfigError, match=f"{name}.* regular file"):
        read_prompts(path, CLASSES)


@pytest.mark.parametrize("seed", range(40))
def test_any_tree_is_read_or_refused_by_a_config_error(read, seed):
    generator = random.Random(seed)
    leaves = ["x", "{}", "", None, 1, 0.5, True, "joy", [], {}, "é" * 30]

    def grow(depth):
        kind = generator.random()
        if depth == 0 or kind < 0.4:
            return generator.choice(leaves)
        if kind < 0.7:
            return [grow(depth - 1) for _ in range(generator.randint(0, 3))]
        keys = generator.sample([*CLASSES, "templates", "words", "other"], 3)
        return {key: grow(depth - 1) for key in keys}

    tree = {key: grow(3) for key in generator.sample([*CLASSES, "templates", "words"], generator.randint(1, 5))}
    answers = []
    for name, text in (
        ("x.json", json.dumps(tree)),
        ("x.yaml", yaml.safe_dump(json.loads(json.dumps(tree)), sort_keys=False)),
    ):
        try:
            answers.append(read(text, name=name))
        except ConfigError as error:
            answers.append(str(error).replace(name, ""))
    assert answers[0] == answers[1]
