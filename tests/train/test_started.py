"""What a resumed run must share with the one that started, alone and in processes of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from uniemox.checkpoints.facts import read_facts
from uniemox.checkpoints.load import load_pretraining
from uniemox.config.training import PretrainConfig
from uniemox.errors import CheckpointError, Interrupted
from uniemox.files.journal import read_journal
from uniemox.manifests.table import Attributes
from uniemox.settings import save_config
from uniemox.targets.single_label import SingleLabel
from uniemox.train.events import Progress
from uniemox.train.finetune import finetune
from uniemox.train.pretrain import pretrain

ONE_STEP = {"max_steps": 1}
TAKEN = {"size": None, "patch_size": None, "image_size": None}
PLAIN = {"rand_augment": None, "erase": 0.0, "mixup": 0.0, "cutmix": 0.0}


def relabelled(painted, split):
    """The labels of the painted rows, those of a split turned by one."""
    manifest = painted.manifest
    rows = [manifest.row(index) for index in range(len(manifest))]
    return [(row.label + (row.split == split)) % 3 for row in rows]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_run_is_not_resumed_on_other_labels_of_any_split(own_painted, finetune_config, tmp_path, split, rewrite):
    config = finetune_config(tmp_path / "run", data=own_painted.path, max_steps=1)
    finetune(config)
    rewrite(own_painted, labels=relabelled(own_painted, split))
    with pytest.raises(CheckpointError, match=rf"started with other data of {split} \("):
        finetune(replace(config, resume=True))


def test_a_split_that_is_not_read_may_change(own_painted, finetune_config, tmp_path, rewrite):
    config = finetune_config(tmp_path / "run", data=own_painted.path, max_steps=1, test_split=None)
    finetune(config)
    rewrite(own_painted, labels=relabelled(own_painted, "test"))
    finetune(replace(config, resume=True))


def test_a_run_is_not_resumed_on_other_sets_of_labels(own_painted, finetune_config, tmp_path, rewrite):
    sets = [[0], [0, 1], [2]] * 14
    rewrite(own_painted, label_sets=sets[: len(own_painted.manifest)])
    config = finetune_config(tmp_path / "run", data=own_painted.path, max_steps=1, target="multi_label")
    finetune(config)
    rewrite(own_painted, label_sets=sets[2:][: len(own_painted.manifest)])
    with pytest.raises(CheckpointError, match="started with other data of train"):
        finetune(replace(config, resume=True))


@pytest.mark.parametrize(("view", "refused"), [("scene", False), ("both", True)])
def test_boxes_count_where_they_are_read(own_painted, finetune_config, tmp_path, view, refused, rewrite):
    config = finetune_config(tmp_path / "run", data=own_painted.path, max_steps=1, view=view)
    finetune(config)
    rewrite(own_painted, people=[() for _ in range(len(own_painted.manifest))])
    with pytest.raises(CheckpointError) if refused else nullcontext():
        finetune(replace(config, resume=True))


def test_another_start_behind_the_same_name_is_refused(finetune_config, pretrained, finetuned, tmp_path):
    start = shutil.copytree(pretrained.model, tmp_path / "start")
    config = finetune_config(tmp_path / "run", init=str(start), **ONE_STEP, **TAKEN)
    finetune(config)
    before = read_facts(tmp_path / "run" / "model").provenance["init"]
    shutil.rmtree(start)
    shutil.copytree(finetuned.model, start)
    with pytest.raises(CheckpointError, match=r"init .* is classifier .* started from pretraining"):
        finetune(replace(config, resume=True))
    shutil.rmtree(start)
    heard = []
    folder = finetune(replace(config, resume=True), heard.append)
    assert read_facts(folder).provenance["init"] == before
    assert "the start is no longer needed, and cannot be read" in heard[0].text


def test_another_teacher_behind_the_same_name_is_refused(pretrain_config, tiny_clip, tmp_path):
    clip = shutil.copytree(tiny_clip, tmp_path / "clip")
    config = pretrain_config(tmp_path / "run", teacher={"model": str(clip)}, **ONE_STEP)
    pretrain(config)
    weights = load_file(clip / "open_clip_model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, clip / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match="started with other teacher"):
        pretrain(replace(config, resume=True))


@pytest.mark.parametrize(("contrast", "refused"), [(1.0, True), (0.0, False)])
def test_descriptions_count_where_they_are_read(own_painted, pretrain_config, tmp_path, contrast, refused, rewrite):
    config = pretrain_config(tmp_path / "run", data=own_painted.path, loss={"contrast": contrast}, **ONE_STEP)
    pretrain(config)
    rewrite(own_painted, attributes=[Attributes(brightness=0.1)] * len(own_painted.manifest))
    with pytest.raises(CheckpointError) if refused else nullcontext():
        pretrain(replace(config, resume=True))


def start(*words, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process, code=0):
    out, told = process.communicate(timeout=900)
    assert process.returncode == code, told
    return out, told


def wait_for(what, process, seconds=600):
    deadline = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def saved_step(out):
    return max((int(path.name[5:13]) for path in (out / "state").glob("step-*")), default=0)


def run_of(config, folder):
    """The words of a run that takes its settings from a file."""
    folder.mkdir(exist_ok=True)
    kind = "pretrain" if isinstance(config, PretrainConfig) else "finetune"
    save_config(config, folder / f"{kind}.yaml")
    return "uniemox", kind, "--config", folder / f"{kind}.yaml"


@pytest.mark.soak
def test_kill_9_in_the_middle_of_an_epoch_and_a_resume_give_the_same_weights(
    pretrain_config, tmp_path, weights_in, lines_of
):
    config = pretrain_config(tmp_path / "whole", optim={"epochs": 12, "batch_size": 2}, save_every=5, workers=1)
    words = run_of(config, tmp_path / "settings")
    finish(start(*words))
    out = tmp_path / "broken"
    process = start(*words, "--out", out)
    wait_for(lambda: saved_step(out) % 12 and saved_step(out) > 12, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    last = read_journal(out / "metrics.jsonl")[-1]["step"]
    assert 12 < last < 144
    assert saved_step(out) % 12
    assert not (out / "model").exists()
    finish(start(*words, "--out", out, "--resume"))
    assert weights_in(out / "model") == weights_in(tmp_path / "whole" / "model")
    assert lines_of(tmp_path / "whole") == lines_of(out)


@pytest.mark.soak
def test_ctrl_c_at_a_terminal_reaches_the_workers_too_and_still_saves(finetune_config, tmp_path, weights_in):
    config = finetune_config(
        tmp_path / "whole", optim={"epochs": 12, "batch_size": 2, "accumulate": 6}, workers=2, save_every=1000
    )
    words = run_of(config, tmp_path / "settings")
    finish(start(*words))
    out = tmp_path / "broken"
    process = start(*words, "--out", out, start_new_session=True)
    wait_for(lambda: (out / "metrics.jsonl").exists(), process)
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, told = finish(process, code=130)
    step = saved_step(out)
    assert 0 < step < 24
    assert f"stopped after step {step}; continue with --resume" in told
    assert "Traceback" not in told
    finish(start(*words, "--out", out, "--resume"))
    assert weights_in(out / "model") == weights_in(tmp_path / "whole" / "model")


@pytest.mark.slow
def test_pretraining_on_two_processes_is_that_on_one_with_batches_twice_as_large(
    pretrain_config, tmp_path, heard, on_two_processes
):
    alone = pretrain_config(tmp_path / "alone", optim={"batch_size": 8})
    pretrain(alone, heard)
    settings = {"batch_size": 4}
    config = pretrain_config(tmp_path / "together", optim=settings, device="auto")
    on_two_processes(*run_of(config, tmp_path / "settings")[1:])
    lines = [read_journal(folder / "metrics.jsonl") for folder in (alone.out, config.out)]
    assert [line["step"] for line in lines[1]] == [1, 2, 3, 4, 5, 6]
    for one, two in zip(*lines, strict=True):
        for name in ("loss", "contrast", "similarity", "reconstruction", "lr", "epoch"):
            assert two[name] == pytest.approx(one[name], rel=1e-3), (name, one["step"])
    one, two = (load_pretraining(folder / "model").model.state_dict() for folder in (alone.out, config.out))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-3, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [{"batch_size": 4}, {"batch_size": 2, "accumulate": 2}])
def test_a_run_continues_on_another_number_of_processes(pretrain_config, tmp_path, heard, on_two_processes, layout):
    optim = {"batch_size": 8, "epochs": 7}  # 21 steps
    loss = {} if "accumulate" not in layout else {"contrast": 0.0}  # whose texts are those of a forward pass
    whole = pretrain_config(tmp_path / "whole", optim=optim, loss=loss)
    pretrain(whole)

    def stop_after_step_2(event):
        heard(event)
        if isinstance(event, Progress) and event.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    broken = replace(whole, out=tmp_path / "broken")
    with pytest.raises(Interrupted):
        pretrain(broken, stop_after_step_2)
    moved = replace(broken, resume=True, device="auto", optim=replace(broken.optim, **layout))
    on_two_processes(*run_of(moved, tmp_path / "settings")[1:])
    one, two = (
        {line["step"]: line["loss"] for line in read_journal(config.out / "metrics.jsonl")}
        for config in (whole, broken)
    )
    assert list(two) == list(range(1, 22))
    assert two == pytest.approx(one, rel=1e-5)


def test_a_run_of_other_rows_a_step_is_not_resumed(pretrain_config, tmp_path):
    config = pretrain_config(tmp_path / "run", max_steps=1)
    pretrain(config)
    other = replace(config, resume=True, optim=replace(config.optim, batch_size=4))
    with pytest.raises(
        CheckpointError, match=r"other rows a step \(8, now 4\): `optim.batch_size` 4 × .* must be 8 again"
    ):
        pretrain(other)


def test_another_layout_of_the_same_rows_is_reported(pretrain_config, tmp_path, heard):
    config = pretrain_config(tmp_path / "run", optim={"batch_size": 8, "epochs": 1})
    pretrain(config)
    pretrain(replace(config, resume=True, optim=replace(config.optim, batch_size=4, accumulate=2)), heard)
    assert any("a step was `optim.batch_size` 8 × `optim.accumulate` 1" in text for text in heard.texts)


@pytest.mark.slow
def test_fine_tuning_on_two_processes_scores_as_on_one(finetune_config, tmp_path, on_two_processes):
    alone = finetune_config(tmp_path / "alone", augment=PLAIN, drop_path=0.0)
    finetune(alone)
    config = finetune_config(
        tmp_path / "together",
        augment=PLAIN,
        drop_path=0.0,
        optim={"batch_size": 4},
        device="auto",  # as a user types it
    )
    on_two_processes(*run_of(config, tmp_path / "settings")[1:])
    lines = [read_journal(folder / "metrics.jsonl") for folder in (alone.out, config.out)]
    for one, two in zip(*lines, strict=True):
        assert one["kind"] == two["kind"]
        for name in ("loss", "nll"):
            assert two.get(name, 0) == pytest.approx(one.get(name, 0), rel=1e-3)
    reports = [
        SingleLabel().scores_from_dict(json.loads((folder / "test" / "report.json").read_text()))
        for folder in (alone.out, config.out)
    ]
    assert reports[0].num_samples == reports[1].num_samples == 7
