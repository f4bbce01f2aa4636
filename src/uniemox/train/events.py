"""What a run reports while it runs; whoever draws it (the command line, a notebook) listens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A step of the optimiser is done."""

    step: int
    total_steps: int
    epoch: int
    epochs: int
    scalars: Mapping[str, float]
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Message:
    """Something the user should read once, such as what was skipped and why."""

    text: str


Event = Progress | Message
Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
