"""The numbers of a run, a line each in `metrics.jsonl`, and the same for TensorBoard.

What cannot be written raises `TrainingError`, and leaves what was there before.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from uniemox.errors import TrainingError
from uniemox.files.journal import read_journal
from uniemox.files.whole import write_whole
from uniemox.files.writing import explained

_NEXT = "continue with `resume`"


class Journal:
    """Writes `metrics.jsonl` and `tensorboard/` of a run folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"
        self._writer: SummaryWriter | None = None
        self._purge: int | None = None

    def write(self, kind: str, step: int, numbers: Mapping[str, float | str]) -> None:
        """Add a line of kind train, val or test after a step; a value of text is for the file alone."""
        with explained(self.path, TrainingError, elsewhere="", then=_NEXT):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, "step": step, **numbers}) + "\n")
                file.flush()
                os.fsync(file.fileno())
            if self._writer is None:
                self._writer = SummaryWriter(str(self.path.with_name("tensorboard")), purge_step=self._purge)
                self._purge = None  # a second writer of this run continues
            for name, value in numbers.items():
                if not isinstance(value, str):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def forget_after(self, step: int) -> None:
        """Drop the lines of what a resumed run will do again: later steps, and the test at the end."""
        if not self.path.exists():
            return
        self._purge = step + 1  # TensorBoard hides what was written from that step on
        kept = [line for line in read_journal(self.path) if line["step"] <= step and line["kind"] != "test"]
        with write_whole(self.path, TrainingError, elsewhere="", then=_NEXT) as beside:
            beside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def close(self) -> None:
        """Put what TensorBoard holds back on the disk."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
