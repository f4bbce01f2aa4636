"""Batches, the order in which training sees its rows, and the loaders.

Letters of shapes: `B` batch, `S` side of an image in pixels, `N` patches of an image.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import parent_process, queues
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from uniemox.data.dataset import LabelledSample, Place, PretrainSample, Skipped
from uniemox.data.transforms import seed_of
from uniemox.errors import DataError, UniEmoXError
from uniemox.files.images import admit, admitted_pixels
from uniemox.manifests.table import Box
from uniemox.wording import one_line, reason_of

S = TypeVar("S")
B = TypeVar("B")


class PretrainBatch(NamedTuple):
    """Scenes and persons of a batch."""

    scene: Tensor  # (B, 3, S, S) uint8
    person: Tensor  # (B, 3, S, S) uint8
    scene_noise: Tensor  # (B, N)
    person_noise: Tensor  # (B, N)
    text: Tensor  # (B,) int64, index of each image's description
    skipped: tuple[Skipped, ...]
    features: Tensor | None = None  # (B, E) float16, the teacher's of the scenes, where they are stored

    def to(self, device: torch.device) -> PretrainBatch:
        """Copy the tensors to a device."""
        return PretrainBatch(*_moved(self, device))


class LabelledBatch(NamedTuple):
    """Images of a batch with their labels."""

    pixels: Tensor  # (B, 3, S, S) float, normalised
    labels: Tensor  # (B, …), as the target reads them
    rows: Tensor  # (B,) int64, place in the manifest
    readable: Tensor  # (B,) bool, false where the image could not be read
    skipped: tuple[Skipped, ...]
    person: Tensor | None = None  # (B, 3, S, S) float, normalised: the second view, where there are two
    boxes: tuple[Box | None, ...] = ()  # (B,), the person that evaluation cut out of each

    @property
    def views(self) -> tuple[Tensor, ...]:
        """What a classifier is called with: the only view, or scene and person."""
        return (self.pixels,) if self.person is None else (self.pixels, self.person)

    def to(self, device: torch.device) -> LabelledBatch:
        """Copy the tensors to a device."""
        return LabelledBatch(*_moved(self, device))


def _moved(values: Iterable[Any], device: torch.device) -> list[Any]:
    return [value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for value in values]


def collate_pretrain(samples: Sequence[PretrainSample]) -> PretrainBatch:
    """Stack samples of pretraining, which have stored features all or none."""
    features = [sample.feature for sample in samples if sample.feature is not None]
    return PretrainBatch(
        scene=torch.stack([sample.scene for sample in samples]),
        person=torch.stack([sample.person for sample in samples]),
        scene_noise=torch.stack([sample.scene_noise for sample in samples]),
        person_noise=torch.stack([sample.person_noise for sample in samples]),
        text=torch.tensor([sample.text for sample in samples]),
        skipped=tuple(skipped for sample in samples for skipped in sample.skipped),
        features=torch.stack(features) if features else None,
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
        boxes=tuple(sample.box for sample in samples),
    )


def _even(size: int) -> int:
    return size if size <= 1 else size - size % 2


@dataclass(frozen=True, kw_only=True)
class TrainingOrder:
    """The order in which training sees its rows: a pure function of the seed, so training can resume at any step.

    Every epoch is a permutation of its own. Rows that do not fill the last step of an epoch are skipped in it.
    """

    num_rows: int
    batch_size: int  # Rows in one forward pass of one process
    accumulate: int  # Forward passes in one step
    seed: int
    num_processes: int = 1
    process: int = 0

    def __post_init__(self) -> None:
        if self.num_rows < self.rows_a_step:
            raise DataError(
                f"{self.num_rows} rows do not fill one step of {self.rows_a_step}, that is {self.layout}: "
                + self._advice
            )

    @property
    def _advice(self) -> str:
        """Say what to lower so that the rows fill a step; batches stay even, as mixup wants them."""
        own = self.num_rows // self.num_processes
        accumulate, size = own // self.batch_size, _even(own // self.accumulate)
        fewer = [f"`optim.accumulate` to {accumulate}"] if accumulate else []
        fewer += [f"`optim.batch_size` to {size}"] if size else []
        if fewer:
            return f"lower {' or '.join(fewer)}"
        both = f"lower `optim.accumulate` to 1 and `optim.batch_size` to {_even(own)}"
        return both if own else "take more rows, or fewer processes"

    @property
    def rows_a_step(self) -> int:
        """Rows that all processes together see in one step of the optimiser."""
        return self.batch_size * self.accumulate * self.num_processes

    @property
    def layout(self) -> str:
        """How the rows of a step are shared out, in words."""
        own = f"`optim.batch_size` {self.batch_size} × `optim.accumulate` {self.accumulate}"
        return f"{own} × {self.num_processes} (processes)"

    @property
    def steps_an_epoch(self) -> int:
        """Steps of the optimiser in one epoch."""
        return self.num_rows // self.rows_a_step

    def batches(self, first_step: int, last_step: int) -> Iterator[list[Place]]:
        """Yield this process's batches from one step (included) to another (excluded), `accumulate` a step."""
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
    """A batch sampler of a DataLoader."""

    def __init__(self, order: TrainingOrder, first_step: int, last_step: int) -> None:
        self.order, self.first_step, self.last_step = order, first_step, last_step

    def __iter__(self) -> Iterator[list[Place]]:
        return self.order.batches(self.first_step, self.last_step)

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.order.accumulate


class WorkerError(Exception):
    """The cause of an error that arose in a worker; its text is the traceback there."""


@dataclass(frozen=True)
class _Failure:
    """An error of ours, sent instead of a sample or a batch."""

    error: UniEmoXError
    traceback: str | None  # Of a worker; an error that is sent between processes keeps neither traceback nor cause


class _Delivering(Dataset[Any]):
    """A data set that returns an error of ours as it is; torch would merge that of a worker with its traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, place: Any) -> Any:
        try:
            return self.dataset[place]
        except UniEmoXError as error:
            in_worker = get_worker_info() is not None
            return _Failure(error, "".join(traceback.format_exception(error)) if in_worker else None)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # ours all have a length


def _collate(collate: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    """Stack samples, or pass on the first failure."""
    failures = (sample for sample in samples if isinstance(sample, _Failure))
    return next(failures, None) or collate(samples)


def batches_of(loader: Iterable[Any]) -> Iterator[Any]:
    """Iterate a loader; every loop over batches goes through here, so that errors of workers are handled in one place.

    Raises:
        UniEmoXError: The first error of ours met in reading or transforming a sample, instead of its batch; it is the
            same whether a worker or this process met it, but from a worker its cause is a `WorkerError`.
    """
    # At once, not with the first batch: a loader draws from torch's generator when its iteration starts.
    return _delivered(iter(loader), has_workers=getattr(loader, "num_workers", 0) > 0)


def _delivered(batches: Iterator[Any], *, has_workers: bool) -> Iterator[Any]:
    broken = (ConnectionError, EOFError) if has_workers else ()  # raised if a worker is killed while it sends a batch
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except broken as error:
            time.sleep(_REPORTED)  # torch's own report, which a signal brings, must not come after ours
            raise RuntimeError(f"{_DEAD_WORKER} unknown) broke its connection: {reason_of(error)}") from error
        if isinstance(batch, _Failure):
            del batches  # so that the workers end now: the error's traceback keeps this frame alive
            if batch.traceback is not None:
                batch.error.__cause__ = WorkerError(batch.traceback)
            raise batch.error
        yield batch


def training_loader(
    dataset: Dataset[S],
    collate: Callable[[list[S]], B],
    order: TrainingOrder,
    *,
    steps: range,
    num_workers: int,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Load the batches of a range of steps, across the ends of epochs."""
    sampler = _Batches(order, steps.start, steps.stop)
    return _loader(dataset, collate, batch_sampler=sampler, num_workers=num_workers, pin_memory=pin_memory)


def evaluation_loader(dataset: Dataset[LabelledSample], *, batch_size: int, num_workers: int) -> DataLoader[Any]:
    """Load every labelled row once, in order."""
    return ordered_loader(dataset, collate_labelled, batch_size=batch_size, num_workers=num_workers)


def ordered_loader(
    dataset: Dataset[S], collate: Callable[[list[S]], B], *, batch_size: int, num_workers: int
) -> DataLoader[Any]:
    """Load every row once, in order."""
    return _loader(dataset, collate, batch_size=batch_size, num_workers=num_workers)


def _loader(dataset: Dataset[S], collate: Callable[[list[S]], B], **settings: Any) -> DataLoader[Any]:
    return DataLoader(
        _Delivering(dataset),
        collate_fn=partial(_collate, collate),
        worker_init_fn=partial(_start_worker, max_pixels=admitted_pixels()),
        **settings,
    )


@contextmanager
def dead_workers_named() -> Iterator[None]:
    """Turn torch's report of a loader's process that died into a `DataError` of one line."""
    try:
        yield
    except RuntimeError as error:
        died = describe_dead_worker(error)
        if died is None:
            raise
        raise DataError(f"{died}. Run the command again") from error


def describe_dead_worker(error: RuntimeError) -> str | None:
    """Describe what became of a loader's process, if torch raised the error because it died."""
    reason = one_line(str(error))
    if not reason.startswith(_DEAD_WORKER):
        return None
    died = f"a process that decodes images died: {reason.partition('. ')[0].rstrip('.')}"
    if not _SHARED_MEMORY.is_dir():
        return died
    total, _, free = (size >> 20 for size in shutil.disk_usage(_SHARED_MEMORY))
    return (
        f"{died}. If {_SHARED_MEMORY} is full ({free} of {total} MB are free), "
        "enlarge it (docker run --shm-size=2g), lower the batch size, or use `workers` 0"
    )


_REPORTED = 1.0  # Seconds within which the system reports a process that died
_DEAD_WORKER = "DataLoader worker (pid"  # How torch's own report starts
_SHARED_MEMORY = Path("/dev/shm")  # Workers send their batches through it


def _start_worker(worker: int, *, max_pixels: int) -> None:
    """Leave signals to the training process, which needs its workers to finish the step; exit if a batch is lost.

    A terminal sends Ctrl-C to workers too, and a batch system its signals. SIGTERM of the training process itself stops
    a worker that hangs.
    """
    del worker
    admit(max_pixels)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_heed_parent, daemon=True).start()
    sys.excepthook = _pass_over_lost_peers
    # The queue's thread would print a traceback and drop the batch, for which the training process waits for ever.
    queues.Queue._on_queue_feeder_error = staticmethod(_die)  # type: ignore[attr-defined]


def _pass_over_lost_peers(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print what nobody caught, except connections that broke because the training process ended."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _heed_parent() -> None:
    """Exit on a SIGTERM of the training process, and ignore all others."""
    parent = parent_process()  # not the system's, which under forkserver is another
    while parent is not None and signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)


def _die(error: BaseException, batch: Any) -> None:
    """Exit, since a batch cannot be sent, mostly for lack of shared memory."""
    del error, batch
    os._exit(1)
