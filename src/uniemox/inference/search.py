"""Finding images of a collection by a text, by another image, or by an emotion.

By a text and by an image, images are ordered by the cosine of features; by an emotion, by its probability. Features
are what a model's head reads: of a CLIP, and of a model that was pretrained with one, they lie in the space of its
texts (Radford et al. 2021, section 2.3). Brings torch only for a model that needs it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from uniemox.checkpoints.facts import ModelFacts, read_facts
from uniemox.checkpoints.open import Opened, open_model
from uniemox.config.zero_shot import ZeroShotConfig
from uniemox.emotions import resolve
from uniemox.errors import ConfigError, DataError
from uniemox.files.whole import write_whole
from uniemox.importers.specs import SPECS
from uniemox.inference.backend import Backend
from uniemox.inference.index import Index, IndexedModel, Stamp
from uniemox.inference.opening import Named
from uniemox.inference.parts import choose_part_size
from uniemox.inference.predictor import Prediction, Predictor
from uniemox.inference.tables import Form, about_model
from uniemox.targets.columns import SHARE, Column
from uniemox.wording import nearest, shorten

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

_USUAL: Final = "mikels"  # Taxonomy of the answers beside features where a zero-shot model is given none


@dataclass(frozen=True)
class Hit:
    """An image that was found."""

    score: float  # Cosine of features, or probability of the emotion
    prediction: Prediction

    @property
    def path(self) -> Path | None:
        """Of the image, as the search was given it."""
        return self.prediction.path

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        answer = self.prediction.to_dict()
        del answer["reason"], answer["box"]
        return {"path": answer.pop("path"), "score": self.score, **answer}

    def cells(self) -> dict[str, Any]:
        """Return the values by the columns of a table."""
        return {**self.prediction.cells(), "score": self.score}


class _Embedding:
    """A backend that keeps the features of what it answers, in order, for whoever takes the answers."""

    def __init__(self, backend: Backend) -> None:
        self.facts: ModelFacts = backend.facts
        self.precision, self.domain = backend.precision, backend.domain
        self.digest, self.logits, self.embed = backend.digest, backend.logits, backend.embed
        self.activation_maps = backend.activation_maps
        self.features: deque[Floats] = deque()

    def outputs(self, pixels: Floats) -> tuple[Floats, Floats | None]:
        logits, features = self.embed(pixels)
        self.features.extend(np.empty((len(logits), 0), np.float32) if features is None else features)
        return logits, features


class Searcher:
    """A model that indexes images, and turns what is looked for into a query.

    Args:
        opened: The model's name.
        predictor: The loaded model.
        zero_shot: Its classes and the name of its teacher, where it needs those.
    """

    def __init__(self, opened: Opened, predictor: Predictor, zero_shot: ZeroShotConfig) -> None:
        self.opened, self.zero_shot = opened, zero_shot
        self._embedding = _Embedding(predictor.backend)
        self.predictor = Predictor(self._embedding, target=predictor.target, decoding=predictor.decoding)

    @classmethod
    def load(cls, model: str | Path, *, zero_shot: ZeroShotConfig | None = None, **options: Any) -> Searcher:
        """Load a model; arguments, `options` too, and errors are those of `Predictor.load`.

        A zero-shot model that is given no classes answers with those of Mikels beside its features.
        """
        opened = open_model(model)
        asked = zero_shot or ZeroShotConfig()
        if not (asked.classes or asked.taxonomy or options.get("dataset")) and _has_no_classes(opened):
            log.info("%s has no classes of its own, so its answers are those of the taxonomy %s", model, _USUAL)
            asked = replace(asked, taxonomy=_USUAL)
        return cls(opened, Predictor.load(model, zero_shot=asked, **options), asked)

    @cached_property
    def model(self) -> IndexedModel:
        """What an index must be of."""
        facts = self.predictor.facts
        views = 1 if facts.view != "both" else 2
        blank = np.zeros((1, views, 3, facts.image_size, facts.image_size), np.float32)
        _, features = self._embedding.embed(blank)
        return IndexedModel(
            name=self.opened.name,
            digest=self.predictor.digest(),
            precision=self.predictor.precision,
            width=0 if features is None else features.shape[1],
        )

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of the answers that an index keeps."""
        domain = self.predictor.domain
        return (*self.predictor.target.columns, *(() if domain is None else domain.columns))

    @property
    def emotions(self) -> tuple[str, ...]:
        """The emotions that have a probability."""
        names = (column.name for column in self.columns)
        return tuple(name.removeprefix(SHARE) for name in names if name.startswith(SHARE))

    def query_text(self, text: str) -> Floats:
        """Compute the query of a text, (D,) of length 1.

        Raises:
            ConfigError: The text does not fit into the context of the text tower, or the model shares no space with
                texts.
            CheckpointError: The weights of its text tower are not at hand.
        """
        if self.opened.role == "export":
            raise ConfigError(f"{self.opened.name} is an export, which has no texts: give the model it was made from")
        from uniemox.checkpoints.zero_shot import load_text_tower

        teacher = load_text_tower(self.opened, self.zero_shot)
        if not teacher.fits(text):
            raise ConfigError(f"text is {shorten(text)}, which is longer than {self.opened.name} reads: shorten it")
        return _unit(teacher.encode_texts([text]).numpy()[0])

    def query_image(self, path: Path) -> Floats:
        """Compute the query of an image, (D,) of length 1; `DataError` if it cannot be read."""
        if not self.model.width:
            step = "give an emotion, or the folder that it was exported from"
            raise ConfigError(f"{self.opened.name} gives no features, so images cannot be compared: {step}")
        ((prediction, features),) = self._embed([path], batch_size=1, num_workers=0)
        if prediction.answer is None:
            raise DataError(f"the image {path} cannot be read: {prediction.reason}")
        return _unit(features)

    def find_emotion(self, name: str) -> str:
        """Find an emotion of the model by its name in any spelling; `ConfigError` names the nearest one."""
        emotions = self.emotions
        if not emotions:
            raise ConfigError(f"{self.opened.name} gives no probabilities of emotions: look for a text or an image")
        found = resolve(name, emotions)
        if found is None:
            close = nearest(name.casefold(), emotions) or f": it has {', '.join(emotions)}"
            raise ConfigError(f"emotion is {shorten(name)}, which {self.opened.name} does not know{close}")
        return found

    def fill(
        self,
        index: Index,
        files: Iterable[tuple[bytes, Path, Stamp]],
        *,
        total: int,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> list[Prediction]:
        """Read images, and put them into an index part by part; return those that cannot be read, with reasons."""
        unreadable, size, given = [], choose_part_size(total, batch_size), iter(files)
        while chunk := list(islice(given, size)):
            stamps, answers, features = {}, [], []
            found = self._embed([path for _, path, _ in chunk], batch_size=batch_size, num_workers=num_workers)
            for (key, _, stamp), (prediction, feature) in zip(chunk, found, strict=True):
                if prediction.answer is None:
                    unreadable.append(prediction)
                    continue
                stamps[key] = stamp
                answers.append(prediction.cells())
                features.append(feature)
            if stamps:
                index.add(stamps, answers, np.stack(features))
        return unreadable

    def search(self, index: Index, paths: dict[bytes, Path], query: Floats | str, *, count: int) -> list[Hit]:
        """Search an index.

        Args:
            index: Of this model; `paths` are among its files.
            paths: The images that are searched, by absolute path.
            query: From `query_text` or `query_image`, or an emotion from `find_emotion`.
            count: Most images that are found.
        """
        index.choose(paths.keys())
        found = index.highest(f"{SHARE}{query}", count) if isinstance(query, str) else index.nearest(query, count)
        return [
            Hit(place.score, Prediction(paths[key], _nested(row)))
            for place, (key, row) in zip(found, index.read(found), strict=True)
        ]

    def write(self, hits: Sequence[Hit], out: Path) -> None:
        """Write what was found as a table, by the ending of its name, or raise `DataError`."""
        about = about_model(self.opened.name, self.predictor.facts, digest=self.model.digest)
        columns = (Column("path", "text"), Column("score", "number"), *self.columns)
        with write_whole(out, DataError, elsewhere="choose another `out`") as beside:
            Form(out.suffix.lower(), columns, about).write(hits, beside)

    def _embed(
        self, paths: Sequence[Path], *, batch_size: int, num_workers: int
    ) -> Iterator[tuple[Prediction, Floats]]:
        """Yield for each path its prediction and its features (D,), which are empty where there is no answer."""
        kept, none = self._embedding.features, np.empty(0, np.float32)
        kept.clear()
        named = [Named(path) for path in paths]
        for prediction in self.predictor.predict(named, batch_size=batch_size, num_workers=num_workers):
            yield prediction, none if prediction.answer is None else kept.popleft()


def _has_no_classes(opened: Opened) -> bool:
    """Whether a model must be given classes to answer."""
    if opened.role != "folder":
        return opened.role == "clip"
    facts = read_facts(opened.path)
    return facts.kind == "pretraining" and facts.dataset not in SPECS


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    """Return an answer, as a target gives it, of the cells of a row."""
    shares = {name.removeprefix(SHARE): value for name, value in row.items() if name.startswith(SHARE)}
    answer = {name: value for name, value in row.items() if not name.startswith(SHARE)}
    return {**answer, **({"probabilities": shares} if shares else {})}


def _unit(features: npt.NDArray[Any]) -> Floats:
    wide = features.astype(np.float64)
    units: Floats = (wide / max(float(np.linalg.norm(wide)), 1e-12)).astype(np.float32)
    return units
