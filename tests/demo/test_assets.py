"""What is embedded in the package: small enough, credited, and what it claims to be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from uniemox.checkpoints.load import load_model, load_pretraining
from uniemox.checkpoints.open import EMBEDDED
from uniemox.config.training import PretrainConfig, TeacherConfig
from uniemox.demo import drawn
from uniemox.inference.evaluate import evaluate
from uniemox.manifests.table import read_manifest
from uniemox.models.teacher import load_teacher
from uniemox.settings import build, load_preset

ASSETS = drawn.ARCHIVE.parent
MEGABYTE = 2**20


def test_the_assets_are_within_forty_megabytes_and_no_file_is_over_twenty():
    sizes = [path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(sizes) <= 40 * MEGABYTE
    assert max(sizes) <= 20 * MEGABYTE


def test_every_asset_is_credited():
    credits = (ASSETS / "CREDITS.md").read_text(encoding="utf-8")
    for path in ASSETS.iterdir():
        assert path.name in credits or path.name == "CREDITS.md"


def test_every_model_has_a_card_that_states_its_licence_and_that_it_saw_the_labels():
    for folder in (path for path in ASSETS.iterdir() if path.is_dir()):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "Licence" in card
        assert "Seen labels" in card


def test_every_model_says_that_it_is_stored_in_half_precision_and_is_loaded_in_full():
    for folder in (path for path in ASSETS.iterdir() if path.is_dir()):
        (stored, *_) = (load_file(path) for path in sorted(folder.glob("*model.safetensors")))
        assert torch.float16 in {tensor.dtype for tensor in stored.values()}
        card = (folder / "README.md").read_text(encoding="utf-8").casefold()
        assert "stored in half precision" in card
        assert "fp32 before training" in " ".join(card.split())
    teacher = load_teacher(TeacherConfig(model="demo", pretrained=None, precision="fp32"), device=torch.device("cpu"))
    towers = (teacher._tower, teacher._text)
    assert {one.dtype for tower in towers for one in tower.parameters()} == {torch.float32}


def test_the_embedded_model_has_the_shape_of_the_demo_preset():
    needed = {"data": Path("d"), "out": Path("o")}
    config = build(PretrainConfig, load_preset(PretrainConfig, "demo") | needed)
    model = load_pretraining(EMBEDDED["demo-pretrained"]).model
    assert model.config == config.model
    teacher = load_teacher(config.teacher, device=torch.device("cpu"))
    assert load_pretraining(EMBEDDED["demo-pretrained"]).facts.pretraining["embedding_width"] == teacher.width


def test_the_embedded_classifier_says_what_it_is():
    facts = load_model(EMBEDDED["demo"]).facts
    assert facts.dataset == "drawn6"
    assert facts.emotion == "felt"
    assert facts.classes == ("anger", "fear", "sadness", "amusement", "contentment", "excitement")
    assert facts.licence


@pytest.mark.slow
def test_the_embedded_classifier_tells_unseen_pairs_far_better_than_chance(tmp_path):
    data = drawn.unpack(tmp_path)
    report = evaluate("demo", data=data.seen, device="cpu", num_workers=0)
    assert report.intervals["balanced_accuracy"].low > 0.30  # guessing gives 0.167


@pytest.mark.slow
def test_the_miniature_clip_tells_emotions_by_their_sentences(tmp_path):
    data = drawn.unpack(tmp_path)
    manifest = read_manifest(data.seen).select(["test"])
    teacher = load_teacher(TeacherConfig(model="demo", pretrained=None), device=torch.device("cpu"))
    sentences = [f"The overall emotion conveyed is {name}." for name in manifest.facts.classes]
    texts = torch.nn.functional.normalize(teacher.encode_texts(sentences), dim=-1)
    from uniemox.data.dataset import read_or_next
    from uniemox.data.transforms import PretrainTransform

    whole = PretrainTransform(build_views(), teacher.image_size)
    hits = []
    for index in range(0, len(manifest), 4):
        row, image, _ = read_or_next(manifest, index)
        view = whole(image, None)[0].unsqueeze(0) / 255
        hits.append(int((teacher.encode_images(view) @ texts.T).argmax()) == row.label)
    assert np.mean(hits) > 0.5


def build_views():
    """Views that are the whole image."""
    from uniemox.config.training import ViewsConfig

    return ViewsConfig(scene_scale=(1.0, 1.0), flip=0.0)
