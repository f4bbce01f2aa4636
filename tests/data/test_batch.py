import itertools
import signal
from collections import Counter

import pytest
import torch
from torch.utils.data import Dataset

from uniemox.config import AugmentConfig, PersonConfig
from uniemox.data.batch import (
    LabelledBatch,
    PretrainBatch,
    TrainingOrder,
    collate_labelled,
    collate_pretrain,
    evaluation_loader,
    training_loader,
)
from uniemox.data.dataset import (
    AugmentedDataset,
    EvaluationDataset,
    LabelledSample,
    PretrainSample,
    Skipped,
)
from uniemox.data.pixels import EvaluationViews
from uniemox.errors import DataError


def order_of(num_rows=50, batch_size=4, accumulate=2, **more):
    return TrainingOrder(
        num_rows=num_rows, batch_size=batch_size, accumulate=accumulate, **{"seed": 0} | more
    )


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
        if name == "skipped":
            assert value == batch.skipped
        else:
            assert value.device.type == "meta"


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


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_rows_that_one_would_see_in_a_step(count):
    alone = order_of(batch_size=8)
    shares = [
        order_of(batch_size=8 // count, num_processes=count, process=index)
        for index in range(count)
    ]
    assert {share.rows_a_step for share in shares} == {alone.rows_a_step}
    for step in range(6):
        together = [rows_of(share.batches(step, step + 1)) for share in shares]
        assert sorted(itertools.chain(*together)) == sorted(rows_of(alone.batches(step, step + 1)))
        assert {len(rows) for rows in together} == {16 // count}


def test_too_few_rows_for_one_step_are_refused_with_the_arithmetic():
    with pytest.raises(
        DataError, match=r"15 rows do not fill one step of 16 .*4 × optim.accumulate 2 × 2 proc"
    ):
        order_of(num_rows=15, num_processes=2)
    assert order_of(num_rows=16, num_processes=2).steps_an_epoch == 1


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_number_of_workers_changes_no_pixel(painted, num_workers):
    manifest = painted.manifest.select(["train"])
    dataset = AugmentedDataset(
        manifest,
        AugmentConfig(),
        size=32,
        seed=0,
        view="both",
        person=PersonConfig(),
        target="single_label",
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
        painted.manifest,
        EvaluationViews(size=8, view="scene", person=PersonConfig()),
        "single_label",
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
