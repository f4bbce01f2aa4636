"""Settings of `uniemox demo`."""

from dataclasses import dataclass
from pathlib import Path

from uniemox.config.checks import Settings


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Settings):
    """Running the whole pipeline on the embedded data."""

    out: Path = Path("uniemox-demo")
    """Folder for the demo's runs and report."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: int = 0
    """Seed of weights, order, masks and augmentation."""
