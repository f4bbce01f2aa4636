import json
import shutil

import numpy as np
import onnx
import pytest

from uniemox import Predictor
from uniemox.checkpoints.facts import read_facts
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.export import run
from uniemox.export.run import export_onnx
from uniemox.inference.backend import load_backend
from uniemox.inference.onnx_file import METADATA_KEY, PREPARATION


@pytest.fixture(scope="module")
def quantized(finetuned, painted, tmp_path_factory):
    """Folder and report of an export in 8 bits; nobody may write to it."""
    out = tmp_path_factory.mktemp("exported") / "int8"
    return export_onnx(str(finetuned.model), out, quantize="int8", calibration=[painted.path, painted.root / "test"])


def test_a_folder_is_a_file_with_its_facts_beside_it(exported, finetuned):
    assert {path.name for path in exported.iterdir()} == {
        "model.onnx", "features.safetensors", "config.json", "export.json", "README.md",
    }  # fmt: skip
    assert "an ONNX model in fp32" in (exported / "README.md").read_text()
    config = json.loads((exported / "config.json").read_text())
    assert (config["format"], config["opset"], config["quantized"]) == ("onnx", 20, None)
    assert config["label_names"] == ["awe", "fear", "joy"]
    assert read_facts(exported) == read_facts(finetuned.model)
    report = json.loads((exported / "export.json").read_text())
    assert report["fp32_difference"] < 1e-5
    assert report["agreement"] == 1.0
    assert report["pictures"] == 0


def test_the_metadata_say_what_a_reader_without_uniemox_needs(exported, finetuned):
    (entry,) = onnx.load(exported / "model.onnx").metadata_props
    assert entry.key == METADATA_KEY
    values = json.loads(entry.value)
    assert values["preparation"] == PREPARATION
    assert values["classifier"]["classes"] == ["awe", "fear", "joy"]
    assert values["classifier"]["temperature"] == read_facts(finetuned.model).temperature


def test_eight_bits_are_smaller_and_agree_with_torch_as_the_report_says(quantized, finetuned, painted):
    assert quantized.quantized == "int8"
    assert quantized.pictures == 24 + 7 - 8  # the train split and the folder, but for those of the ranges
    assert quantized.onnx_bytes < quantized.torch_bytes / 2
    assert quantized.onnx_bytes == (quantized.out / "model.onnx").stat().st_size
    assert {path.name for path in quantized.out.iterdir()} == {"model.onnx", "config.json", "export.json", "README.md"}
    assert "domain" not in read_facts(quantized.out).numbers
    assert json.loads((quantized.out / "export.json").read_text()) == quantized.to_dict()
    assert 0 < quantized.largest_change < 0.1
    assert "int8: " in "\n".join(quantized.describe())
    pixels = np.random.default_rng(0).standard_normal((5, 1, 3, 32, 32)).astype(np.float32)
    ours, torch = (load_backend(model, device="cpu") for model in (quantized.out, finetuned.model))
    assert np.abs(ours.logits(pixels) - torch.logits(pixels)).max() < 0.2
    alone = ours.logits(pixels[:1])
    assert ours.logits(pixels)[:1] == pytest.approx(alone, abs=1e-5)  # no scale depends on the neighbours


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"opset": 17}, "opset is 17, but must be from 18 to 22"),
        ({"quantize": "int4"}, "quantize is int4, but must be int8"),
        ({"quantize": "int8"}, "int8 needs images"),
    ],
)
def test_impossible_values_are_refused_before_anything_is_read(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        export_onnx("none", tmp_path / "out", **changes)


def test_a_folder_that_is_not_empty_and_an_exported_model_are_refused(exported, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ConfigError, match=r"out exists and is not empty: choose another `out`"):
        export_onnx("demo", tmp_path / "out")
    with pytest.raises(ConfigError, match="exported already"):
        export_onnx(str(exported), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_images_of_which_none_can_be_read_are_refused(finetuned, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 1 images can be read; .*bad\.png: empty file"):
        export_onnx(str(finetuned.model), tmp_path / "out", calibration=[bad])


@pytest.fixture
def _written_before(exported, monkeypatch):
    """Take the graph from a finished export, which is faster than to trace it again."""

    def write(model, facts, path, *, opset, reads_features):
        shutil.copyfile(exported / "model.onnx", path)

    monkeypatch.setattr(run, "write_onnx", write)


@pytest.mark.usefixtures("_written_before")
def test_a_graph_that_differs_from_torch_is_not_written(finetuned, tmp_path, monkeypatch):
    torch = run.load_torch(finetuned.model, device="cpu")
    torch.model.head.bias.data += 0.01
    monkeypatch.setattr(run, "load_torch", lambda *args, **options: torch)
    with pytest.raises(CheckpointError, match=r"differs from torch by 1\.0e-02 in a logit"):
        export_onnx(str(finetuned.model), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_written_before")
def test_poor_agreement_is_warned_of(finetuned, painted, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run, "_POOR", 1.01)
    picture = next(painted.root.rglob("*.png"))
    report = export_onnx(str(finetuned.model), tmp_path / "out", calibration=[picture])
    assert report.pictures == 1
    assert "of the answers changed" in caplog.text


def test_images_are_chosen_evenly_and_people_come_from_the_manifest(painted, monkeypatch):
    monkeypatch.setattr(run, "_MAX_IMAGES", 4)
    found = run._find([painted.path])
    assert len(found) == 4
    assert found[0][0].parent.parent.name == "train"
    assert found[0][1]  # its person
    assert found[0][0] != found[-1][0]


def test_an_export_promises_what_the_model_promises(exported, finetuned, painted):
    assert read_facts(finetuned.model).numbers["label_set"][0] == 0.9
    images = [painted.manifest.row(place).path for place in range(6)]
    ours, theirs = (list(Predictor.load(str(one)).predict(images)) for one in (finetuned.model, exported))
    assert all(row.answer["label_set"] for row in ours)
    assert [row.answer["label_set"] for row in ours] == [row.answer["label_set"] for row in theirs]
    assert "A label set holds" in (exported / "README.md").read_text()
