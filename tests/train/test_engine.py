"""The engine on a toy: two linear layers with dropout, so that every test takes milliseconds."""

import functools
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from timm.models.vision_transformer import Attention
from torch import nn
from torch.utils.data import Dataset

from uniemox.compute.devices import build_accelerator
from uniemox.config.training import OptimConfig, RunConfig
from uniemox.data.dataset import Skipped
from uniemox.data.transforms import seed_of, seeded
from uniemox.errors import CheckpointError, ConfigError, Interrupted, TrainingError
from uniemox.train import engine as engine_module
from uniemox.train.engine import Engine, Kept, Plan
from uniemox.train.events import Progress
from uniemox.train.journal import read_journal
from uniemox.train.optim import rate_at
from uniemox.train.state import find_state, load_state

ROWS = 32


class ToyBatch(NamedTuple):
    x: torch.Tensor
    skipped: tuple = ()

    def to(self, device):
        return ToyBatch(self.x.to(device), self.skipped)


class ToyData(Dataset):
    """Six numbers for a place; some rows are not numbers, others stand in for unreadable images."""

    def __init__(self, *, bad=(), skipped=()):
        self.bad, self.skipped = bad, skipped

    def __getitem__(self, place):
        with seeded(seed_of(0, place.epoch, place.row)):
            x = torch.randn(6)
        if place in self.bad:
            x = x * float("nan")
        told = (Skipped(f"{place.row}.png", "empty file"),) if place.row in self.skipped else ()
        return x, told

    @staticmethod
    def collate(samples):
        told = tuple(skipped for _, skips in samples for skipped in skips)
        return ToyBatch(torch.stack([x for x, _ in samples]), told)


class Toy(nn.Module):
    def __init__(self, *, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(6, 5)
        self.encoder.grad_checkpointing = False
        self.dropout = nn.Dropout(dropout)
        self.fusion = nn.Linear(5, 1)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x):
        return self.fusion(self.dropout(torch.tanh(self.encoder(x))))


class ToyTask:
    """Two terms, neither of which couples the samples of a batch."""

    def __init__(self, on_step=lambda: None):
        self.on_step = on_step

    def step(self, module, batch):
        self.on_step()
        y = module(batch.x)
        error, size = (y - batch.x.sum(1, keepdim=True)).square().mean(), y.abs().mean()
        return {"loss": error + 0.1 * size, "error": error.detach(), "size": size.detach()}


@pytest.fixture
def make(tmp_path):
    """Make an engine; a call again is another process's view of the same run folder."""
    engines = []

    def build(*, data=None, task=None, dropout=0.0, observer=lambda _: None, after=None, share=1.0, **changes):
        steps = {"epochs": 3, "warmup_epochs": 1, "batch_size": 4, "base_lr": 1.0}
        optim_names = set(OptimConfig.__dataclass_fields__)
        optim = OptimConfig(**steps | {k: v for k, v in changes.items() if k in optim_names})
        given = {"workers": 0, "log_every": 1}
        given |= {name: value for name, value in changes.items() if name not in optim_names}
        run = RunConfig(data=tmp_path / "none.parquet", out=tmp_path, device="cpu", **given)
        plan = Plan(
            task=task or ToyTask(),
            module=Toy(dropout=dropout),
            dataset=data or ToyData(),
            collate=ToyData.collate,
            num_rows=ROWS,
            optim=optim,
            run=run,
            observer=observer,
            after_epoch=after,
            trained_share=share,
        )
        engines.append(Engine(plan, build_accelerator("cpu", accumulate=optim.accumulate)))
        return engines[-1]

    yield build
    for engine in engines:
        engine.journal.close()


def weights_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def is_equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def catch_gradients(engine):
    """Remember the gradients that the optimiser gets, by the name of the parameter."""
    steps, names = [], {id(p): name for name, p in engine.bare.named_parameters()}

    def note(optimizer, _args, _kwargs):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        steps.append({names[id(p)]: p.grad.clone() for p in parameters})

    engine.optimizer.optimizer.register_step_pre_hook(note)
    return steps


def counter(limit, action):
    """A function that acts at its limit-th call."""
    calls = []

    def count():
        calls.append(1)
        if len(calls) == limit:
            action()

    return count


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def go_back(engine):
    engine.resume(find_state(engine.states).path)


def saved_step(engine):
    return load_state(find_state(engine.states).path).step


def run_listening(engine):
    """Run as a run does, which hears signals."""
    with engine.plan.signals.listening():
        engine.run()


def test_training_goes_on_to_the_last_epoch_and_makes_the_loss_fall(make, heard):
    engine = make(observer=heard, epochs=9)
    engine.run()
    assert (engine.step, engine.total_steps) == (72, 72)
    assert sum(heard.losses[-5:]) < 0.3 * sum(heard.losses[:5])


def test_the_rate_of_each_step_is_that_of_the_schedule(make):
    engine = make()
    engine.run()
    lines = read_journal(engine.journal.path)
    optim, peak = engine.plan.optim, 1.0 * 4 / 256
    expected = [rate_at(step / 24, optim, peak=peak) for step in range(1, 25)]
    assert [line["lr"] for line in lines] == expected
    assert max(expected) == pytest.approx(peak)


def test_the_journal_has_the_share_of_time_that_steps_wait_for_their_batches(make):
    class Slow(ToyData):
        def __getitem__(self, place):
            time.sleep(0.05)
            return super().__getitem__(place)

    waits = {}
    for name, data, task in (("data", Slow(), ToyTask()), ("step", ToyData(), ToyTask(lambda: time.sleep(0.2)))):
        engine = make(data=data, task=task, max_steps=3)
        engine.run()
        waits[name] = [line["data_wait"] for line in read_journal(engine.journal.path)[-3:]]
    assert all(0.5 < share < 1 for share in waits["data"])
    assert all(0 < share < 0.5 for share in waits["step"])


def test_max_steps_ends_the_run_and_the_schedule(make):
    engine = make(max_steps=5, min_lr=1e-4)
    engine.run()
    assert engine.step == 5
    assert read_journal(engine.journal.path)[-1]["lr"] == pytest.approx(1e-4)
    assert saved_step(engine) == 5


@pytest.mark.parametrize("epochs", [4, 40])
def test_a_resumed_run_that_has_reached_max_steps_says_what_extends_it(make, heard, epochs):
    make(max_steps=5).run()
    resumed = make(max_steps=5, epochs=epochs, observer=heard)
    go_back(resumed)
    assert heard.texts == ["the run has reached its max_steps, 5: raise that, and the epochs if need be, to extend it"]


def test_max_steps_beyond_the_epochs_changes_nothing(make):
    assert make(max_steps=1000).total_steps == 24


def test_accumulated_gradients_are_those_of_the_whole_step(make):
    caught = []
    for settings in ({"batch_size": 8, "accumulate": 2}, {"batch_size": 16, "accumulate": 1}):
        engine = make(max_steps=2, **settings)
        caught.append(catch_gradients(engine))
        engine.run()
    for accumulated, whole in zip(*caught, strict=True):
        for name in whole:
            torch.testing.assert_close(accumulated[name], whole[name], atol=1e-6, rtol=1e-6)
    lines = read_journal(engine.journal.path)
    for term in ("loss", "error", "size"):
        assert lines[0][term] == pytest.approx(lines[2][term], rel=1e-5)


def test_accumulation_scales_every_term_of_the_loss(make):
    engine = make(batch_size=8, accumulate=2, max_steps=1)
    before, caught = Toy(), catch_gradients(engine)
    engine.run()
    places = next(engine.order.batches(0, 1)), list(engine.order.batches(0, 1))[1]
    parts = [ToyData.collate([ToyData()[place] for place in batch]) for batch in places]
    (sum(ToyTask().step(before, part)["loss"] for part in parts) / 2).backward()
    for name, parameter in before.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(caught[0][name], parameter.grad, atol=1e-6, rtol=1e-6)


def test_clipping_covers_all_trainable_parts(make):
    free, clipped = make(max_steps=1), make(max_steps=1, clip_norm=0.01)
    caught = []
    for engine in (free, clipped):
        caught.append(catch_gradients(engine))
        engine.run()
    (before,), (after,) = caught
    assert before.keys() == {
        "encoder.weight", "encoder.bias", "fusion.weight", "fusion.bias"
    }  # fmt: skip
    norm = torch.cat([gradient.flatten() for gradient in before.values()]).norm()
    assert norm > 0.01
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient * 0.01 / norm, rtol=1e-4, atol=1e-8)
    assert read_journal(clipped.journal.path)[-1]["gradient_norm"] == pytest.approx(norm.item())


def test_the_moving_average_follows_its_formula(make):
    seen = []
    engine = make(ema_decay=0.5, max_steps=4, observer=lambda _: seen.append(weights_of(engine.bare)))
    engine.run()
    average = {name: tensor.clone() for name, tensor in seen[0].items()}  # a copy at first
    for step, weights in enumerate(seen[1:], 2):
        # A decay that warms up, 1 - step^(-2/3), to its limit (timm's ModelEmaV3).
        decay = min(0.5, 1 - step ** (-2 / 3))
        for name, tensor in weights.items():
            average[name] = decay * average[name] + (1 - decay) * tensor
    for name, tensor in engine.weights_module.state_dict().items():
        torch.testing.assert_close(tensor, average[name], rtol=1e-5, atol=1e-6)
    assert not is_equal(weights_of(engine.weights_module), weights_of(engine.bare))


def test_the_moving_average_is_kept_in_the_state(make):
    engine = make(ema_decay=0.9)
    engine.run()
    state = load_state(find_state(engine.states).path)
    assert state.weights.keys() == {"module", "ema"}
    assert is_equal(dict(state.weights["ema"]), weights_of(engine.weights_module))
    assert is_equal(dict(state.weights["module"]), weights_of(engine.bare))


def test_without_a_moving_average_the_weights_are_the_trained_ones(make):
    engine = make()
    assert engine.weights_module is engine.bare


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_number_of_workers_changes_no_loss(make, heard, num_workers):
    losses = []
    for workers in (0, num_workers):
        heard.clear()
        make(workers=workers, dropout=0.2, observer=heard, max_steps=10).run()
        losses.append(heard.losses)
    assert losses[0] == losses[1]


def test_a_state_is_saved_after_each_epoch_and_in_the_users_rhythm(make):
    saved = []
    engine = make(save_every=3, max_steps=18)
    save = engine.save
    engine.save = lambda: (saved.append(engine.step), save())
    engine.run()
    assert saved == [3, 6, 8, 9, 12, 15, 16, 18]
    kept = sorted(path.name for path in engine.states.iterdir())
    assert kept == ["step-00000016", "step-00000018"]


@pytest.mark.parametrize(("max_steps", "epochs"), [(None, [1, 2, 3]), (16, [1, 2]), (17, [1, 2, 3])])
def test_the_end_of_each_epoch_is_told_and_of_one_that_is_cut_short(make, max_steps, epochs):
    told = []
    make(max_steps=max_steps, after=lambda engine: (told.append(engine.epoch), engine.kept)[1]).run()
    assert told == epochs


def test_what_is_noted_after_an_epoch_comes_back_with_the_state(make):
    def note(engine):
        return Kept({"epoch": engine.epoch}, weights_of(engine.weights_module))

    engine = make(after=note)
    engine.run()
    again = make()
    go_back(again)
    assert again.kept.notes == {"epoch": 3}
    assert is_equal(dict(again.kept.weights), weights_of(engine.bare))
    again.run()  # nothing is left to do
    assert is_equal(weights_of(again.bare), weights_of(engine.bare))


SETTINGS = {"dropout": 0.3, "ema_decay": 0.9, "clip_norm": 0.5, "accumulate": 2}


@pytest.mark.parametrize("step", [1, 4, 5, 11])
def test_ctrl_c_saves_and_a_resumed_run_is_bit_identical_to_the_unbroken_one(make, heard, step, tmp_path):
    whole = make(observer=heard, **SETTINGS)
    whole.run()
    losses, lines = heard.losses, read_journal(whole.journal.path)
    shutil.rmtree(tmp_path / "state")
    whole.journal.path.unlink()
    heard.clear()

    broken = make(task=ToyTask(counter(2 * step, interrupt)), observer=heard, **SETTINGS)
    with pytest.raises(Interrupted) as stopped:
        run_listening(broken)
    assert stopped.value.signum == signal.SIGINT
    assert broken.step == step
    assert saved_step(broken) == step
    assert heard.texts == [f"stopped after step {step}; continue with --resume"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    resumed = make(observer=heard, **SETTINGS)
    go_back(resumed)
    assert resumed.step == step
    resumed.run()
    assert is_equal(weights_of(resumed.bare), weights_of(whole.bare))
    assert is_equal(weights_of(resumed.weights_module), weights_of(whole.weights_module))
    assert heard.losses == losses
    without_time = [
        [{k: v for k, v in line.items() if k not in ("images_per_second", "data_wait")} for line in each]
        for each in (read_journal(resumed.journal.path), lines)
    ]
    assert without_time[0] == without_time[1]


def test_a_second_ctrl_c_stops_at_once(make):
    def twice():
        interrupt()
        interrupt()

    engine = make(task=ToyTask(counter(3, twice)))
    with pytest.raises(KeyboardInterrupt):
        run_listening(engine)
    assert engine.step == 2  # the third was not finished
    assert not engine.states.exists()


def test_ctrl_c_after_a_save_of_the_same_step_keeps_that_state(make):
    engine = make(save_every=1, task=ToyTask(counter(2, interrupt)))
    with pytest.raises(KeyboardInterrupt):
        run_listening(engine)
    assert saved_step(engine) == 2


def test_an_engine_in_a_thread_leaves_signals_alone(make):
    engine = make(max_steps=2)
    thread = threading.Thread(target=engine.run)
    thread.start()
    thread.join()
    assert engine.step == 2


def test_a_resumed_run_forgets_the_lines_of_the_steps_it_does_again(make):
    def stop(event):
        if isinstance(event, Progress) and event.step == 7:
            raise KeyboardInterrupt

    engine = make(save_every=5, observer=stop)
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    engine.journal.close()
    assert read_journal(engine.journal.path)[-1]["step"] == 7
    resumed = make(save_every=5)
    go_back(resumed)
    assert [line["step"] for line in read_journal(resumed.journal.path)] == [1, 2, 3, 4, 5]
    resumed.run()
    steps = [line["step"] for line in read_journal(resumed.journal.path)]
    assert steps == list(range(1, 25))


def places_of(make, step):
    return set(next(iter(make().order.batches(step - 1, step))))


def test_a_loss_that_is_not_finite_stops_with_step_and_terms_and_the_last_state_loads(make):
    engine = make(data=ToyData(bad=places_of(make, 7)), save_every=3)
    with pytest.raises(TrainingError) as told:
        engine.run()
    text = str(told.value)
    assert text.startswith("step 7 is not finite (loss nan, error nan, size nan), and the last saved")
    assert "optim.base_lr" in text
    assert "\n" not in text
    resumed = make(save_every=3)
    go_back(resumed)
    assert resumed.step == 6
    assert all(tensor.isfinite().all() for tensor in resumed.bare.state_dict().values())
    resumed.run()
    assert resumed.step == 24


def test_weights_that_are_not_finite_do_not_replace_the_last_state(make):
    engine = make(save_every=1)

    def spoil():
        engine.bare.fusion.weight.register_hook(lambda gradient: gradient * float("inf"))

    engine.plan.task.on_step = counter(3, spoil)
    with pytest.raises(TrainingError, match="the weights after step 3 are not finite"):
        engine.run()
    state = load_state(find_state(engine.states).path)
    assert state.step == 2
    assert all(tensor.isfinite().all() for tensor in state.weights["module"].values())


def test_a_state_of_another_model_is_refused(make):
    make(max_steps=1).run()
    other = make(max_steps=1)
    other.bare.fusion = nn.Linear(5, 2)
    with pytest.raises(CheckpointError, match="does not fit this run's model"):
        go_back(other)
    with pytest.raises(CheckpointError, match=r"does not fit this run's model.*ema"):
        go_back(make(max_steps=1, ema_decay=0.5))


def test_a_line_is_the_mean_of_its_steps_and_the_last_step_has_one(make, heard):
    make(observer=heard).run()
    every = heard.losses
    assert len(every) == 24
    heard.clear()
    engine = make(observer=heard, log_every=5)
    engine.run()
    assert [event.step for event in heard] == [5, 10, 15, 20, 24]
    assert heard[1].scalars["loss"] == pytest.approx(sum(every[5:10]) / 5)
    assert heard[4].scalars["loss"] == pytest.approx(sum(every[20:]) / 4)


def test_progress_tells_where_the_run_is(make, heard):
    make(observer=heard, max_steps=10).run()
    assert [event.epoch for event in heard] == [1] * 8 + [2] * 2
    assert {(event.total_steps, event.epochs) for event in heard} == {(10, 2)}
    assert all(event.images_per_second > 0 for event in heard)
    assert heard[0].seconds_left > 0 == heard[-1].seconds_left
    assert json.dumps(heard[0].scalars)


def test_unreadable_pictures_are_named_up_to_five_and_counted(make, heard):
    engine = make(data=ToyData(skipped=range(8)), observer=heard)
    engine.run()
    *named, last = heard.texts
    assert len(named) == 5
    assert all(text.startswith("skipped ") and text.endswith(".png: empty file") for text in named)
    assert last == "8 unusable images or boxes were skipped"


def test_a_signal_of_any_process_stops_all_and_the_first_says_when_to_save(make):
    engine = make()
    assert engine._agree(False) == (0, False)
    assert engine._agree(True) == (0, True)

    class Two:
        num_processes, device = 2, torch.device("cpu")

        def __init__(self, *other):
            self.other = torch.tensor([other])

        def gather(self, mine):
            return torch.cat([mine, self.other])

    engine.accelerator = Two(15, 1)
    assert engine._agree(False) == (15, False)
    assert engine._agree(True) == (15, True)
    engine.plan.signals.received = 2
    engine.accelerator = Two(0, 0)
    assert engine._agree(False) == (2, False)


def test_states_are_saved_by_the_clock_too(make, monkeypatch):
    minutes = SimpleNamespace(monotonic=lambda: 60 * len(steps), perf_counter=time.perf_counter)
    steps, saved = [], []
    monkeypatch.setattr(engine_module, "time", minutes)
    engine = make(save_minutes=3.0, max_steps=7, task=ToyTask(lambda: steps.append(1)))
    save = engine.save
    engine.save = lambda: (saved.append(engine.step), save())
    engine.run()
    assert saved == [3, 6, 7]


@pytest.mark.parametrize("number", ["SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_signal_at_the_end_of_an_epoch_saves_before_val_is_scored(make, heard, number):
    """The batch system gives seconds, and scoring may take minutes."""
    told = []

    def score(engine):
        told.append(engine.epoch)
        return Kept({"epoch": engine.epoch})

    def stop():
        os.kill(os.getpid(), getattr(signal, number))

    whole = make(after=score, **SETTINGS)
    whole.run()
    shutil.rmtree(whole.states)
    told.clear()
    engine = make(after=score, task=ToyTask(counter(16, stop)), observer=heard, **SETTINGS)
    with pytest.raises(Interrupted) as stopped:
        run_listening(engine)
    assert stopped.value.signum == getattr(signal, number)
    assert engine.step == engine.order.steps_an_epoch * 2
    assert told == [1]
    assert find_state(engine.states).path.name.endswith("-unscored")
    again = make(after=score, **SETTINGS)
    go_back(again)
    again.run()
    assert told == [1, 2, 3]
    assert is_equal(weights_of(again.weights_module), weights_of(whole.weights_module))


def test_a_signal_while_val_is_scored_is_heeded_between_two_batches(make):
    def score(engine):
        os.kill(os.getpid(), signal.SIGTERM)
        engine.heed_signals()
        pytest.fail("nobody stopped")

    engine = make(after=score)
    with pytest.raises(Interrupted):
        run_listening(engine)
    scored = []
    again = make(after=lambda engine: (scored.append(engine.epoch), engine.kept)[1])
    go_back(again)
    assert again.step == 8
    again.run()
    assert scored == [1, 2, 3]


def test_a_run_that_grows_stretches_its_schedule_and_says_how_the_rate_jumps(make, heard):
    make(max_steps=6).run()
    again = make(max_steps=12, observer=heard)
    go_back(again)
    (told,) = heard.texts
    assert told.startswith("the run grows from 6 to 12 steps, and its schedule with it: ")
    optim = again.plan.optim
    then, now = rate_at(1, optim, peak=again.peak), rate_at(7 / 12, optim, peak=again.peak)
    assert f"was {then:.3g} at step 6 and is {now:.3g} at the next" in told
    again.run()
    assert again.step == 12


def test_a_run_does_not_shrink(make):
    make(max_steps=6).run()
    with pytest.raises(ConfigError, match="has 6 steps, which may grow and not shrink"):
        go_back(make(max_steps=5))


@pytest.mark.parametrize(
    ("optim", "told"),
    [
        ({"epochs": 3, "warmup_epochs": 3}, "optim.warmup_epochs 3, optim.epochs 3"),
        ({"warmup_epochs": None, "warmup_share": 1.0}, "optim.warmup_share 1, optim.epochs 3"),
        ({"epochs": 3, "warmup_epochs": 2.9}, None),
    ],
)
def test_a_run_that_is_all_warm_up_is_warned_of(make, heard, optim, told):
    make(observer=heard, max_steps=1, **optim).run()
    warned = [text for text in heard.texts if "only rises" in text]
    assert [told in text for text in warned] == ([] if told is None else [True])


@pytest.mark.slow
def test_a_killed_worker_of_the_loader_is_one_line_and_loses_no_step(make):
    def kill():
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    engine = make(workers=2, task=ToyTask(counter(5, kill)), save_every=1)
    with pytest.raises(TrainingError, match="a process that decodes images died") as told:
        engine.run()
    assert "\n" not in str(told.value)
    assert "`resume`" in str(told.value)
    assert saved_step(engine) >= 4


# Between start and end


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_weights_to_keep_lie_between_those_of_the_start_and_those_that_were_trained(make, share, ema_decay):
    engine = make(share=share, ema_decay=ema_decay)
    start = weights_of(engine.bare)
    engine.run()
    trained = weights_of(engine.bare if engine.ema is None else engine.ema.module)
    kept = weights_of(engine.weights_module)
    for name, tensor in trained.items():
        torch.testing.assert_close(kept[name], start[name] + share * (tensor - start[name]))
    assert not is_equal(start, trained)
    assert is_equal(weights_of(engine.bare if engine.ema is None else engine.ema.module), trained)  # goes on from there


def test_a_resumed_engine_keeps_the_start_that_it_began_from(make):
    settings = {"share": 0.25, "dropout": 0.5, "epochs": 1}
    whole = make(**settings)
    start = weights_of(whole.bare)
    whole.run()
    shutil.rmtree(whole.states)
    with pytest.raises(Interrupted):
        run_listening(make(**settings, task=ToyTask(counter(3, interrupt))))
    again = make(**settings)
    with torch.no_grad():
        for parameter in again.bare.parameters():
            parameter.zero_()
        again.start = {name: tensor * 0 for name, tensor in again.start.items()}
    go_back(again)
    assert is_equal(again.start, start)
    again.run()
    assert is_equal(weights_of(again.weights_module), weights_of(whole.weights_module))


# Compiling and checkpoints


def test_on_the_cpu_nothing_is_compiled_and_it_is_said(make, monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    heard = []
    engine = make(compile=True, observer=heard.append)
    assert engine.module is engine.bare
    assert [event.text for event in heard] == ["compile is for GPUs: on the CPU the model stays as it is"]


def test_a_compiled_module_shares_the_weights_that_are_kept(make, monkeypatch):
    """torch's own compiling, but with the backend that leaves operations as they are, and a CPU that denies it."""
    plain = make(epochs=1)
    plain.run()
    before = weights_of(plain.weights_module)
    plain.journal.close()
    shutil.rmtree(plain.plan.run.out / "state")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr(Engine, "_is_on_cpu", property(lambda self: False))
    engine = make(epochs=1, compile=True)
    assert engine.module is not engine.bare
    engine.run()
    assert is_equal(weights_of(engine.weights_module), before)
    assert not any("_orig_mod" in name for name in engine.bare.state_dict())


def test_checkpoints_are_switched_on_where_they_are_asked_for(make):
    assert not make().bare.encoder.grad_checkpointing
    assert make(activation_checkpointing=True).bare.encoder.grad_checkpointing


@pytest.mark.parametrize(("precision", "is_explicit"), [("fp32", False), ("bf16", True)])
def test_steps_on_the_cpu_attend_as_is_quickest_and_scores_between_them_as_everywhere(make, precision, is_explicit):
    seen = {"step": set(), "score": set()}

    class Watching(ToyTask):
        def step(self, module, batch):
            seen["step"].add(engine.bare.attention.fused_attn)
            return super().step(module, batch)

    def score(engine):
        seen["score"].add(engine.bare.attention.fused_attn)
        return engine.kept

    engine = make(precision=precision, task=Watching(), after=score, epochs=2, warmup_epochs=0)
    engine.bare.attention = Attention(8, num_heads=2)
    engine.run()
    assert seen == {"step": {not is_explicit}, "score": {True}}
