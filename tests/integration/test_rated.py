"""Data that raters gave shares, valence and arousal to: from their published form to tables, pages and exports."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from uniemox import Predictor
from uniemox.checkpoints.facts import read_facts
from uniemox.checkpoints.folder import restate
from uniemox.console import cli
from uniemox.manifests.table import read_manifest

KEYWORDS = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
SMALL = ["--size", "mini", "--patch-size", "8", "--image-size", "64", "--precision", "fp32", "--workers", "0"]
QUICK = ["--optim.batch-size", "16", "--optim.accumulate", "1", "--optim.epochs", "3", "--device", "cpu"]
LONG = ["--optim.epochs", "6", "--optim.base-lr", "1e-2", "--trained-share", "1"]  # as texts of classes start too sure


@pytest.fixture(scope="module")
def emotion6(tmp_path_factory):
    """Emotion6's tree: the brighter an image the more joyful, the redder the more arousing."""
    root = tmp_path_factory.mktemp("rated") / "Emotion6"
    generator = np.random.default_rng(0)
    heading = [f"[prob. {name}]" for name in (*KEYWORDS, "neutral")]
    lines = [["[image_filename]", "[valence]", "[arousal]", *heading]]
    for keyword in KEYWORDS:
        folder = root / "images" / keyword
        folder.mkdir(parents=True)
        for number in range(20):
            light, red = generator.uniform(0, 1, 2)
            shares = np.full(7, 0.01) + generator.dirichlet(np.ones(7)) * 0.1
            shares[3 if light > 0.5 else 4] += 0.83
            pixels = generator.normal(200 * light, 12, (48, 64, 3))
            pixels[..., 0] += 50 * red
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg")
            rated = [f"{1 + 8 * light:.3f}", f"{1 + 8 * red:.3f}"]
            lines.append([f"{keyword}/{number}.jpg", *rated, *(f"{share:.6f}" for share in shares / shares.sum())])
    (root / "ground_truth.txt").write_text("".join("\t".join(line) + "\n" for line in lines))
    data = root.parent / "emotion6.parquet"
    words = ["data", "prepare", "emotion6", "--root", root, "--labels", "distribution", "--out", data]
    assert cli.main([*map(str, words)]) == 0
    return data


def call(*words):
    assert cli.main([*map(str, words)]) == 0


def finetune(data, out, *words):
    call("finetune", "--data", data, "--out", out, "--init", "demo-pretrained", *SMALL, *QUICK, *words)
    return out / "model"


@pytest.fixture(scope="module")
def models(emotion6, tmp_path_factory):
    """A model of each kind, by the presets, and one of both; nobody may write to them."""
    home = tmp_path_factory.mktemp("models")
    return {
        "distribution": finetune(emotion6, home / "shares", "--preset", "emotion6_distribution", *LONG),
        "valence_arousal": finetune(emotion6, home / "vad", "--preset", "emotion6_vad", "--head-std", "0.02", *LONG),
        "single_label+valence_arousal": finetune(
            *(emotion6, home / "both", "--preset", "emotion6_vad"),
            *("--target", "single_label", "valence_arousal", "--select-by", "ccc", "--head", "language"),
        ),
    }


every_kind = pytest.mark.parametrize("kind", ["distribution", "valence_arousal", "single_label+valence_arousal"])


@every_kind
def test_a_folder_says_its_kind_and_a_run_its_scores(models, kind):
    facts = read_facts(models[kind])
    assert facts.target == kind
    run = models[kind].parent
    saved = json.loads((run / "test" / "report.json").read_text())
    assert saved["target"] == kind
    assert saved["baselines"][0]["scores"]
    for page in (run / "report.html", models[kind] / "README.md"):
        assert page.stat().st_size > 500
    if "valence" in kind:
        assert facts.numbers[f"{'valence_arousal.' if '+' in kind else ''}scale"] == (1.0, 9.0)
        assert "the emotion of an image in valence and arousal, from 1 to 9" in (models[kind] / "README.md").read_text()


def test_what_was_learned_beats_the_same_answer_to_all(models):
    for kind, name in (("distribution", "kl"), ("valence_arousal", "mae")):
        saved = json.loads((models[kind].parent / "test" / "report.json").read_text())
        constant = next(one for one in saved["baselines"] if one["name"].startswith("mean"))
        assert saved[name] < constant["scores"][name]


@every_kind
def test_evaluate_repeats_the_scores_of_the_run_and_makes_a_page(models, emotion6, tmp_path, kind):
    call("evaluate", models[kind], "--data", emotion6, "--out", tmp_path / "out", "--device", "cpu", "--workers", "0")
    again = json.loads((tmp_path / "out" / "report.json").read_text())
    first = json.loads((models[kind].parent / "test" / "report.json").read_text())
    assert again["target"] == kind
    assert {name: again[name] for name in first if isinstance(first[name], float)} == pytest.approx(
        {name: value for name, value in first.items() if isinstance(value, float)}, abs=1e-4
    )
    assert again["intervals"].keys() == first["intervals"].keys()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "mean ratings" in page or "mean shares" in page or "majority" in page


@every_kind
def test_tables_have_the_columns_of_the_kind(models, emotion6, tmp_path, kind):
    pictures = read_manifest(emotion6).facts.root / "images" / "joy"
    call("predict", models[kind], pictures, "--out", tmp_path / "out.csv", "--device", "cpu")
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    evaluated = pq.read_table(models[kind].parent / "test" / "predictions.parquet")
    if "valence" in kind:
        assert all(1 <= float(row["valence"]) <= 9 and 1 <= float(row["arousal"]) <= 9 for row in rows)
        assert {"label_valence", "label_arousal", "valence", "arousal"} <= set(evaluated.column_names)
    if kind != "valence_arousal":
        assert all(float(row["confidence"]) == pytest.approx(float(row[f"p_{row['predicted']}"])) for row in rows)
    if kind == "distribution":
        shares = np.stack([evaluated[f"share_{name}"].to_numpy() for name in (*KEYWORDS, "neutral")], 1)
        assert shares.sum(1) == pytest.approx(1, abs=1e-5)


@every_kind
def test_an_export_answers_as_the_model_does(models, emotion6, tmp_path, capsys, kind):
    call("export", models[kind], "--out", tmp_path / "onnx")
    word = {"valence_arousal": "rating", "distribution": "probability"}.get(kind, "number")
    told = capsys.readouterr().out
    assert "fp32: 100.0 % " in told
    assert f"and no {word} changes by more than" in told
    picture = next((read_manifest(emotion6).facts.root / "images" / "joy").iterdir())
    (ours,), (exported,) = (
        list(Predictor.load(model, device="cpu").predict(picture)) for model in (models[kind], tmp_path / "onnx")
    )
    for name, value in ours.answer.items():
        assert exported.answer[name] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-4))


@pytest.mark.parametrize("kind", ["valence_arousal", "single_label+valence_arousal"])
def test_the_map_that_val_gives_ratings_reaches_every_reader(models, emotion6, tmp_path, kind):
    folder, start = tmp_path / "model", "valence_arousal." if "+" in kind else ""
    shutil.copytree(models[kind], folder)
    facts = read_facts(folder)
    assert f"{start}slopes" not in facts.numbers, "this val is too small for them"
    fitted = {f"{start}slopes": (0.5, 2.0), f"{start}offsets": (0.25, -0.125)}
    restate(folder, replace(facts, numbers={**facts.numbers, **fitted}))
    call("export", folder, "--out", tmp_path / "onnx")
    picture = next((read_manifest(emotion6).facts.root / "images" / "joy").iterdir())
    before, *after = (
        next(Predictor.load(model, device="cpu").predict(picture)).answer
        for model in (models[kind], folder, tmp_path / "onnx")
    )
    for name, slope, offset in (("valence", 0.5, 0.25), ("arousal", 2.0, -0.125)):
        brought = 5 + 4 * np.clip((before[name] - 5) / 4 * slope + offset, -1, 1)
        assert [answer[name] for answer in after] == pytest.approx([brought, brought], abs=1e-4)
    assert "valence 0.500 × output +0.250 and arousal 2.000 × output -0.125" in (folder / "README.md").read_text()


def test_the_terminal_lists_numbers_where_there_is_no_name(models, emotion6, capsys):
    picture = next((read_manifest(emotion6).facts.root / "images" / "joy").iterdir())
    call("predict", models["valence_arousal"], picture, "--device", "cpu")
    assert "valence" in capsys.readouterr().out


def test_a_head_that_starts_from_language_needs_a_name(emotion6, tmp_path, capsys):
    words = ["finetune", "--preset", "emotion6_vad", "--head", "language", "--init", "demo-pretrained", *SMALL, *QUICK]
    assert cli.main([*words, "--data", str(emotion6), "--out", str(tmp_path / "run")]) == 2
    assert "reads names of emotions, and target valence_arousal has none" in capsys.readouterr().err
