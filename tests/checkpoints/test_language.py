import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from uniemox.checkpoints.facts import LanguageFacts, read_facts
from uniemox.checkpoints.inspection import inspect
from uniemox.checkpoints.language import FILE, Language, read_language
from uniemox.checkpoints.load import load_model, load_pretraining, load_start
from uniemox.checkpoints.open import EMBEDDED
from uniemox.config.clip_name import teacher_of
from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.data.class_prompts import all_words, pretraining_prompts
from uniemox.errors import CheckpointError, ConfigError
from uniemox.models.teacher import load_teacher

FACTS = LanguageFacts(teacher="clip:demo", digest="0", scale=10.0, words=("anger", "joy", "fear"))


def kept():
    return Language(facts=FACTS, features=torch.eye(3))


def test_classes_are_found_in_any_order_and_spelling():
    assert torch.equal(kept().select(["fear", "Anger"]), torch.eye(3)[[2, 0]])


def test_happy_is_happiness_where_joy_is_kept_too():
    both = Language(facts=replace(FACTS, words=("joy", "happiness", "fear")), features=torch.eye(3))
    assert torch.equal(both.select(["happy", "fear"]), torch.eye(3)[[1, 2]])
    assert torch.equal(both.select(["Joy", "happy"]), torch.eye(3)[[0, 1]])


def test_a_class_that_is_not_kept_or_two_of_one_word_ask_for_the_teacher():
    assert kept().select(["fear", "hunger"]) is None
    assert kept().select(["anger", "Anger"]) is None


def test_the_embedded_model_keeps_what_its_teacher_says_of_every_word():
    demo_teacher = load_teacher(teacher_of("clip:demo"), device=torch.device("cpu"))
    folder = EMBEDDED["demo-pretrained"]
    language = read_language(folder, read_facts(folder))
    assert language.facts.words == all_words()
    assert language.facts.digest == demo_teacher.digest
    assert language.facts.scale == pytest.approx(demo_teacher.scale)
    expected = F.normalize(demo_teacher.encode_texts(pretraining_prompts(all_words())))
    torch.testing.assert_close(language.features, expected, atol=1e-3, rtol=0)


def test_a_file_of_other_words_or_another_embedding_is_refused(pretrained, tmp_path):
    facts = replace(read_facts(pretrained.model), language=FACTS)
    save_file({"features": torch.zeros(2, 7)}, tmp_path / FILE)
    with pytest.raises(CheckpointError, match=r"texts\.safetensors has features of \(2, 7\), but must have \(3, "):
        read_language(tmp_path, facts)


def no_number(features):
    features[0, 0] = float("nan")
    return features


DAMAGES = {
    "not a number": (no_number, r"texts\.safetensors are not finite in features"),
    "zeros": (lambda features: features * 0, "nothing but zeros"),
    "whole numbers": (lambda features: features.long(), "hold torch.int64 in features"),
    "one short": (lambda features: features[1:], r"must have \(35, 128\)"),
}


def spoil(folder, damage):
    path = folder / FILE
    if damage == "missing":
        path.unlink()
    elif damage == "cut off":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "a link":
        path.unlink()
        path.symlink_to("/dev/zero")
    else:
        save_file({"features": DAMAGES[damage][0](load_file(path)["features"].float())}, path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("missing", r"texts\.safetensors cannot be read \(it does not exist"),
        ("cut off", r"texts\.safetensors cannot be read"),
        ("a link", "is a link that leaves its folder"),
        *((damage, said) for damage, (_, said) in DAMAGES.items()),
    ],
)
def test_damaged_texts_are_refused_by_whoever_needs_them_and_reported_by_an_inspection(tmp_path, damage, said, refusal):
    folder = shutil.copytree(EMBEDDED["demo-pretrained"], tmp_path / "model")
    assert "keeps what clip:demo says of 35 words" in inspect(str(folder)).notes[-1]
    spoil(folder, damage)
    for reader in (load_model, load_start):
        assert re.search(said, refusal(reader, str(folder)))
    load_pretraining(folder)  # which needs none
    assert re.search(said, inspect(str(folder)).notes[-1])


@pytest.mark.parametrize(
    "teacher", ["x" * 500, "clip:" + "x" * 490, "clip:a b/c", "clip:\n\n/x", "clip:/none", "clip:R=/no"]
)
def test_a_teacher_that_a_stranger_named_is_refused_in_one_line_where_it_is_asked(tmp_path, teacher, edit):
    folder = shutil.copytree(EMBEDDED["demo-pretrained"], tmp_path / "model")
    edit(folder, lambda config: config["uniemox"]["language"].update(teacher=teacher))
    load_model(folder)  # the words of its own data set are kept
    with pytest.raises((CheckpointError, ConfigError)) as told:
        load_model(folder, zero_shot=ZeroShotConfig(classes=("joy", "a rainy mood")))
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 700


def test_a_model_that_keeps_nothing_says_so(pretrained, tmp_path):
    assert read_language(tmp_path, replace(read_facts(pretrained.model), language=None)) is None


def test_pretraining_leaves_what_its_teacher_says(pretrained):
    language = read_language(pretrained.model, read_facts(pretrained.model))
    assert language.facts.words == all_words()
    torch.testing.assert_close(language.features.norm(dim=1), torch.ones(len(all_words())))
