"""Views of pretraining that are drawn before it, and stored with the teacher's features (after Faghri et al. 2023).

A folder holds `views.json`, which says what the views depend on and the hash of each shard, and shards of 4096 rows of
the manifest, in its order, as safetensors: of each row the size of its image, and of each of its views the crop and the
teacher's feature of it. Training cuts the views again, for an image takes a hundred times the room of its feature.

Letters of shapes: `R` rows of a shard, `K` views of a row, `E` width of the teacher's feature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from uniemox.config.training import ViewsConfig
from uniemox.data.transforms import Crop, seed_of
from uniemox.errors import CheckpointError, ConfigError, DataError
from uniemox.files.digest import hash_file
from uniemox.files.json_file import read_json
from uniemox.files.weights import read_weights
from uniemox.files.whole import write_whole
from uniemox.files.writing import explained
from uniemox.manifests.table import Manifest, digest
from uniemox.validation import validate

ROWS_A_SHARD: Final = 4096
INDEX: Final = "views.json"
_FORMAT: Final = 1
_THEN: Final = "repeat the command"


class ShardOfViews(NamedTuple):
    """The views of some rows that follow each other in a manifest."""

    features: Tensor  # (R, K, E) float16, of length 1; 0 of a row whose image could not be read
    crops: Tensor  # (R, K, 5) int32: left, top, width, height in pixels, and whether the view is mirrored
    sizes: Tensor  # (R, 2) int32: width and height of the image in pixels; 0 where it could not be read


@dataclass(frozen=True, kw_only=True)
class StoredFacts:
    """What stored views depend on."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}

    format: int = _FORMAT
    manifest: str  # Hash of the paths of its rows in their order
    rows: int
    teacher: str  # Name, and hash of its weights
    width: int  # E
    image_size: int  # Side of a view in pixels
    scene_scale: tuple[float, float]
    flip: float
    views: int  # K
    seed: int
    shards: tuple[str, ...] = ()  # SHA-256 of each finished shard

    @property
    def num_shards(self) -> int:
        """Shards of all rows."""
        return -(-self.rows // ROWS_A_SHARD)

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards, but for a hundred of each."""
        return self.rows * (self.views * (2 * self.width + 5 * 4) + 2 * 4)

    @property
    def digest(self) -> str:
        """First 16 digits of a hash of all shards."""
        return hashlib.sha256("".join(self.shards).encode()).hexdigest()[:16]

    def shape(self, shard: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of the tensors of a shard, in the order of `ShardOfViews`."""
        rows = min(ROWS_A_SHARD, self.rows - shard * ROWS_A_SHARD)
        return (rows, self.views, self.width), (rows, self.views, 5), (rows, 2)


class StoredViews:
    """Stored views of a whole manifest. Shards are opened where they are needed first, and mapped to their files."""

    def __init__(self, folder: Path, facts: StoredFacts) -> None:
        self.folder, self.facts = folder, facts
        self._shards: dict[int, ShardOfViews] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredViews, (self.folder, self.facts)  # a worker maps the files itself

    def view(self, row: int, epoch: int) -> tuple[Crop, Tensor]:
        """Return a view of a row and the teacher's feature of it, (E,) float16.

        Epochs go through the views of a row in turn, from one that the row decides, so that K epochs show each once.
        """
        shard, place = self._find(row)
        number = (epoch + seed_of(row)) % self.facts.views
        left, top, width, height, mirrored = shard.crops[place, number].tolist()
        return Crop(left, top, width, height, bool(mirrored)), shard.features[place, number].clone()

    def why_not(self, row: int, size: tuple[int, int]) -> str | None:
        """Say why the views of a row cannot be cut from an image of a width and height; None where they can."""
        shard, place = self._find(row)
        width, height = shard.sizes[place].tolist()
        if (width, height) == size:
            return None
        found = f"of {width} x {height} pixels" if width else "unreadable"
        return f"it was {found} when its views were stored in {self.folder}: make them again"

    def check(self, **wanted: Any) -> None:
        """Compare facts with those of a run, by their names; `DataError` names the first that differs."""
        for name, value in wanted.items():
            if (own := getattr(self.facts, name)) != value:
                raise DataError(
                    f"{self.folder} holds views with {name} {own}, and the run has {value}: {_REMEDIES.get(name, '')}"
                    "make views of its own with `uniemox data reinforce`"
                )

    def _find(self, row: int) -> tuple[ShardOfViews, int]:
        number, place = divmod(row, ROWS_A_SHARD)
        if number not in self._shards:
            self._shards[number] = read_shard(self.folder, self.facts, number)
        return self._shards[number], place


_REMEDIES: Final = {
    "image_size": "set `model.image_size`, or ",
    "scene_scale": "set `views.scene_scale`, or ",
    "flip": "set `views.flip`, or ",
    "manifest": "its rows are others, such as those of other `splits`; ",
    "rows": "its rows are others, such as those of other `splits`; ",
}


def facts_of_run(manifest: Manifest, *, teacher: str, image_size: int, views: ViewsConfig) -> dict[str, Any]:
    """Name what the stored views of a run must share with it: the arguments of `StoredViews.check`."""
    return {
        "rows": len(manifest),
        "manifest": digest(manifest, ["path"]),
        "teacher": teacher,
        "image_size": image_size,
        "scene_scale": tuple(views.scene_scale),
        "flip": views.flip,
    }


def open_stored_views(folder: Path) -> StoredViews:
    """Open a folder of stored views, and compare every shard with its hash.

    Raises:
        DataError: The folder is absent, unfinished or of something else, or a shard is damaged; says which.
    """
    facts = read_facts(folder)
    if facts is None:
        raise DataError(f"{folder} holds no {INDEX}: make stored views with `uniemox data reinforce`")
    if len(facts.shards) < facts.num_shards:
        made = f"{len(facts.shards)} of {facts.num_shards} shards"
        raise DataError(f"{folder} is unfinished ({made}): repeat the `uniemox data reinforce` that began it")
    for number in range(facts.num_shards):
        check_shard(folder, facts, number)
    return StoredViews(folder, facts)


def read_facts(folder: Path) -> StoredFacts | None:
    """Read what a folder of stored views says of itself, or None without its `views.json`.

    Raises:
        DataError: It cannot be read, or is not ours.
    """
    path = folder / INDEX
    if not path.exists():
        return None
    try:
        facts = validate(StoredFacts, read_json(path), source=str(path))
    except (CheckpointError, ConfigError) as error:
        raise DataError(f"{error}; make stored views with `uniemox data reinforce`") from error
    if facts.format != _FORMAT or min(facts.rows, facts.views, facts.width) < 1 or len(facts.shards) > facts.num_shards:
        raise DataError(f"{path} is damaged, or of another version of uniemox: make the stored views again")
    return facts


def write_facts(folder: Path, facts: StoredFacts) -> None:
    """Write what a folder of stored views says of itself."""
    with write_whole(folder / INDEX, DataError, elsewhere="choose another `out`", then=_THEN) as beside:
        beside.write_text(json.dumps(asdict(facts), indent=1), encoding="utf-8")


def shard_path(folder: Path, number: int) -> Path:
    """Name the file of a shard."""
    return folder / f"views-{number:05d}.safetensors"


def write_shard(folder: Path, number: int, shard: ShardOfViews) -> str:
    """Write a shard, and return its hash."""
    path = shard_path(folder, number)
    elsewhere = "choose another `out`"
    with (
        write_whole(path, DataError, elsewhere=elsewhere, then=_THEN) as beside,
        explained(path, DataError, elsewhere=elsewhere, then=_THEN, failures=(SafetensorError,)),
    ):
        save_file({name: tensor.contiguous() for name, tensor in shard._asdict().items()}, beside)
        return hash_file(beside)


def check_shard(folder: Path, facts: StoredFacts, number: int) -> None:
    """Compare a shard with its hash and its shapes; `DataError` names the file that is absent, cut short or changed."""
    read_shard(folder, facts, number)
    path = shard_path(folder, number)
    if hash_file(path) != facts.shards[number]:
        raise DataError(f"{path} is not what was written: delete it and {_repeat()}")


def read_shard(folder: Path, facts: StoredFacts, number: int) -> ShardOfViews:
    """Map a shard, whose shapes are compared with what the folder says; its numbers are read where they are needed."""
    path = shard_path(folder, number)
    try:
        tensors: Mapping[str, Tensor] = read_weights(path)
    except CheckpointError as error:
        raise DataError(f"{path} cannot be read: delete it and {_repeat()} ({error})") from error
    kinds = (torch.float16, torch.int32, torch.int32)
    expected = dict(zip(ShardOfViews._fields, zip(facts.shape(number), kinds, strict=True), strict=True))
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    if found != expected:
        raise DataError(f"{path} is not a shard of {folder / INDEX}: delete it and {_repeat()}")
    return ShardOfViews(**tensors)


def _repeat() -> str:
    return "repeat the `uniemox data reinforce` that made it"
