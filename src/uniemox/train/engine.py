"""One training loop for every kind of run, on Accelerate.

The engine owns wrapping, precision, accumulation, clipping, the moving average, saving and resuming. What a step
computes is a task's. Everything random in a step is seeded by (seed, step, process), so a resumed run ends
bit-identical to one that never stopped.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import Dataset

from uniemox.compute.devices import describe_dead_process
from uniemox.compute.signals import StopSignals
from uniemox.config.training import OptimConfig, RunConfig
from uniemox.data.batch import TrainingOrder, batches_of, describe_dead_worker, training_loader
from uniemox.data.transforms import seed_of
from uniemox.errors import CheckpointError, ConfigError, DataError, Interrupted, TrainingError
from uniemox.models.encoder import checkpoint_activations, explicit_attention
from uniemox.train.events import Message, Observer, Progress
from uniemox.train.journal import Journal
from uniemox.train.optim import build_optimizer, peak_rate, rate_at, set_rate
from uniemox.train.state import RunState, load_state, remove_newer, save_state

_ROWS_A_STEP = "rows a step"
_SEED_LIMIT = 2**32  # NumPy's generators take no larger seed
_MESSAGES_SKIPPED = 5  # unreadable images that are named; the rest is counted
_NEXT = (
    "the last saved state is whole: start a new run with a lower `optim.base_lr`, with `optim.clip_norm` or with "
    "`precision` fp32"
)


class Task(Protocol):
    """A kind of learning: what a step computes."""

    def step(self, module: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Compute of a batch `loss`, a scalar to minimise, and terms worth a curve, detached.

        `module` may be wrapped, so it is only called. A batch has `to(device)`, and `skipped`: unreadable images.
        """


@dataclass(frozen=True)
class Kept:
    """What the ends of epochs leave for the end of the run, as part of its state."""

    notes: Mapping[str, Any] = field(default_factory=dict)  # Plain JSON, such as the best epoch
    weights: Mapping[str, Tensor] | None = None  # Those of the best epoch so far


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a run is made of."""

    task: Task
    module: nn.Module
    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any]
    num_rows: int
    optim: OptimConfig
    run: RunConfig
    observer: Observer
    identity: Mapping[str, Any] = field(default_factory=dict)  # What a resumed run must share with its start
    origin: Mapping[str, Any] = field(default_factory=dict)  # What the run starts from; a resumed one keeps its own
    trained_share: float = 1.0
    """Share of the trained weights in those to keep; the rest are the weights that the run starts from."""
    signals: StopSignals = field(default_factory=StopSignals)
    after_epoch: Callable[[Engine], Kept] | None = None  # Returns what is kept; calls `heed_signals` between batches
    is_enough: Callable[[Engine], bool] = lambda _: False  # Whether the run ends before its last step


class _Heeded(Interrupted):
    """All processes agreed to stop between two batches of an evaluation; a second Ctrl-C is of one alone."""


class Engine:
    """Runs a plan."""

    def __init__(self, plan: Plan, accelerator: Accelerator) -> None:
        self.plan, self.accelerator = plan, accelerator
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
        self.kept = Kept()
        self.origin = dict(plan.origin)
        self.identity = {"rows": plan.num_rows, _ROWS_A_STEP: self.order.rows_a_step, **plan.identity}
        self.states = plan.run.out / "state"
        self.journal = Journal(plan.run.out)
        self.bare = plan.module.to(accelerator.device)
        self.ema = ModelEmaV3(self.bare, decay=plan.optim.ema_decay, use_warmup=True) if plan.optim.ema_decay else None
        if plan.run.activation_checkpointing:
            checkpoint_activations(self.bare)
        self.module, self.optimizer = accelerator.prepare(self._compiled(), build_optimizer(self.bare, plan.optim))
        self.start = None if plan.trained_share == 1 else _copy_of(self.bare.state_dict())
        self.peak = peak_rate(plan.optim, self.order.rows_a_step)
        if plan.optim.min_lr > self.peak:
            rate = f"the rate after warm-up, {self.peak:.3g} for {self.order.rows_a_step} images a step"
            raise ConfigError(f"optim.min_lr {plan.optim.min_lr} is more than {rate}: lower it")
        self.trainable = [p for p in self.bare.parameters() if p.requires_grad]
        self._scored = True
        self._saved = time.monotonic()
        self._skipped: set[str] = set()
        self._sums: dict[str, Tensor] = {}  # since the last line of the journal

    @property
    def epoch(self) -> int:
        """Number of the present epoch, from 1."""
        return -(-self.step // self.order.steps_an_epoch)

    @property
    def epochs_done(self) -> int:
        """Number of whole epochs."""
        return self.step // self.order.steps_an_epoch

    @property
    def weights_module(self) -> nn.Module:
        """The module with the weights to keep: the moving average, where one is kept, interpolated with the start.

        Interpolated weights are a new copy at each call.
        """
        trained = self.bare if self.ema is None else self.ema.module
        if self.start is None:
            return trained
        share, state = self.plan.trained_share, trained.state_dict()
        blended = {name: torch.lerp(start.to(state[name]), state[name], share) for name, start in self.start.items()}
        module = copy.deepcopy(trained)
        module.load_state_dict(blended)
        return module

    def run(self) -> None:
        """Train from the present step to the last; where that is interrupted or fails, a whole state remains.

        Raises:
            CheckpointError: The state cannot be written.
            Interrupted: A signal arrived; the state is saved.
            DataError: An image cannot be transformed, or too many in sequence cannot be read.
            TrainingError: The loss or a weight is not finite, or a process of the loader died.
        """
        optim = self.plan.optim
        if optim.warmup == 1 and self.step < self.total_steps:
            setting = "warmup_share" if optim.warmup_epochs is None else "warmup_epochs"
            given = f"optim.{setting} {getattr(optim, setting):g}, optim.epochs {optim.epochs}"
            self._report(f"the learning rate only rises, since warm-up takes the whole run ({given}): lower it")
        loader = training_loader(
            self.plan.dataset,
            self.plan.collate,
            self.order,
            steps=range(self.step, self.total_steps),
            num_workers=self.plan.run.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        self._restart_line()
        with _explained_deaths(), self.plan.signals.deferred():
            if not self._scored:
                self._end_epoch()
                self.save()
            batches = batches_of(loader)
            while self.step < self.total_steps and not self._is_enough():
                # Only steps: what scores the model between them attends as every other command does.
                with explicit_attention(self.bare) if self._attends_explicitly else nullcontext():
                    rate = self._one_step(batches)
                if self.step % self.plan.run.log_every == 0 or self.step == self.total_steps:
                    self._log(rate)
                self._after_step()
        if self._skipped:
            self._report(f"{len(self._skipped)} unusable images or boxes were skipped")

    @property
    def _is_on_cpu(self) -> bool:
        return bool(self.accelerator.device.type == "cpu")

    @property
    def _attends_explicitly(self) -> bool:
        return self._is_on_cpu and self.plan.run.precision == "bf16"

    def _compiled(self) -> nn.Module:
        """Return the module as steps run it; its weights are those of the bare one."""
        if not self.plan.run.compile:
            return self.bare
        if self._is_on_cpu:
            self._report("compile is for GPUs: on the CPU the model stays as it is")
            return self.bare
        return cast("nn.Module", torch.compile(self.bare))

    def _is_enough(self) -> bool:
        """Whether a run ends before its last step; said once, at the end of the epoch where it is found."""
        if not self.plan.is_enough(self):
            return False
        self._report(f"stopped after epoch {self.epochs_done} of {self.plan.optim.epochs}: val has not improved since")
        return True

    def _one_step(self, batches: Iterator[Any]) -> float:
        """Do one step of the optimiser; return its learning rate."""
        optim = self.plan.optim
        set_seed(seed_of(self.plan.run.seed, self.step, self.accelerator.process_index) % _SEED_LIMIT)
        self.module.train()
        rate = rate_at((self.step + 1) / self.total_steps, optim, peak=self.peak)
        set_rate(self.optimizer, rate)
        for part in range(1, optim.accumulate + 1):
            batch = self._next(batches)
            with nullcontext() if part == optim.accumulate else self.accelerator.no_sync(self.module):
                terms = self.plan.task.step(self.module, batch.to(self.accelerator.device))
                if not torch.isfinite(terms["loss"]):
                    told = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
                    raise TrainingError(f"step {self.step + 1} is not finite ({told}), and {_NEXT}")
                self.accelerator.backward(terms["loss"])  # divides by the number of parts
            self._add(terms, 1 / optim.accumulate)
        if optim.clip_norm is not None:
            self._add({"gradient_norm": self.accelerator.clip_grad_norm_(self.trainable, optim.clip_norm)}, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.bare, self.step)
        return rate

    def _next(self, batches: Iterator[Any]) -> Any:
        """Take the next batch; where the loader fails, save what was learned, so that nothing is lost."""
        asked = time.perf_counter()
        try:
            batch = next(batches)
        except (DataError, RuntimeError):
            if self.step > 0 and self.accelerator.num_processes == 1:
                self.save()
            raise
        self._waited += time.perf_counter() - asked
        for skipped in batch.skipped:
            if skipped.path not in self._skipped:
                self._skipped.add(skipped.path)
                if len(self._skipped) <= _MESSAGES_SKIPPED:
                    self._report(f"skipped {skipped.path}: {skipped.reason}")
        return batch

    def _add(self, terms: Mapping[str, Tensor], share: float) -> None:
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().float() * share

    def _restart_line(self) -> None:
        self._sums, self._logged, self._since, self._waited = {}, self.step, time.perf_counter(), 0.0

    def _log(self, rate: float) -> None:
        """Write the means since the last line of the journal."""
        steps = self.step - self._logged
        means = self.accelerator.reduce({name: value / steps for name, value in self._sums.items()}, "mean")
        scalars = {name: float(value) for name, value in means.items()}
        seconds = time.perf_counter() - self._since
        speed = steps * self.order.rows_a_step / seconds
        if self.accelerator.is_main_process:
            epoch = self.step / self.order.steps_an_epoch
            line = {"epoch": epoch, **scalars, "lr": rate, "images_per_second": speed}
            line["data_wait"] = self._waited / seconds  # share of the time in which steps waited for their batches
            self.journal.write("train", self.step, line)
            progress = Progress(
                step=self.step,
                total_steps=self.total_steps,
                epoch=self.epoch,
                epochs=-(-self.total_steps // self.order.steps_an_epoch),
                scalars=scalars,
                images_per_second=speed,
                seconds_left=(self.total_steps - self.step) * seconds / steps,
            )
            self.plan.observer(progress)
        self._restart_line()

    def _after_step(self) -> None:
        """Do what the end of an epoch, the rhythm of saving or a signal asks for."""
        every, minutes = self.plan.run.save_every, self.plan.run.save_minutes
        stop, is_late = self._agree(minutes is not None and time.monotonic() - self._saved >= 60 * minutes)
        epoch_done = self.step % self.order.steps_an_epoch == 0 or self.step == self.total_steps
        if epoch_done:
            self._scored = self.plan.after_epoch is None
            if not stop:
                self._end_epoch()
        if stop or epoch_done or is_late or (every is not None and self.step % every == 0):
            self.save()
        if stop:
            self._stop(stop)

    def _end_epoch(self) -> None:
        """Do what follows an epoch; where a signal comes in between, save what is needed to do it again."""
        try:
            if self.plan.after_epoch is not None:
                self.kept = self.plan.after_epoch(self)
        except _Heeded as stop:
            self.save()
            self._stop(stop.signum)
        self._scored = True

    def heed_signals(self) -> None:
        """Stop what takes long and can be done again, if any process was asked to; all processes call this."""
        stop, _ = self._agree(False)
        if stop:
            raise _Heeded(stop)

    def _agree(self, is_late: bool) -> tuple[int, bool]:
        """Agree on the signal that any process received (0: none), and on whether the first finds it time to save."""
        received = self.plan.signals.received or 0
        if self.accelerator.num_processes == 1:
            return received, is_late
        mine = torch.tensor([[received, int(is_late)]], device=self.accelerator.device)
        everyone = self.accelerator.gather(mine)
        return int(everyone[:, 0].max()), bool(everyone[0, 1])

    def _stop(self, signum: int) -> NoReturn:
        self._report(f"stopped after step {self.step}; continue with --resume")
        raise Interrupted(signum)

    def _report(self, text: str) -> None:
        self.plan.observer(Message(text))

    def save(self) -> None:
        """Write the state of the run, unless its weights are not finite; all processes call this, one writes."""
        if not all(parameter.isfinite().all() for parameter in self.trainable):
            raise TrainingError(f"the weights after step {self.step} are not finite and not saved, and {_NEXT}")
        if self.accelerator.is_main_process:
            weights = {"module": self.bare.state_dict()}
            weights |= {} if self.ema is None else {"ema": self.ema.module.state_dict()}
            weights |= {} if self.kept.weights is None else {"best": dict(self.kept.weights)}
            weights |= {} if self.start is None else {"start": self.start}
            state = RunState(
                step=self.step,
                total_steps=self.total_steps,
                weights=weights,
                optimizer=self.optimizer.state_dict(),
                notes=self.kept.notes,
                identity=self.identity,
                origin=self.origin,
                scored=self._scored,
                layout=self.order.layout,
            )
            save_state(self.states, state)
        self._saved = time.monotonic()
        self.accelerator.wait_for_everyone()

    def resume(self, path: Path) -> None:
        """Go back to a saved state of the run folder; a run that has grown stretches its schedule.

        Raises:
            CheckpointError: It is of another model or of other data.
            ConfigError: The run was longer.
        """
        state, out = load_state(path), self.plan.run.out
        self._refuse_another(state)
        try:
            self.bare.load_state_dict(state.weights["module"])
            if self.ema is not None:
                self.ema.module.load_state_dict(state.weights["ema"])
            self.start = None if self.start is None else _copy_of(state.weights["start"])
            self.optimizer.load_state_dict(dict(state.optimizer))
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"the state {path} does not fit this run's model: {error}") from error
        self.kept, self.origin = Kept(state.notes, state.weights.get("best")), dict(state.origin)
        self.step, self._scored = state.step, state.scored
        before, now = state.total_steps, self.total_steps
        if now < before:
            settings = f"optim.epochs {self.plan.optim.epochs} and max_steps {self.plan.run.max_steps}"
            raise ConfigError(
                f"the run in {out} has {before} steps, which may grow and not shrink, but {settings} make {now}"
            )
        if self.step == now == self.plan.run.max_steps:
            self._report(
                f"the run has reached its max_steps, {now}: raise that, and the epochs if need be, to extend it"
            )
        if now > before:
            was = rate_at(self.step / before, self.plan.optim, peak=self.peak)
            becomes = rate_at((self.step + 1) / now, self.plan.optim, peak=self.peak)
            self._report(
                f"the run grows from {before} to {now} steps, and its schedule with it: the learning rate was "
                f"{was:.3g} at step {self.step} and is {becomes:.3g} at the next"
            )
        if self.accelerator.is_main_process:
            self.journal.forget_after(self.step)
            remove_newer(self.states, path)

    def _refuse_another(self, state: RunState) -> None:
        """Refuse the state of a run of other data or teacher, and report another layout of the same rows a step."""
        for name in {**self.identity, **state.identity}:
            before, value = state.identity.get(name), self.identity.get(name)
            if before != value:
                step = "resume it with the same data and teacher, or start a new run"
                if name == _ROWS_A_STEP:
                    step = f"{self.order.layout} must be {before} again"
                started = f"the run in {self.plan.run.out} started with other {name}"
                raise CheckpointError(f"{started} ({before}, now {value}): {step}")
        if state.layout not in ("", self.order.layout):
            self._report(
                f"a step was {state.layout} and is {self.order.layout}: its rows are the same, but not what is drawn "
                "for a batch (mixed images, skipped blocks), nor its sums beyond rounding"
            )


def _copy_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


@contextmanager
def _explained_deaths() -> Iterator[None]:
    """Turn torch's report of a dead process, which may arrive at any point of a step, into an error."""
    try:
        yield
    except RuntimeError as error:
        died = describe_dead_worker(error) or describe_dead_process(error)
        if died is None:
            raise
        raise TrainingError(f"{died}. Continue with `resume`") from error
