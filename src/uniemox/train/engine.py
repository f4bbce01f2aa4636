"""One training loop for every kind of run, on Accelerate.

The engine owns wrapping, precision, accumulation, clipping, the moving average, saving and resuming. What a step
computes is a task's. Everything random in a step is seeded by (seed, step, process), so a run that is resumed goes on
bit by bit as if it had never stopped.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from accelerate.utils import set_seed
from timm.utils import ModelEmaV3
from torch.nn.attention import SDPBackend, sdpa_kernel

from uniemox.checkpoints.resume import RunState, load_state, save_state
from uniemox.data.batch import TrainingOrder, training_loader
from uniemox.data.transforms import seed_of
from uniemox.errors import CheckpointError, ConfigError, DataError, TrainingError
from uniemox.train.events import Message, Progress
from uniemox.train.optim import build_optimizer, peak_rate, rate_at, set_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from accelerate import Accelerator
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from uniemox.config import OptimConfig, RunConfig
    from uniemox.train.events import Observer
    from uniemox.train.journal import Journal

_SEED_LIMIT = 2**32  # NumPy's generators take no larger seed
_MESSAGES_SKIPPED = 5  # unreadable pictures that are named; the rest is counted
_NEXT = (
    "the last saved state is whole: start a new run with a lower optim.base_lr, with optim.clip_norm or with "
    "--precision fp32"
)


@dataclass(frozen=True)
class Step:
    """What a task makes of one batch."""

    loss: Tensor
    """A scalar to go down."""
    scalars: Mapping[str, Tensor]
    """Terms worth a curve, detached."""


class Batch(Protocol):
    """What the engine asks of a batch."""

    @property
    def skipped(self) -> Sequence[Any]:
        """Pictures that could not be read."""

    def to(self, device: torch.device) -> Any:
        """Copy the tensors to a device."""


BatchT = TypeVar("BatchT", bound=Batch, contravariant=True)


class Task(Protocol[BatchT]):
    """A kind of learning: what a step computes."""

    def step(self, module: nn.Module, batch: BatchT) -> Step:
        """Compute the loss of one batch; `module` may be wrapped, so it is only called."""


@dataclass(frozen=True, kw_only=True)
class Plan(Generic[BatchT]):
    """Everything that a run is made of."""

    task: Task[BatchT]
    module: nn.Module
    dataset: Dataset[Any]
    collate: Callable[[list[Any]], BatchT]
    num_rows: int
    optim: OptimConfig
    run: RunConfig
    state_folder: Path
    journal: Journal
    observer: Observer
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What a resumed run must share with the one that began, such as a digest of the data."""
    after_epoch: Callable[[Engine[BatchT], int], None] | None = None
    """Called with the number of epochs done; may change `engine.notes` and `engine.extra_weights`."""


@dataclass
class _Window:
    """Sums since the last line of the journal."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    since: float = field(default_factory=time.perf_counter)

    def add(self, scalars: Mapping[str, Tensor], share: float) -> None:
        for name, value in scalars.items():
            term = value.detach().float() * share
            self.sums[name] = self.sums[name] + term if name in self.sums else term


class Engine(Generic[BatchT]):
    """Runs a plan. After `run`, `weights_module` holds what the run has learned."""

    def __init__(self, plan: Plan[BatchT], accelerator: Accelerator) -> None:
        self.plan = plan
        self.accelerator = accelerator
        self.order = TrainingOrder(
            num_rows=plan.num_rows,
            batch_size=plan.optim.batch_size,
            accumulate=plan.optim.accumulate,
            seed=plan.run.seed,
            num_processes=accelerator.num_processes,
            process=accelerator.process_index,
        )
        steps = plan.optim.epochs * self.order.steps_an_epoch
        self.total_steps = min(steps, plan.run.max_steps or steps)
        self.step = 0
        self.notes: dict[str, Any] = {}
        self.extra_weights: dict[str, Mapping[str, Tensor]] = {}
        self.bare = plan.module.to(accelerator.device)
        optimizer = build_optimizer(self.bare, plan.optim)
        self.ema = (
            ModelEmaV3(self.bare, decay=plan.optim.ema_decay, use_warmup=True)
            if plan.optim.ema_decay
            else None
        )
        self.module, self.optimizer = accelerator.prepare(self.bare, optimizer)
        self.peak = peak_rate(plan.optim, self.order.rows_a_step)
        if plan.optim.min_lr > self.peak:
            raise ConfigError(
                f"optim.min_lr {plan.optim.min_lr} is more than the rate after warm-up, {self.peak:.3g} for "
                f"{self.order.rows_a_step} pictures a step: lower it"
            )
        self.trainable = [p for p in self.bare.parameters() if p.requires_grad]
        self._skipped: set[str] = set()

    @property
    def identity(self) -> dict[str, Any]:
        """What makes a step the same step: the rows, how many of them make a step, and what the plan names."""
        return {
            "rows": self.order.num_rows,
            "rows a step": self.order.rows_a_step,
            **self.plan.identity,
        }

    @property
    def weights_module(self) -> nn.Module:
        """The module with the weights to keep: the moving average where there is one."""
        return self.bare if self.ema is None else self.ema.module

    def run(self) -> None:
        """Train from the present step to the last.

        Raises:
            TrainingError: The loss or a weight is not finite.
            CheckpointError: A state cannot be saved; the last one is still whole.
            KeyboardInterrupt: The user stopped the run; its state is saved.
        """
        loader = training_loader(
            self.plan.dataset,
            self.plan.collate,
            self.order,
            steps=range(self.step, self.total_steps),
            num_workers=self.plan.run.num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        batches = iter(loader)
        window = _Window()
        with _interruptible() as interrupted, attention_for(self.accelerator.device):
            while self.step < self.total_steps:
                scalars = self._one_step(batches, window)
                self._log(window, scalars)
                self._after_step()
                if self._any(interrupted.is_set()):
                    self.save()
                    self.plan.observer(
                        Message(f"stopped after step {self.step}; go on with --resume")
                    )
                    raise KeyboardInterrupt
        if self._skipped:
            self.plan.observer(
                Message(f"{len(self._skipped)} unusable pictures or boxes were skipped")
            )

    def _one_step(self, batches: Iterator[BatchT], window: _Window) -> float:
        """Do one step of the optimiser; give its learning rate."""
        seed = seed_of(self.plan.run.seed, self.step, self.accelerator.process_index)
        set_seed(seed % _SEED_LIMIT)
        self.module.train()
        rate = rate_at((self.step + 1) / self.total_steps, self.plan.optim, peak=self.peak)
        set_rate(self.optimizer, rate)
        accumulate = self.plan.optim.accumulate
        for part in range(accumulate):
            batch = _next(batches)
            self._tell_skipped(batch)
            last = part == accumulate - 1
            with nullcontext() if last else self.accelerator.no_sync(self.module):
                done = self.plan.task.step(self.module, batch.to(self.accelerator.device))
                self._check_finite(done)
                self.accelerator.backward(done.loss)  # divides by the number of parts
            window.add({"loss": done.loss, **done.scalars}, 1 / accumulate)
        if self.plan.optim.clip_norm is not None:
            norm = self.accelerator.clip_grad_norm_(self.trainable, self.plan.optim.clip_norm)
            window.add({"gradient_norm": norm}, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        window.steps += 1
        if self.ema is not None:
            self.ema.update(self.bare, self.step)
        return rate

    def _check_finite(self, done: Step) -> None:
        if torch.isfinite(done.loss):
            return
        named = {"loss": done.loss, **done.scalars}
        terms = ", ".join(f"{name} {value.item():.4g}" for name, value in named.items())
        raise TrainingError(f"step {self.step + 1} is not finite ({terms}), and {_NEXT}")

    def _log(self, window: _Window, rate: float) -> None:
        run = self.plan.run
        if self.step % run.log_every and self.step != self.total_steps:
            return
        means = self.accelerator.reduce(
            {name: value / window.steps for name, value in window.sums.items()}, "mean"
        )
        scalars = {name: float(value) for name, value in means.items()}
        seconds = time.perf_counter() - window.since
        speed = window.steps * self.order.rows_a_step / seconds
        left = (self.total_steps - self.step) * seconds / window.steps
        epoch = self.step / self.order.steps_an_epoch
        if self.accelerator.is_main_process:
            self.plan.journal.write(
                "train",
                self.step,
                {"epoch": epoch, **scalars, "lr": rate, "images_per_second": speed},
            )
            self.plan.observer(
                Progress(
                    step=self.step,
                    total_steps=self.total_steps,
                    epoch=(self.step - 1) // self.order.steps_an_epoch + 1,
                    epochs=-(-self.total_steps // self.order.steps_an_epoch),
                    scalars=scalars,
                    images_per_second=speed,
                    seconds_left=left,
                )
            )
        window.sums.clear()
        window.steps, window.since = 0, time.perf_counter()

    def _after_step(self) -> None:
        """Do what the end of an epoch or the user's rhythm of saving asks for."""
        epoch, rest = divmod(self.step, self.order.steps_an_epoch)
        epoch_done = rest == 0 or self.step == self.total_steps
        if epoch_done and self.plan.after_epoch is not None:
            self.plan.after_epoch(self, epoch + (rest > 0))
        every = self.plan.run.save_every
        if epoch_done or (every is not None and self.step % every == 0):
            self.save()

    def save(self) -> None:
        """Write the state of the run; all processes call this, the first one writes.

        Raises:
            TrainingError: The weights are not finite, so that the last state is better than this one.
            CheckpointError: The state cannot be written.
        """
        if not all(parameter.isfinite().all() for parameter in self.trainable):
            raise TrainingError(
                f"the weights after step {self.step} are not finite, so they are not saved, and {_NEXT}"
            )
        if self.accelerator.is_main_process:
            weights: dict[str, Mapping[str, Tensor]] = {"module": self.bare.state_dict()}
            if self.ema is not None:
                weights["ema"] = self.ema.module.state_dict()
            state = RunState(
                step=self.step,
                weights=weights | self.extra_weights,
                optimizer=self.optimizer.state_dict(),
                notes=self.notes,
                identity=self.identity,
            )
            save_state(self.plan.state_folder, state)
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Go back to the newest state of the run folder.

        Raises:
            CheckpointError: There is none, it is damaged, or it is of another model.
        """
        state = load_state(self.plan.state_folder)
        for name, value in self.identity.items():
            if state.identity.get(name, value) != value:
                raise CheckpointError(
                    f"the run in {self.plan.state_folder.parent} began with other {name} ({state.identity[name]}, now "
                    f"{value}): resume it with the same data and number of processes, or start a new run"
                )
        try:
            self.bare.load_state_dict(state.weights["module"])
            if self.ema is not None:
                self.ema.module.load_state_dict(state.weights["ema"])
            self.optimizer.load_state_dict(dict(state.optimizer))
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the state in {self.plan.state_folder} does not fit this run's model: {error}"
            ) from error
        known = {"module", "ema"}
        self.extra_weights = {k: v for k, v in state.weights.items() if k not in known}
        self.notes = dict(state.notes)
        self.step = state.step
        if self.accelerator.is_main_process:
            self.plan.journal.forget_after(self.step)

    def _any(self, flag: bool) -> bool:
        """Whether the flag is up in any process, so that all of them stop at the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flags, "sum").item() > 0)

    def _tell_skipped(self, batch: BatchT) -> None:
        for skipped in batch.skipped:
            if skipped.path in self._skipped:
                continue
            self._skipped.add(skipped.path)
            if len(self._skipped) <= _MESSAGES_SKIPPED:
                self.plan.observer(Message(f"skipped {skipped.path}: {skipped.reason}"))


def _next(batches: Iterator[Any]) -> Any:
    """Take the next batch; an error of a worker process arrives wrapped in its traceback, and is unwrapped."""
    try:
        return next(batches)
    except DataError as error:
        raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error


def attention_for(device: torch.device) -> AbstractContextManager[None]:
    """Choose how attention is computed in training.

    torch's fused attention for the CPU is slow backwards: with 33 tokens of width 128 in bf16, a training step of 128
    pairs takes .60 s fused and .35 s plain; in fp32, and for ViT-B/16, both take the same.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag, so that a step is finished; the second one stops at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = signal.getsignal(signal.SIGINT)

    def note(signum: int, frame: Any) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
