"""Batches, the order in which training sees its rows, and the loaders.

Letters of shapes: `B` batch, `S` side of a picture in pixels, `N` patches of a picture.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from uniemox.data.dataset import LabelledSample, Place, PretrainSample, Skipped
from uniemox.data.transforms import seed_of
from uniemox.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

S = TypeVar("S")
B = TypeVar("B")


class PretrainBatch(NamedTuple):
    """Scenes and persons of a batch."""

    scene: Tensor
    """(B, 3, S, S) uint8."""
    person: Tensor
    """(B, 3, S, S) uint8."""
    scene_noise: Tensor
    """(B, N)."""
    person_noise: Tensor
    """(B, N)."""
    text: Tensor
    """(B,) int64, index of each picture's description."""
    skipped: tuple[Skipped, ...]

    def to(self, device: torch.device) -> PretrainBatch:
        """Copy the tensors to a device."""
        moved = {name: _move(value, device) for name, value in self._asdict().items()}
        return PretrainBatch(**moved)


class LabelledBatch(NamedTuple):
    """Pictures of a batch with their labels."""

    pixels: Tensor
    """(B, 3, S, S) float, normalised."""
    labels: Tensor
    """(B,) int64; for several labels (B, C) bool."""
    rows: Tensor
    """(B,) int64, place in the manifest."""
    readable: Tensor
    """(B,) bool, false where the picture could not be read."""
    skipped: tuple[Skipped, ...]
    person: Tensor | None = None
    """(B, 3, S, S) float, normalised: the second view, where there are two."""

    @property
    def views(self) -> tuple[Tensor, ...]:
        """What a classifier is called with: the only view, or scene and person."""
        return (self.pixels,) if self.person is None else (self.pixels, self.person)

    def to(self, device: torch.device) -> LabelledBatch:
        """Copy the tensors to a device."""
        moved = {name: _move(value, device) for name, value in self._asdict().items()}
        return LabelledBatch(**moved)


def _move(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value


def collate_pretrain(samples: Sequence[PretrainSample]) -> PretrainBatch:
    """Stack samples of pretraining."""
    return PretrainBatch(
        scene=torch.stack([sample.scene for sample in samples]),
        person=torch.stack([sample.person for sample in samples]),
        scene_noise=torch.stack([sample.scene_noise for sample in samples]),
        person_noise=torch.stack([sample.person_noise for sample in samples]),
        text=torch.tensor([sample.text for sample in samples]),
        skipped=tuple(skipped for sample in samples for skipped in sample.skipped),
    )


def collate_labelled(samples: Sequence[LabelledSample]) -> LabelledBatch:
    """Stack labelled samples, which have a second view all or none."""
    persons = [sample.person for sample in samples if sample.person is not None]
    return LabelledBatch(
        pixels=torch.stack([sample.pixels for sample in samples]),
        labels=torch.stack([sample.label for sample in samples]),
        rows=torch.tensor([sample.row for sample in samples]),
        readable=torch.tensor([not sample.skipped for sample in samples]),
        skipped=tuple(skipped for sample in samples for skipped in sample.skipped),
        person=torch.stack(persons) if persons else None,
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOrder:
    """The order in which training sees its rows: a pure function of the seed, so any step can be gone back to.

    Every epoch is a permutation of its own. Rows that do not fill the last step of an epoch are left out of it.
    """

    num_rows: int
    batch_size: int
    """Rows in one forward pass of one process."""
    accumulate: int
    """Forward passes in one step."""
    seed: int
    num_processes: int = 1
    process: int = 0

    def __post_init__(self) -> None:
        if self.num_rows < self.rows_a_step:
            raise DataError(
                f"{self.num_rows} rows do not fill one step of {self.rows_a_step} (optim.batch_size "
                f"{self.batch_size} × optim.accumulate {self.accumulate} × {self.num_processes} processes): lower "
                "optim.batch_size"
            )

    @property
    def rows_a_step(self) -> int:
        """Rows that all processes together see in one step of the optimiser."""
        return self.batch_size * self.accumulate * self.num_processes

    @property
    def steps_an_epoch(self) -> int:
        """Steps of the optimiser in one epoch."""
        return self.num_rows // self.rows_a_step

    def batches(self, first_step: int, last_step: int) -> Iterator[list[Place]]:
        """Give this process's batches from one step (included) to another (excluded), `accumulate` a step."""
        epoch, rows = -1, torch.empty(0, dtype=torch.int64)
        for step in range(first_step, last_step):
            if step // self.steps_an_epoch != epoch:
                epoch = step // self.steps_an_epoch
                generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
                rows = torch.randperm(self.num_rows, generator=generator)
            start = (step % self.steps_an_epoch) * self.rows_a_step
            mine = rows[start : start + self.rows_a_step][self.process :: self.num_processes]
            places = [Place(epoch, row) for row in mine.tolist()]
            for first in range(0, len(places), self.batch_size):
                yield places[first : first + self.batch_size]


class _Batches:
    """What a DataLoader wants of a batch sampler."""

    def __init__(self, order: TrainingOrder, first_step: int, last_step: int) -> None:
        self.order, self.first_step, self.last_step = order, first_step, last_step

    def __iter__(self) -> Iterator[list[Place]]:
        return self.order.batches(self.first_step, self.last_step)

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.order.accumulate


def training_loader(
    dataset: Dataset[S],
    collate: Callable[[list[S]], B],
    order: TrainingOrder,
    *,
    steps: range,
    num_workers: int,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Load the batches of a range of steps, over the ends of epochs."""
    return DataLoader(
        dataset,
        batch_sampler=_Batches(order, steps.start, steps.stop),
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_leave_interrupts_to_parent,
    )


def evaluation_loader(
    dataset: Dataset[LabelledSample], *, batch_size: int, num_workers: int
) -> DataLoader[Any]:
    """Load every row once, in order."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        collate_fn=collate_labelled,
        num_workers=num_workers,
        worker_init_fn=_leave_interrupts_to_parent,
    )


def _leave_interrupts_to_parent(worker: int) -> None:
    """Ignore Ctrl-C, which a terminal sends to workers too: the training process still needs them to end its step."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
