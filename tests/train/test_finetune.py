"""Fine-tuning on painted images."""

import json
import os
import shutil
import signal
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import uniemox.data.dataset as dataset_module
import uniemox.train.finetune as finetune_module
from uniemox.checkpoints.facts import read_facts
from uniemox.checkpoints.load import load_model
from uniemox.compute.devices import build_accelerator
from uniemox.config.people import PersonConfig
from uniemox.config.training import ConfidenceConfig
from uniemox.data.pixels import EvaluationViews
from uniemox.errors import CheckpointError, ConfigError, DataError, TrainingError
from uniemox.files.digest import hash_file
from uniemox.inference.outputs import compute_outputs
from uniemox.manifests.columns import with_column
from uniemox.models.encoder import resample_positions
from uniemox.targets.single_label import SingleLabel
from uniemox.train.events import Message
from uniemox.train.finetune import finetune
from uniemox.train.journal import read_journal

ONE_STEP = {"max_steps": 1}
PLAIN = {"rand_augment": None, "erase": 0.0, "mixup": 0.0, "cutmix": 0.0}


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_fine_tuning_leaves_a_classifier_with_its_story(finetuned, pretrained):
    config, facts = finetuned.config, read_facts(finetuned.model)
    assert {path.name for path in config.out.iterdir()} == {
        ".lock", "config.yaml", "environment.json", "metrics.jsonl", "model", "state", "tensorboard",
        "test",
    }  # fmt: skip
    assert facts.kind == "classifier"
    assert facts.classes == ("awe", "fear", "joy")
    assert (facts.size, facts.patch_size, facts.image_size) == ("mini", 8, 32)
    assert facts.provenance["init"].startswith("pretraining on painted, sha256 ")
    kinds = Counter(line["kind"] for line in read_journal(config.out / "metrics.jsonl"))
    assert kinds == {"train": 6, "val": 2, "test": 1}


TAKEN = {"size": None, "patch_size": None, "image_size": None}


def test_fine_tuning_starts_from_the_encoder_with_a_fresh_head(finetune_config, pretrained, tmp_path, first_weights):
    config = finetune_config(tmp_path / "run", init=str(pretrained.model), **TAKEN)
    started = first_weights(config)
    encoder = load_file(pretrained.model / "model.safetensors")
    for name, tensor in encoder.items():
        if not name.startswith("norm."):
            assert torch.equal(started.pop(name), tensor), name
    assert started.keys() == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert started["head.weight"].abs().max() < 1e-3
    assert (started["fc_norm.weight"] == 1).all()


def test_fine_tuning_goes_on_from_a_classifier(finetune_config, finetuned, tmp_path, first_weights):
    config = finetune_config(tmp_path / "run", init=str(finetuned.model))
    started = first_weights(config)
    before = load_file(finetuned.model / "model.safetensors")
    assert torch.equal(started["blocks.0.mlp.fc1.weight"], before["blocks.0.mlp.fc1.weight"])
    assert not torch.equal(started["head.weight"], before["head.weight"])


def test_positions_are_resampled_for_another_picture_size(finetune_config, pretrained, tmp_path, first_weights):
    settings = {**TAKEN, "image_size": 48}
    config = finetune_config(tmp_path / "run", init=str(pretrained.model), **settings)
    started = first_weights(config)
    before = load_file(pretrained.model / "model.safetensors")["pos_embed"]
    assert torch.equal(started["pos_embed"], resample_positions(before, grid=6))


def test_without_a_start_the_shape_is_base_unless_said(finetune_config, tmp_path, monkeypatch):
    seen = {}

    def build(size, **settings):
        seen.update(settings, size=size)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune_module, "build_classifier", build)
    with pytest.raises(KeyboardInterrupt):
        finetune(finetune_config(tmp_path / "run", **TAKEN))
    assert (seen["size"], seen["patch_size"], seen["image_size"]) == ("base", 16, 224)
    assert (seen["num_classes"], seen["drop_path"], seen["head_std"]) == (3, 0.1, 2e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": "tiny"}, "size is tiny, but init .* has mini: omit size"),
        ({"patch_size": 16}, "patch_size is 16, but init .* has 8"),
        ({"image_size": 33}, "image_size 33 is not a multiple of patch_size 8"),
    ],
)
def test_a_shape_that_the_start_has_not_is_refused(finetune_config, pretrained, tmp_path, change, said):
    config = finetune_config(tmp_path / "run", init=str(pretrained.model), **TAKEN | change)
    with pytest.raises(ConfigError, match=said):
        finetune(config)
    assert not (tmp_path / "run").exists()


def test_a_start_whose_weights_do_not_fit_is_told_in_one_line(finetune_config, pretrained, tmp_path):
    folder = shutil.copytree(pretrained.model, tmp_path / "start")
    weights = load_file(folder / "model.safetensors")
    weights["blocks.0.mlp.fc1.bias"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors")
    config = finetune_config(tmp_path / "run", init=str(folder), **TAKEN)
    with pytest.raises(CheckpointError, match=r"does not fit the model: .*blocks\.0\.mlp\.fc1\.bias") as told:
        finetune(config)
    assert "\n" not in str(told.value)


@pytest.fixture(scope="module")
def two_views(finetune_config, pretrained, tmp_path_factory):
    """A fine-tuning on both views, with everything that could remember something."""
    events = []
    config = finetune_config(
        tmp_path_factory.mktemp("views") / "run",
        init=str(pretrained.model),
        view="both",
        fusion="gated_mlp",
        person=PersonConfig(margin=0.2, shape="pad"),
        optim={"ema_decay": 0.8, "layer_decay": 0.75, "clip_norm": 1.0},
        **TAKEN,
    )
    folder = finetune(config, events.append)
    return config, folder, [event.text for event in events if isinstance(event, Message)]


def test_a_run_on_both_views_says_what_it_reads_and_what_stands_in(two_views):
    config, folder, texts = two_views
    facts = read_facts(folder)
    assert (facts.view, facts.fusion, facts.person) == ("both", "gated_mlp", config.person)
    assert texts[0] == "6 of 24 images have no person box: the whole image is used instead"
    assert json.loads(facts.provenance["settings"])["view"] == "both"
    assert facts.temperature != 1.0
    assert (config.out / "test" / "report.json").is_file()


def test_both_views_start_from_the_pretrained_encoder_and_their_mean(
    finetune_config, pretrained, tmp_path, first_weights
):
    config = finetune_config(tmp_path / "run", init=str(pretrained.model), view="both", fusion="sum", **TAKEN)
    started = first_weights(config)
    before = load_file(pretrained.model / "model.safetensors")
    name = "blocks.0.mlp.fc1.weight"
    assert torch.equal(started[f"encoder.{name}"], before[name])
    # Of the encoder's width, not the decoder's, and the mean of both views.
    assert torch.equal(started["fusion.linear.weight"], torch.eye(128) / 2)


def test_a_run_on_both_views_is_the_same_on_any_number_of_workers_and_after_a_break(
    two_views, tmp_path, weights_in, stop_at
):
    whole, expected, _ = two_views
    broken = replace(whole, out=tmp_path / "run", workers=2, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        finetune(broken, stop_at(4))
    folder = finetune(replace(broken, resume=True, workers=0))
    assert weights_in(folder) == weights_in(expected)
    assert read_facts(folder) == read_facts(expected)


@pytest.mark.parametrize("view", ["scene", "person", "both"])
def test_a_classifier_of_two_views_is_a_start_for_any_view(finetune_config, two_views, tmp_path, view, first_weights):
    _, folder, _ = two_views
    config = finetune_config(tmp_path / "run", init=str(folder), view=view, **TAKEN)
    started = first_weights(config)
    prefix = "encoder." if view == "both" else ""
    before = load_file(folder / "two_views.safetensors")
    name = "blocks.5.attn.qkv.weight"
    assert torch.equal(started[prefix + name], before["encoder." + name])


def test_a_run_on_persons_leaves_a_plain_model_that_wants_crops(finetune_config, tmp_path, heard):
    folder = finetune(finetune_config(tmp_path / "run", view="person", **ONE_STEP), heard)
    assert read_facts(folder).view == "person"
    assert (folder / "model.safetensors").is_file()
    assert heard.texts[0].startswith("6 of 24 images have no person box")


def test_a_run_on_scenes_says_nothing_of_boxes(finetuned):
    assert not [text for text in finetuned.heard.texts if "box" in text]


BREAKS = {"an observer": None, "Ctrl-C": interrupt}


@pytest.fixture(scope="module")
def unbroken(finetune_config, tmp_path_factory):
    """A fine-tuning with everything that could remember something: EMA, mixup, drop path, accumulation, workers."""
    config = finetune_config(
        tmp_path_factory.mktemp("unbroken") / "run",
        optim={"ema_decay": 0.8, "batch_size": 4, "accumulate": 2, "layer_decay": 0.75, "clip_norm": 1.0},
        save_every=2,
        select_by="balanced_accuracy",
    )
    return config, finetune(config)


@pytest.mark.parametrize("step", [1, 3, 5])
@pytest.mark.parametrize("kind", BREAKS)
def test_a_resumed_fine_tuning_is_bit_identical_to_the_unbroken_one(
    unbroken, tmp_path, heard, kind, step, weights_in, state_in, lines_of, stop_at
):
    whole, expected = unbroken
    broken = replace(whole, out=tmp_path / "run", save_every=1 if step == 1 else 2)
    observer = stop_at(2 if (kind, step) == ("an observer", 1) else step, heard, BREAKS[kind])
    with pytest.raises(KeyboardInterrupt):
        finetune(broken, observer)
    assert not (tmp_path / "run" / "model").exists()
    if kind == "Ctrl-C":
        assert heard.texts[-1] == f"stopped after step {step}; continue with --resume"
        assert state_in(tmp_path / "run").step == step
    folder = finetune(replace(broken, resume=True), heard)
    assert weights_in(folder) == weights_in(expected)
    assert read_facts(folder) == read_facts(expected)
    assert lines_of(whole.out) == lines_of(tmp_path / "run")


def test_a_finished_run_that_is_resumed_ends_as_it_did(finetuned, tmp_path, weights_in):
    out = shutil.copytree(finetuned.config.out, tmp_path / "run")
    lines = read_journal(out / "metrics.jsonl")
    folder = finetune(replace(finetuned.config, out=out, resume=True))
    assert weights_in(folder) == weights_in(finetuned.model)
    assert read_journal(out / "metrics.jsonl") == lines


def test_a_state_from_before_fused_tokens_is_resumed(finetuned, tmp_path, weights_in):
    out = shutil.copytree(finetuned.config.out, tmp_path / "run")
    for state in (out / "state").iterdir():
        old = json.loads((state / "state.json").read_text())
        del old["origin"]["fused"]
        (state / "state.json").write_text(json.dumps(old))
        sums = [f"{hash_file(file)}  {file.name}\n" for file in sorted(state.iterdir()) if file.name != "SHA256SUMS"]
        (state / "SHA256SUMS").write_text("".join(sums))
    assert weights_in(finetune(replace(finetuned.config, out=out, resume=True))) == weights_in(finetuned.model)


def test_the_test_split_is_read_once_and_after_all_training(finetune_config, tmp_path, monkeypatch):
    seen, read = [], dataset_module.read_image

    def spy(path, **settings):
        seen.append(path.parts[-3])
        return read(path, **settings)

    monkeypatch.setattr(dataset_module, "read_image", spy)
    finetune(finetune_config(tmp_path / "run"))
    assert seen.count("test") == 7
    assert "test" not in seen[:-7]
    assert seen.count("train") == 72  # in each of two epochs, and to be known
    assert seen.count("val") == 36  # after each epoch, for the temperature, and after it


def test_the_temperature_is_folded_into_the_head(finetuned, state_in):
    facts = read_facts(finetuned.model)
    state = state_in(finetuned.config.out)
    model = load_model(finetuned.model).model.state_dict()
    best = state.weights["best"]
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(model[name], best[name] / facts.temperature)
    assert facts.temperature != 1.0


def test_the_temperature_lowers_the_loss_on_val_and_changes_no_prediction(finetuned, painted):
    loaded = load_model(finetuned.model)
    val = painted.manifest.select(["val"])
    after = compute_outputs(
        loaded.model,
        val,
        views=EvaluationViews(size=32, view="scene", person=PersonConfig()),
        accelerator=build_accelerator("cpu"),
        batch_size=4,
        num_workers=0,
        target=SingleLabel(loaded.facts.classes),
        precision="fp32",
    )
    before = replace(after, logits=after.logits * loaded.facts.temperature)
    reports = [each.score() for each in (before, after)]
    assert reports[1].nll <= reports[0].nll + 1e-9
    assert reports[1].counts == reports[0].counts


def test_the_test_says_what_confidence_was_worth_before_the_temperature(finetuned, painted):
    saved = json.loads((finetuned.config.out / "test" / "report.json").read_text())
    loaded = load_model(finetuned.model)
    outputs = compute_outputs(
        loaded.model,
        painted.manifest.select(["test"]),
        views=loaded.facts.views,
        accelerator=build_accelerator("cpu"),
        num_workers=0,
        target=SingleLabel(loaded.facts.classes),
        precision="fp32",
    )
    before = replace(outputs, logits=outputs.logits * loaded.facts.temperature).score()
    found = saved["uncalibrated"]
    assert found["temperatures"] == [pytest.approx(loaded.facts.temperature)]
    shown = {one["title"]: one["before"] for one in found["metrics"]}
    expected = {"calibration error": before.ece, "negative log likelihood": before.nll, "Brier score": before.brier}
    assert shown == pytest.approx(expected, abs=1e-5)
    assert [one["after"] for one in found["metrics"]] == [saved[name] for name in ("ece", "nll", "brier")]
    assert "person" not in saved


def test_a_run_on_both_views_says_what_the_person_adds_to_the_same_weights(two_views, painted):
    config, folder, _ = two_views
    saved = json.loads((config.out / "test" / "report.json").read_text())["person"]
    loaded = load_model(folder)
    test = painted.manifest.select(["test"])
    nobody = with_column(test.table, "people", pa.nulls(len(test), test.table.schema.field("people").type))
    scores = [
        compute_outputs(
            loaded.model,
            manifest,
            views=loaded.facts.views,
            accelerator=build_accelerator("cpu"),
            num_workers=0,
            target=SingleLabel(loaded.facts.classes),
            precision="fp32",
        ).score(num_resamples=0)
        for manifest in (test, type(test)(nobody, test.facts))
    ]
    assert (saved["num_samples"], saved["num_with_person"]) == (7, 7 - test.num_without_people)
    gains = {gain["name"]: gain for gain in saved["gains"]}
    assert {"top1", "macro_f1"} <= set(gains)
    for name, gain in gains.items():
        assert (gain["value"], gain["without"]) == pytest.approx((scores[0].values[name], scores[1].values[name]))
        assert gain["difference"] == pytest.approx(gain["value"] - gain["without"])


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_rows_without_a_label_are_refused_before_training(finetune_config, own_painted, tmp_path, split, rewrite):
    manifest = own_painted.manifest
    rows = [manifest.row(index) for index in range(40)]
    rewrite(own_painted, labels=[None if row.split == split else row.label for row in rows])
    with pytest.raises(DataError, match=r"rows have no label"):
        finetune(finetune_config(tmp_path / "run", data=own_painted.path))
    assert not (tmp_path / "run").exists()


def test_a_class_without_a_training_picture_is_warned_of(finetune_config, own_painted, tmp_path, heard, rewrite):
    labels = own_painted.manifest.labels
    rewrite(own_painted, labels=[0 if label == 2 else int(label) for label in labels])
    finetune(finetune_config(tmp_path / "run", data=own_painted.path, **ONE_STEP), heard)
    assert heard.texts[0] == "no training image shows joy, which the model will therefore never predict"


def test_unreadable_pictures_of_val_and_test_are_told_once(finetune_config, own_painted, tmp_path, heard):
    manifest = own_painted.manifest
    broken = [manifest.select([split]).row(1).path for split in ("val", "test")]
    for path in broken:
        path.write_bytes(b"")
    finetune(finetune_config(tmp_path / "run", data=own_painted.path), heard)
    told = [text for text in heard.texts if "skipped" in text]
    assert told == [
        f"val: skipped 1 of 9 images that cannot be read; the first is {broken[0]}: empty file",
        f"test: skipped 1 of 7 images that cannot be read; the first is {broken[1]}: empty file",
    ]


def test_a_loss_that_is_not_finite_stops_the_run_in_one_line(finetune_config, tmp_path):
    config = finetune_config(tmp_path / "run", optim={"base_lr": 1e30}, augment=PLAIN)
    with pytest.raises((TrainingError, DataError)) as told:
        finetune(config)
    assert "\n" not in str(told.value)
    assert "not finite" in str(told.value)


def test_label_sets_are_fitted_on_val_stored_and_shown(finetuned):
    facts = read_facts(finetuned.model)
    level, least, samples = facts.numbers["label_set"]
    assert (level, samples) == (0.9, 9)
    assert 0 < least < 1
    assert "abstention" not in facts.numbers
    assert facts.metrics.keys() >= {"test_set_coverage", "test_set_size"}
    assert f"probability of at least {least:.4f}" in (finetuned.model / "README.md").read_text()
    saved = json.loads((finetuned.config.out / "test" / "report.json").read_text())
    assert saved["numbers"]["label_set"] == [level, least, samples]
    table = pq.read_table(finetuned.config.out / "test" / "predictions.parquet").to_pylist()
    expected = [
        {name for name in ("awe", "fear", "joy") if row[f"p_{name}"] >= least or name == row["predicted"]}
        for row in table
    ]
    assert [set(row["label_set"]) for row in table] == expected
    assert saved["set_coverage"] == pytest.approx(sum(row["label"] in row["label_set"] for row in table) / len(table))


def test_a_promise_that_val_is_too_small_for_is_reported_before_and_after_the_training(
    finetune_config, tmp_path, heard
):
    confidence = ConfidenceConfig(level=0.95, risk=0.05, domain_share=None)
    model = finetune(finetune_config(tmp_path / "run", confidence=confidence, **ONE_STEP), heard)
    assert heard.texts[0] == (
        "val: no label sets at level 0.95, which needs 19 independent samples: val has 9, which allow a level of at "
        "most 0.9; lower `confidence.level`, or enlarge val"
    )
    assert heard.texts[1].startswith("val: risk 0.05 needs 117 independent samples")
    assert any("abstains from every image" in text for text in heard.texts)
    assert dict(read_facts(model).numbers) == {"abstention": (0.05, 1.0, 9.0)}
    assert "It abstains from every image" in (model / "README.md").read_text()


def test_a_risk_that_a_target_cannot_keep_is_refused(finetune_config, tmp_path):
    config = finetune_config(tmp_path / "run", target=("multi_label",), confidence=ConfidenceConfig(risk=0.05))
    with pytest.raises(ConfigError, match=r"confidence.risk is 0.05, but only .* can abstain, not multi_label: omit"):
        finetune(config)
