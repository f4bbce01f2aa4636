from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from scipy.optimize import minimize_scalar

import uniemox.inference.evaluate as evaluate_module
import uniemox.inference.zero_shot as module
from uniemox.checkpoints.load import load_model
from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.errors import DataError
from uniemox.inference.baselines import Question
from uniemox.inference.evaluate import evaluate
from uniemox.inference.predictor import Predictor
from uniemox.inference.torch_backend import load_torch
from uniemox.inference.zero_shot import answer_zero_shot
from uniemox.manifests.table import read_manifest
from uniemox.targets.kinds import build_target
from uniemox.targets.multi_label import MultiLabel
from uniemox.wording import counted


def test_the_temperature_is_the_likeliest_on_val(pretrained, painted):
    plain = load_torch(str(pretrained.model), device="cpu", dataset=str(painted.path))
    asked = ZeroShotConfig(calibrate=painted.path)
    fitted = load_torch(str(pretrained.model), device="cpu", dataset=str(painted.path), zero_shot=asked)
    val = read_manifest(painted.path).select(["val"])
    rows = [val.row(index) for index in range(len(val))]
    from uniemox.files.images import read_image

    views = np.stack([plain.facts.views(read_image(row.path), row.boxes) for row in rows])
    logits = torch.from_numpy(plain.logits(views)).double()
    labels = torch.tensor([row.label for row in rows])

    def loss(log_temperature):
        return float(torch.nn.functional.cross_entropy(logits / np.exp(log_temperature), labels))

    best = minimize_scalar(loss, bounds=(-5, 8), method="bounded", options={"xatol": 1e-6})
    found = np.log(fitted.facts.temperature)
    assert loss(found) == pytest.approx(best.fun, abs=1e-4)
    np.testing.assert_allclose(fitted.logits(views), logits / fitted.facts.temperature, atol=1e-4)
    assert "fitted on" in fitted.facts.provenance["temperature"]


def test_a_manifest_of_other_classes_is_refused(pretrained, painted):
    asked = ZeroShotConfig(taxonomy="polarity", calibrate=painted.path)
    with pytest.raises(DataError, match="the model has positive, negative"):
        load_torch(str(pretrained.model), device="cpu", zero_shot=asked)


def test_a_temperature_of_few_images_and_of_unreadable_ones_is_reported(pretrained, painted, caplog):
    table = pq.read_table(painted.path)
    val = table.filter(pc.equal(table["split"].cast("string"), "val"))
    paths = ["gone.png", *val["path"].to_pylist()[1:]]
    broken = val.set_column(val.schema.get_field_index("path"), val.schema.field("path"), pa.array(paths))
    asked = ZeroShotConfig(calibrate=painted.path.with_name("broken.parquet"))  # the root is relative to it
    pq.write_table(broken, asked.calibrate)
    load_torch(str(pretrained.model), device="cpu", dataset=str(painted.path), zero_shot=asked)
    read = len(paths) - 1
    assert (
        f"1 of {len(paths)} images of {asked.calibrate} cannot be read: the others give the temperature" in caplog.text
    )
    assert f"the temperature is fitted on {counted(read, 'image')} of" in caplog.text


def test_an_evaluation_takes_the_classes_of_the_data_and_a_prediction_those_asked_for(pretrained, painted):
    facts = read_manifest(painted.path).facts
    scores = evaluate(str(pretrained.model), data=painted.path, device="cpu", baselines=False)
    assert scores.classes == facts.classes
    predictor = Predictor.load(str(pretrained.model), device="cpu", zero_shot=ZeroShotConfig(classes=facts.classes))
    row = read_manifest(painted.path).select(["test"]).row(0)
    (answer,) = predictor.predict(row.path)
    assert list(answer.probabilities) == list(facts.classes)
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-6)


def test_the_digest_of_a_clip_tells_its_classes_and_its_preparation(tiny_clip):
    name, asked = f"clip:{tiny_clip}", (ZeroShotConfig(taxonomy="mikels"), ZeroShotConfig(taxonomy="ekman"))
    digests = {load_torch(name, device="cpu", zero_shot=one).digest() for one in (*asked, asked[0])}
    assert len(digests) == 2
    assert load_model(name, zero_shot=asked[0]).facts.views.preparation.crop_share == 1.0


def question_of(painted):
    manifest = read_manifest(painted.path).select(["test"])
    target = build_target("single_label").bind(manifest.facts.classes)
    return Question(target, "no train", manifest, 0), target.read_labels(manifest)


def test_the_teacher_answers_beside_a_model_as_when_it_is_evaluated(painted, tiny_clip):
    question, labels = question_of(painted)
    answer = answer_zero_shot(f"clip:{tiny_clip}", question)
    found = question.target.score(answer.logits, labels[answer.rows], num_resamples=0)
    alone = evaluate(f"clip:{tiny_clip}", data=painted.path, device="cpu", baselines=False)
    assert found.values == pytest.approx(alone.values, abs=1e-6)
    assert answer.note == f"prompts for 3 classes, no training, on {len(labels)} images"


def test_a_teacher_that_is_not_at_hand_is_left_out_without_a_download(painted, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", pytest.fail)
    question, _ = question_of(painted)
    assert answer_zero_shot("clip:RN50/openai", question).startswith("its weights are not at hand (")
    assert answer_zero_shot("clip:somewhere", question).startswith("its weights are not at hand (")


def test_a_large_teacher_is_left_out_on_a_cpu_before_it_is_read(painted, tiny_clip, monkeypatch):
    monkeypatch.setattr(module, "_LARGEST_ON_CPU", 10)
    monkeypatch.setattr(module, "load_model", pytest.fail)
    assert answer_zero_shot(f"clip:{tiny_clip}", question_of(painted)[0]) == (
        f"it takes long on a CPU: `uniemox evaluate clip:{tiny_clip} --data …` scores it"
    )


def test_a_teacher_of_one_label_is_not_scored_beside_several(painted, tiny_clip):
    question = question_of(painted)[0]
    several = replace(question, target=MultiLabel())
    assert answer_zero_shot(f"clip:{tiny_clip}", several) == (
        "a zero-shot model gives one label, and this model's target is multi_label"
    )


@pytest.mark.parametrize("name", ["demo", "demo-pretrained", "hf-hub:somebody/model", "ViT-B-16:openai", "/etc/passwd"])
def test_nothing_but_a_clip_is_opened_for_a_teacher(painted, monkeypatch, name):
    monkeypatch.setattr(module, "load_model", pytest.fail)
    assert f"{name} is no name of a CLIP" in answer_zero_shot(name, question_of(painted)[0])


def test_a_teacher_that_does_not_fit_beside_the_model_is_omitted(painted, tiny_clip, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(module, "_answer", full)
    assert "does not fit into the memory" in answer_zero_shot(f"clip:{tiny_clip}", question_of(painted)[0])


def test_an_evaluation_names_the_teacher_that_its_model_has(pretrained, painted):
    scores = evaluate(str(pretrained.model), data=painted.path, device="cpu")
    assert [one.name for one in scores.baselines] == ["majority", "colour statistics", "zero-shot of clip:tiny_clip"]


def test_the_emotion_of_the_data_words_a_taxonomy(painted, tiny_clip, monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate_module, "load_torch", lambda *_, **options: asked.append(options) or pytest.skip)
    for wording in ("auto", "felt"):
        with pytest.raises(AttributeError):  # what stands for the classifier has no model
            evaluate(
                f"clip:{tiny_clip}",
                data=painted.path,
                device="cpu",
                zero_shot=ZeroShotConfig(taxonomy="ekman", wording=wording),
            )
    assert [options["zero_shot"].wording for options in asked] == [read_manifest(painted.path).facts.emotion, "felt"]


def test_the_teacher_answers_on_the_device_of_a_process_among_several(painted, tiny_clip):
    question, _ = question_of(painted)
    assert not isinstance(answer_zero_shot(f"clip:{tiny_clip}", replace(question, device="cpu:0")), str)


@pytest.mark.parametrize(("split", "warns"), [("test", False), ("val", True)])
def test_a_temperature_that_is_fitted_on_what_is_scored_is_warned_of(painted, tiny_clip, caplog, split, warns):
    asked = ZeroShotConfig(calibrate=painted.path)
    evaluate(f"clip:{tiny_clip}", data=painted.path, split=split, zero_shot=asked, device="cpu", baselines=False)
    assert ("is fitted on the images that are scored" in caplog.text) is warns
