"""What both kinds of run have in common: where they compute, the folder they hold, and the story they leave."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from uniemox.checkpoints.load import Start, describe_start, load_start
from uniemox.compute.devices import computing_on
from uniemox.compute.signals import StopSignals
from uniemox.config.training import FinetuneConfig, PretrainConfig
from uniemox.errors import CheckpointError
from uniemox.files.images import admitting
from uniemox.manifests.table import Manifest
from uniemox.train.engine import Engine, Plan
from uniemox.train.events import Message, Observer, ignore
from uniemox.train.run_folder import RunFolder, describe_environment
from uniemox.train.state import SavedState, find_state
from uniemox.version import __version__

# Paths, and what changes nothing of what is learned.
_OMITTED = {
    "data",
    "out",
    "init",
    "teacher",
    "stored_views",
    "resume",
    "compile",
    "activation_checkpointing",
    "device",
    "workers",
    "log_every",
    "save_every",
    "save_minutes",
    "baselines",
}


@dataclasses.dataclass(frozen=True)
class Started:
    """What every run has from its first moment on."""

    accelerator: Accelerator
    observer: Observer  # Of the first process; the others are not heard
    folder: RunFolder
    signals: StopSignals
    saved: SavedState | None  # From which the run continues; None where it starts

    def load_start(self) -> Start | None:
        """Read what a new run starts from, and report what is special about it; a resumed run has its own weights.

        Something else than what the resumed run started from raises `CheckpointError`.
        """
        init = self.folder.config.init
        if init is None:
            return None
        if self.saved is None:
            start = load_start(init)
            for note in start.notes:
                self.observer(Message(f"the start, {note}"))
            return start
        now = before = self.saved.origin["init"]
        try:
            now = describe_start(init)
        except CheckpointError as error:
            self.observer(Message(f"the start is no longer needed, and cannot be read: {error}"))
        if now != before:
            what = f"init {init} is {now}, but the run in {self.folder.path} started from {before}"
            raise CheckpointError(f"{what}: put that back, or start a new run")
        return None

    def train(self, plan: Plan) -> Engine:
        """Open the run folder once everything else is known to fit, and train; return the engine."""
        engine = Engine(plan, self.accelerator)
        if self.saved is not None:
            engine.resume(self.saved.path)
        if self.accelerator.is_main_process:
            self.folder.open()
            if self.saved is None:
                engine.journal.forget_after(0)  # of a run that was killed before its first state
        self.accelerator.wait_for_everyone()
        with closing(engine.journal):
            engine.run()
        return engine

    def warn_of_boxes(self, manifest: Manifest) -> None:
        """Report how many rows have no box of a person."""
        if without := manifest.num_without_people:
            text = f"{without} of {len(manifest)} images have no person box: the whole image is used instead"
            self.observer(Message(text))


@contextmanager
def started(config: PretrainConfig | FinetuneConfig, observer: Observer) -> Iterator[Started]:
    """Choose where to compute, hear signals, and take the run folder until the block ends."""
    signals, folder = StopSignals(), RunFolder(config)
    with (
        admitting(config.max_pixels),
        closing(folder),
        signals.listening(),
        computing_on(config.device, precision=config.precision, accumulate=config.optim.accumulate) as accelerator,
    ):
        heard = observer if accelerator.is_main_process else ignore
        saved: list[SavedState | None] = [None]
        if accelerator.is_main_process:  # the others may come late, when the folder is no longer empty
            folder.check()
            saved[0] = _find_state(folder, heard) if config.resume else None
        broadcast_object_list(saved)
        yield Started(accelerator, heard, folder, signals, saved[0])


def _find_state(folder: RunFolder, observer: Observer) -> SavedState | None:
    saved = find_state(folder.path / "state")
    if saved is None:
        observer(Message(f"nothing is saved in {folder.path} yet: the run starts from the beginning"))
        return None
    for damage in saved.damaged:
        observer(Message(f"{damage}; the run continues from the state before it, {saved.path.name}"))
    return saved


def note_start(start: Start | None) -> dict[str, str]:
    """Name a start and its licence for what follows from it."""
    if start is None:
        return {"init": "random weights", "licence": ""}
    named = {"init": start.name, "licence": start.licence}
    return named if start.language is None else {**named, "teacher": start.language.facts.teacher}


def provenance(
    config: PretrainConfig | FinetuneConfig, manifest: Manifest, engine: Engine, **more: str
) -> dict[str, str]:
    """Describe how weights were made, without paths of this machine."""
    environment = describe_environment()
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in _OMITTED}
    if isinstance(config, PretrainConfig):
        settings["teacher"] = {"emotion_sentence": config.teacher.emotion_sentence}
    return {
        "software": f"uniemox {__version__}, torch {environment['torch']}, timm {environment['timm']}",
        "rows": str(len(manifest)),
        "steps": str(engine.step),
        "seed": str(config.seed),
        "settings": json.dumps(settings),
        "init": engine.origin["init"],
        **({"teacher": engine.origin["teacher"]} if engine.origin.get("teacher") else {}),
        **more,
    }
