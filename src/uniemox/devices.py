"""Where to compute: device, precision and processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from uniemox.errors import ConfigError

if TYPE_CHECKING:
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


def does_bfloat16_well(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively; where it does not, fp32 is faster."""
    match device.type:
        case "cpu":
            return torch.cpu._is_avx512_bf16_supported()
        case "cuda":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        case _:
            return False
