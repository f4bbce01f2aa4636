from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from uniemox.checkpoints.facts import LanguageFacts, read_facts
from uniemox.checkpoints.language import FILE, Language, read_language
from uniemox.checkpoints.open import EMBEDDED
from uniemox.config.clip_name import teacher_of
from uniemox.data.class_prompts import all_words, pretraining_prompts
from uniemox.errors import CheckpointError
from uniemox.models.teacher import load_teacher

FACTS = LanguageFacts(teacher="clip:demo", digest="0", scale=10.0, words=("anger", "joy", "fear"))


def kept():
    return Language(facts=FACTS, features=torch.eye(3))


def test_classes_are_found_in_any_order_and_spelling():
    assert torch.equal(kept().select(["fear", "Anger"]), torch.eye(3)[[2, 0]])


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
    (tmp_path / FILE).unlink()
    with pytest.raises(CheckpointError, match=r"texts\.safetensors"):
        read_language(tmp_path, facts)


def test_a_model_that_keeps_nothing_says_so(pretrained, tmp_path):
    assert read_language(tmp_path, replace(read_facts(pretrained.model), language=None)) is None


def test_pretraining_leaves_what_its_teacher_says(pretrained):
    language = read_language(pretrained.model, read_facts(pretrained.model))
    assert language.facts.words == all_words()
    torch.testing.assert_close(language.features.norm(dim=1), torch.ones(len(all_words())))
