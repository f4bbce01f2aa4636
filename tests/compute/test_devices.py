import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from uniemox.compute.devices import build_accelerator, choose_device, choose_precision, computing_in, does_bfloat16_well
from uniemox.errors import ConfigError


def test_the_cpu_can_always_be_asked_for():
    accelerator = build_accelerator("cpu")
    assert accelerator.device == torch.device("cpu")
    assert accelerator.num_processes == 1


def test_auto_finds_something():
    assert build_accelerator("auto").device.type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_forward_pass_is_in_the_precision_asked_for(precision):
    accelerator = build_accelerator("cpu", precision=precision)
    weight = torch.ones(2, 2)
    with accelerator.autocast():
        product = weight @ weight
    assert product.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def test_each_accelerator_has_its_own_precision_and_accumulation():
    for precision, accumulate in (("bf16", 4), ("fp32", 1), ("bf16", 1), ("fp32", 3)):
        accelerator = build_accelerator("cpu", precision=precision, accumulate=accumulate)
        assert accelerator.gradient_accumulation_steps == accumulate
        assert accelerator.mixed_precision == {"fp32": "no", "bf16": "bf16"}[precision]
        loss = torch.ones((), requires_grad=True)
        accelerator.backward(loss * 6)
        assert loss.grad == 6 / accumulate


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "mps:1", "auto:0"])
def test_a_device_that_does_not_exist_is_refused(device):
    if device == "cuda:":
        device = "cuda:0:1"
    with pytest.raises(ConfigError, match=r"must be auto, cpu, cuda, cuda:N or mps"):
        build_accelerator(device)


@pytest.mark.parametrize(("device", "module"), [("cuda", "cuda"), ("cuda:0", "cuda"), ("mps", "backends.mps")])
def test_a_device_that_is_not_there_is_told(device, module, monkeypatch):
    monkeypatch.setattr(f"torch.{module}.is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"device is {device}, but torch finds none here: set"):
        build_accelerator(device)


def test_one_device_of_several_can_be_chosen_if_it_is_there(monkeypatch):
    chosen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setattr(
        "uniemox.compute.devices.Accelerator", lambda **settings: SimpleNamespace(num_processes=1, **settings)
    )
    assert build_accelerator("cuda:1").cpu is False
    assert chosen == [1]
    with pytest.raises(ConfigError, match="device is cuda:2, but torch finds 2 here"):
        build_accelerator("cuda:2")
    assert chosen == [1]


def test_each_accelerator_is_on_the_device_that_it_was_asked_for(monkeypatch):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")  # in the place of a second device
    assert build_accelerator("auto").device == torch.device("meta")
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE")
    assert build_accelerator("cpu").device == torch.device("cpu")


# Several processes


def launch(monkeypatch, *, count=2, here=None, gpus=0, mps=False):
    """Pretend that torchrun started this process among others, on a machine with these devices."""
    monkeypatch.setenv("WORLD_SIZE", str(count))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here or count))
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: gpus > 0 or mps)
    monkeypatch.setattr("torch.cuda.set_device", pytest.fail)
    monkeypatch.setattr(
        "uniemox.compute.devices.Accelerator", lambda **settings: SimpleNamespace(num_processes=count, **settings)
    )


@pytest.mark.parametrize(
    ("device", "machine", "on_cpu"),
    [
        ("auto", {}, True),
        ("cpu", {}, True),
        ("cpu", {"gpus": 1}, True),
        ("cpu", {"mps": True}, True),
        ("auto", {"gpus": 2}, False),
        ("cuda", {"gpus": 2}, False),
        ("cuda", {"gpus": 8, "count": 16, "here": 8}, False),
    ],
)
def test_several_processes_are_one_group_on_the_cpu_or_with_a_gpu_each(monkeypatch, device, machine, on_cpu):
    launch(monkeypatch, **machine)
    assert build_accelerator(device).cpu is on_cpu


@pytest.mark.parametrize(
    ("device", "machine", "told"),
    [
        ("mps", {"mps": True}, "device is mps, but 2 processes were started, which cannot share"),
        ("auto", {"mps": True}, "device is auto, but 2 processes were started, which cannot share"),
        ("cuda:1", {"gpus": 2}, "device is cuda:1, but 2 processes .* a GPU of its own: set .device"),
        ("auto", {"gpus": 1}, "2 processes were started here, but torch finds 1 GPU: start no mo"),
        ("cuda", {"gpus": 2, "count": 4}, r"4 .* 2 GPUs: start no more .* \(--nproc-per-node 2\)"),
        ("auto", {"gpus": 2, "count": 8, "here": 4}, "4 processes were started here, but torch"),
        ("cuda", {}, "device is cuda, but torch finds none here"),
    ],
)
def test_processes_that_cannot_be_one_group_are_refused_in_one_line(monkeypatch, device, machine, told):
    launch(monkeypatch, **machine)
    with pytest.raises(ConfigError, match=told) as refused:
        build_accelerator(device)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_processes_that_do_not_find_each_other_are_refused(monkeypatch, device):
    launch(monkeypatch, count=4, gpus=4)
    monkeypatch.setattr(
        "uniemox.compute.devices.Accelerator", lambda **given: SimpleNamespace(num_processes=1, **given)
    )
    with pytest.raises(ConfigError, match="WORLD_SIZE is 4, but this process found 0 others: st"):
        build_accelerator(device)


def test_a_variable_of_the_launcher_may_not_change_what_a_step_is(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    with pytest.raises(ConfigError, match="ACCELERATE_GRADIENT_ACCUMULATION_STEPS"):
        build_accelerator("cpu", accumulate=4)


@pytest.mark.parametrize("is_fast", [True, False])
def test_each_device_is_asked_in_its_own_words_whether_it_does_bfloat16_well(monkeypatch, is_fast):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: is_fast)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: is_fast)
    assert does_bfloat16_well(torch.device("cuda", 1)) is is_fast
    assert does_bfloat16_well(torch.device("cpu")) is is_fast
    assert not does_bfloat16_well(torch.device("mps"))


@pytest.mark.parametrize(
    ("asked", "recorded", "is_fast", "chosen", "told"),
    [
        ("auto", "fp32", True, "fp32", ""),
        ("auto", "fp32", False, "fp32", ""),
        ("auto", "bf16", True, "bf16", "precision: bf16"),
        ("auto", "bf16", False, "fp32", "precision: fp32, since the model records bf16, which this"),
        ("bf16", "bf16", False, "bf16", "precision: bf16"),
        ("bf16", "fp32", True, "bf16", "precision: bf16, as asked; the model was measured in fp32"),
        ("fp32", "bf16", True, "fp32", "precision: fp32, as asked; the model was measured in bf16"),
        ("fp32", "fp32", False, "fp32", "precision: fp32"),
    ],
)
def test_the_recorded_precision_is_taken_unless_another_is_asked_for(
    monkeypatch, caplog, asked, recorded, is_fast, chosen, told
):
    monkeypatch.setattr("uniemox.compute.devices.does_bfloat16_well", lambda _: is_fast)
    caplog.set_level("INFO")
    assert choose_precision(asked, recorded, torch.device("cpu")) == chosen
    assert len(caplog.messages) == bool(told)
    assert "".join(caplog.messages).startswith(told)


@pytest.mark.parametrize("around", ["fp32", "bf16"])
@pytest.mark.parametrize("within", ["fp32", "bf16"])
def test_what_is_computed_in_a_precision_is_so_whatever_is_around_it(around, within):
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    weight, cpu = torch.ones(2, 2), torch.device("cpu")
    with computing_in(around, cpu):
        with computing_in(within, cpu):
            assert (weight @ weight).dtype == dtypes[within]
        assert (weight @ weight).dtype == dtypes[around]


LEAVING = """
import atexit
import sys
import torch
import torch.distributed as dist
from uniemox.compute.devices import computing_on

def note():
    with open(f"{sys.argv[2]}/{accelerator.process_index}", "w") as file:
        file.write(f"{dist.is_initialized()}")

atexit.register(note)  # called last
for run in range(2):
    with computing_on("cpu") as accelerator:
        model = accelerator.prepare(torch.nn.Linear(1, 1))
        weight = accelerator.gather(accelerator.reduce(model.module.weight.detach()))
        assert weight.shape == (2, 1)
        if run and sys.argv[1] == "error":
            sys.exit("wrong")
    assert dist.is_initialized()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "open_after"), [("success", "False"), pytest.param("error", "True", marks=pytest.mark.soak)]
)
def test_processes_take_leave_of_each_other_at_their_end_unless_one_failed(tmp_path, end, open_after):
    script = tmp_path / "leaving.py"
    script.write_text(LEAVING)
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = subprocess.run(
        [sys.executable, "-m", *launcher, script, end, tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode == 0) == (end == "success"), done.stderr
    found = [(tmp_path / rank).read_text() for rank in "01" if (tmp_path / rank).exists()]
    assert found
    assert set(found) == {open_after}


def test_a_size_that_no_launcher_set_is_refused_before_anybody_waits(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 4, but RANK is not set: start all"):
        build_accelerator("cpu")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_model_predicts_without_a_group_whatever_a_cluster_says(monkeypatch, device):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr("uniemox.compute.devices._others", dict)
    assert choose_device(device) == torch.device("cpu")


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "cpu:1", ""])
def test_a_device_to_predict_on_that_is_not_there_is_refused(device):
    with pytest.raises(ConfigError, match="device is"):
        choose_device(device)


@pytest.mark.parametrize("choose", [lambda: build_accelerator("cpu"), lambda: choose_device("cpu")])
def test_fp32_is_computed_in_fp32_on_gpus_too(choose):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    choose()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
