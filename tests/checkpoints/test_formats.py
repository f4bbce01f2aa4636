"""Model folders of every format version still load, and answer as they did when they were written."""

import json
import zipfile
from pathlib import Path

import pytest
import torch

from uniemox.checkpoints.facts import FORMAT_VERSION
from uniemox.checkpoints.load import load_model, load_pretraining

FIXTURES = Path(__file__).parent / "fixtures"
NOISE = [[0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6, 0.0, 0.95, 0.35, 0.75, 0.25, 0.85, 0.45]]


def unpack(name, folder):
    with zipfile.ZipFile(FIXTURES / f"{name}.zip") as archive:
        archive.extractall(folder)
    return json.loads((folder / "expected.json").read_text())


def picture():
    return (torch.arange(3 * 32 * 32) % 17 / 8 - 1).view(1, 3, 32, 32)


def test_every_version_has_its_fixture():
    versions = {int(path.name.split("-")[1]) for path in FIXTURES.glob("format-*-classifier.zip")}
    assert versions == set(range(1, FORMAT_VERSION + 1))


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_a_classifier_of_any_version_answers_as_it_did(tmp_path, version):
    expected = unpack(f"format-{version}-classifier", tmp_path)
    loaded = load_model(tmp_path)
    with torch.no_grad():
        views = [picture(), -picture()] if loaded.facts.view == "both" else [picture()]
        logits = loaded.model(*views)
    torch.testing.assert_close(logits, torch.tensor(expected["logits"]), atol=1e-5, rtol=0)
    assert loaded.facts.format_version == version
    assert loaded.facts.classes == ("awe", "fear", "joy")
    assert loaded.facts.temperature == 1.5
    assert loaded.facts.target == ("multi_label" if version == 3 else "single_label")


@pytest.mark.parametrize("version", [1])
def test_a_pretrained_model_of_any_version_answers_as_it_did(tmp_path, version):
    expected = unpack(f"format-{version}-pretraining", tmp_path)
    model = load_pretraining(tmp_path).model.eval()
    noise = torch.tensor(NOISE)
    with torch.no_grad():
        output = model(picture(), picture(), noise, noise.flip(1), 0.5)
    found = (output.embedding, output.prediction[0, 0])
    for tensor, name in zip(found, ("embedding", "pixels"), strict=True):
        torch.testing.assert_close(tensor, torch.tensor(expected[name]), atol=1e-5, rtol=0)


def test_fixtures_are_small():
    assert all(path.stat().st_size < 100_000 for path in FIXTURES.rglob("*.*"))
