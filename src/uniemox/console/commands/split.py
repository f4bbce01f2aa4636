"""The commands that make a manifest of others: `data split`, `data merge`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from uniemox.config.data import MergeConfig, SplitConfig
from uniemox.console.commands.command import Answer, Command, check_not_replacing
from uniemox.errors import DataError
from uniemox.manifests.findings import Problem

if TYPE_CHECKING:
    from uniemox.manifests.table import Manifest


def _split(config: SplitConfig, _: object) -> Iterator[Answer]:
    """Cut a manifest again, by a recipe or a list, or keep a fraction."""
    from uniemox.manifests.recut import cut_again, follow_list, keep_fraction
    from uniemox.manifests.splits import read_split_list
    from uniemox.manifests.table import read_manifest

    check_not_replacing(config.out)
    # Splits are about rows: the images may be elsewhere.
    manifest = read_manifest(config.manifest, check_root=False)
    problems: tuple[Problem, ...] = ()
    if config.split_list is not None:
        listed = read_split_list(config.split_list)
        manifest, problems = follow_list(manifest, listed, source=config.split_list)
    elif config.ratios is not None:
        manifest = cut_again(
            manifest,
            ratios=config.ratios,
            seed=config.seed,
            by=config.by,
            group_by=config.group_by,
            rounding=config.rounding,
        )
    if config.fraction is not None:
        manifest = keep_fraction(manifest, fraction=config.fraction, seed=config.seed, by=config.by)
    yield _write(manifest, problems, config)


def _merge(config: MergeConfig, _: object) -> Iterator[Answer]:
    """Join manifests into one, with one table of classes."""
    from uniemox.emotions import TAXONOMIES, look_up
    from uniemox.manifests.merge import merge_manifests
    from uniemox.manifests.table import read_manifest

    check_not_replacing(config.out)
    manifest, problems = merge_manifests(
        [read_manifest(path, check_root=False) for path in config.manifests],
        target=None if config.taxonomy is None else look_up(config.taxonomy, TAXONOMIES, what="taxonomy"),
        unmapped=config.unmapped,
        mixed_emotions=config.mixed_emotions,
    )
    yield _write(manifest, problems, config)


def _write(manifest: Manifest, problems: Sequence[Problem], config: SplitConfig | MergeConfig) -> Answer:
    if config.strict and problems:
        raise DataError(f"there are problems: {'; '.join(map(str, problems))}; fix them, or omit `strict`")
    from uniemox.console.tables import counts_table, problems_table, sources_table
    from uniemox.manifests.table import write_manifest

    write_manifest(manifest, config.out)
    sources = manifest.source_counts()
    data = {"manifest": config.out, "pictures": manifest.counts(), "splits": manifest.facts.split_recipe}
    return Answer(
        [counts_table(manifest), sources_table(sources), problems_table(problems), config.out],
        data | {"problems": problems} | ({"sources": sources} if sources else {}),
    )


COMMANDS: Final = {"data split": Command(SplitConfig, _split), "data merge": Command(MergeConfig, _merge)}
