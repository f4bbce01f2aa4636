"""Views drawn before a pretraining, and the teacher's features of them: what is slow and fixed is done once."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

from uniemox.compute.devices import choose_device
from uniemox.config.reinforce import ReinforceConfig
from uniemox.config.training import ViewsConfig
from uniemox.data.batch import batches_of, dead_workers_named, ordered_loader
from uniemox.data.dataset import Skipped
from uniemox.data.failures import locating, naming
from uniemox.data.stored_views import (
    INDEX,
    ROWS_A_SHARD,
    ShardOfViews,
    StoredFacts,
    check_shard,
    facts_of_run,
    read_facts,
    shard_path,
    write_facts,
    write_shard,
)
from uniemox.data.transforms import Crop, PretrainTransform, seed_of, torch_seeded
from uniemox.errors import CheckpointError, DataError
from uniemox.files.images import Unreadable, admitting, read_image
from uniemox.files.locking import locked
from uniemox.files.room import ROOM
from uniemox.files.whole import is_unfinished
from uniemox.files.writing import explained
from uniemox.manifests.table import Manifest, read_manifest
from uniemox.models.teacher import Teacher, load_teacher
from uniemox.train.events import Message, Observer, Progress, ignore

_LOCK: Final = "lock"
_NAMED: Final = 5  # Unreadable images that are named; the rest is counted


class _Drawn(NamedTuple):
    """The views of an image."""

    scenes: Tensor  # (K, 3, S, S) uint8; zeros where the image could not be read
    crops: Tensor  # (K, 5) int32
    size: Tensor  # (2,) int32, of the image in pixels; zeros where it could not be read
    skipped: tuple[Skipped, ...]


class _Drawing(Dataset[_Drawn]):
    """The views of each row of a manifest; those of view k are what a pretraining with the seed draws in epoch k."""

    def __init__(self, manifest: Manifest, config: ReinforceConfig) -> None:
        self.manifest, self.num_views, self.seed = manifest, config.views, config.seed
        views = ViewsConfig(scene_scale=config.scene_scale, flip=config.flip)
        self.transform = PretrainTransform(views, config.image_size)

    def __len__(self) -> int:
        return len(self.manifest)

    @ROOM.use()
    def __getitem__(self, index: int) -> _Drawn:
        """Read the image of a row once, and draw and cut its views."""
        path, size, count = self.manifest.row(index).path, self.transform.size, self.num_views
        image = read_image(path)
        if isinstance(image, Unreadable):
            blank = torch.zeros(count, 3, size, size, dtype=torch.uint8)
            nothing = torch.zeros(count, 5, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
            return _Drawn(blank, *nothing, (Skipped(str(path), image.reason),))
        scenes, crops = list[Tensor](), list[Crop]()
        with locating(path), naming("the pretraining views"):
            for view in range(count):
                with torch_seeded(seed_of(self.seed, view, index)):
                    crops.append(self.transform.draw(image))
                scenes.append(self.transform.cut(image, None, crops[-1])[0])
        return _Drawn(
            torch.stack(scenes), torch.tensor(crops, dtype=torch.int32), torch.tensor(image.size, dtype=torch.int32), ()
        )


def reinforce(config: ReinforceConfig, observer: Observer = ignore) -> Path:
    """Draw views of every image of a manifest, and store them with the teacher's features.

    Shards are finished one after the other, so that what is killed or interrupted goes on when it is repeated.

    Args:
        config: What to do.
        observer: Hears of the room that the views take, of progress, and of images that cannot be read.

    Returns:
        The folder, for `stored_views` of a pretraining.

    Raises:
        ConfigError: A setting does not fit.
        DataError: The manifest cannot be used, no image can be read, the folder is of something else or in use, or what
            is missing of it does not fit on the disk.
        CheckpointError: The teacher cannot be read, or gives numbers that are not finite.
    """
    folder = config.folder
    manifest = read_manifest(config.manifest).select(config.splits)
    device = choose_device(config.device)
    with admitting(config.max_pixels), ExitStack() as stack:
        _check_folder(folder)
        with explained(folder, DataError, elsewhere="choose another `out`"):
            stack.enter_context(locked(folder / _LOCK))
        teacher = load_teacher(config.teacher, device=device)
        facts = _begin(folder, config, manifest, teacher, observer)
        if len(facts.shards) < facts.num_shards:
            _Reinforcing(folder, config, manifest, teacher, device, observer).run(facts)
        (folder / _LOCK).unlink()
    return folder


class _Reinforcing(NamedTuple):
    """What is needed to make the shards that are missing."""

    folder: Path
    config: ReinforceConfig
    manifest: Manifest
    teacher: Teacher
    device: torch.device
    observer: Observer

    def run(self, facts: StoredFacts) -> None:
        """Make the missing shards one after the other."""
        skipped, began = list[Skipped](), time.monotonic()
        first = len(facts.shards) * ROWS_A_SHARD
        with dead_workers_named():
            for number, shard in enumerate(self._shards(facts, first, skipped, began), start=len(facts.shards)):
                done = replace(facts, shards=(*facts.shards, write_shard(self.folder, number, shard)))
                write_facts(self.folder, done)
                facts = done
        if len(skipped) > _NAMED:
            self.observer(Message(f"{len(skipped)} images cannot be read; a pretraining skips them"))

    def _shards(self, facts: StoredFacts, first: int, skipped: list[Skipped], began: float) -> Iterator[ShardOfViews]:
        """Compute the shards of the rows from the first on."""
        rows = Subset(_Drawing(self.manifest, self.config), range(first, facts.rows))
        images = max(1, self.config.batch_size // facts.views)
        parts, done = list[ShardOfViews](), first
        for batch in batches_of(_loader(rows, images, self.config.workers)):
            for skip in batch.skipped:
                if len(skipped) < _NAMED:
                    self.observer(Message(f"skipped {skip.path}: {skip.reason}"))
                skipped.append(skip)
            parts.append(ShardOfViews(self._features(batch), batch.crops, batch.size))
            done += len(batch.size)
            speed = (done - first) / max(time.monotonic() - began, 1e-9)
            self.observer(Progress(done, facts.rows, 1, 1, {}, speed, (facts.rows - done) / speed))
            while sum(len(part.sizes) for part in parts) >= ROWS_A_SHARD or (done == facts.rows and parts):
                whole = ShardOfViews(*(torch.cat(each) for each in zip(*parts, strict=True)))
                yield ShardOfViews(*(tensor[:ROWS_A_SHARD] for tensor in whole))
                rest = ShardOfViews(*(tensor[ROWS_A_SHARD:] for tensor in whole))
                parts = [rest] if len(rest.sizes) else []
        if len(skipped) == facts.rows:
            raise DataError(f"none of the {facts.rows} images below {self.manifest.facts.root} can be read")

    def _features(self, batch: _Drawn) -> Tensor:
        """Compute the features of a batch's views, (B, K, E) float16 of length 1; zeros where there is no image."""
        count, views = batch.scenes.shape[:2]
        found = list[Tensor]()
        for scenes in torch.split(batch.scenes.flatten(0, 1), self.config.batch_size):
            features = self.teacher.encode_images(scenes.to(self.device).float() / 255)
            if not features.isfinite().all():
                raise CheckpointError(f"{self.teacher.name} gives features that are not finite: take another teacher")
            found.append(F.normalize(features, dim=-1).cpu())
        is_read = (batch.size[:, 0] > 0).view(-1, 1, 1)
        return (torch.cat(found).view(count, views, -1) * is_read).half()


def _loader(rows: Dataset[_Drawn], batch_size: int, num_workers: int) -> DataLoader[_Drawn]:
    return ordered_loader(rows, _stack, batch_size=batch_size, num_workers=num_workers)


def _stack(drawn: Sequence[_Drawn]) -> _Drawn:
    scenes, crops, sizes = (torch.stack([each[place] for each in drawn]) for place in range(3))  # type: ignore[misc]
    return _Drawn(scenes, crops, sizes, tuple(skip for each in drawn for skip in each.skipped))


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else."""
    if not folder.exists() or (folder / INDEX).exists():
        return
    if not folder.is_dir() or any(path.name != _LOCK and not is_unfinished(path) for path in folder.iterdir()):
        raise DataError(f"{folder} exists and holds no stored views: choose another `out`")


def _begin(
    folder: Path, config: ReinforceConfig, manifest: Manifest, teacher: Teacher, observer: Observer
) -> StoredFacts:
    """Compare what is there with what is asked for, say what room it takes, and check that there is so much."""
    views = ViewsConfig(scene_scale=config.scene_scale, flip=config.flip)
    shared = facts_of_run(manifest, teacher=teacher.identity, image_size=config.image_size, views=views)
    wanted = StoredFacts(**shared, width=teacher.width, views=config.views, seed=config.seed)
    found = read_facts(folder)
    if found is None:
        write_facts(folder, wanted)
        found = wanted
    for name, value in vars(replace(wanted, shards=())).items():
        if name != "shards" and getattr(found, name) != value:
            raise DataError(
                f"{folder} holds views with {name} {getattr(found, name)}, not {value}: choose another `out`, or "
                "delete the folder"
            )
    for number in range(len(found.shards)):
        if not shard_path(folder, number).exists():
            found = replace(found, shards=found.shards[:number])
            break
        check_shard(folder, found, number)
    share = 1 - len(found.shards) / found.num_shards
    room = (
        f"{found.rows} images × {found.views} views × {found.width} numbers: {found.num_bytes / 1e6:.1f} MB in "
        f"{found.num_shards} shards of {folder}"
    )
    done = f", of which {len(found.shards)} are there" if found.shards else ""
    observer(Message(f"{room}{done}"))
    if (free := shutil.disk_usage(folder).free) < share * found.num_bytes:
        raise DataError(f"{room}, but only {free / 1e6:.1f} MB are free: free space, lower `views`, or choose `out`")
    return found
