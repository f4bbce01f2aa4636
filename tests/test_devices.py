import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from uniemox.devices import build_accelerator, does_bfloat16_well
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


@pytest.mark.parametrize(
    "device", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "mps:1", "auto:0"]
)
def test_a_device_that_does_not_exist_is_refused(device):
    if device == "cuda:":
        device = "cuda:0:1"
    with pytest.raises(ConfigError, match=r"must be auto, cpu, cuda, cuda:N or mps"):
        build_accelerator(device)


@pytest.mark.parametrize(
    ("device", "module"), [("cuda", "cuda"), ("cuda:0", "cuda"), ("mps", "backends.mps")]
)
def test_a_device_that_is_not_there_is_told(device, module, monkeypatch):
    monkeypatch.setattr(f"torch.{module}.is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"device is {device}, but torch finds none here: use"):
        build_accelerator(device)


def test_one_device_of_several_can_be_chosen_if_it_is_there(monkeypatch):
    chosen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setattr(
        "uniemox.devices.Accelerator", lambda **settings: SimpleNamespace(**settings)
    )
    assert build_accelerator("cuda:1").cpu is False
    assert chosen == [1]
    with pytest.raises(ConfigError, match="device is cuda:2, but torch finds 2 here"):
        build_accelerator("cuda:2")
    assert chosen == [1]


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


LEAVING = """
import atexit
import sys
import torch
import torch.distributed as dist
from uniemox.devices import computing_on

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
@pytest.mark.parametrize(("end", "open_after"), [("success", "False"), ("error", "True")])
def test_processes_take_leave_of_each_other_at_their_end_unless_one_failed(
    tmp_path, end, open_after
):
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
