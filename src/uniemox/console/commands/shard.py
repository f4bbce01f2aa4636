"""The command `data shard`."""

from collections.abc import Iterator
from typing import Final

from uniemox.config.data import ShardConfig
from uniemox.console.commands.command import Answer, Command
from uniemox.console.display import Terminal

_MEGABYTE: Final = 10**6


def _shard(config: ShardConfig, terminal: Terminal) -> Iterator[Answer]:
    """Copy a manifest's images into a few tar archives."""
    from uniemox.console.tables import problems_table
    from uniemox.manifests.shards import write_shards
    from uniemox.manifests.table import read_manifest

    manifest = read_manifest(config.manifest)
    written = write_shards(
        manifest.select(list(config.split)) if config.split else manifest,
        config.out,
        shard_bytes=config.shard_size * _MEGABYTE,
        seed=config.seed,
        num_workers=config.workers,
        strict=config.strict,
        track=terminal.track,
    )
    sizes = f"images: {written.pictures}, archives: {written.shards}, megabytes: {written.num_bytes / _MEGABYTE:.1f}"
    data = {"manifest": written.manifest, "pictures": written.pictures, "shards": written.shards}
    yield Answer(
        [problems_table(written.problems), sizes, written.manifest],
        data | {"bytes": written.num_bytes, "problems": written.problems},
    )


COMMANDS: Final = {"data shard": Command(ShardConfig, _shard)}
