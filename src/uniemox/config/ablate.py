"""Settings of `ablate`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from uniemox.config.checks import SHEETS, JsonConfig, Range, Workers, check, check_ending

_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")


def _is_shard(text: str) -> bool:
    parts = _SHARD.fullmatch(text)
    return parts is not None and 1 <= int(parts[1]) <= int(parts[2])


@dataclass(frozen=True, kw_only=True)
class AblateConfig(JsonConfig):
    """Runs of a grid: arms that differ in some settings, each with every seed."""

    grid: str = field(kw_only=False)
    """YAML file of steps, arms and seeds; or the name of a grid that is shipped: baselines, data, pretraining or
    terms."""
    out: Path
    """Folder of all runs, ARM/SEED/STEP in it. Finished steps in it are skipped, unfinished ones continued."""
    data: Path | None = None
    """Manifest for steps that name none."""
    start: str | None = None
    """A model for the first step that takes one to start from, to probe or to evaluate; null starts from random
    weights."""
    set: Sequence[str] = field(default=(), metadata={"metavar": "STEP.SETTING=VALUE"})
    """Settings of steps for all arms that do not set them themselves, such as pretrain.optim.epochs=20."""
    tests: Sequence[str] = field(default=(), metadata={"metavar": "NAME=MANIFEST"})
    """Further manifests whose split test each model is evaluated on, beside those of the grid."""
    seeds: Sequence[int] = field(default=(), metadata={"metavar": "SEED,…"})
    """Seeds in place of the grid's."""
    arms: Sequence[str] = ()
    """Arms to run and to show, first the one that the others are compared with; by default all."""
    device: str | None = None
    """auto, cpu, cuda or mps, for all steps; null takes the setting of each step."""
    workers: Workers | None = None
    """Processes that decode images, for all steps; null takes the setting of each step."""
    shard: Annotated[str, Range("like 2/4, the second of four shares", _is_shard)] | None = field(
        default=None, metadata={"metavar": "I/N"}
    )
    """Share of the runs to do, for the jobs of an array; `table` then compares all."""
    dry_run: bool = False
    """List the runs, with what is finished of each, and run nothing."""
    table: bool = False
    """Compare what is finished, and run nothing."""
    write: Sequence[Path] = ()
    """Files of the comparison, replaced if they exist: Markdown (.md), LaTeX for booktabs (.tex), .json, or a page with
    curves (.html); by default comparison.md and comparison.html in `out`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(not (self.dry_run and self.table), "`dry_run` lists the runs and `table` compares them: give one of them")
        for file in self.write:
            check_ending("write", file, SHEETS)

    @property
    def pages(self) -> Sequence[Path]:
        """Files of the comparison."""
        return self.write or [self.out / f"comparison{ending}" for ending in (".md", ".html")]

    def take(self, runs: Sequence[object]) -> list[int]:
        """Number the runs that are this process's share: every N-th, so that all shares get every arm."""
        first, step = (1, 1) if self.shard is None else map(int, self.shard.split("/"))
        return list(range(first - 1, len(runs), step))
