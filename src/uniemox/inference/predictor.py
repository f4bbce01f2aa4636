"""Prediction over files, folders and images in memory. Brings torch only for a model that needs it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, count, groupby, islice
from operator import itemgetter
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from uniemox.checkpoints.card import caution
from uniemox.checkpoints.facts import ModelFacts
from uniemox.config.checks import check
from uniemox.config.inference import AskedPrecision, Decoding
from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.errors import DataError
from uniemox.files.images import EXTENSIONS, Unreadable
from uniemox.files.paths import is_folder, is_there
from uniemox.files.read_ahead import read_ahead
from uniemox.files.room import ROOM
from uniemox.files.walk import find_images_below
from uniemox.inference.backend import Backend, load_backend
from uniemox.inference.effects import Hidden, list_hidden, make_variants, mask_all, summarize
from uniemox.inference.opening import URL, Named, list_inputs, open_image
from uniemox.targets.columns import SHARE
from uniemox.targets.domain import Domain
from uniemox.targets.kinds import resolve_target
from uniemox.targets.target import Target
from uniemox.wording import counted, reason_of

if TYPE_CHECKING:
    from uniemox.inference.opening import Input
    from uniemox.manifests.table import Box
    from uniemox.people.detectors.detector import Detector

    Pixels = npt.NDArray[np.float32]
    Sample: TypeAlias = tuple["Prediction", "Pixels | Hidden | str"]
    """A row, and what the model reads, or reads in turn, or why it reads nothing."""
    People: TypeAlias = Mapping[Path, Sequence[Box]] | Mapping[str, Sequence[Box]] | Detector

log = logging.getLogger(__name__)

_SPARE: Final = 2  # Times what an image is resized to: so much is decoded at least, and the resize still averages
MOST_PEOPLE: Final = 256  # In one image: more is no image of people but a mistake, and would take all memory


@dataclass(frozen=True)
class Prediction:
    """A model's answer to one image or one of its people, or the reason why it has none."""

    path: Path | None  # Of the file; None for an image in memory
    answer: Mapping[str, Any] | None  # What the target answers: `predicted`, and for example `probabilities`
    reason: str | None = None  # Why the file could not be read, or the person not cut
    box: Box | None = None  # The person that is meant; None means the image as a whole
    index: int | None = None  # Place among what was given, from 0; the images of a folder have that of the folder
    time: float | None = None  # Of a frame of a video, in seconds from its start
    row: int | None = None  # Of the table that names the image, from 0

    @property
    def predicted(self) -> Any:
        """The emotion; of a model of several labels the list of those that apply, the likeliest first."""
        return (self.answer or {}).get("predicted")

    @property
    def confidence(self) -> float | None:
        """Probability of the likeliest emotion, where the model gives probabilities."""
        return (self.answer or {}).get("confidence")

    @property
    def probabilities(self) -> Mapping[str, float] | None:
        """Probability of each emotion, in label order; they sum to 1 unless the model gives several labels."""
        return (self.answer or {}).get("probabilities")

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the likeliest emotions with their probabilities, the likeliest first; none for an unreadable file."""
        return sorted((self.probabilities or {}).items(), key=lambda item: -item[1])[:count]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `time` and `row` only where there is one."""
        places = {"time": self.time, "row": self.row}
        return {
            "path": None if self.path is None else str(self.path),
            **{name: place for name, place in places.items() if place is not None},
            **(dict.fromkeys(("predicted", "confidence", "probabilities")) if self.answer is None else self.answer),
            "reason": self.reason,
            "box": None if self.box is None else asdict(self.box),
        }

    def cells(self) -> dict[str, Any]:
        """Return the values by the columns of a table."""
        row = self.to_dict()
        box = row.pop("box") or {}
        probabilities = row.pop("probabilities", None) or {}
        box["box_score"] = box.pop("score", None)
        return row | box | {f"{SHARE}{name}": share for name, share in probabilities.items()}


class Predictor:
    """Predicts which emotion images evoke or show.

    Args:
        backend: What runs the classifier.
        target: What it was trained with, where that is a kind of the caller's own.
        decoding: auto decodes a JPEG at a half, a quarter or an eighth of its size, where that is at least twice what
            the model reads and nobody is cut out of it: several times faster, and probabilities move in the third
            digit. exact decodes all pixels, as evaluation does.

    Raises:
        CheckpointError: The model answers with another kind, or with one that must be given.
    """

    def __init__(self, backend: Backend, *, target: Target | None = None, decoding: Decoding = "auto") -> None:
        self.backend, facts = backend, backend.facts
        self.decoding = decoding
        self.target = resolve_target(facts.target, facts.classes, facts.kept, given=target)

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        device: str = "auto",
        dataset: str | None = None,
        precision: AskedPrecision = "auto",
        target: Target | None = None,
        zero_shot: ZeroShotConfig | None = None,
        decoding: Decoding = "auto",
    ) -> Predictor:
        """Load a model.

        Args:
            model: A classifier: its folder, an export (its folder or its file), a file that others wrote, `demo`, or a
                name on the hub (`hf-hub:org/name`); or a model that needs no training: the folder of a pretrained
                model, or a CLIP (`clip:ARCH/TAG`).
            device: auto, cpu, cuda or mps.
            dataset: Data set or manifest that names the classes, for weights that do not.
            precision: auto, fp32 or bf16; auto is what the model folder records.
            target: What it was trained with, where that is a kind of the caller's own.
            zero_shot: Classes and words of a model that needs no training.
            decoding: auto or exact, as above.

        Raises:
            CheckpointError: The model cannot be read, or answers with a kind that must be given.
            ConfigError: The device does not exist, or the settings of zero-shot models do not fit.
        """
        backend = load_backend(model, device=device, dataset=dataset, precision=precision, zero_shot=zero_shot)
        predictor = cls(backend, target=target, decoding=decoding)
        if limit := caution(predictor.facts):
            step = (
                "take a CLIP (such as clip:ViT-B-16-quickgelu/openai), or fine-tune on photographs (`uniemox finetune`)"
            )
            log.warning("%s %s: %s", model, limit, step)
        return predictor

    @property
    def precision(self) -> str:
        """Arithmetic that the model computes in: fp32 or bf16, or for an export that of its file."""
        return self.backend.precision

    @property
    def facts(self) -> ModelFacts:
        """What is known of the model."""
        return self.backend.facts

    @property
    def domain(self) -> Domain | None:
        """The images that the model knows, where it keeps them; answers then say how far an image is from those."""
        return self.backend.domain

    def digest(self) -> str:
        """SHA-256 of all that the answers depend on: weights, classes, and what is done to an image."""
        return self.backend.digest()

    def predict(
        self,
        inputs: Input | Iterable[Input],
        *,
        people: People | None = None,
        mask_people: bool = False,
        explain: bool = False,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> Iterator[Prediction]:
        """Predict one image or many, in their order; one that cannot be read gives a reason.

        With `people`, an image has a row for itself and one for each person in it. A model of both views reads the
        person in the scene, one of scenes reads the person's crop as if that were the image, and one of persons gives
        an image a row for itself only where nobody is in it. Where a model that reads persons gets none, it falls back
        to the whole image, and a warning counts how often.

        Args:
            inputs: An image, or any iterable of images, which are taken as they are needed and may be of several
                kinds: paths, bytes of files, open binary files, images of Pillow (their EXIF orientation is applied),
                arrays of uint8, (H, W, 3). An array (N, H, W, 3) is N images. The path of a folder means the images
                below it, as `find_images` lists them; all have the folder's `index`.
            people: Boxes of the people in each file by its path, or a detector that finds them.
            mask_people: Fill the people from what surrounds them before anything is predicted: an image then has one
                row, which depends on the scene alone and on what boxes do not cover of its people.
            explain: Answer too how hiding the people and hiding the scene changes the number behind the answer
                (`hiding_people`, `hiding_scene`: the mean of three ways, negative where it falls), and whether the ways
                agree on the directions (`hiding_agrees`). Asks the model eight times for each row.
            batch_size: Images in one forward pass.
            num_workers: Threads that decode ahead while the model computes; 0 decodes here.

        Returns:
            An iterator, of one prediction too where one image was given: `(prediction,) = predictor.predict("a.jpg")`.

        Raises:
            DataError: An input is of a type that no image has.
            ConfigError: The size of a batch or the number of threads is out of range, or there are no people to hide.
        """
        groups = self.predict_groups(
            [list_inputs(inputs)],
            people=people,
            mask_people=mask_people,
            explain=explain,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        return (prediction for group in groups for prediction in group)

    def predict_groups(
        self,
        groups: Iterable[Iterable[Input]],
        *,
        people: People | None = None,
        mask_people: bool = False,
        explain: bool = False,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> Iterator[Iterator[Prediction]]:
        """Predict group after group; no batch reaches over the end of one, so each group's rows depend on it alone.

        The arguments are those of `predict`, but for groups of at least one image each; threads read ahead across the
        ends of groups. Take the predictions of a group before asking for the next.
        """
        check(batch_size >= 1, f"`batch_size` is {batch_size}, but must be at least 1")
        check(num_workers >= 0, f"`num_workers` is {num_workers}, but must be at least 0")
        reader = self.reader(people, mask_people=mask_people, explain=explain)
        places = count()
        given = (
            (number, place, image)
            for number, group in enumerate(groups)
            for source in group
            for place in (next(places),)
            for image in list_below(source)
        )
        read = read_ahead(
            reader,
            given,
            num_workers=num_workers,
            ahead=2 * batch_size if people is None else num_workers + 1,
            size=lambda read: len(read[1]),
            room=2 * batch_size,
        )
        for _, of_group in groupby(read, key=itemgetter(0)):
            yield self._predict_samples(chain.from_iterable(samples for _, samples in of_group), batch_size)
        if reader.num_alone and self.facts.view != "scene":
            text = "the model reads a person, and where there is no box the whole image is used instead (images: %d)"
            log.warning(text, reader.num_alone)

    def predict_images(
        self, images: Iterable[Input], *, boxes: Sequence[Box | None] | None = None
    ) -> list[dict[str, float]]:
        """Predict a few images in one batch; return the probability of each emotion, in label order.

        Args:
            images: As `predict` takes them.
            boxes: The person that is meant in each of them; None means the image as a whole.

        Raises:
            DataError: An image cannot be read, or a box lies outside of it.
            ConfigError: The model gives no probabilities, or there are other than one entry in `boxes` for each image.
        """
        has_probabilities = any(column.name.startswith(SHARE) for column in self.target.columns)
        check(has_probabilities, f"the model gives {self.target.name} and no probabilities: use `predict`")
        enough = self._enough if boxes is None else None
        opened = [open_image(image, index, shrink_to=enough) for index, image in enumerate(images)]
        meant = [None] * len(opened) if boxes is None else boxes
        check(len(meant) == len(opened), f"`boxes` has {len(meant)} entries for {counted(len(opened), 'image')}")
        pixels = []
        for index, ((_, image), box) in enumerate(zip(opened, meant, strict=True)):
            if isinstance(image, Unreadable):
                raise DataError(f"image {index} cannot be read: {image.reason}")
            prepared = _prepare(self.facts, image, box)
            if isinstance(prepared, str):
                raise DataError(f"{prepared}: {box}, the image has {image.width} × {image.height}")
            pixels.append(prepared)
        return [answer["probabilities"] for answer in self._answers(pixels)]

    @property
    def _enough(self) -> int | None:
        """Side in pixels that suffices of an image; None decodes all of them."""
        return None if self.decoding == "exact" else _SPARE * self.facts.views.resized_side

    def reader(self, people: People | None = None, *, mask_people: bool = False, explain: bool = False) -> Reader:
        """Make what reads and prepares images in threads, for `answer`; the arguments are those of `predict`."""
        asked = "mask_people" if mask_people else "explain"
        check(people is not None or not (mask_people or explain), f"`{asked}` hides people: give `people`")
        check(not (mask_people and explain), "`explain` hides people in turn: omit `mask_people`")
        reads_persons = self.facts.view == "person"
        check(not (mask_people and reads_persons), "the model reads persons, and `mask_people` hides them: omit it")
        enough = self._enough if people is None else None
        return Reader(self.facts, people, enough, mask_people=mask_people, explain=explain)

    def answer(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Answer samples of a `reader` in one forward pass, and one more for each that is explained, in their order."""
        read = [what.before if isinstance(what, Hidden) else what for _, what in samples]
        answers = iter(self._answers([what for what in read if not isinstance(what, str)]))
        rows = []
        for row, what in samples:
            answer = None if isinstance(what, str) else next(answers)
            if answer is not None and isinstance(what, Hidden):
                answer |= self._effects_of(what)
            rows.append(replace(row, answer=answer, reason=what if isinstance(what, str) else None))
        return rows

    def _effects_of(self, what: Hidden) -> dict[str, Any]:
        if not what.variants:
            return summarize(None, 0)
        numbers = self.target.numbers(self.logits([what.before, *what.variants]))
        return summarize(numbers, self.target.foremost(numbers[0]))

    def logits(self, prepared: Iterable[Pixels], *, batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Run the model on images prepared by its `facts.views`, (V, 3, S, S) each, as they come: (N, C)."""
        given, found = iter(prepared), []
        while batch := list(islice(given, batch_size)):
            found.append(self.backend.logits(np.stack(batch)))
        return np.concatenate(found)

    def _predict_samples(self, samples: Iterator[Sample], batch_size: int) -> Iterator[Prediction]:
        while batch := list(islice(samples, batch_size)):
            yield from self.answer(batch)

    def _answers(self, pixels: Sequence[Pixels]) -> list[dict[str, Any]]:
        if not pixels:
            return []
        logits, features = self.backend.outputs(np.stack(pixels))
        answers = self.target.answers(logits)
        if self.domain is None or features is None:
            return answers
        known = self.domain.answers(self.domain.distances(features))
        return [{**answer, **more} for answer, more in zip(answers, known, strict=True)]


class Reader:
    """Reads an image, finds its people, and prepares what the model answers; called from several threads."""

    def __init__(
        self,
        facts: ModelFacts,
        people: People | None,
        enough: int | None,
        *,
        mask_people: bool = False,
        explain: bool = False,
    ) -> None:
        self.facts, self.enough = facts, enough
        self.masks_people, self.explains = mask_people, explain
        self.people = {Path(path): boxes for path, boxes in people.items()} if isinstance(people, Mapping) else people
        self.num_alone = 0  # Images without a person so far
        self._turn = Lock()

    @ROOM.use()
    def __call__(self, given: tuple[int, int, Input]) -> tuple[int, list[Sample]]:
        """Read the image of a group with its place; return the group, and a sample for each answer."""
        group, index, source = given
        path, image = open_image(source, index, shrink_to=self.enough)
        blank = Prediction(path, None, index=index)
        if isinstance(source, Named):
            blank = replace(blank, time=source.time, row=source.row)
        found: list[tuple[Box | None, Pixels | Hidden | str]]
        if isinstance(image, Unreadable):
            found = [(None, image.reason)]
        elif len(boxes := self.find_people(path, image)) > MOST_PEOPLE:
            found = [(None, f"{len(boxes)} people are more than {MOST_PEOPLE}")]
        elif self.masks_people:
            masked = mask_all(image, boxes)
            found = [(None, masked if isinstance(masked, str) else _prepare(self.facts, masked, None))]
        else:
            whole = () if boxes and self.facts.view == "person" else (None,)
            found = [(box, self._prepare(image, box, boxes)) for box in (*whole, *boxes)]
        return group, [(replace(blank, box=box), what) for box, what in found]

    def _prepare(self, image: Image.Image, box: Box | None, people: Sequence[Box]) -> Pixels | Hidden | str:
        pixels = _prepare(self.facts, image, box)
        if isinstance(pixels, str) or not self.explains:
            return pixels
        masks = list_hidden(image, people, each=False)
        return Hidden(
            pixels, () if isinstance(masks, str) else tuple(make_variants(self.facts.views, image, box, masks))
        )

    def find_people(self, path: Path | None, image: Image.Image) -> Sequence[Box]:
        """Find the people of an upright image, or look up those of its path."""
        with self._turn:  # a detector need not be safe in threads (DECISIONS 59)
            match self.people:
                case None:
                    boxes: Sequence[Box] = ()
                case dict():
                    boxes = () if path is None else self.people.get(path, ())
                case detector:
                    boxes = detector.detect([image])[0]
            self.num_alone += not boxes
        return boxes


def list_below(given: Input) -> Iterable[Input]:
    """List the images below a folder; whatever is no folder stands for itself."""
    if not isinstance(given, str | os.PathLike) or given == "" or not is_folder(given):
        return (given,)
    try:
        return find_images([Path(os.fsdecode(given))])
    except DataError as error:  # a row, like any other path without an image
        return (Named(Path(os.fsdecode(given)), Unreadable(str(error))),)


def _prepare(facts: ModelFacts, image: Image.Image, box: Box | None) -> Pixels | str:
    """Prepare an image or one of its people, or explain why the person cannot be cut."""
    pixels = facts.views.of(image, box)
    return "the box lies outside the image" if pixels is None else pixels


def find_images(paths: Sequence[Path]) -> list[Path]:
    """List files, and the images below folders in the order of their names; links to folders are not followed.

    What systems and programs keep beside images, such as thumbnails, is skipped, and a warning counts it.

    Raises:
        DataError: A path does not exist or is a URL, or a folder has no image or cannot be listed.
    """
    found: list[Path] = []
    for path in paths:
        if is_folder(path):
            below = find_images_below(path, refuse=_refuse)
            if below.skipped:
                what = counted(len(below.skipped), "folder or file", several="folders and files")
                log.warning("skipped %s that a system or a program keeps in %s: %s", what, path, below.skipped[0])
            if not below.paths:
                known = ", ".join(sorted(EXTENSIONS))
                raise DataError(f"the folder {path} has no image below it (looked for {known} and less usual ones)")
            found += below.paths
        elif is_there(path):
            found.append(path)
        elif scheme := URL.match(str(path)):
            url = scheme[0].rstrip("/") + "//" + str(path)[scheme.end() :]  # a path has no double slash
            raise DataError(f"{url} is a URL, which is not fetched: download it and give the path of the file")
        else:
            raise DataError(f"no file or folder at {path}")
    return found


def _refuse(error: OSError) -> None:
    raise DataError(f"the folder {error.filename} cannot be listed ({reason_of(error)})") from error
