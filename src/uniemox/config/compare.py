"""Settings of `compare`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uniemox.config.checks import SHEETS, JsonConfig, Natural, Workers, check, check_ending


@dataclass(frozen=True, kw_only=True)
class CompareConfig(JsonConfig):
    """A comparison of what was evaluated."""

    sources: Sequence[str] = field(kw_only=False)
    """Folders of runs and of probes, and those that `uniemox evaluate --out` wrote; with `data` models too. Runs whose
    settings differ by their seeds alone are one arm."""
    base: str | None = None
    """What the others are compared with, by its name; null takes the first."""
    data: Path | None = None
    """Manifest that runs and models are evaluated on; null takes the tests that runs have."""
    split: str = "test"
    """Split of `data`."""
    out: Sequence[Path] = ()
    """Files to write: Markdown (.md), LaTeX for booktabs (.tex), .json, or a page with curves (.html); give it again
    for more."""
    overwrite: bool = False
    """Replace the files if they exist."""
    device: str = "auto"
    """auto, cpu, cuda or mps; for `data`."""
    batch_size: Natural = 32
    """Images in one forward pass; for `data`."""
    workers: Workers = 2
    """Workers that decode images while the model computes; 0 decodes in between."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.sources), "`sources` must be given")
        for out in self.out:
            check_ending("out", out, SHEETS)
