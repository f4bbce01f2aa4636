"""What a model must beat: cheap answers to the same images, scored beside it by the same target.

*majority* answers every image alike, with the shares of the labels of train. *colour* sees no more of an image than
statistics of its colours, on which it is a linear model, fitted by the loss of the target: for one label a multinomial
logistic regression, for several a binary one for each. A further baseline is a function of `Question`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from uniemox.errors import DataError
from uniemox.files.images import Unreadable, read_image
from uniemox.files.read_ahead import read_ahead
from uniemox.files.room import ROOM
from uniemox.manifests.table import Manifest, evenly
from uniemox.targets.scores import Baseline, Scores
from uniemox.targets.target import Logits, Target

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

MAX_FITTED: Final = 5000  # Images of train that colour is fitted on
MAX_ANSWERED: Final = 20_000  # Images that colour answers
INVERSE_STRENGTH: Final = 1.0
"""C of scikit-learn: 1 / (C n) is the weight of the squared weights of the linear model beside its mean loss."""
_SHRUNK: Final = 64  # Pixels of the short side that suffice of a JPEG
_SIDE: Final = 32  # Pixels of the square that is measured
_AT_ONCE: Final = 64  # Images that are measured together
_FIT: Final = {"maxiter": 200, "maxcor": 30, "ftol": 1e-12, "gtol": 1e-6}  # Some 50 steps are usual

_PERCENTILES: Final = (10, 50, 90)
_HUES: Final = 12  # Bins
_LEVELS: Final = 3  # Bins of red, green and blue each
NUM_STATISTICS: Final = 5 * (2 + len(_PERCENTILES)) + _HUES + 2 + _LEVELS**3

# sRGB to XYZ under D65 (IEC 61966-2-1), divided by what white has.
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_TO_XYZ: Final = (_XYZ / _XYZ.sum(1, keepdims=True)).astype(np.float32)
_GREY: Final = np.arange(256) / 255
_LINEAR: Final = np.where(_GREY <= 0.04045, _GREY / 12.92, ((_GREY + 0.055) / 1.055) ** 2.4).astype(np.float32)


class Training(NamedTuple):
    """What baselines may learn from."""

    manifest: Manifest
    labels: npt.NDArray[Any]  # (N, …), as the target reads them


@dataclass(frozen=True)
class Question:
    """What every baseline is asked."""

    target: Target  # That of the model; its thresholds are not the baseline's
    train: Training | str  # Or why there is none
    test: Manifest  # The rows that the model answered
    num_workers: int  # Threads that decode; 0 decodes in between
    device: str = "cpu"  # Where a baseline that is a large model computes


class Answer(NamedTuple):
    """A baseline's answers to some rows of the test."""

    logits: Logits  # (M, C)
    rows: npt.NDArray[np.int64]  # (M,), places in the test
    target: Target  # With thresholds of the baseline's own
    note: str  # How it was made


Answerer = Callable[[Question], Answer | str]
"""Answers a question, or says why it cannot."""


def score_baselines(
    target: Target,
    *,
    test: Manifest,
    labels: npt.NDArray[Any],
    train: Manifest | None,
    num_workers: int,
    more: Mapping[str, Answerer] | None = None,
    device: str = "cpu",
) -> tuple[Baseline, ...]:
    """Score the baselines on what a model answered. None of them makes an evaluation fail.

    Args:
        target: What the model was scored with.
        test: The rows that it answered.
        labels: Theirs (N, …), as the target reads them.
        train: Rows to learn from, with the same classes; None where there are none.
        num_workers: Threads that decode.
        more: Further baselines by their names.
        device: Where a baseline that is a large model computes.
    """
    question = Question(target, learn_from(train, target), test, num_workers, device)
    baselines = {target.constant: answer_majority, "colour statistics": answer_colour, **(more or {})}
    return tuple(_score(name, answer, question, labels) for name, answer in baselines.items())


def learn_from(train: Manifest | None, target: Target) -> Training | str:
    """Read what baselines may learn from rows that are already in the target's classes, or say why nothing."""
    if train is None:
        return "the manifest has no split train to learn from"
    try:
        rated = target.rated(train)
        return Training(rated, target.read_labels(rated))
    except DataError as error:
        return str(error)


def _score(name: str, answerer: Answerer, question: Question, labels: npt.NDArray[Any]) -> Baseline:
    answer = answerer(question)
    if isinstance(answer, str):
        return Baseline(name, note=answer)
    try:
        scores: Scores = answer.target.score(answer.logits, labels[answer.rows], num_resamples=0)
    except DataError as error:  # numbers that are not finite
        return Baseline(name, note=str(error))
    return Baseline(name, scores.values, answer.note)


def answer_majority(question: Question) -> Answer | str:
    """Answer every row alike."""
    if isinstance(question.train, str):
        return question.train
    labels, target = question.train.labels, question.target
    prior = target.prior(labels)
    if prior is None:
        fitted = fit_linear(target, np.empty((len(labels), 0)), labels)
        if isinstance(fitted, str):
            return fitted
        prior = fitted.bias
    fitted_target = target.fit(np.broadcast_to(prior, (len(labels), len(prior))), labels)
    logits = np.broadcast_to(prior, (len(question.test), len(prior)))
    note = f"the same answer to all images, by the labels of {len(labels):,} rows of train"
    return Answer(logits, np.arange(len(logits)), fitted_target, note)


def answer_colour(question: Question) -> Answer | str:
    """Answer by statistics of colours."""
    if isinstance(question.train, str):
        return question.train
    train, target = question.train, question.target
    known = _read_colours(train.manifest, MAX_FITTED, question.num_workers)
    asked = _read_colours(question.test, MAX_ANSWERED, question.num_workers)
    for found in (known, asked):
        if not len(found.rows):
            return f"none of the images can be read: {found.reason}"
    labels = train.labels[known.rows]
    mean, spread = known.statistics.mean(0), known.statistics.std(0)
    spread[spread < 1e-6] = 1  # the same in all images
    features = (known.statistics - mean) / spread
    linear = fit_linear(target, features, labels)
    if isinstance(linear, str):
        return linear
    note = (
        f"a linear model of {NUM_STATISTICS} numbers of each image, fitted on {known.describe(train.manifest)} of train"
    )
    if len(asked.rows) < len(question.test):
        note += f"; scored on {asked.describe(question.test)}"
    return Answer(linear((asked.statistics - mean) / spread), asked.rows, target.fit(linear(features), labels), note)


class _Colours(NamedTuple):
    rows: npt.NDArray[np.int64]  # (M,), those that could be read
    statistics: npt.NDArray[np.float64]  # (M, NUM_STATISTICS)
    num_unreadable: int
    reason: str  # Of the first that cannot be read

    def describe(self, manifest: Manifest) -> str:
        """Count the images."""
        number, total = len(self.rows), len(manifest)
        text = f"{number:,} images" if number == total else f"{number:,} of {total:,} images"
        return f"{text} ({self.num_unreadable:,} cannot be read)" if self.num_unreadable else text


def _read_colours(manifest: Manifest, most: int, num_workers: int) -> _Colours:
    """Measure the colours of at most so many rows, evenly chosen."""
    places = np.array(evenly(len(manifest), most), dtype=np.int64)
    paths = (manifest.facts.root / manifest.table["path"][int(place)].as_py() for place in places)
    ahead = 4 * num_workers + 1
    shrunk = read_ahead(_shrink, paths, num_workers=num_workers, ahead=ahead, size=len, room=ahead * _SIDE**2)
    found = [np.empty((0, NUM_STATISTICS))]
    rows: list[int] = []
    reasons: list[str] = []
    while some := list(islice(shrunk, _AT_ONCE)):
        start = len(rows) + len(reasons)
        readable = [pixels for pixels in some if not isinstance(pixels, str)]
        rows += [places[start + i] for i, pixels in enumerate(some) if not isinstance(pixels, str)]
        reasons += [reason for reason in some if isinstance(reason, str)]
        if readable:
            found.append(measure_colours(np.stack(readable)))
    return _Colours(np.array(rows, dtype=np.int64), np.concatenate(found), len(reasons), reasons[0] if reasons else "")


@ROOM.use()
def _shrink(path: Path) -> npt.NDArray[np.uint8] | str:
    image = read_image(path, shrink_to=_SHRUNK)
    return f"{path}: {image.reason}" if isinstance(image, Unreadable) else shrink(image)


def shrink(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Squeeze an RGB image into a square of P pixels, (P, 3)."""
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX)).reshape(-1, 3)


def measure_colours(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Measure the colours of N images of P pixels, (N, P, 3) (after Datta et al. 2006, section 3).

    Returns:
        (N, NUM_STATISTICS): of each of L*, a*, b*, saturation and brightness the mean; their standard deviations; three
        percentiles of each; a histogram of hue and its direction (cosine, sine), weighted by chroma; and a coarse
        histogram of RGB.
    """
    hue, chroma, saturation, brightness = _hsv(pixels)
    channels = np.sort(np.stack([*_lab(pixels), saturation, brightness], axis=1), axis=2)  # (N, 5, P)
    places = np.array(_PERCENTILES) * (channels.shape[2] - 1) // 100
    weight = chroma / np.maximum(chroma.sum(1, keepdims=True), 1e-6)
    angle = np.float32(2 * np.pi) * hue
    direction = [(weight * np.cos(angle)).sum(1), (weight * np.sin(angle)).sum(1)]
    red, green, blue = np.moveaxis(pixels.astype(np.int64) * _LEVELS // 256, -1, 0)
    cells = (red * _LEVELS + green) * _LEVELS + blue
    parts = [
        channels.mean(2),
        channels.std(2),
        channels[:, :, places].reshape(len(pixels), -1),
        _histogram(np.minimum((hue * _HUES).astype(np.int64), _HUES - 1), weight, _HUES),
        np.stack(direction, axis=1),
        _histogram(cells, np.full_like(hue, 1 / hue.shape[1]), _LEVELS**3),
    ]
    return np.concatenate(parts, axis=1, dtype=np.float64)


def _histogram(bins: npt.NDArray[np.int64], weight: Singles, count: int) -> npt.NDArray[Any]:
    """Sum weights (N, P) by their bins (N, P), for each of N images."""
    cells = bins + count * np.arange(len(bins))[:, None]
    return np.bincount(cells.ravel(), weight.ravel(), count * len(bins)).reshape(-1, count)


def _hsv(pixels: npt.NDArray[np.uint8]) -> tuple[Singles, Singles, Singles, Singles]:
    """Compute hue in [0, 1), chroma, saturation and value in [0, 1] of pixels (…, 3) (Smith 1978)."""
    red, green, blue = np.moveaxis(pixels.astype(np.float32) / 255, -1, 0)
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    divisor = np.where(chroma > 0, chroma, 1)
    sector = np.where(
        value == red,
        (green - blue) / divisor % 6,
        np.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    return sector / 6, chroma, chroma / np.where(value > 0, value, 1), value


def _lab(pixels: npt.NDArray[np.uint8]) -> tuple[Singles, Singles, Singles]:
    """Compute L*, a* and b* (CIE 1976), each divided by 100, of sRGB pixels (…, 3)."""
    parts = _LINEAR[pixels] @ _TO_XYZ.T
    x, y, z = np.moveaxis(np.where(parts > 216 / 24389, np.cbrt(parts), (24389 / 27 * parts + 16) / 116), -1, 0)
    return (116 * y - 16) / 100, 5 * (x - y), 2 * (y - z)


class Linear(NamedTuple):
    """A linear model."""

    weight: Floats  # (C, F)
    bias: Floats  # (C,)

    def __call__(self, features: npt.NDArray[np.floating[Any]]) -> Floats:
        """Compute logits (N, C) of features (N, F)."""
        logits: Floats = features.astype(np.float64) @ self.weight.T + self.bias
        return logits

    def divided(self, temperature: float) -> Linear:
        """Make the model with logits that are divided by a temperature."""
        return Linear(self.weight / temperature, self.bias / temperature)


def fit_linear(target: Target, features: Floats, labels: npt.NDArray[Any]) -> Linear | str:
    """Minimise the mean loss of a target and the squared weights by L-BFGS, or say why that is impossible.

    Args:
        target: It may be of the user's own.
        features: (N, F), of mean 0 and deviation 1; F may be 0.
        labels: (N, …), as the target reads them.
    """
    import torch
    from scipy.optimize import minimize  # slow to import

    shape = (target.num_outputs, 1 + features.shape[1])  # the first column is the bias
    inputs = torch.from_numpy(features).float()

    def measure(flat: Floats) -> tuple[float, Floats]:
        """Compute the objective and its gradient."""
        both = torch.from_numpy(flat.reshape(shape)).float().requires_grad_()
        bias, weight = both[:, 0], both[:, 1:]
        penalty = weight.square().sum() / (2 * INVERSE_STRENGTH * len(features))
        objective = target.loss(torch.addmm(bias, inputs, weight.T), softened) + penalty
        (gradient,) = torch.autograd.grad(objective, both)
        if not (objective.isfinite() and gradient.isfinite().all()):
            raise FloatingPointError
        return objective.item(), gradient.double().numpy().ravel()

    try:
        softened = target.soften(torch.from_numpy(labels), 0.0)
        found = minimize(measure, np.zeros(math.prod(shape)), jac=True, method="L-BFGS-B", options=_FIT)
    except NotImplementedError:
        return f"{target.name} has no loss to fit it by"
    except FloatingPointError:
        return f"the loss of {target.name} led the fit to numbers that are not finite"
    both = found.x.reshape(shape)
    return Linear(both[:, 1:], both[:, 0])
