"""The numbers of a run, a line each in `metrics.jsonl`, and the same for TensorBoard."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from torch.utils.tensorboard import SummaryWriter

from uniemox.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Journal:
    """Writes `metrics.jsonl` and `tensorboard/` of a run folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"
        self._folder = folder / "tensorboard"
        self._writer: SummaryWriter | None = None
        self._purge: int | None = None

    def write(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """Add a line.

        Args:
            kind: train, val or test.
            step: Steps of the optimiser that are done.
            numbers: Name and value of what was measured.

        Raises:
            TrainingError: The line cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, "step": step, **numbers}) + "\n")
            if self._writer is None:
                self._writer = SummaryWriter(str(self._folder), purge_step=self._purge)
            for name, value in numbers.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)
        except OSError as error:
            raise self._failure(error) from error

    def forget_after(self, step: int) -> None:
        """Drop the lines of what a resumed run will do again: later steps, and the test at the end.

        Raises:
            TrainingError: The shortened file cannot be written; the old one is then untouched.
        """
        self._purge = step + 1  # TensorBoard hides what was written from that step on
        lines = read_journal(self.path)
        kept = [line for line in lines if line["step"] <= step and line["kind"] != "test"]
        beside = self.path.with_name(f".{self.path.name}.writing")
        try:
            beside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            beside.replace(self.path)
        except OSError as error:
            raise self._failure(error) from error
        finally:
            beside.unlink(missing_ok=True)

    def _failure(self, error: OSError) -> TrainingError:
        return TrainingError(
            f"{self.path} cannot be written ({error}): free space, then go on with --resume"
        )

    def close(self) -> None:
        """Put what TensorBoard holds back on the disk."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a `metrics.jsonl`; a last line that a killed run left unfinished is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    whole: list[dict[str, Any]] = []
    for line in lines:
        try:
            whole.append(json.loads(line))
        except ValueError:
            break
    return whole
