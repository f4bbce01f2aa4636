"""Settings of `transfer`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uniemox.config.audit import LIKE, Likeness
from uniemox.config.checks import SHEETS, JsonConfig, Natural, ReadsImages, Workers, check, check_ending
from uniemox.config.inference import AskedPrecision


@dataclass(frozen=True, kw_only=True)
class TransferConfig(ReadsImages, JsonConfig):
    """Scoring every model on every data set, whatever their classes."""

    models: Sequence[str] = field(metadata={"metavar": "MODEL …"})
    """Classifiers, in the words of `evaluate`: folders, runs, exports, demo, clip:ARCH/TAG and others."""
    data: Sequence[Path] = field(metadata={"metavar": "MANIFEST …"})
    """Manifests made by `uniemox data prepare`."""
    split: str = "test"
    """Split that is scored."""
    metric: str | None = None
    """Metric of the matrix, such as top1 or macro_f1; null takes the first. JSON holds all."""
    teacher: str | None = None
    """CLIP whose zero-shot answers are a row; null takes those that the models were distilled from, where they are at
    hand."""
    leaks: bool = True
    """Search the tests for images that a model was trained on, as far as its training data are at hand: those of its
    run, or of a data set of the same name among these."""
    remove_leaks: bool = False
    """Score without these images."""
    like: Likeness = LIKE
    """Likeness, up to 1, from which two images are the same."""
    out: Sequence[Path] = ()
    """Files to write the matrix to: Markdown (.md), LaTeX for booktabs (.tex), .json, or a page (.html)."""
    overwrite: bool = False
    """Replace the files if they exist."""
    cells: Path | None = None
    """Folder that keeps each evaluation, so that another call computes only what is missing or has changed."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: AskedPrecision = "auto"
    """Arithmetic of the models; auto takes what their folders record."""
    batch_size: Natural = 32
    """Images in one forward pass."""
    workers: Workers = 2
    """Workers that decode images while the model computes; 0 decodes in between."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("models", "data"):
            check(bool(getattr(self, name)), f"`{name}` must be given")
            given = [str(one) for one in getattr(self, name)]
            twice = next((one for one in given if given.count(one) > 1), "")
            check(not twice, f"`{name}` names {twice} twice")
        check(self.leaks or not self.remove_leaks, "`remove_leaks` needs the search for `leaks`")
        for path in self.out:
            check_ending("out", path, SHEETS)
