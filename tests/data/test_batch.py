import itertools
import multiprocessing
import re
import signal
import time
import traceback
from collections import Counter

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset

from uniemox.config.people import PersonConfig
from uniemox.config.training import AugmentConfig
from uniemox.data.batch import (
    LabelledBatch,
    PretrainBatch,
    TrainingOrder,
    WorkerError,
    batches_of,
    collate_labelled,
    collate_pretrain,
    describe_dead_worker,
    evaluation_loader,
    training_loader,
)
from uniemox.data.dataset import AugmentedDataset, EvaluationDataset, LabelledSample, PretrainSample, Skipped
from uniemox.data.pixels import EvaluationViews
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.targets.single_label import SingleLabel


def order_of(num_rows=50, batch_size=4, accumulate=2, **more):
    return TrainingOrder(num_rows=num_rows, batch_size=batch_size, accumulate=accumulate, **{"seed": 0} | more)


def rows_of(batches):
    return [place.row for batch in batches for place in batch]


def pretrain_batch():
    samples = [
        PretrainSample(
            torch.full((3, 8, 8), index, dtype=torch.uint8),
            torch.full((3, 8, 8), 10 + index, dtype=torch.uint8),
            torch.rand(4),
            torch.rand(4),
            text=7 + index,
            skipped=(Skipped("bad.png", "empty file"),) * index,
        )
        for index in range(3)
    ]
    return samples, collate_pretrain(samples)


def labelled_batch(*, person=False):
    samples = [
        LabelledSample(
            torch.full((3, 8, 8), float(index)),
            label=torch.tensor(index % 2),
            row=40 + index,
            skipped=(Skipped("bad.png", "empty file"),) * (index == 1),
            person=torch.full((3, 8, 8), 10.0 + index) if person else None,
        )
        for index in range(3)
    ]
    return collate_labelled(samples)


def test_a_pretraining_batch_stacks_its_samples_in_their_order():
    samples, batch = pretrain_batch()
    assert batch.scene[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert batch.person[:, 0, 0, 0].tolist() == [10, 11, 12]
    assert batch.text.tolist() == [7, 8, 9]
    assert torch.equal(batch.scene_noise, torch.stack([s.scene_noise for s in samples]))
    assert torch.equal(batch.person_noise, torch.stack([s.person_noise for s in samples]))
    assert (batch.scene.dtype, batch.text.dtype) == (torch.uint8, torch.int64)
    assert len(batch.skipped) == 3


def test_a_labelled_batch_says_what_could_be_read():
    batch = labelled_batch()
    assert batch.pixels[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert batch.labels.tolist() == [0, 1, 0]
    assert batch.rows.tolist() == [40, 41, 42]
    assert batch.readable.tolist() == [True, False, True]
    assert batch.skipped == (Skipped("bad.png", "empty file"),)


def test_a_labelled_batch_has_one_view_or_two_as_its_samples_do():
    alone, both = labelled_batch(), labelled_batch(person=True)
    assert alone.person is None
    assert len(alone.views) == 1
    assert [view[:, 0, 0, 0].tolist() for view in both.views] == [[0, 1, 2], [10, 11, 12]]
    assert labelled_batch().to(torch.device("meta")).person is None


@pytest.mark.parametrize("make", [lambda: pretrain_batch()[1], lambda: labelled_batch(person=True)])
def test_every_tensor_of_a_batch_goes_to_the_device(make):
    batch = make()
    moved = batch.to(torch.device("meta"))
    assert type(moved) is type(batch)
    assert isinstance(moved, PretrainBatch | LabelledBatch)
    for name, value in moved._asdict().items():
        if name in ("skipped", "boxes"):
            assert value == getattr(batch, name)
        elif getattr(batch, name) is None:  # features, where none are stored
            assert value is None
        else:
            assert value.device.type == "meta"


@pytest.mark.parametrize(
    "text",
    [
        "DataLoader worker (pid 4711) is killed by signal: Killed. ",
        "DataLoader worker (pid(s) 4711, 4712) exited unexpectedly",
        "DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible\nthat",
    ],
)
def test_a_dead_worker_is_told_in_one_line_with_the_room_of_shared_memory(text):
    told = describe_dead_worker(RuntimeError(text))
    assert "\n" not in told
    assert "4711" in told
    assert "`workers` 0" in told
    assert re.search(r"\(\d+ of \d+ MB are free\)", told)


class Breaking:
    """A loader of several processes, of which one dies while it sends a batch."""

    num_workers = 2

    def __init__(self, error):
        self.error = error

    def __iter__(self):
        yield 0
        raise self.error


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), ConnectionRefusedError(), EOFError()])
def test_a_worker_killed_while_it_sends_a_batch_is_a_dead_worker(error):
    batches = batches_of(Breaking(error))
    assert next(batches) == 0
    with pytest.raises(RuntimeError) as told:
        next(batches)
    assert describe_dead_worker(told.value).startswith("a process that decodes images died: DataLoader worker")
    assert told.value.__cause__ is error


def test_the_report_of_a_signal_takes_the_place_of_ours_and_does_not_come_after_it():
    """Torch's handler raises wherever the process is by then, which must not be beyond those who expect it."""

    def report(number, frame):
        raise RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. ")

    before = signal.signal(signal.SIGALRM, report)
    try:
        batches = batches_of(Breaking(ConnectionResetError(104, "reset")))
        next(batches)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(RuntimeError, match="pid 4711"):
            next(batches)
        time.sleep(0.2)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("text", ["", "CUDA out of memory", "mat1 and mat2 shapes"])
def test_other_errors_are_of_no_worker(text):
    assert describe_dead_worker(RuntimeError(text)) is None


def test_an_epoch_sees_no_row_twice_and_leaves_out_what_fills_no_step():
    order = order_of()
    assert (order.rows_a_step, order.steps_an_epoch) == (8, 6)
    rows = rows_of(order.batches(0, 6))
    assert len(rows) == 48
    assert set(Counter(rows).values()) == {1}
    assert set(rows) < set(range(50))


def test_every_epoch_has_an_order_of_its_own_that_the_seed_decides():
    def epoch(number, seed):
        first = number * 6
        batches = list(order_of(seed=seed).batches(first, first + 6))
        assert {place.epoch for batch in batches for place in batch} == {number}
        return tuple(rows_of(batches))

    assert epoch(0, seed=0) == epoch(0, seed=0)
    assert len({epoch(0, 0), epoch(1, 0), epoch(0, 1), epoch(1, 1)}) == 4


@pytest.mark.parametrize("step", [0, 1, 5, 6, 7, 13])
def test_any_step_can_be_gone_back_to(step):
    whole = list(order_of().batches(0, 14))
    assert list(order_of().batches(step, 14)) == whole[2 * step :]
    assert all(len(batch) == 4 for batch in whole)


def test_rows_are_permuted_once_an_epoch_and_not_in_every_step(monkeypatch):
    made = []
    original = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *sizes, **more: made.append(sizes) or original(*sizes, **more))
    order = order_of(num_rows=1000, batch_size=2, accumulate=1)
    assert len(list(order.batches(0, 2 * order.steps_an_epoch))) == 1000
    assert made == [(1000,), (1000,)]


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_rows_that_one_would_see_in_a_step(count):
    alone = order_of(batch_size=8)
    shares = [order_of(batch_size=8 // count, num_processes=count, process=index) for index in range(count)]
    assert {share.rows_a_step for share in shares} == {alone.rows_a_step}
    for step in range(6):
        together = [rows_of(share.batches(step, step + 1)) for share in shares]
        assert sorted(itertools.chain(*together)) == sorted(rows_of(alone.batches(step, step + 1)))
        assert {len(rows) for rows in together} == {16 // count}


def test_too_few_rows_for_one_step_are_refused_with_the_arithmetic():
    arithmetic = r"15 rows do not fill one step of 16, .*4 × `optim.accumulate` 2 × 2 \(processes\): lower "
    with pytest.raises(DataError, match=arithmetic):
        order_of(num_rows=15, num_processes=2)
    assert order_of(num_rows=16, num_processes=2).steps_an_epoch == 1


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 84, 127])
@pytest.mark.parametrize(
    ("batch_size", "accumulate", "num_processes"), [(32, 4, 1), (128, 1, 1), (8, 2, 8), (2, 64, 1)]
)
def test_what_too_few_rows_advise_to_lower_fills_a_step(num_rows, batch_size, accumulate, num_processes):
    shape = {"batch_size": batch_size, "accumulate": accumulate, "num_processes": num_processes}
    with pytest.raises(DataError, match="do not fill one step of 128") as refused:
        order_of(num_rows=num_rows, **shape)
    advice = str(refused.value).rpartition(": ")[2]
    if num_rows < num_processes:
        assert advice == "take more rows, or fewer processes"
        return
    for one in advice.split(" or "):
        lowered = {name: int(number) for name, number in re.findall(r"`optim\.(\w+)` to (\d+)", one)}
        assert lowered
        assert all(number <= shape[name] for name, number in lowered.items())
        size = lowered.get("batch_size", 2)
        assert size == 1 or size % 2 == 0, "mixup pairs the images of a batch"
        assert order_of(num_rows=num_rows, **{**shape, **lowered}).steps_an_epoch >= 1


def test_the_batch_and_the_passes_are_both_named_where_one_is_enough():
    advice = r": lower `optim.accumulate` to 2 or `optim.batch_size` to 20$"
    with pytest.raises(DataError, match=advice):
        order_of(num_rows=84, batch_size=32, accumulate=4)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_number_of_workers_changes_no_pixel(painted, num_workers):
    manifest = painted.manifest.select(["train"])
    dataset = AugmentedDataset(
        manifest, AugmentConfig(), size=32, seed=0, view="both", person=PersonConfig(), target=SingleLabel()
    )
    order = order_of(num_rows=len(manifest), batch_size=4, accumulate=1)

    def batches(workers):
        steps = range(4, 8)  # over the end of the first epoch
        loader = training_loader(dataset, collate_labelled, order, steps=steps, num_workers=workers)
        assert len(loader) == 4
        return list(loader)

    for here, there in zip(batches(0), batches(num_workers), strict=True):
        assert torch.equal(here.pixels, there.pixels)
        assert torch.equal(here.person, there.person)
        assert torch.equal(here.labels, there.labels)
        assert torch.equal(here.rows, there.rows)


@pytest.mark.parametrize("batch_size", [1, 16, 64])
def test_evaluation_sees_every_row_once_and_in_order(painted, batch_size):
    dataset = EvaluationDataset(
        painted.manifest, EvaluationViews(size=8, view="scene", person=PersonConfig()), SingleLabel()
    )
    loader = evaluation_loader(dataset, batch_size=batch_size, num_workers=0)
    rows = torch.cat([batch.rows for batch in loader])
    assert rows.tolist() == list(range(40))


class Handlers(Dataset):
    """Samples that tell what Ctrl-C does where they are made."""

    def __getitem__(self, _):
        ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        return LabelledSample(torch.zeros(1), label=torch.tensor(int(ignored)), row=0, skipped=())

    def __len__(self):
        return 4


def test_workers_leave_ctrl_c_to_the_training_process():
    order = order_of(num_rows=4, accumulate=1)
    training = training_loader(Handlers(), collate_labelled, order, steps=range(1), num_workers=1)
    evaluating = evaluation_loader(Handlers(), batch_size=4, num_workers=1)
    for loader in (training, evaluating):
        assert next(iter(loader)).labels.all()
    assert signal.getsignal(signal.SIGINT) != signal.SIG_IGN


# Errors of workers


class Faulty(Dataset):
    """Samples of which some cannot be made."""

    def __init__(self, faults, count=12):
        self.faults = faults
        self.count = count

    def __getitem__(self, place):
        row = getattr(place, "row", place)
        if row in self.faults:
            error = self.faults[row]
            assert error.args[0]
            raise error from ValueError("a fault of a library")
        return LabelledSample(torch.full((1,), row), label=torch.tensor(0), row=row, skipped=())

    def __len__(self):
        return self.count


def loader_of(dataset, kind, num_workers):
    """A loader whose batches are of two rows."""
    if kind == "evaluation":
        return evaluation_loader(dataset, batch_size=2, num_workers=num_workers)
    if kind == "prepared":
        return Accelerator(cpu=True).prepare_data_loader(
            evaluation_loader(dataset, batch_size=2, num_workers=num_workers)
        )
    order = order_of(num_rows=len(dataset), batch_size=2, accumulate=1)
    return training_loader(dataset, collate_labelled, order, steps=range(order.steps_an_epoch), num_workers=num_workers)


every_loader = pytest.mark.parametrize("kind", ["training", "evaluation", "prepared"])
every_number_of_workers = pytest.mark.parametrize("num_workers", [0, 1, 2])


@every_loader
@every_number_of_workers
def test_batches_are_those_of_the_loader(kind, num_workers):
    dataset = Faulty({})
    expected = [batch.rows for batch in loader_of(dataset, kind, 0)]
    found = [batch.rows for batch in batches_of(loader_of(dataset, kind, num_workers))]
    assert len(found) == 6
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    ("kind", "error"), [("training", DataError), ("evaluation", ConfigError), ("prepared", CheckpointError)]
)
@every_number_of_workers
def test_an_error_of_ours_arrives_as_it_is_after_the_batches_before_it(kind, num_workers, error):
    text = "joy/03.png: the augmentation failed: DataError: not this one; see --debug"
    rows = [batch.rows.tolist() for batch in loader_of(Faulty({}), kind, 0)]
    faults = {rows[3][1]: error(text), rows[4][0]: error("a later one")}
    others = set(multiprocessing.active_children())
    batches = batches_of(loader_of(Faulty(faults), kind, num_workers))
    assert [next(batches).rows.tolist() for _ in range(3)] == rows[:3]
    with pytest.raises(error) as caught:
        next(batches)
    assert str(caught.value) == text
    shown = "".join(traceback.format_exception(caught.value))
    assert "ValueError: a fault of a library" in shown
    assert isinstance(caught.value.__cause__, WorkerError if num_workers else ValueError)
    assert set(multiprocessing.active_children()) <= others


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_defect_keeps_its_type_and_its_traceback(num_workers):
    faults = dict.fromkeys(range(12), LookupError())  # without a text, so Faulty itself fails
    with pytest.raises(IndexError) as caught:
        next(batches_of(loader_of(Faulty(faults), "training", num_workers)))
    assert "assert error.args[0]" in "".join(traceback.format_exception(caught.value))


@every_number_of_workers
def test_what_a_loader_draws_from_the_generator_is_drawn_before_the_first_batch(num_workers):
    loader = loader_of(Faulty({}), "training", num_workers)
    batches = batches_of(loader)
    before = torch.get_rng_state()
    assert len(list(batches)) == 6
    assert torch.equal(torch.get_rng_state(), before)
