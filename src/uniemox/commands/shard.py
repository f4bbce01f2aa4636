"""The command `data shard`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from uniemox.commands.command import SUCCESS, Command
from uniemox.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from uniemox.commands.command import Output
    from uniemox.flags import Parser

_MEGABYTE: Final = 10**6


def _add_shard(parser: Parser) -> None:
    parser.add_words("manifest", Path, "Parquet file made by `uniemox data prepare`.")
    parser.add_flag(
        "--out", Path, "Folder to write: tar archives and the manifest of them.", required=True
    )
    parser.add_flag(
        "--split", str, "Split to store, repeatable; by default all.", metavar="NAME", repeat=True
    )
    parser.add_flag(
        "--shard-size", int, "Megabytes from which a new archive is begun.", default=1000
    )
    parser.add_flag("--seed", int, "Seed of the order in the archives.", default=0)
    parser.add_flag("--num-workers", int, "Threads that read pictures.", default=4)
    parser.add_switch("--strict", "Fail on a picture that cannot be read instead of counting it.")
    parser.add_switch("--json", "Print JSON instead of lines.")


def _shard(given: Namespace, output: Output) -> int:
    for name in ("shard_size", "num_workers"):
        value = getattr(given, name)
        if value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}, but must be at least 1")
    if given.seed < 0:
        raise ConfigError(f"--seed is {given.seed}, but must not be negative")
    from uniemox.data.manifest import read_manifest
    from uniemox.data.shards import write_shards
    from uniemox.terminal import problems_table, track

    manifest = read_manifest(given.manifest)
    if given.split:
        manifest = manifest.select(given.split)
    written = write_shards(
        manifest,
        given.out,
        shard_bytes=given.shard_size * _MEGABYTE,
        seed=given.seed,
        num_workers=given.num_workers,
        strict=given.strict,
        track=partial(track, console=output.console),
    )
    if given.json:
        problems = [
            {"kind": problem.kind, "count": problem.count, "example": problem.example}
            for problem in written.problems
        ]
        output.say_json(
            {
                "manifest": str(written.manifest),
                "pictures": written.pictures,
                "shards": written.shards,
                "bytes": written.num_bytes,
                "problems": problems,
            }
        )
        return SUCCESS
    if written.problems:
        output.show(problems_table(written.problems))
    output.say(
        f"pictures: {written.pictures}, archives: {written.shards}, "
        f"megabytes: {written.num_bytes / _MEGABYTE:.1f}"
    )
    output.say(written.manifest)
    return SUCCESS


COMMANDS: Final = {
    "data shard": Command(
        "Copy a manifest's pictures into a few tar archives.", _add_shard, _shard
    ),
}
