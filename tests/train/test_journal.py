import errno
import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from uniemox.errors import TrainingError
from uniemox.files.journal import read_journal
from uniemox.train.journal import Journal


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path)
    yield journal
    journal.close()


def curve(folder, name):
    """What TensorBoard shows: the step and value of each point."""
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    if name not in accumulator.Tags()["scalars"]:
        return []
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def test_each_call_is_a_line_of_json(journal):
    journal.write("train", 3, {"loss": 0.5, "lr": 1e-3})
    journal.write("val", 4, {"top1": 1.0})
    assert journal.path.read_text().splitlines() == [
        '{"kind": "train", "step": 3, "loss": 0.5, "lr": 0.001}',
        '{"kind": "val", "step": 4, "top1": 1.0}',
    ]
    assert read_journal(journal.path)[0] == {"kind": "train", "step": 3, "loss": 0.5, "lr": 1e-3}


def test_a_word_is_for_the_file_alone(journal, tmp_path):
    journal.write("val", 4, {"computed_in": "bf16", "top1": 0.5})
    journal.close()
    assert read_journal(journal.path) == [{"kind": "val", "step": 4, "computed_in": "bf16", "top1": 0.5}]
    assert curve(tmp_path, "val/top1") == [(4, 0.5)]
    assert curve(tmp_path, "val/computed_in") == []


def test_tensorboard_shows_the_same_numbers(journal, tmp_path):
    for step in (1, 2, 3):
        journal.write("train", step, {"loss": step / 4})
    journal.close()
    assert curve(tmp_path, "train/loss") == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_a_test_at_the_last_step_does_not_hide_the_last_points_of_training(journal, tmp_path):
    journal.write("train", 3, {"loss": 0.5})
    journal.write("val", 3, {"top1": 0.25})
    journal.close()
    journal.write("test", 3, {"top1": 0.75})
    journal.close()
    assert curve(tmp_path, "train/loss") == [(3, 0.5)]
    assert curve(tmp_path, "val/top1") == [(3, 0.25)]
    assert curve(tmp_path, "test/top1") == [(3, 0.75)]


def test_a_journal_without_lines_can_be_closed_twice(journal, tmp_path):
    journal.close()
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_forgets_what_it_will_do_again(tmp_path, monkeypatch):
    # TensorBoard numbers the files of a process: of the same second, the tenth sorts before the ninth.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    first = Journal(tmp_path)
    for step in (1, 2, 3, 4):
        first.write("train", step, {"loss": float(step)})
    first.write("val", 4, {"top1": 1.0})
    first.close()
    resumed = Journal(tmp_path)
    resumed.forget_after(2)
    assert [line["step"] for line in read_journal(resumed.path)] == [1, 2]
    resumed.write("train", 3, {"loss": 30.0})
    resumed.close()
    assert [line["loss"] for line in read_journal(resumed.path)] == [1.0, 2.0, 30.0]
    resumed.write("test", 3, {"top1": 1.0})  # by a second writer, which hides nothing
    resumed.close()
    assert curve(tmp_path, "train/loss") == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert curve(tmp_path, "test/top1") == [(3, 1.0)]


def test_a_finished_run_that_is_resumed_tells_its_test_once(journal):
    journal.write("val", 4, {"top1": 1.0})
    journal.write("test", 4, {"top1": 1.0})
    journal.forget_after(4)
    assert [line["kind"] for line in read_journal(journal.path)] == ["val"]


def test_a_journal_that_is_not_there_has_no_lines(tmp_path):
    assert read_journal(tmp_path / "metrics.jsonl") == []
    Journal(tmp_path).forget_after(0)
    assert read_journal(tmp_path / "metrics.jsonl") == []


def test_a_failed_write_is_told_in_one_line_with_the_file(journal):
    journal.path.mkdir()  # a folder cannot be opened for writing, not by root either
    with pytest.raises(TrainingError, match=r"metrics\.jsonl cannot be written: .*folder.*`resume`") as told:
        journal.write("train", 1, {"loss": 1.0})
    assert "\n" not in str(told.value)


def test_a_full_disk_leaves_the_old_lines(journal, monkeypatch):
    journal.write("train", 1, {"loss": 1.0})
    journal.write("train", 2, {"loss": 1.0})
    before = journal.path.read_bytes()

    def fail(self, data, **_):
        with self.open("w") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fail)
        with pytest.raises(TrainingError, match="no space is left"):
            journal.forget_after(1)
    assert journal.path.read_bytes() == before
    assert {path.name for path in journal.path.parent.iterdir()} == {"metrics.jsonl", "tensorboard"}


DAMAGED = [
    *(
        b"[1]",
        b"3",
        b'"text"',
        b"null",
        b"",
        b"{",
        b"\xff",
        b'{"kind": "train", "step": 2, "loss": "\xff"}',
        b"[" * 10**5,
    ),
    *(b"{}", b'{"kind": "train"}', b'{"step": 2}', b'{"kind": 3, "step": 2}', b'{"kind": "train", "step": "2"}'),
    *(b'{"kind": "train", "step": 2.5}', b'{"kind": "train", "step": true}', b'{"kind": "train", "step": -1}'),
    *(b'{"kind": "train", "step": 2, "loss": null}', b'{"kind": "train", "step": 2, "loss": [1]}'),
    *(b'{"kind": "train", "step": 2, "loss": ' + digits + b"}" for digits in (b"9" * 4000, b"9" * 5000)),
]


@pytest.mark.parametrize("line", DAMAGED, ids=lambda line: str(line)[:50])
def test_a_damaged_line_is_left_out_with_a_warning_and_the_others_stay(journal, caplog, line):
    journal.write("train", 1, {"loss": 0.5})
    journal.path.write_bytes(journal.path.read_bytes() + line + b"\n")
    assert read_journal(journal.path) == [{"kind": "train", "step": 1, "loss": 0.5}]
    assert not caplog.records  # the last line may be what a killed run left
    journal.write("train", 3, {"loss": 0.25})
    assert [line["step"] for line in read_journal(journal.path)] == [1, 3]
    assert "1 line in" in caplog.text
    journal.forget_after(3)
    assert [json.loads(line)["step"] for line in journal.path.read_text().splitlines()] == [1, 3]
