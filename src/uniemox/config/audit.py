"""Settings of `data audit`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Final, Literal

from uniemox.config.checks import JsonConfig, Natural, Range, ReadsImages, Settings, SomeWorkers, check
from uniemox.config.training import View

Kind = Literal["unreadable", "tiny", "blank", "placeholder", "leak", "conflict", "repeat", "overlap", "box"]
CheckedLabels = Literal["single_label", "multi_label"]
MEANINGS: Final[dict[Kind, str]] = {
    "unreadable": "the file cannot be read as an image",
    "tiny": "a side is shorter than allowed",
    "blank": "one colour",
    "placeholder": "the same pixels under many names",
    "leak": "another copy is in a more held-out split",
    "conflict": "another copy has another label, of the same classes",
    "repeat": "another copy comes first in the same split of the same manifest",
    "overlap": "another copy comes first in another split or manifest that is as held out",
    "box": "a person's box is invalid",
}
KINDS: Final = tuple(MEANINGS)
REMOVED: Final[tuple[Kind, ...]] = ("unreadable", "tiny", "blank", "placeholder", "leak", "conflict")
"""What a cleaned manifest lacks by default. Conflicts are removed from train alone."""
LIKE: Final = 0.85
"""Likeness from which two images show the same, by default."""

Likeness = Annotated[float, Range("between 0.5 and 1: different images reach less", lambda value: 0.5 <= value <= 1)]


@dataclass(frozen=True, kw_only=True)
class AuditRules(Settings):
    """What counts as a fault, and what is removed."""

    remove: Sequence[Kind] = REMOVED
    """Kinds of faults to remove from cleaned manifests."""
    like: Likeness = LIKE
    """Likeness, up to 1, from which two images show the same."""
    min_side: Natural = 32
    """Pixels of the shorter side below which an image is tiny."""
    placeholder_copies: Annotated[int, Range("at least 2", lambda value: value >= 2)] = 5
    """Number of files with the same pixels from which they are a placeholder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [kind for kind in self.remove if kind not in KINDS]
        check(not unknown, f"`remove` names {', '.join(unknown)}, but must name some of {', '.join(KINDS)}")


@dataclass(frozen=True, kw_only=True)
class AuditConfig(AuditRules, ReadsImages, JsonConfig):
    """An audit of manifests, and where its report goes."""

    manifests: Sequence[Path] = field(kw_only=False)
    """Parquet files made by `uniemox data prepare`, audited together."""
    out: Path
    """Folder for the report, its data and the cleaned manifests."""
    workers: SomeWorkers = os.cpu_count() or 1
    """Processes that read images."""
    resume: bool = False
    """Continue an audit that was stopped."""
    model: str | None = None
    """Also rank rows by how far their label is from what other rows suggest: five folds of a logistic regression on
    the features of this backbone, named as for `probe --backbone`. A ranking, not a verdict: it removes nothing."""
    target: CheckedLabels = "single_label"
    """Labels that the model ranks: one for each row (single_label), or any number of them (multi_label)."""
    view: View = "scene"
    """What the model sees: the whole image (scene), the crop of a person, or both, their features side by side."""
    device: str = "auto"
    """Where the model computes: auto, cpu, cuda or mps."""

    @property
    def rules(self) -> AuditRules:
        """The rules alone, as they are saved."""
        return AuditRules(**{each.name: getattr(self, each.name) for each in fields(AuditRules)})
