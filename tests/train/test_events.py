from dataclasses import FrozenInstanceError

import pytest

from uniemox.train.events import Message, Progress, ignore

PROGRESS = Progress(
    step=1, total_steps=2, epoch=1, epochs=1, scalars={"loss": 0.5}, images_per_second=8.0, seconds_left=1.0
)


@pytest.mark.parametrize("event", [PROGRESS, Message("read me")])
def test_events_are_ignored_by_default_and_cannot_be_changed(event):
    assert ignore(event) is None
    with pytest.raises(FrozenInstanceError):
        event.text = "other"
