"""Settings of the commands that make, change and show manifests."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Annotated, Literal

from uniemox.config.checks import JsonConfig, Natural, NotNegative, Range, SomeWorkers, check, check_manifest_out
from uniemox.config.people import BoxUnits, CropShape, PersonChoice, PersonConfig

Stratum = Literal["class", "folder", "all"]
"""What is split separately: the rows of a class (or of a set of classes), those of a folder, or all rows at once."""
Together = Literal["group", "folder", "image"]
"""What a split keeps together: a group that the manifest names, the files of one folder, or the rows of one image."""
Rounding = Literal["largest_remainder", "truncate"]
"""How shares of a split become whole numbers.

`largest_remainder` is as near to the shares as whole numbers can be. `truncate` is what published code does: the whole
part of n times the share for train and for val, in floating point, and the rest for test.
"""
Unmapped = Literal["refuse", "drop", "keep"]
"""What happens to rows with a label that has no counterpart: an error, dropped, or kept without a label."""
Labelling = Literal["folder", "majority", "distribution"]
"""What a label is if raters were asked too: the folder, what most of them chose, or the share of each choice."""
Ratios = tuple[float, float, float]
"""Shares of train, val and test."""
Scale = tuple[float, float]
"""Ends of a scale of valence, arousal and dominance: the least and the most that a rater can give."""
_Ends = Annotated[Scale, Range("two ends, the low one first", lambda ends: -inf < ends[0] < ends[1] < inf)]


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(JsonConfig):
    """Reading a data set's folder into a manifest."""

    name: str = field(kw_only=False)
    """Data set, such as emoset, or folders, split-folders, table, hf."""
    root: Path
    """Folder of the data set."""
    out: Path
    """Manifest to write, a Parquet file; replaced if it exists."""
    ratios: Ratios | None = field(default=None, metadata={"metavar": "80/5/15"})
    """Shares of train, val and test, for a data set without splits."""
    split_list: Path | None = None
    """List with the split of each image, instead of shares."""
    fraction: float | None = None
    """Share of train to keep, per class, nested in larger ones."""
    seed: int = 0
    """Seed of the split and of the fraction."""
    boxes: Path | None = None
    """File of people's boxes: CSV, TSV or COCO's JSON."""
    box_units: BoxUnits = "auto"
    """What the numbers of boxes in a file or a table are: pixels, or shares of the image's sides; auto takes them for
    shares if none reaches beyond 1.5."""
    labels: Labelling | None = None
    """What a label of Emotion6 is: the folder, what most raters chose, or their shares."""
    table: Path | None = None
    """Table of images, for `table`: CSV, TSV, JSON lines or Parquet."""
    columns: str | None = field(default=None, metadata={"metavar": "path=image,label=emotion"})
    """Roles of the columns of `table` or `hf`, if their headings do not name them."""
    scale: _Ends | None = field(default=None, metadata={"metavar": "1,9"})
    """Ends of the scale of valence, arousal and dominance, for `table`, `hf` or `heco`; ratings beyond are skipped."""
    classes: Sequence[str] = ()
    """Names of the classes in label order, for data that `uniemox data datasets` lists no classes of."""
    pictures: Path | None = None
    """Folder to write the images in the tables of `hf` to."""
    strict: bool = False
    """Fail on any problem instead of counting it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_manifest_out(self.out)
        if self.ratios is not None:
            is_good = self.ratios[0] > 0 and all(share >= 0 for share in self.ratios)
            shown = "/".join(f"{share:g}" for share in self.ratios)
            check(is_good, f"ratios are {shown}, but must be shares such as 80/5/15, train above 0")
        place, home = self.out.resolve().parent, self.root.resolve()
        check(
            place == home or not place.is_relative_to(home),
            # A reader of folders would take the manifest for one of the data set's files.
            f"out is {self.out}, in a folder of the data set: write {self.root / self.out.name}, or choose a place "
            f"outside of {self.root}",
        )

    @property
    def shares(self) -> Ratios | None:
        """The ratios, such that they sum to 1."""
        if self.ratios is None:
            return None
        train, val, test = self.ratios
        total = sum(self.ratios)
        return train / total, val / total, test / total


@dataclass(frozen=True, kw_only=True)
class DatasetsConfig(JsonConfig):
    """Listing the data sets that can be prepared."""


@dataclass(frozen=True, kw_only=True)
class RecutConfig(JsonConfig):
    """What the commands that make a manifest of others have in common."""

    out: Path
    """Manifest to write, a Parquet file; replaced if it exists."""
    strict: bool = False
    """Fail on the first problem instead of counting it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_manifest_out(self.out)


@dataclass(frozen=True, kw_only=True)
class SplitConfig(RecutConfig):
    """Cutting a manifest again, or keeping a fraction of it."""

    manifest: Path = field(kw_only=False)
    """Parquet file made by `uniemox data prepare`."""
    ratios: Ratios | None = field(default=None, metadata={"metavar": "70/10/20"})
    """Shares of train, val and test to cut all rows into."""
    by: Stratum = "class"
    """What is split separately: the rows of each class or of each folder, or all rows at once."""
    group_by: Together | None = None
    """What stays in one split; null takes the groups that the manifest names, otherwise the people of one image."""
    rounding: Rounding = "largest_remainder"
    """How shares become whole numbers; truncate is what published code does."""
    split_list: Path | None = None
    """Published split: CSV or TSV with columns path and split, JSON of split to paths, or a folder of train.txt."""
    fraction: float | None = None
    """Share of the train split to keep; smaller ones are nested."""
    seed: int = 0
    """Seed of the split and of the fraction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("ratios", "split_list", "fraction") if getattr(self, name) is not None]
        check(bool(given), "nothing to do: give `ratios`, `split_list` or `fraction`")
        check(given[:2] != ["ratios", "split_list"], "`ratios` and `split_list` both make the splits: give one of them")
        check(self.ratios is not None or self.group_by is None, "`group_by` is about cutting: give `ratios` with it")


@dataclass(frozen=True, kw_only=True)
class MergeConfig(RecutConfig):
    """Joining manifests into one."""

    manifests: Sequence[Path] = field(kw_only=False)
    """Two or more manifests."""
    taxonomy: str | None = None
    """Known list of classes that all labels are mapped to, such as mikels, ekman, emotion6 or polarity."""
    unmapped: Unmapped = "refuse"
    """What to do with rows that have no label there."""
    mixed_emotions: bool = False
    """Mix labels of evoked and of felt emotions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.manifests) >= 2, "a merge takes two or more manifests")


@dataclass(frozen=True, kw_only=True)
class ShardConfig(JsonConfig):
    """Copying a manifest's images into a few tar archives."""

    manifest: Path = field(kw_only=False)
    """Parquet file made by `uniemox data prepare`."""
    out: Path
    """Folder to write: tar archives and their manifest."""
    split: Sequence[str] = ()
    """Splits to store; by default all."""
    shard_size: Natural = 1000
    """Megabytes from which a new archive is started."""
    seed: NotNegative[int] = 0
    """Seed of the order in the archives."""
    workers: SomeWorkers = 4
    """Threads that read images."""
    strict: bool = False
    """Fail on an image that cannot be read instead of counting it."""


@dataclass(frozen=True, kw_only=True)
class ShowConfig(JsonConfig):
    """Showing what a manifest holds, and its people."""

    manifest: Path = field(kw_only=False)
    """Parquet file made by `uniemox data prepare`."""
    people: bool = False
    """Show how many people the images have; with `out`, also where."""
    out: Path | None = None
    """Sheet of images with boxes and crops, .html or .png; replaced if it exists."""
    count: Natural | None = None
    """Number of images on the sheet, spread evenly over all; null takes 24."""
    choice: PersonChoice | None = None
    """Person of the crop; null takes the largest."""
    margin: float | None = None
    """Share of the box's sides that the crop adds; null takes 0.1."""
    shape: CropShape | None = None
    """How the crop becomes square; null squeezes it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.out is None or self.people, "`out` is for the sheet of `people`: give both")
        for name in ("count", "choice", "margin", "shape"):
            is_used = self.out is not None or getattr(self, name) is None
            check(is_used, f"`{name}` is about the sheet: ask for it with `people` and `out`")
        is_sheet = self.out is None or self.out.suffix.lower() in (".html", ".png")
        check(is_sheet, f"out is {self.out}, but must end in .html or .png")

    @property
    def person(self) -> PersonConfig:
        """How the sheet crops; a `ConfigError` if the margin is out of range."""
        settings = {name: getattr(self, name) for name in ("choice", "margin", "shape")}
        return PersonConfig(**{name: value for name, value in settings.items() if value is not None})
