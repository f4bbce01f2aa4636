"""Zero-shot classifiers against an independent computation by open_clip, and what they refuse."""

from dataclasses import replace

import open_clip
import pytest
import torch
from PIL import Image

from uniemox.checkpoints.card import build_card, caution
from uniemox.checkpoints.facts import check_facts, facts_from_dict, read_facts
from uniemox.checkpoints.folder import Classifier
from uniemox.checkpoints.load import load_model, load_pretraining
from uniemox.checkpoints.open import open_model
from uniemox.checkpoints.zero_shot import is_zero_shot, load_text_tower, load_zero_shot
from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.data.class_prompts import class_prompts
from uniemox.demo import drawn
from uniemox.errors import CheckpointError, ConfigError

EKMAN = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")


@pytest.fixture
def photo():
    """An image that is not square, with a gradient and some noise."""
    noise = torch.randint(0, 256, (90, 140, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    noise[:, :, 0] = torch.arange(140, dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


def clip_of(folder):
    return f"clip:{folder}"


@torch.no_grad()
def by_open_clip(folder, prompts, image):
    """Classify by open_clip alone, as its authors' notebook does."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    classes = []
    for texts in prompts.values():
        features = model.encode_text(tokenizer(list(texts)))
        features /= features.norm(dim=-1, keepdim=True)
        mean = features.mean(dim=0)
        classes.append(mean / mean.norm())
    image_features = model.encode_image(transform(image).unsqueeze(0))
    image_features /= image_features.norm(dim=-1, keepdim=True)
    return model.logit_scale.exp() * image_features @ torch.stack(classes).T


def logits_of(classifier, image):
    with torch.no_grad():
        views = torch.from_numpy(classifier.facts.views(image))
        return classifier.model(*views.unsqueeze(1))


@pytest.mark.parametrize("wording", ["evoked", "felt"])
def test_a_clip_answers_as_open_clip_does(tiny_clip, photo, wording):
    found = load_model(clip_of(tiny_clip), zero_shot=ZeroShotConfig(taxonomy="ekman", wording=wording))
    expected = by_open_clip(tiny_clip, class_prompts(EKMAN, wording), photo)
    torch.testing.assert_close(logits_of(found, photo), expected, atol=1e-5, rtol=1e-5)
    assert (found.facts.classes, found.facts.emotion) == (EKMAN, wording)


def test_prompts_of_a_file_replace_the_known_ones(tiny_clip, photo, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("calm: [a lake, a quiet lake]\nstorm: a storm\n")
    found = load_model(clip_of(tiny_clip), zero_shot=ZeroShotConfig(classes=("calm", "storm"), prompts=path))
    expected = by_open_clip(tiny_clip, {"calm": ["a lake", "a quiet lake"], "storm": ["a storm"]}, photo)
    torch.testing.assert_close(logits_of(found, photo), expected, atol=1e-5, rtol=1e-5)
    assert "prompts of a file" in found.facts.provenance["head"]


def test_classes_that_a_clip_reads_alike_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="clip:demo reads the same text for Joy and JOY: rename one"):
        load_model("clip:demo", zero_shot=ZeroShotConfig(classes=("anger", "Joy", "JOY")))
    with pytest.raises(ConfigError, match="demo-pretrained reads the same text for Joy and joy"):
        load_model("demo-pretrained", zero_shot=ZeroShotConfig(classes=("Joy", "joy")))
    prompts = tmp_path / "p.yaml"
    prompts.write_text(f"calm: {'a very long text ' * 50}\nstorm: {'a very long text ' * 49} but another\n")
    with pytest.raises(ConfigError, match="for calm and storm: rename one, or give other `prompts`"):
        load_model("clip:demo", zero_shot=ZeroShotConfig(classes=("calm", "storm"), prompts=prompts))


def test_what_a_clip_lacks_is_said_of_its_name():
    with pytest.raises(ConfigError, match=r"^clip:ViT-B-16/opanai: its tag is 'opanai', neither a file nor a tag"):
        load_model("clip:ViT-B-16/opanai", zero_shot=ZeroShotConfig(taxonomy="ekman"))


@torch.no_grad()
def test_a_pretrained_model_answers_by_the_cosine_of_its_fused_token(photo):
    found, source = load_model("demo-pretrained"), load_pretraining("demo-pretrained").model.eval()
    language = open_model("demo-pretrained").path / "texts.safetensors"
    views = torch.from_numpy(found.facts.views(photo)).unsqueeze(1)
    noise = torch.rand(1, source.config.num_patches)
    embedding = source(views[0], views[1], noise, noise, 0.0).embedding
    scores = torch.nn.functional.cosine_similarity(embedding, _texts(language, found.facts.classes))
    torch.testing.assert_close(found.model(*views)[0], scores * _scale(), atol=2e-2, rtol=1e-3)
    assert found.facts.view == "both"
    assert found.facts.classes == ("anger", "fear", "sadness", "amusement", "contentment", "excitement")


def _scale():
    return read_facts(open_model("demo-pretrained").path).language.scale


def _texts(path, classes):
    from safetensors.torch import load_file

    words = read_facts(path.parent).language.words
    return load_file(path)["features"].float()[[words.index(name) for name in classes]]


def test_words_that_a_pretrained_model_does_not_keep_are_asked_of_its_teacher(photo):
    own = ZeroShotConfig(classes=("a rainy mood", "anger"))
    kept = ZeroShotConfig(classes=("fear", "anger"))
    both = [logits_of(load_model("demo-pretrained", zero_shot=asked), photo)[0, 1] for asked in (own, kept)]
    torch.testing.assert_close(*both, atol=2e-2, rtol=1e-3)  # the kept ones are in half precision


def test_a_pretrained_model_without_a_person_reads_the_scene(pretrain_config, tmp_path, photo):
    from uniemox.train.pretrain import pretrain

    alone = {"views": {"person": "none"}, "model": {"fusion": "none"}}
    folder = pretrain(pretrain_config(tmp_path / "run", **alone, max_steps=1))
    found = load_model(str(folder), zero_shot=ZeroShotConfig(taxonomy="polarity"))
    assert (found.facts.view, logits_of(found, photo).shape) == ("scene", (1, 2))


def test_facts_of_zero_shot_models_survive_json(tiny_clip):
    for name in ("demo-pretrained", clip_of(tiny_clip)):
        facts = load_model(name, zero_shot=ZeroShotConfig(taxonomy="mikels")).facts
        check_facts(facts, "here")
        assert facts_from_dict(facts.to_dict(), "here") == facts
        assert facts.format_version == 4


def test_which_models_have_no_classes_of_their_own(tiny_clip, finetuned, pretrained):
    names = (clip_of(tiny_clip), str(pretrained.model), str(finetuned.model), "demo", "demo-pretrained")
    assert [is_zero_shot(open_model(name)) for name in names] == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "has no classes of its own: give them as `taxonomy`"),
        ({"classes": ("joy",)}, "`classes` are joy, but must be two or more distinct names"),
        ({"classes": ("joy", " joy ")}, "`classes` are joy, joy, but must be two or more distinct names"),
        ({"classes": ("joy", " ")}, "must be two or more distinct names"),
        ({"taxonomy": "mikel"}, "mikels"),
    ],
)
def test_classes_that_cannot_be_told_apart_are_refused(tiny_clip, asked, message):
    with pytest.raises(ConfigError, match=message):
        load_model(clip_of(tiny_clip), zero_shot=ZeroShotConfig(**asked))


def test_a_taxonomy_in_another_spelling_asks_about_the_same_emotion(tiny_clip):
    facts = [
        load_model(clip_of(tiny_clip), zero_shot=ZeroShotConfig(taxonomy=name)).facts for name in ("caer-s", "CAER_S")
    ]
    assert facts[0] == facts[1]
    assert facts[1].emotion == "felt"


def test_settings_that_a_model_does_not_read_are_refused(tiny_clip, pretrained):
    with pytest.raises(ConfigError, match="reads its texts itself: omit `teacher`"):
        load_model(clip_of(tiny_clip), zero_shot=ZeroShotConfig(taxonomy="ekman", teacher="clip:demo"))
    with pytest.raises(ConfigError, match=r"`wording` is felt, but .* was distilled with one sentence alone"):
        load_model(str(pretrained.model), zero_shot=ZeroShotConfig(taxonomy="ekman", wording="felt"))


def test_a_prompt_file_with_an_unknown_class_is_refused(tiny_clip, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("joy: a party\nfeer: a ghost\n")
    with pytest.raises(ConfigError, match="feer is none of the classes"):
        load_model(clip_of(tiny_clip), zero_shot=ZeroShotConfig(classes=("joy", "fear"), prompts=path))


def test_a_set_of_several_labels_names_no_classes(tiny_clip):
    with pytest.raises(ConfigError, match="several labels"):
        load_model(clip_of(tiny_clip), dataset="emotic")


def test_a_model_without_a_teacher_is_refused(pretrain_config, tmp_path):
    from uniemox.train.pretrain import pretrain

    terms = {"loss": {"contrast": 0.0, "similarity": 0.0}, "max_steps": 1}
    folder = pretrain(pretrain_config(tmp_path / "run", **terms))
    with pytest.raises(CheckpointError, match="without a teacher, so texts cannot be its head"):
        load_model(str(folder), zero_shot=ZeroShotConfig(taxonomy="mikels"))


def test_a_teacher_that_is_another_is_refused(pretrained, tiny_clip):
    other = ZeroShotConfig(classes=("a", "b"), teacher="clip:demo")
    with pytest.raises(ConfigError, match=r"clip:demo has features of 128 numbers, but .* of 24"):
        load_model(str(pretrained.model), zero_shot=other)
    facts = read_facts(pretrained.model)
    assert replace(facts.language, digest="").teacher == clip_of(tiny_clip.name)


def test_weights_that_are_not_at_hand_are_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        load_model("clip:RN50/openai", zero_shot=ZeroShotConfig(taxonomy="mikels"))
    assert "clip:ARCH=FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_it_is_on_the_cpu_and_no_gradient_reaches_the_tower(tiny_clip):
    found = load_zero_shot(open_model(clip_of(tiny_clip)), ZeroShotConfig(taxonomy="mikels"))
    assert isinstance(found, Classifier)
    assert not any(parameter.requires_grad for parameter in found.model.parameters())


def test_the_embedded_clip_is_said_to_know_drawings_alone():
    facts = load_model("clip:demo", zero_shot=ZeroShotConfig(taxonomy="mikels")).facts
    assert facts.dataset == "drawn6"
    assert drawn.ARCHIVE.is_file()


def test_another_clip_that_is_asked_about_a_data_set_was_not_trained_on_it(tiny_clip):
    facts = load_model(clip_of(tiny_clip), dataset="drawn6").facts
    assert (facts.dataset, facts.provenance["classes"]) == ("unknown", "drawn6")
    assert caution(facts) == ""
    card = build_card(facts, exported="fp32")
    assert "drawings" not in card
    assert "training data" not in card


def test_a_model_that_shares_no_space_with_texts_names_those_that_do(finetuned):
    with pytest.raises(ConfigError, match=r"shares with texts: take a CLIP .* or give an image"):
        load_text_tower(open_model(finetuned.model), ZeroShotConfig())


def test_the_texts_of_a_pretrained_model_are_read_by_its_teacher_alone(pretrained, tiny_clip):
    opened = open_model(pretrained.model)
    found = load_text_tower(opened, ZeroShotConfig(teacher=f"clip:{tiny_clip}")).encode_texts(["a calm evening"])
    own = load_text_tower(open_model(f"clip:{tiny_clip}"), ZeroShotConfig()).encode_texts(["a calm evening"])
    assert torch.equal(found, own)
    with pytest.raises(ConfigError, match="features of"):
        load_text_tower(opened, ZeroShotConfig(teacher="clip:demo"))
