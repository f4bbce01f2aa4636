"""Weights between a start and an end: `trained_share` of whole fine-tunings."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from uniemox.checkpoints.domain import FEATURES_NAME
from uniemox.checkpoints.facts import read_facts
from uniemox.train.finetune import finetune

TAKEN = {"size": None, "patch_size": None, "image_size": None, "baselines": False}
FUSED = {"pool": "fused", "head": "language", "view": "both"}


def uncalibrated(folder):
    """Weights of a folder, whose head is divided by the temperature."""
    (path,) = (path for path in folder.glob("*.safetensors") if path.name != FEATURES_NAME)
    temperature = read_facts(folder).temperature
    return {
        name: tensor * temperature if name.rpartition(".")[0].endswith("head") else tensor
        for name, tensor in load_file(path).items()
    }


@pytest.mark.parametrize(
    ("settings", "ema", "precision"),
    [({}, 0.0, "fp32"), (FUSED, 0.0, "fp32"), (FUSED, 0.8, "fp32"), ({"pool": "cls_mean"}, 0.8, "bf16")],
    ids=["mean", "fused", "fused, average", "class and mean, average, bf16"],
)
def test_the_weights_left_lie_between_the_start_and_the_end(
    finetune_config, pretrained, tmp_path, first_weights, settings, ema, precision
):
    def config(name, share):
        optim = {"epochs": 1, "ema_decay": ema, "base_lr": 0.3, "warmup_epochs": 0.0}
        more = {"optim": optim, "precision": precision, "trained_share": share, **settings, **TAKEN}
        return finetune_config(tmp_path / name, init=str(pretrained.model), **more)

    between, end, start = (uncalibrated(finetune(config(str(share), share))) for share in (0.3, 1.0, 0.0))
    first = first_weights(config("first", 1.0))
    assert start.keys() == end.keys() == between.keys() == first.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(start[name], tensor, atol=1e-6, rtol=1e-5)
        expected = 0.7 * tensor.double() + 0.3 * end[name].double()
        torch.testing.assert_close(between[name].double(), expected, atol=1e-6, rtol=1e-5)
    assert any(not torch.allclose(end[name], first[name], atol=1e-3) for name in first)


AVERAGED = {"optim": {"ema_decay": 0.8, "layer_decay": 0.75}, "precision": "bf16"}


@pytest.mark.parametrize(
    ("more", "step"),
    [({}, 3), (AVERAGED, 1), (AVERAGED, 4)],
    ids=["plain", "average, bf16, early", "average, bf16, after an epoch"],
)
def test_a_run_that_was_broken_off_ends_with_the_same_weights(
    finetune_config, pretrained, tmp_path, weights_in, lines_of, stop_at, more, step
):
    whole = finetune_config(tmp_path / "whole", init=str(pretrained.model), trained_share=0.4, **FUSED, **TAKEN, **more)
    expected = finetune(whole)
    broken = replace(whole, out=tmp_path / "broken", save_every=1)
    with pytest.raises(KeyboardInterrupt):
        finetune(broken, stop_at(step + 1))
    folder = finetune(replace(broken, resume=True))
    assert weights_in(folder) == weights_in(expected)
    assert read_facts(folder) == read_facts(expected)
    assert lines_of(whole.out) == lines_of(broken.out)


def test_what_is_scored_are_the_weights_between(finetune_config, pretrained, tmp_path, lines_of):
    """A rate that ruins everything in one step leaves the start's answers, where nothing of it is kept."""
    ruin = {"optim": {"epochs": 1, "base_lr": 10.0, "warmup_epochs": 0.0}, **FUSED, **TAKEN}
    scores = {}
    for share, optim in ((0.0, {}), (0.0, {"base_lr": 1e-30}), (1.0, {})):
        out = tmp_path / f"{share} {len(optim)}"
        more = ruin | {"optim": {**ruin["optim"], **optim}}
        finetune(finetune_config(out, init=str(pretrained.model), trained_share=share, **more))
        (line,) = (line for line in lines_of(out) if line["kind"] == "val")
        scores[share, len(optim)] = line["nll"]
    assert scores[0.0, 0] == pytest.approx(scores[0.0, 1], rel=1e-5)
    assert abs(scores[1.0, 0] - scores[0.0, 0]) > 0.01
