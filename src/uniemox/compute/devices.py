"""Where to compute: device, precision and processes."""

import atexit
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from uniemox.compute.processes import num_local_processes, num_processes
from uniemox.config.checks import Precision
from uniemox.config.inference import AskedPrecision
from uniemox.errors import ConfigError, TrainingError

log = logging.getLogger(__name__)

_LONGEST_WAIT: Final = timedelta(hours=3)
"""For the first process, which scores baselines and writes while the others wait; the heartbeat finds dead ones."""


def build_accelerator(device: str, *, precision: Precision = "fp32", accumulate: int = 1) -> Accelerator:
    """Choose where to compute.

    Args:
        device: auto, cpu, cuda (or cuda:1) or mps.
        precision: Arithmetic of forward passes under its autocast.
        accumulate: Forward passes in one step; `backward` divides the loss by it.

    Several processes, as torchrun starts them, form one group: of gloo on the CPU, of NCCL with a GPU for each.

    Raises:
        ConfigError: The device is unknown or absent, or the processes cannot form one group on it.
    """
    _check_device(device)
    _switch_tf32_off()
    kind, _, index = device.partition(":")
    count = num_processes()
    if count > 1:
        _check_group(device, kind)
    elif index:
        torch.cuda.set_device(int(index))
    # A group stays, and its device with it; without one, each accelerator is on the device that it was asked for.
    AcceleratorState._reset_state(reset_partial_state=not _has_group())
    accelerator = Accelerator(
        # Accelerate makes a group on the CPU for nobody who does not name it.
        cpu=kind == "cpu" or (kind == "auto" and count > 1 and not torch.accelerator.is_available()),
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=accumulate,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_LONGEST_WAIT)],
    )
    if accelerator.gradient_accumulation_steps != accumulate:
        raise ConfigError("the variable ACCELERATE_GRADIENT_ACCUMULATION_STEPS overrides `optim.accumulate`: unset it")
    if accelerator.num_processes != count:
        raise _not_launched(f"this process found {accelerator.num_processes - 1} others")
    return accelerator


def choose_device(device: str) -> torch.device:
    """Choose where a model predicts, which needs no group, whatever a cluster says about its whole job.

    Args:
        device: auto, cpu, cuda (or cuda:1) or mps.

    Raises:
        ConfigError: The device is unknown or absent.
    """
    _check_device(device)
    _switch_tf32_off()
    available = (name for name, is_here in _others().items() if is_here)
    return torch.device(next(available, "cpu") if device == "auto" else device)


def _switch_tf32_off() -> None:
    """Let GPUs compute fp32 in fp32: TF32, which torch takes for convolutions unasked, keeps 10 of 23 bits."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _others() -> dict[str, bool]:
    """Which kinds of device beside the CPU torch finds here, the faster ones first."""
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def _check_device(device: str) -> None:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdigit())):
        raise ConfigError(f"device is {device}, but must be auto, cpu, cuda, cuda:N or mps")
    if not _others().get(kind, True):
        raise ConfigError(f"device is {device}, but torch finds none here: set `device` to auto or cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise ConfigError(f"device is {device}, but torch finds {torch.cuda.device_count()} here, counted from cuda:0")


def _check_group(device: str, kind: str) -> None:
    """Refuse several processes that no launcher started, for which this one would wait, or on one device."""
    if "RANK" not in os.environ:
        raise _not_launched("RANK is not set")
    count, here = num_processes(), num_local_processes()
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "mps" or (kind == "auto" and not gpus and torch.backends.mps.is_available()):
        raise ConfigError(
            f"device is {device}, but {count} processes were started, which cannot share one mps: start one process, "
            "or set `device` to cpu"
        )
    if device.startswith("cuda:"):
        raise ConfigError(
            f"device is {device}, but {count} processes were started, each of which needs a GPU of its own: set "
            "`device` to cuda, and choose GPUs with CUDA_VISIBLE_DEVICES"
        )
    if kind in ("auto", "cuda") and 0 < gpus < here:
        raise ConfigError(
            f"{here} processes were started here, but torch finds {gpus} GPU{'s' * (gpus > 1)}: start no more than "
            f"one for each (--nproc-per-node {gpus}), or set `device` to cpu"
        )


def _not_launched(found: str) -> ConfigError:
    return ConfigError(
        f"WORLD_SIZE is {num_processes()}, but {found}: start all processes with `torchrun --nproc-per-node N -m "
        "uniemox …`, or unset WORLD_SIZE"
    )


@contextmanager
def computing_on(device: str, *, precision: Precision = "fp32", accumulate: int = 1) -> Iterator[Accelerator]:
    """Choose where to compute, and let the processes close their group together when they exit.

    A process that exits while its group is open lets the interpreter tear down the group's running threads, which now
    and then aborts it: 1 in 15 runs of two processes on a CPU. The group stays open until then, since torch cannot open
    another one at the same address. After an error it is left alone: to close it may wait for processes that never
    come.

    Raises:
        ConfigError: As `build_accelerator`.
        TrainingError: Another process of the group died.
    """
    accelerator = build_accelerator(device, precision=precision, accumulate=accumulate)
    atexit.unregister(_close_group)
    if not _has_group():
        yield accelerator
        return
    from uniemox.compute.heartbeat import watched  # which needs a torch that has groups

    try:
        with watched():
            yield accelerator
            accelerator.wait_for_everyone()
    except RuntimeError as error:
        if reason := describe_dead_process(error):
            raise TrainingError(f"{reason}; its own message says why") from error
        raise
    accelerator.free_memory()  # a wrapped model holds the group
    atexit.register(_close_group)


def describe_dead_process(error: RuntimeError) -> str | None:
    """Report that another process of the group died, if that is what a collective complains of."""
    is_of_gloo = "gloo" in str(error) and "onnection" in str(error)
    if _has_group() and (is_of_gloo or isinstance(error, torch.distributed.DistBackendError)):
        return "another process of the run died"
    return None


def _close_group() -> None:
    if _has_group():
        torch.distributed.destroy_process_group()


def _has_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def does_bfloat16_well(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively; where it does not, fp32 is faster."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported()
    return device.type == "cuda" and bool(torch.cuda.is_bf16_supported(including_emulation=False))


def choose_precision(asked: AskedPrecision, recorded: Precision, device: torch.device) -> Precision:
    """Choose the arithmetic of a model's forward passes, and log it.

    Args:
        asked: By the user; auto takes the recorded one.
        recorded: By the model folder. bf16 is recorded only where its answers were those of fp32, so a device that does
            bf16 slowly takes fp32.
        device: Where it computes.
    """
    if asked != "auto":
        note = "" if asked == recorded else f", as asked; the model was measured in {recorded}"
        log.info("precision: %s%s", asked, note)
        return asked
    if recorded == "bf16" and not does_bfloat16_well(device):
        log.info("precision: fp32, since the model records bf16, which this %s does slowly", device.type)
        return "fp32"
    if recorded != "fp32":  # which everybody expects
        log.info("precision: %s", recorded)
    return recorded


def computing_in(precision: Precision, device: torch.device) -> torch.autocast:
    """Run what is within in this precision; weights stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
