"""The facts of a model folder, also where a stranger wrote it."""

import dataclasses
import json

import pytest

from uniemox.checkpoints.facts import FORMAT_VERSION, LanguageFacts, ModelFacts, PreparationFacts, read_facts
from uniemox.config.people import PersonConfig

FACTS = ModelFacts(
    kind="classifier",
    size="mini",
    patch_size=8,
    image_size=32,
    dataset="painted",
    emotion="evoked",
    classes=("awe", "fear", "joy"),
    temperature=1.25,
    provenance={"software": "a test"},
    licence="CC0-1.0",
)


@pytest.fixture
def folder(tmp_path):
    """A classifier's folder without weights, which nobody here reads."""
    (tmp_path / "config.json").write_text(json.dumps({"uniemox": FACTS.to_dict()}))
    return tmp_path


def test_a_folder_without_a_configuration_is_no_model(tmp_path, refusal):
    assert "is neither a model folder nor a run: it has no config.json" in refusal(read_facts, tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "nul", '"uniemox"', "\ufeff{}", "[" * 100_000, '{"uniemox": ' * 100_000]
)
def test_a_configuration_that_is_no_table_is_refused(folder, text, refusal):
    (folder / "config.json").write_text(text)
    assert "config.json" in refusal(read_facts, folder)


def test_a_configuration_of_bytes_is_refused(folder, refusal):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00{}")
    assert "cannot be read as JSON" in refusal(read_facts, folder)


def test_a_huge_configuration_is_not_read(folder, refusal):
    (folder / "config.json").write_bytes(b" " * (4 * 2**20 + 1))
    assert "it is refused" in refusal(read_facts, folder)


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_a_folder_without_a_precision_computes_in_fp32(folder, edit, version):
    def age(config):
        config["uniemox"]["format_version"] = version
        del config["uniemox"]["precision"]

    edit(folder, age)
    assert read_facts(folder).precision == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_precision_is_read_as_it_was_written_in_the_format_of_before(folder, edit, precision):
    written = dataclasses.replace(FACTS, precision=precision)
    assert written.format_version == 1  # older readers pass over it, and compute in fp32
    edit(folder, lambda config: config.update(uniemox=written.to_dict()))
    assert read_facts(folder) == written


@pytest.mark.parametrize(("precision", "shown"), [("fp16", "fp16"), (None, "null"), (32, "32"), (["bf16"], "[bf16]")])
def test_a_precision_that_is_not_known_is_refused(folder, edit, refusal, precision, shown):
    edit(folder, lambda config: config["uniemox"].update(precision=precision))
    assert f"uniemox.precision is {shown}, but must be one of fp32 or bf16" in refusal(read_facts, folder)


def test_a_folder_of_another_tool_is_refused(folder, edit, refusal):
    edit(folder, lambda config: config.pop("uniemox"))
    assert "made by another tool" in refusal(read_facts, folder)


def test_a_newer_format_asks_for_an_upgrade_before_anything_else(folder, edit, refusal):
    def renew(config):
        config["uniemox"] = {"format_version": FORMAT_VERSION + 1, "kind": "a new kind"}

    edit(folder, renew)
    assert "upgrade uniemox" in refusal(read_facts, folder)


def test_fields_that_are_not_known_are_passed_over(folder, edit):
    edit(folder, lambda config: config["uniemox"].update(remark="hello"))
    assert read_facts(folder) == FACTS


HOSTILE = {
    "format_version": [None, "1", 0, -1, 1.0, True, [], 10**30],
    "kind": [None, "probe", [], {}],
    "size": [None, "gigantic", ["mini"], 3, "x" * 100_000],
    "patch_size": [None, 0, -8, 8.0, "8", True, 129, 10**12, [8]],
    "image_size": [None, 0, 33, "32", 8 * 129, 10**12, True],
    "classes": [None, [], "awe", ["awe", 3], ["awe", "awe"], {}, [str(i) for i in range(10_001)]],
    "dataset": [None, 3, []],
    "emotion": ["shown", 3, []],
    "temperature": [0, -1, "1", None, True, float("nan"), float("inf")],
    "pretraining": [None, [], "x"],
    "provenance": [None, [], "x", {"settings": 3}, {"a": float("nan")}],
    "licence": [None, 3],
    "metrics": [None, [], {"top1": "high"}, {"top1": float("nan")}, {"top1": True}],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in HOSTILE.items() for value in values],
    ids=lambda value: str(value)[:20],
)
def test_every_wrong_value_is_refusal_its_name(folder, name, value, edit, refusal):
    edit(folder, lambda config: config["uniemox"].update({name: value}))
    text = refusal(read_facts, folder)
    assert f"uniemox.{name}" in text or "format" in text


@pytest.mark.parametrize("name", ["format_version", "kind", "size", "patch_size", "image_size", "dataset", "emotion"])
def test_what_must_be_there_is_missed_by_its_name(folder, name, edit, refusal):
    edit(folder, lambda config: config["uniemox"].pop(name))
    assert f"uniemox.{name}" in refusal(read_facts, folder)


def test_facts_survive_a_round_trip_of_every_field(folder):
    assert dataclasses.asdict(read_facts(folder)) == dataclasses.asdict(FACTS)


# Views

TWO_VIEWS = dataclasses.replace(
    FACTS, view="both", fusion="attention", person=PersonConfig(choice="union", margin=0.25)
)


def test_a_classifier_of_scenes_is_written_as_before_so_that_older_readers_read_it():
    section = FACTS.to_dict()
    assert section["format_version"] == 1
    assert not {"view", "fusion", "person"} & section.keys()


@pytest.mark.parametrize("view", ["person", "both"])
def test_a_classifier_of_persons_has_a_version_that_older_readers_refuse(folder, view, edit):
    fusion = "sum" if view == "both" else "none"
    given = dataclasses.replace(FACTS, view=view, fusion=fusion, person=TWO_VIEWS.person)
    edit(folder, lambda config: config.update(uniemox=given.to_dict()))
    assert json.loads((folder / "config.json").read_text())["uniemox"]["format_version"] == 2
    assert read_facts(folder) == given
    assert read_facts(folder).person == PersonConfig(choice="union", margin=0.25)


def test_views_in_a_folder_of_version_1_mean_nothing(folder, edit):
    edit(folder, lambda config: config["uniemox"].update(view="both", fusion="x", person=7))
    assert read_facts(folder) == FACTS


VIEWS_OF_STRANGERS = {
    "view": ["nobody", None, 1, ["both"]],
    "fusion": ["none", "sums", None, [], {}],
    "person": [
        None,
        [],
        {},
        {"choice": "largest", "margin": 0.1},
        {"choice": "tallest", "margin": 0.1, "shape": "pad"},
        {"choice": ["largest"], "margin": 0.1, "shape": "pad"},
        {"choice": "largest", "margin": 0.1, "shape": "round"},
        {"choice": "largest", "margin": 0.1, "shape": "pad", "more": 1},
        *(
            {"choice": "largest", "margin": margin, "shape": "pad"}
            for margin in (-0.1, 2.1, True, "0.1", None, float("nan"), float("inf"))
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in VIEWS_OF_STRANGERS.items() for value in values]
)
def test_views_of_a_stranger_are_refused_by_the_field(folder, name, value, edit, refusal):
    section = TWO_VIEWS.to_dict() | {name: value}
    edit(folder, lambda config: config.update(uniemox=section))
    assert f"uniemox.{name}" in refusal(read_facts, folder)


def test_a_pretrained_model_has_no_view(folder, edit, refusal):
    shape = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 1, "fusion": "sum"}
    pretraining = shape | {"embedding_width": 8, "reconstructs": True}
    given = dataclasses.replace(TWO_VIEWS, kind="pretraining", pretraining=pretraining)
    edit(folder, lambda config: config.update(uniemox=given.to_dict()))
    assert "uniemox.view is 'both', but must be scene" in refusal(read_facts, folder)


# Several labels

SEVERAL = dataclasses.replace(FACTS, target="multi_label", thresholds=(0.5, 0.25, 0))


def test_a_classifier_of_several_labels_has_a_version_that_older_readers_refuse(folder, edit):
    edit(folder, lambda config: config.update(uniemox=SEVERAL.to_dict()))
    assert json.loads((folder / "config.json").read_text())["uniemox"]["format_version"] == 3
    assert read_facts(folder) == SEVERAL
    assert not {"target", "thresholds"} & TWO_VIEWS.to_dict().keys()


@pytest.mark.parametrize("version", [1, 2])
def test_several_labels_in_a_folder_of_an_older_version_mean_nothing(folder, version, edit):
    section = TWO_VIEWS.to_dict() | {"format_version": version, "target": "all", "thresholds": 3}
    edit(folder, lambda config: config.update(uniemox=section))
    assert read_facts(folder) == (TWO_VIEWS if version == 2 else FACTS)


TARGETS_OF_STRANGERS = {
    "target": ["", "no name", "x" * 65, None, 1, ["multi_label"]],
    "thresholds": [
        None,
        [],
        0.5,
        {},
        [0.5, 0.5],
        [0.5] * 4,
        *([0.5, 0.5, value] for value in (-0.1, 1.1, "0.5", True, None, float("nan"))),
    ],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in TARGETS_OF_STRANGERS.items() for value in values]
)
def test_a_target_of_a_stranger_is_refused_by_the_field(folder, name, value, edit, refusal):
    section = SEVERAL.to_dict() | {name: value}
    edit(folder, lambda config: config.update(uniemox=section))
    assert f"uniemox.{name}" in refusal(read_facts, folder)


def test_a_kind_of_target_that_is_not_known_is_read_with_what_it_fitted(folder, edit):
    facts = dataclasses.replace(SEVERAL, target="ordinal", thresholds=(0.1,))
    edit(folder, lambda config: config.update(uniemox=facts.to_dict()))
    assert read_facts(folder) == facts
    assert facts.format_version == 3


def test_one_label_has_no_thresholds_and_a_pretrained_model_no_target(folder, edit, refusal):
    section = SEVERAL.to_dict() | {"target": "single_label"}
    edit(folder, lambda config: config.update(uniemox=section))
    assert "must list 0 numbers" in refusal(read_facts, folder)
    section = SEVERAL.to_dict() | {"kind": "pretraining"}
    edit(folder, lambda config: config.update(uniemox=section))
    assert "uniemox.target is 'multi_label', but must be single_label" in refusal(read_facts, folder)


@pytest.mark.parametrize("version", [1, 2])
def test_several_labels_claimed_by_an_older_version_are_refused(folder, version, edit, refusal):
    section = SEVERAL.to_dict() | {"format_version": version}
    edit(folder, lambda config: config.update(uniemox=section))
    assert f"'multi_label', which format {version} does not have" in refusal(read_facts, folder)


@pytest.mark.parametrize(("target", "other"), [("single_label", "multi_label"), ("multi_label", "single_label")])
def test_a_problem_type_that_contradicts_the_section_is_refused(folder, edit, refusal, target, other):
    facts = SEVERAL if target == "multi_label" else FACTS
    problem = {"uniemox": facts.to_dict(), "problem_type": f"{other}_classification"}
    edit(folder, lambda config: config.update(problem))
    assert f"problem_type is that of {other}" in refusal(read_facts, folder)
    edit(folder, lambda config: config.update(problem_type=f"{target}_classification"))
    assert read_facts(folder) == facts


# Tokens, architectures of others, and language

SHAPE = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 1, "fusion": "sum"}
SHAPE |= {"embedding_width": 8, "reconstructs": False}
FUSED = dataclasses.replace(FACTS, pool="fused", view="both", pretraining=SHAPE)
CLIP = dataclasses.replace(
    FACTS,
    size=None,
    patch_size=0,
    architecture="RN50/openai",
    preparation=PreparationFacts(
        crop_share=1.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), interpolation="bicubic", squash=False
    ),
)
LANGUAGE = LanguageFacts(teacher="clip:demo", digest="0", scale=10.0, words=("joy", "fear"))
PRETRAINED = ModelFacts(
    kind="pretraining", size="mini", patch_size=8, image_size=32, dataset="painted", emotion=None, pretraining=SHAPE,
    language=LANGUAGE,
)  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "version"),
    [(dataclasses.replace(FACTS, pool="cls"), 4), (FUSED, 4), (CLIP, 4), (PRETRAINED, 1)],
    ids=["class token", "fused token", "another architecture", "language"],
)
def test_what_older_readers_would_misread_has_a_version_that_they_refuse(folder, edit, facts, version):
    edit(folder, lambda config: config.update(uniemox=facts.to_dict()))
    assert json.loads((folder / "config.json").read_text())["uniemox"]["format_version"] == version
    assert read_facts(folder) == facts


def test_a_token_in_a_folder_of_an_older_version_means_nothing(folder, edit):
    more = {"pool": "cls", "architecture": 3, "preparation": []}
    edit(folder, lambda config: config["uniemox"].update(more))
    assert read_facts(folder) == FACTS


POOLS_OF_STRANGERS = [
    ({"pool": "max"}, "uniemox.pool is max, but must be one of mean, cls, cls_mean or fused"),
    ({"pool": None}, "uniemox.pool is null"),
    ({"pool": ["cls"]}, "uniemox.pool is [cls]"),
    ({"pool": "cls"}, "uniemox.pretraining must be empty"),
    ({"fusion": "sum"}, "uniemox.fusion is 'sum', but must be none"),
    ({"pretraining": {}}, "uniemox.pretraining.embedding_width must be a number"),
    ({"pretraining": SHAPE | {"embedding_width": None}}, "uniemox.pretraining.embedding_width must be a number"),
    ({"pretraining": SHAPE | {"embedding_width": 10**9}}, "uniemox.pretraining.embedding_width is 1000000000"),
    ({"pretraining": SHAPE | {"embedding_width": "8"}}, "uniemox.pretraining.embedding_width is 8, but must be"),
    ({"pretraining": SHAPE | {"fusion": "none"}}, "uniemox.pretraining.fusion is none, but uniemox.view is both"),
    ({"pretraining": SHAPE | {"fusion": "sums"}}, "uniemox.pretraining.fusion is sums"),
    ({"pretraining": SHAPE | {"size": "huge"}}, "unknown setting uniemox.pretraining.size"),
    ({"kind": "pretraining"}, "uniemox.view is 'both', but must be scene"),
    ({"kind": "pretraining", "view": "scene"}, "uniemox.pool is 'fused', but must be mean"),
]


@pytest.mark.parametrize(("change", "said"), POOLS_OF_STRANGERS)
def test_a_token_of_a_stranger_is_refused_by_the_field(folder, change, said, edit, refusal):
    edit(folder, lambda config: config.update(uniemox=FUSED.to_dict() | change))
    assert said in refusal(read_facts, folder)


PREPARED = CLIP.to_dict()["preparation"]
NEITHER = "uniemox.size and uniemox.patch_size must be those of an encoder"
ARCHITECTURES_OF_STRANGERS = [
    ({"architecture": ""}, NEITHER),
    ({"preparation": None}, NEITHER),
    ({"size": "mini"}, NEITHER),
    ({"patch_size": 16}, NEITHER),
    ({"kind": "pretraining", "classes": [], "pretraining": SHAPE}, NEITHER),
    ({"size": "mini", "patch_size": 8}, "are given, but uniemox.size too"),
    ({"pool": "cls"}, "uniemox.pool is cls, but uniemox.size is null"),
    ({"pool": "fused", "pretraining": SHAPE}, "uniemox.pool is fused, but uniemox.size is null"),
    *(
        ({"preparation": PREPARED | {name: value}}, f"uniemox.preparation.{name}")
        for name, value in [
            *(("crop_share", 0), ("crop_share", 1.1), ("squash", 1), ("interpolation", "nearest"), ("mean", [0, 0])),
            *(("mean", [0, 0, float("nan")]), ("std", [0, 1, 1]), ("std", [1, 1, float("inf")]), ("std", None)),
        ]
    ),
    ({"preparation": PREPARED | {"more": 1}}, "more"),
]


@pytest.mark.parametrize(("change", "said"), ARCHITECTURES_OF_STRANGERS)
def test_an_architecture_of_a_stranger_is_refused_by_the_field(folder, change, said, edit, refusal):
    edit(folder, lambda config: config.update(uniemox=CLIP.to_dict() | change))
    assert said in refusal(read_facts, folder)


LANGUAGES_OF_STRANGERS = {
    "teacher": ["", "x" * 501, None, 3],
    "digest": ["0" * 65, None],
    "scale": [0, -1, 1e5, float("nan"), float("inf"), "10", None],
    "words": [[], None, "joy", [1], [""], ["w" * 201], ["w" * 10**6], ["w"] * 4097],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in LANGUAGES_OF_STRANGERS.items() for value in values],
    ids=lambda value: str(value)[:20],
)
def test_a_language_of_a_stranger_is_refused_by_the_field(folder, name, value, edit, refusal):
    section = PRETRAINED.to_dict()
    section["language"] = section["language"] | {name: value}
    edit(folder, lambda config: config.update(uniemox=section))
    assert f"uniemox.language.{name}" in refusal(read_facts, folder)
