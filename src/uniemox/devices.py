"""Where to compute: device, precision and processes."""

from __future__ import annotations

import atexit
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from uniemox.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from uniemox.config import Precision


def build_accelerator(
    device: str, *, precision: Precision = "fp32", accumulate: int = 1
) -> Accelerator:
    """Choose where to compute.

    Args:
        device: auto, cpu, cuda (or cuda:1) or mps.
        precision: Arithmetic of forward passes under its autocast.
        accumulate: Forward passes in one step; `backward` divides the loss by it.

    Raises:
        ConfigError: The device is unknown or not there.
    """
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (
        index and not (kind == "cuda" and index.isdigit())
    ):
        raise ConfigError(f"device is {device}, but must be auto, cpu, cuda, cuda:N or mps")
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not found.get(kind, True):
        raise ConfigError(
            f"device is {device}, but torch finds none here: use --device auto or cpu"
        )
    if index:
        if int(index) >= torch.cuda.device_count():
            raise ConfigError(
                f"device is {device}, but torch finds {torch.cuda.device_count()} here, counted from cuda:0"
            )
        torch.cuda.set_device(int(index))
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=kind == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=accumulate,
    )
    if accelerator.gradient_accumulation_steps != accumulate:
        raise ConfigError(
            "the variable ACCELERATE_GRADIENT_ACCUMULATION_STEPS overrides optim.accumulate: unset it"
        )
    return accelerator


@contextmanager
def computing_on(
    device: str, *, precision: Precision = "fp32", accumulate: int = 1
) -> Iterator[Accelerator]:
    """Choose where to compute, and see to it that the processes take leave of each other at their end.

    A process that ends while its group is open lets the interpreter tear down the group's running threads, which now
    and then aborts it: 1 in 15 runs of two processes on a CPU. The group stays open until then, since torch cannot open
    another one at the same address. After an error it is left alone: to close it may wait for processes that never
    come.

    Raises:
        ConfigError: As `build_accelerator`.
    """
    accelerator = build_accelerator(device, precision=precision, accumulate=accumulate)
    atexit.unregister(_close_group)
    yield accelerator
    if _has_group():
        accelerator.wait_for_everyone()
        accelerator.free_memory()  # a wrapped model holds the group
        atexit.register(_close_group)


def _close_group() -> None:
    if _has_group():
        torch.distributed.destroy_process_group()


def _has_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def does_bfloat16_well(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively; where it does not, fp32 is faster."""
    match device.type:
        case "cpu":
            return torch.cpu._is_avx512_bf16_supported()
        case "cuda":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        case _:
            return False
