"""What is only seen on a GPU: `pytest -m gpu`, or `python benchmarks/gpu.py` with the timings."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from uniemox.compute.devices import build_accelerator
from uniemox.config.reinforce import ReinforceConfig
from uniemox.config.training import TeacherConfig
from uniemox.data.stored_views import open_stored_views
from uniemox.inference.predictor import Predictor
from uniemox.manifests.table import read_manifest
from uniemox.models.encoder import build_vit, checkpoint_activations
from uniemox.train.events import Progress
from uniemox.train.finetune import finetune
from uniemox.train.pretrain import pretrain
from uniemox.train.reinforce import reinforce

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")]
TAKEN = {"size": None, "patch_size": None, "image_size": None}


def losses_of(config):
    heard = []
    pretrain(config, heard.append)
    return [event.scalars["loss"] for event in heard if isinstance(event, Progress)]


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def test_a_pretraining_has_the_losses_of_the_cpu(pretrain_config, tmp_path):
    on = {device: losses_of(pretrain_config(tmp_path / device, device=device)) for device in ("cpu", "cuda")}
    assert len(on["cpu"]) == 6
    assert on["cuda"] == pytest.approx(on["cpu"], rel=2e-3)


def test_a_pretraining_in_bf16_stays_near_fp32(pretrain_config, tmp_path):
    full, half = (
        losses_of(pretrain_config(tmp_path / precision, device="cuda", precision=precision))
        for precision in ("fp32", "bf16")
    )
    assert half == pytest.approx(full, rel=0.05)


def test_a_compiled_pretraining_has_the_losses_of_a_plain_one(pretrain_config, tmp_path):
    plain = losses_of(pretrain_config(tmp_path / "plain", device="cuda"))
    compiled = losses_of(pretrain_config(tmp_path / "compiled", device="cuda", compile=True))
    assert compiled == pytest.approx(plain, rel=2e-3)
    assert weights_of(tmp_path / "compiled" / "model").keys() == weights_of(tmp_path / "plain" / "model").keys()


def test_a_resumed_run_ends_as_one_that_never_stopped(pretrain_config, tmp_path):
    whole = pretrain_config(tmp_path / "whole", device="cuda")
    pretrain(whole)
    begun = pretrain_config(tmp_path / "begun", device="cuda")
    seen = []

    def stop(event):
        seen.append(event)
        if isinstance(event, Progress) and event.step == 3 and len(seen) < 10:
            raise KeyboardInterrupt

    begun = replace(begun, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        pretrain(begun, stop)
    pretrain(replace(begun, resume=True))
    ours, theirs = (weights_of(config.out / "model") for config in (begun, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_classifier_answers_on_both_devices_alike(finetune_config, tmp_path, painted):
    folder = finetune(finetune_config(tmp_path / "run", device="cuda"))
    manifest = read_manifest(painted.path).select(["test"])
    images = [manifest.row(row).path for row in range(len(manifest))]
    answers = {
        device: [
            answer.probabilities
            for answer in Predictor.load(str(folder), device=device, precision="fp32").predict(images, num_workers=0)
        ]
        for device in ("cpu", "cuda")
    }
    names = answers["cpu"][0]
    for ours, theirs in zip(answers["cuda"], answers["cpu"], strict=True):
        np.testing.assert_allclose([ours[name] for name in names], [theirs[name] for name in names], atol=1e-3)


def test_stored_features_are_those_of_the_cpu(painted, tiny_clip, tmp_path):
    teacher = TeacherConfig(model=str(tiny_clip), pretrained=None, precision="fp32")
    settings = {"manifest": painted.path, "views": 2, "image_size": 32, "teacher": teacher, "workers": 0}
    ours, theirs = (
        open_stored_views(reinforce(ReinforceConfig(**settings, out=tmp_path / device, device=device)))
        for device in ("cuda", "cpu")
    )
    for row in range(theirs.facts.rows):
        (crop, feature), (their_crop, expected) = ours.view(row, 0), theirs.view(row, 0)
        assert crop == their_crop
        torch.testing.assert_close(feature, expected, atol=2e-3, rtol=2e-3)


def peak_of(vit, images):
    torch.cuda.reset_peak_memory_stats()
    vit(images).square().sum().backward()
    return torch.cuda.max_memory_allocated()


def test_checkpoints_spare_memory():
    torch.manual_seed(0)
    vit = build_vit("base", patch_size=16, image_size=224, num_classes=8).cuda().train()
    images = torch.randn(32, 3, 224, 224, device="cuda")
    before = peak_of(vit, images)
    checkpoint_activations(vit)
    assert peak_of(vit, images) < before / 2


def test_fp32_products_are_those_of_fp32():
    build_accelerator("cuda")
    left, right = torch.randn(2, 512, 512, device="cuda")
    exact = left.double() @ right.double()
    assert ((left @ right).double() - exact).abs().max() < 1e-3  # TF32 has errors of .05
