"""The table of data sets: one row of facts each. What the rows share in form is read by `layouts`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from uniemox.emotions import DRAWN6, MIKELS, MIKELS_ALPHABETICAL
from uniemox.errors import DataError

if TYPE_CHECKING:
    from uniemox.data.manifest import Emotion

Layout = Literal["emoset", "class_folders", "split_folders"]
"""Form of a data set on disk."""

Ratios = tuple[float, float, float]
"""Shares of train, val and test."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Facts about one data set."""

    name: str
    """What it is called on the command line."""
    title: str
    classes: tuple[str, ...]
    """Names of the labels, the i-th being label i; empty where the folders tell them."""
    layout: Layout
    emotion: Emotion | None
    """Whose emotion is labelled, the viewers' or the depicted person's; None where it is not known."""
    licence: str = ""
    url: str = ""
    """Where the set can be had."""
    citation: str = ""
    folder: str = ""
    """Folder in which the published archive keeps its tree; the reader takes the one or the other as root."""
    ratios: Ratios | None = None
    """Split per class, for a set that comes without one."""


_ROWS: Final = (
    DatasetSpec(
        name="emoset",
        title="EmoSet-118K",
        classes=MIKELS,
        layout="emoset",
        emotion="evoked",
        licence="none stated; for research, on the authors' terms",
        url="https://vcc.tech/EmoSet",
        citation="Yang, Huang, Ding, Lischinski, Cohen-Or, Huang: EmoSet: A Large-scale Visual Emotion Dataset with "
        "Rich Attributes, ICCV 2023",
    ),
    DatasetSpec(
        name="fi",
        title="FI (Flickr and Instagram)",
        classes=MIKELS_ALPHABETICAL,
        layout="class_folders",
        emotion="evoked",
        licence="none stated; for research, on the authors' terms",
        url="https://arxiv.org/abs/1605.02677",
        citation="You, Luo, Jin, Yang: Building a Large Scale Dataset for Image Emotion Recognition: The Fine Print "
        "and The Benchmark, AAAI 2016",
        folder="emotion_dataset",
        ratios=(0.80, 0.05, 0.15),  # the official code's, which draws it unseeded
    ),
    DatasetSpec(
        name="emo8",
        title="Emo8",
        classes=MIKELS_ALPHABETICAL,
        layout="split_folders",
        emotion="evoked",
        licence="none stated; for research, on the authors' terms",
        url="https://github.com/chincharles/u-emo",
        citation="Chen, Sun, Liu: UniEmoX: Cross-modal Semantic-Guided Large-Scale Pretraining for Universal Scene "
        "Emotion Perception, IEEE TIP 34, 2025",
        folder="emo8",
    ),
    DatasetSpec(
        name="drawn6",
        title="Drawn people in scenes, six emotions",
        classes=DRAWN6,
        layout="emoset",
        emotion="felt",
        licence="CC0-1.0 figures on public-domain backgrounds",
        url="comes with uniemox: run `uniemox demo`",
        citation="comicgen (Gramener, CC0) over openclipart (public domain), composed by uniemox",
    ),
    DatasetSpec(
        name="folders",
        title="Folders named by class",
        classes=(),
        layout="class_folders",
        emotion=None,
    ),
    DatasetSpec(
        name="split-folders",
        title="Folders train, val and test, each with folders named by class",
        classes=(),
        layout="split_folders",
        emotion=None,
    ),
)

SPECS: Final[dict[str, DatasetSpec]] = {spec.name: spec for spec in _ROWS}
"""Every data set that can be prepared, by name."""


def get_spec(name: str) -> DatasetSpec:
    """Look up a data set.

    Raises:
        DataError: There is none of this name.
    """
    spec = SPECS.get(name)
    if spec is None:
        raise DataError(f"no data set is called {name}: there are {', '.join(SPECS)}")
    return spec
