"""The table of data sets: one row of facts each. What the rows share in form is read by the modules beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from uniemox.config.data import Ratios, Rounding
from uniemox.emotions import DRAWN6, TAXONOMIES, Emotion, look_up

Layout = Literal[
    "emoset",
    "class_folders",
    "object_folders",
    "split_folders",
    "emotion6",
    "heco",
    "emotic",
    "findingemo",
    "table",
    "hub",
]  # Form of a data set on disk


@dataclass(frozen=True)
class Recipe:
    """How a set without splits is cut, per class."""

    ratios: Ratios
    rounding: Rounding = "largest_remainder"
    cuts: Literal["all", "test"] = "all"  # What is cut: all images, or the test split of a set that has no val


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Facts about one data set."""

    name: str  # What it is called on the command line
    title: str
    classes: tuple[str, ...] = ()  # Names of the labels, the i-th being label i; empty where the data defines them
    layout: Layout
    emotion: Emotion | None = None  # Whether viewers' or the depicted person's is labelled; None if unknown
    licence: str = ""
    url: str = ""  # Where the set can be had
    citation: str = ""
    folder: str = ""  # Of the tree in the published archive; the reader takes either as root
    recipe: Recipe | None = None  # Cut, for a set that comes without one
    published_split: str = ""  # What was published as split, in words
    pictures: int | None = None  # How many images were published; None where that could not be sourced
    people: int | None = None  # How many people are annotated in them, where each is a sample
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # Published, of each class, by split
    labelled_by: str = ""  # What a label is
    has_label_sets: bool = False  # Whether a row has several labels
    has_clips: bool = False  # Whether images are frames of films
    is_drawn: bool = False  # Whether images are drawings, from which nothing carries over to photographs
    note: str = ""  # What to know before training on it


_RESEARCH: Final = "none stated; for research, on the authors' terms"

_PLUTCHIK: Final = (
    *("acceptance", "admiration", "amazement", "anger", "annoyance", "anticipation", "apprehension", "boredom"),
    *("disgust", "distraction", "ecstasy", "fear", "grief", "interest", "joy", "loathing", "pensiveness", "rage"),
    *("sadness", "serenity", "surprise", "terror", "trust", "vigilance"),
)  # Eight emotions in three degrees each: Plutchik 1980, A general psychoevolutionary theory of emotion

_ROWS: Final = (  # The classes of a set whose name is that of a taxonomy are the taxonomy's
    DatasetSpec(
        name="emoset",
        title="EmoSet-118K",
        layout="emoset",
        emotion="evoked",
        licence=_RESEARCH,
        url="https://vcc.tech/EmoSet",
        citation="Yang, Huang, Ding, Lischinski, Cohen-Or, Huang: EmoSet: A Large-scale Visual Emotion Dataset with "
        "Rich Attributes, ICCV 2023",
        published_split="given: 94,481 / 5,905 / 17,716",
        pictures=118_102,
        counts={
            "train": (15681, 12022, 13036, 15837, 8434, 8467, 10786, 10218),
            "val": (994, 755, 817, 977, 518, 538, 693, 613),
            "test": (2770, 2260, 2484, 3014, 1708, 1661, 1974, 1845),
        },
        labelled_by="human annotators",
        note="label order is not alphabetical; descriptions made for pretraining name the emotion",
    ),
    DatasetSpec(
        name="fi",
        title="FI (Flickr and Instagram)",
        layout="class_folders",
        emotion="evoked",
        licence=_RESEARCH,
        url="https://arxiv.org/abs/1605.02677",
        citation="You, Luo, Jin, Yang: Building a Large Scale Dataset for Image Emotion Recognition: The Fine Print "
        "and The Benchmark, AAAI 2016",
        folder="emotion_dataset",
        recipe=Recipe((0.80, 0.05, 0.15)),  # the official code's, which draws it unseeded
        published_split="80/5/15 per class, unseeded",
        pictures=23_308,
        labelled_by="the searched keyword, kept where most of five raters agreed",
        note="the archive that circulates has 23,185 images, some of them placeholders of removed ones",
    ),
    DatasetSpec(
        name="emotion6",
        title="Emotion6",
        layout="emotion6",
        emotion="evoked",
        licence="academic research only; images belong to their owners",
        url="http://chenlab.ece.cornell.edu/downloads.html",
        citation="Peng, Sadovnik, Gallagher, Chen: A Mixed Bag of Emotions: Model, Predict, and Transfer Emotion "
        "Distributions, CVPR 2015",
        folder="images",
        recipe=Recipe((0.70, 0.10, 0.20), rounding="truncate"),
        published_split="70/10/20 per class, truncated: 1,380 / 198 / 402",
        pictures=1_980,
        labelled_by="the searched keyword, or what raters chose: labels",
        note="the folder is the searched keyword, not what raters chose; basenames repeat across folders",
    ),
    DatasetSpec(
        name="ube",
        title="UnbiasedEmo (UBE)",
        layout="object_folders",
        emotion="evoked",
        licence=_RESEARCH,
        url="https://rpand002.github.io/emotion.html",
        citation="Panda, Zhang, Li, Lee, Lu, Roy-Chowdhury: Contemplating Visual Emotions: Understanding and "
        "Overcoming Dataset Bias, ECCV 2018",
        folder="images",
        recipe=Recipe((0.70, 0.10, 0.20)),
        published_split="70/10/20 per class and object, unseeded",
        labelled_by="the folder",
        note="the same objects appear in every emotion, so cuts keep them in proportion",
    ),
    DatasetSpec(
        name="emo8",
        title="Emo8",
        layout="split_folders",
        emotion="evoked",
        licence=_RESEARCH,
        url="https://github.com/chincharles/u-emo",
        citation="Chen, Sun, Liu: UniEmoX: Cross-modal Semantic-Guided Large-Scale Pretraining for Universal Scene "
        "Emotion Perception, IEEE TIP 34, 2025",
        folder="emo8",
        published_split="given",
        labelled_by="the folder",
        note="its size could not be sourced",
    ),
    DatasetSpec(
        name="caer-s",
        title="CAER-S",
        layout="split_folders",
        emotion="felt",
        licence=_RESEARCH,
        url="https://caer-dataset.github.io",
        citation="Lee, Kim, Kim, Park, Sohn: Context-Aware Emotion Recognition Networks, ICCV 2019",
        folder="CAER-S",
        recipe=Recipe((0.0, 0.34, 0.66), cuts="test"),
        published_split="given train; given test cut 34 % val, 66 % test per class",
        labelled_by="the folder",
        has_clips=True,
        note="frames of one clip stand in train and test, so accuracy per frame rewards memory",
    ),
    DatasetSpec(
        name="heco",
        title="HECO",
        layout="heco",
        emotion="felt",
        licence="non-commercial research only",
        url="https://heco2022.github.io",
        citation="Yang, Huang, Wang, Liu, Zhai, Su, Li, Zhang: Emotion Recognition for Multiple Context Awareness, "
        "ECCV 2022",
        folder="Data",
        recipe=Recipe((0.70, 0.10, 0.20)),
        published_split="none in common; 70/10/20 per class, by image",
        pictures=9_385,
        people=19_781,
        labelled_by="annotators, per person",
        note="one row per person, split by image; one row of the list says Happinesst",
    ),
    DatasetSpec(
        name="emotic",
        title="EMOTIC",
        layout="emotic",
        emotion="felt",
        licence="non-commercial research only, by a request form",
        url="https://s3.sunai.uoc.edu/emotic/download.html",
        citation="Kosti, Alvarez, Recasens, Lapedriza: Context Based Emotion Recognition Using EMOTIC Dataset, "
        "IEEE TPAMI 42, 2020",
        published_split="given",
        pictures=23_571,
        people=34_320,
        labelled_by="annotators, several categories per person; val and test combine several annotators",
        note="one row per person with a set of labels: train with --preset emotic",
    ),
    DatasetSpec(
        name="findingemo",
        title="FindingEmo",
        classes=_PLUTCHIK,
        layout="findingemo",
        emotion="felt",
        licence="CC BY-NC-SA 4.0 for annotations and URLs; images belong to their owners, no commercial use",
        url="https://gitlab.com/EAVISE/lme/findingemo",
        citation="Mertens, Yargholi, Op de Beeck, Van den Stock, Vennekens: FindingEmo: An Image Dataset for Emotion "
        "Recognition in the Wild, NeurIPS 2024",
        recipe=Recipe((0.70, 0.10, 0.20)),
        published_split="none in common; 70/10/20 per class",
        pictures=25_869,
        labelled_by="one annotator per image, of the scene as a whole; arousal, rated 0 to 6, is 3 lower here",
        note="arousal is published from 0 to 6 and kept 3 lower, on the scale of valence, -3 to 3",
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
        published_split="given",
        pictures=2_808,
        labelled_by="the drawing's file name",
        is_drawn=True,
        note="drawings: nothing learned here carries over to photographs",
    ),
    DatasetSpec(
        name="folders",
        title="Folders named by class",
        layout="class_folders",
        published_split="cut by ratios, per class",
        labelled_by="the folder",
    ),
    DatasetSpec(
        name="split-folders",
        title="Folders train, val and test, each with folders named by class",
        layout="split_folders",
        published_split="given",
        labelled_by="the folder",
    ),
    DatasetSpec(
        name="table",
        title="A table of images: CSV, TSV, JSON lines or Parquet",
        layout="table",
        published_split="the column split, or cut by ratios, per class",
    ),
    DatasetSpec(
        name="hf",
        title="A folder of Hugging Face datasets",
        layout="hub",
        published_split="given, or cut by ratios, per class",
    ),
)


def _complete(spec: DatasetSpec) -> DatasetSpec:
    """Add the classes of a data set that has a taxonomy of its own."""
    own = TAXONOMIES.get(spec.name)
    return spec if own is None else replace(spec, classes=own.classes, has_label_sets=own.several)


SPECS: Final[dict[str, DatasetSpec]] = {spec.name: _complete(spec) for spec in _ROWS}  # What can be prepared, by name


def get_spec(name: str) -> DatasetSpec:
    """Look up a data set by its name, in any spelling that `look_up` takes; an unknown one is a `DataError`."""
    return look_up(name, SPECS, what="data set")
