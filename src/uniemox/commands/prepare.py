"""The commands that make a manifest and say what it holds: `data prepare`, `data show`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from uniemox.commands.command import SUCCESS, Command
from uniemox.commands.people import add_sheet_flags, show_people
from uniemox.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from uniemox.commands.command import Output
    from uniemox.data.manifest import Manifest
    from uniemox.flags import Parser


def _add_prepare(parser: Parser) -> None:
    parser.add_words("name", str, "Data set, such as emoset, or the layout of its folders.")
    parser.add_flag("--root", Path, "Folder of the data set.", required=True)
    parser.add_flag(
        "--out", Path, "Manifest to write, a Parquet file; replaced if it exists.", required=True
    )
    parser.add_flag("--people", Path, "CSV file of people's boxes.")
    parser.add_flag(
        "--split",
        str,
        "Shares of train, val and test for a data set that has no split.",
        metavar="80/5/15",
    )
    parser.add_flag("--seed", int, "Seed of the split.", default=0)
    parser.add_switch("--strict", "Fail on the first problem instead of counting it.")
    parser.add_switch("--json", "Print JSON instead of tables.")


def parse_ratios(text: str) -> tuple[float, float, float]:
    """Turn "80/5/15" into shares of train, val and test that sum to 1.

    Raises:
        ConfigError: On anything but three numbers, or a share that is not positive where it must be.
    """
    try:
        train, val, test = (float(part) for part in text.split("/"))
    except ValueError:
        train, val, test = -1.0, 0.0, 0.0
    total = train + val + test
    if not (train > 0 and val >= 0 and test >= 0 and total < float("inf")):
        raise ConfigError(
            f"--split is {text[:40]}, but must be three shares for train, val and test, such as 80/5/15"
        )
    return train / total, val / total, test / total


def _prepare(given: Namespace, output: Output) -> int:
    ratios = None if given.split is None else parse_ratios(given.split)
    from uniemox.data.layouts import import_dataset
    from uniemox.data.manifest import write_manifest
    from uniemox.terminal import counts_table, problems_table

    result = import_dataset(
        given.name,
        given.root,
        people=given.people,
        ratios=ratios,
        seed=given.seed,
        strict=given.strict,
    )
    write_manifest(result.manifest, given.out)
    counts = _count(result.manifest)
    if given.json:
        problems = [
            {"kind": problem.kind, "count": problem.count, "example": problem.example}
            for problem in result.problems
        ]
        output.say_json({"manifest": str(given.out), "pictures": counts, "problems": problems})
        return SUCCESS
    output.show(counts_table(counts, result.manifest.facts.classes))
    if result.problems:
        output.show(problems_table(result.problems))
    output.say(given.out)
    return SUCCESS


def _add_show(parser: Parser) -> None:
    parser.add_words("manifest", Path, "Parquet file made by `uniemox data prepare`.")
    add_sheet_flags(parser)
    parser.add_switch("--json", "Print JSON instead of tables.")


def _show(given: Namespace, output: Output) -> int:
    from uniemox.data.manifest import read_manifest
    from uniemox.terminal import counts_table, facts_table

    if given.out is not None and not given.people:
        raise ConfigError("--out is for the sheet of --people: give both")
    manifest = read_manifest(given.manifest)
    if given.people:
        show_people(manifest, given, output)
        return SUCCESS
    counts = _count(manifest)
    if given.json:
        facts = asdict(manifest.facts) | {"root": str(manifest.facts.root)}
        output.say_json({"facts": facts, "pictures": counts})
        return SUCCESS
    output.show(facts_table(manifest.facts, rows=len(manifest)))
    output.show(counts_table(counts, manifest.facts.classes))
    return SUCCESS


def _count(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Count split to class to pictures; the class of pictures without a label is the empty text."""
    counts = {}
    for split, total in manifest.split_counts().items():
        of_class = manifest.select([split]).class_counts()
        unlabelled = total - sum(of_class.values())
        counts[split] = of_class | ({"": unlabelled} if unlabelled else {})
    return counts


COMMANDS: Final = {
    "data prepare": Command("Read a data set's folder into a manifest.", _add_prepare, _prepare),
    "data show": Command("Show what a manifest holds.", _add_show, _show),
}
