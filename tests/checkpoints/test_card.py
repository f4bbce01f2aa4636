"""The model card: what it says, and that the hub understands it."""

import dataclasses

import pytest
from huggingface_hub import ModelCard

from uniemox.checkpoints.card import NON_COMMERCIAL, build_card, carried_licence, caution, write_card
from uniemox.checkpoints.facts import LanguageFacts, ModelFacts, PreparationFacts
from uniemox.importers.specs import SPECS
from uniemox.targets.robustness import Robustness, Shift
from uniemox.targets.scores import Interval

FACTS = ModelFacts(
    kind="classifier",
    size="base",
    patch_size=16,
    image_size=224,
    dataset="fi",
    emotion="evoked",
    classes=("awe", "fear"),
    temperature=1.25,
    provenance={
        "software": "uniemox 0.1.0",
        "settings": '{"optim": {"epochs": 3}, "augment": {"flip": 0.5}}',
        "init": "pretraining on emoset, sha256 abc",
    },
    metrics={"val_top1": 0.75, "test_macro_f1": 0.5},
    licence="MIT",
)


def changed(**more):
    return dataclasses.replace(FACTS, **more)


def data_of(facts):
    return ModelCard(build_card(facts)).data.to_dict()


def test_the_hub_reads_the_front_matter():
    assert data_of(FACTS) == {
        "license": "mit",
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["uniemox", "emotion", "timm", "transformers"],
    }
    pretraining = changed(kind="pretraining", classes=(), emotion=None)
    assert data_of(pretraining)["pipeline_tag"] == "image-feature-extraction"


@pytest.mark.parametrize(
    ("licence", "word"),
    [
        ("MIT; follows from CC0 images", "mit"),
        ("Apache-2.0", "apache-2.0"),
        ("CC0-1.0", "cc0-1.0"),
        (NON_COMMERCIAL, "cc-by-nc-4.0"),
        (carried_licence("cc-by-nc-4.0"), "cc-by-nc-4.0"),
        (carried_licence("MIT"), "other"),
        ("", "other"),
        ("unstated", "other"),
    ],
)
def test_the_licence_of_the_hub_is_the_strictest_link(licence, word):
    data = data_of(changed(licence=licence))
    assert data["license"] == word
    assert ("license_name" in data) == (word == "other")
    assert ("**not for commercial use**" in build_card(changed(licence=licence))) == (word == "cc-by-nc-4.0")


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("kind", ["classifier", "pretraining"])
def test_a_card_names_the_data_and_warns_of_drawings_alone(spec, kind):
    facts = changed(dataset=spec.name, kind=kind)
    text = build_card(facts)
    assert f"- data set: {spec.name}, {spec.title}" in text
    is_warned = "was trained on drawings alone and knows nothing of photographs" in text
    assert is_warned == bool(caution(facts)) == (spec.name == "drawn6")


def test_nothing_is_said_of_data_that_is_in_no_table():
    assert caution(changed(dataset="my own")) == ""


def test_a_chain_is_as_free_as_its_links():
    assert carried_licence("") == ""
    assert carried_licence(carried_licence("X")) == carried_licence("X")
    assert carried_licence("X") == "not stated; follows from a start under: X"


@pytest.mark.parametrize(
    "said",
    [
        "trained on fi",
        "size base, patches of 16 pixels, images of 224",
        "**Classes, in label order:** `awe`, `fear`.",
        "**evokes**",
        "FI (Flickr and Instagram)",
        '`{"epochs": 3}`',
        "| val_top1 | 0.7500 |",
        "| test_macro_f1 | 0.5000 |",
        "a temperature of 1.2500",
        "pretraining on emoset, sha256 abc; its licence binds these weights too",
        "## Intended use, and uses to refuse",
        "hiring, policing",
        "**Limits.**",
        "arXiv:2409.18877",
        "You, Luo, Jin, Yang",
        'timm.create_model("local-dir:FOLDER", pretrained=True)',
    ],
)
def test_a_card_says_what_a_reader_asks(said):
    assert said in build_card(FACTS)


@pytest.mark.parametrize(
    ("emotion", "said"), [("evoked", "**evokes**"), ("felt", "seems to **feel**"), (None, "is not recorded")]
)
def test_a_card_says_whose_emotion_it_is(emotion, said):
    assert said in build_card(changed(emotion=emotion))


@pytest.mark.parametrize(
    ("precision", "exported", "said"),
    [
        ("fp32", "", "Measured in fp32.\n"),
        ("bf16", "", "Measured in bf16, which `uniemox` therefore computes in; the answers on val"),
        ("fp32", "int8", "Measured in fp32.\n"),
        ("bf16", "int8", "Measured in bf16.\n"),
    ],
)
def test_a_card_says_in_which_precision_it_was_measured(precision, exported, said):
    assert said in build_card(changed(precision=precision), exported=exported)
    assert "Measured in" not in build_card(changed(precision=precision, metrics={}))


def test_what_is_not_known_is_not_invented():
    bare = changed(metrics={}, provenance={}, licence="", dataset="unknown", temperature=1.0)
    card = build_card(bare)
    assert "Nothing was measured" in card
    assert "weights: not stated by whoever made them" in card
    assert "temperature" not in card
    assert "top-1" not in card


def test_a_card_of_a_pretrained_model_names_no_classes():
    card = build_card(changed(kind="pretraining", classes=(), emotion=None))
    assert "uniemox finetune --init" in card
    assert "it has seen the labels" in card
    assert "Classes" not in card


def test_a_card_of_two_views_promises_no_other_library():
    card = build_card(changed(view="both", fusion="sum"))
    assert "timm.create_model" not in card
    assert "no model of timm" in card
    data = ModelCard(card).data.to_dict()
    assert data["library_name"] == "uniemox"
    assert "timm" not in data["tags"]
    assert "expects the crop of a person" in build_card(changed(view="person"))


def test_a_card_of_an_export_promises_onnx_and_says_what_was_measured_when():
    card = build_card(FACTS, exported="int8")
    assert "timm.create_model" not in card
    assert "an ONNX model in int8, for onnxruntime" in card
    assert "measured before the export" in card
    data = ModelCard(card).data.to_dict()
    assert (data["library_name"], data["tags"]) == ("onnx", ["uniemox", "emotion", "onnx"])


HOSTILE = "x`\n---\n# <script>alert(1)</script> | [a](javascript:b)"


def test_a_strangers_words_stay_words():
    card = build_card(changed(dataset=HOSTILE, classes=(HOSTILE,), licence=HOSTILE, provenance={HOSTILE: HOSTILE}))
    assert "<script>" not in card
    assert "\n# <" not in card
    assert card.count("\n---\n") == 1
    assert ModelCard(card).data.to_dict()["license"] == "other"


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 100_000])
def test_settings_that_are_no_table_are_shown_as_they_are(text):
    assert "settings" in build_card(changed(provenance={"settings": text}))


def test_the_card_is_the_readme_of_the_folder(tmp_path):
    write_card(tmp_path, FACTS)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == build_card(FACTS)


# Models without training

PREPARATION = PreparationFacts(
    crop_share=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic", squash=False
)
CLIP = changed(
    size=None, patch_size=0, architecture="ViT-B-16/openai", preparation=PREPARATION, dataset="classes",
    temperature=1.0, provenance={"head": "text features of the classes"}, metrics={}, licence="",
)  # fmt: skip


def test_a_card_of_a_clip_says_what_it_is_and_claims_no_training():
    card = build_card(CLIP, exported="fp32")
    assert "The image tower of a CLIP, ViT-B-16/openai (images of 224 pixels), that names one of 2 emotions" in card
    assert "nothing was trained for them" in card
    assert "Its texts are about the emotion that an image **evokes**" in card
    for false in ("None", "vision transformer", "trained on", "labelled", "data set: classes", "patches of 0"):
        assert false not in card
    assert "knows nothing of photographs" in build_card(dataclasses.replace(CLIP, dataset="drawn6"), exported="fp32")


def test_a_card_of_a_pretrained_model_with_texts_says_that_it_classifies():
    language = LanguageFacts(teacher="clip:a/b", digest="0", scale=1.0, words=("joy",))
    card = build_card(changed(kind="pretraining", classes=(), emotion=None, language=language))
    assert "distilled from clip:a/b and keeps its text features" in card
    assert "uniemox predict FOLDER photo.jpg --taxonomy mikels" in card
    assert "names nothing by itself" not in card


@pytest.mark.parametrize("view", ["scene", "both"])
@pytest.mark.parametrize("pool", ["cls", "cls_mean", "fused"])
def test_a_card_promises_timm_for_class_tokens_of_one_view_alone(pool, view):
    card = build_card(changed(pool=pool, view=view, fusion="sum" if view == "both" and pool != "fused" else "none"))
    assert ("timm.create_model" in card) == ("transformers" in ModelCard(card).data.to_dict()["tags"])
    assert ("timm.create_model" in card) == ((pool, view) == ("cls", "scene"))
    assert ("no model of timm" in card) == ((pool, view) != ("cls", "scene"))


def test_a_card_of_a_model_of_timm_names_it_and_its_training():
    card = build_card(dataclasses.replace(CLIP, architecture="timm:resnet50", dataset="fi"))
    assert "The architecture timm:resnet50 (images of 224 pixels) that names one of 2 emotions" in card
    assert "trained on fi" in card
    assert "timm.create_model" in card
    assert "CLIP" not in card


def test_a_card_shows_what_changes_of_the_images_do_and_a_strangers_words_stay_words():
    kept = Shift(change="unchanged", strength="", values={"top1": 0.75}, interval=Interval(0.7, 0.8))
    blur = Shift(
        change="blur",
        strength="much",
        values={"top1": 0.5},
        interval=Interval(0.45, 0.55),
        difference=-0.25,
        difference_interval=Interval(-0.3, -0.2),
        flipped=0.4,
    )
    found = Robustness(
        metric="top1",
        title="top-1",
        is_share=True,
        flips="images",
        description="Words.",
        shifts=(kept, blur),
        measured_on="FI, test",
    )
    card = build_card(changed(robustness=found))
    assert "Measured on FI, test" in card
    assert "| unchanged | 0.750 (0.700 to 0.800) | | |" in card
    assert "| blur, much | 0.500 (0.450 to 0.550) | -0.250 (-0.300 to -0.200) | 0.400 |" in card
    assert "## Robustness" not in build_card(FACTS)
    hostile = dataclasses.replace(found, title=HOSTILE, measured_on=HOSTILE, flips=HOSTILE, description=HOSTILE)
    assert HOSTILE not in build_card(changed(robustness=hostile))
