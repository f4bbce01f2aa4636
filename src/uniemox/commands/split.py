"""The commands that make a manifest of others: `data split`, `data merge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from uniemox.commands.command import SUCCESS, Command, parse_shares
from uniemox.config import Rounding, Stratum, Together, Unmapped
from uniemox.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jsonargparse import Namespace

    from uniemox.commands.command import Output
    from uniemox.data.findings import Problem
    from uniemox.data.manifest import Manifest
    from uniemox.data.recut import Recut
    from uniemox.data.specs import Ratios
    from uniemox.flags import Parser


def _add_split(parser: Parser) -> None:
    parser.add_words("manifest", Path, "Parquet file made by `uniemox data prepare`.")
    _add_common(parser)
    parser.add_flag(
        "--ratios", str, "Shares of train, val and test to cut all rows into.", metavar="70/10/20"
    )
    parser.add_flag("--by", Stratum, "What is cut, and counted, by itself.", default="class")
    parser.add_flag(
        "--group-by",
        Together,
        "What stays together; by default the groups that the manifest names, else the people of one picture.",
    )
    parser.add_flag(
        "--rounding",
        Rounding,
        "How shares become numbers; truncate is what published code does.",
        default="largest_remainder",
    )
    parser.add_flag(
        "--list",
        Path,
        "Published split: CSV or TSV with columns path and split, JSON of split to paths, or a folder of train.txt.",
    )
    parser.add_flag(
        "--fraction", float, "Share of the train split to keep; smaller ones are nested."
    )
    parser.add_flag("--seed", int, "Seed of the split and of the fraction.", default=0)


def _add_merge(parser: Parser) -> None:
    parser.add_words("manifests", Path, "Two or more manifests.", many=True)
    _add_common(parser)
    parser.add_flag(
        "--classes",
        str,
        "Taxonomy that all labels are led to, such as mikels, emotion6 or polarity.",
        metavar="NAME",
    )
    parser.add_flag(
        "--unmapped", Unmapped, "What becomes of rows without a label there.", default="refuse"
    )
    parser.add_switch("--mixed-emotions", "Mix labels of evoked and of felt emotions.")


def _add_common(parser: Parser) -> None:
    parser.add_flag(
        "--out", Path, "Manifest to write, a Parquet file; replaced if it exists.", required=True
    )
    parser.add_switch("--strict", "Fail on the first problem instead of counting it.")
    parser.add_switch("--json", "Print JSON instead of tables.")


def _split(given: Namespace, output: Output) -> int:
    if given.ratios is None and given.list is None and given.fraction is None:
        raise ConfigError("nothing to do: give --ratios, --list or --fraction")
    if given.ratios is not None and given.list is not None:
        raise ConfigError("--ratios and --list both make the splits: give one of them")
    if given.ratios is None and given.group_by is not None:
        raise ConfigError("--group-by is about cutting: give --ratios with it")
    ratios = None if given.ratios is None else parse_shares(given.ratios, flag="--ratios")
    from uniemox.data.manifest import read_manifest
    from uniemox.data.recut import Recut, keep_fraction

    # Splits are about rows: the pictures may be elsewhere.
    result = Recut(read_manifest(given.manifest, check_root=False))
    if ratios is not None or given.list is not None:
        result = _cut(result.manifest, given, ratios)
    if given.fraction is not None:
        smaller = keep_fraction(
            result.manifest, fraction=given.fraction, seed=given.seed, by=given.by
        )
        result = smaller._replace(problems=result.problems)
    return _finish(result.manifest, result.problems, given, output)


def _cut(manifest: Manifest, given: Namespace, ratios: Ratios | None) -> Recut:
    from uniemox.data.recut import cut_again, follow_list
    from uniemox.data.splits import read_split_list

    if ratios is None:
        return follow_list(manifest, read_split_list(given.list), source=given.list)
    return cut_again(
        manifest,
        ratios=ratios,
        seed=given.seed,
        by=given.by,
        group_by=given.group_by,
        rounding=given.rounding,
    )


def _merge(given: Namespace, output: Output) -> int:
    if len(given.manifests) < 2:
        raise ConfigError("a merge takes two manifests or more")
    from uniemox.data.manifest import read_manifest
    from uniemox.data.merge import merge_manifests
    from uniemox.emotions import get_taxonomy

    target = None if given.classes is None else get_taxonomy(given.classes)
    merged = merge_manifests(
        [read_manifest(path, check_root=False) for path in given.manifests],
        target=target,
        unmapped=given.unmapped,
        mixed_emotions=given.mixed_emotions,
    )
    return _finish(merged.manifest, merged.problems, given, output)


def _finish(
    manifest: Manifest, problems: Sequence[Problem], given: Namespace, output: Output
) -> int:
    """Write the manifest, and say what is in it and what was wrong."""
    if given.strict and problems:
        raise DataError(
            f"there are problems: {'; '.join(map(str, problems))}; mend them, or leave out --strict"
        )
    from uniemox.data.manifest import write_manifest
    from uniemox.terminal import counts_table, problems_table, sources_table

    write_manifest(manifest, given.out)
    counts, sources = manifest.counts(), manifest.source_counts()
    if given.json:
        told = [
            {"kind": problem.kind, "count": problem.count, "example": problem.example}
            for problem in problems
        ]
        answer = {
            "manifest": str(given.out),
            "pictures": counts,
            "splits": manifest.facts.split_recipe,
            "problems": told,
        }
        output.say_json(answer | ({"sources": sources} if sources else {}))
        return SUCCESS
    output.show(counts_table(manifest))
    if sources:
        output.show(sources_table(sources))
    if problems:
        output.show(problems_table(problems))
    output.say(given.out)
    return SUCCESS


COMMANDS: Final = {
    "data split": Command(
        "Cut a manifest anew, by a recipe or a list, or keep a fraction.", _add_split, _split
    ),
    "data merge": Command(
        "Join manifests into one, with one table of classes.", _add_merge, _merge
    ),
}
