"""The commands that make a manifest and say what is known: `data prepare`, `data datasets`, `data show`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from uniemox.commands.command import SUCCESS, Command, parse_shares
from uniemox.commands.people import add_sheet_flags, check_sheet_flags, show_people
from uniemox.data.specs import Labelling
from uniemox.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from uniemox.commands.command import Output
    from uniemox.data.layouts import Import
    from uniemox.data.specs import DatasetSpec
    from uniemox.flags import Parser


def _add_prepare(parser: Parser) -> None:
    parser.add_words("name", str, "Data set, such as emoset, or folders, split-folders, table, hf.")
    parser.add_flag("--root", Path, "Folder of the data set.", required=True)
    parser.add_flag(
        "--out", Path, "Manifest to write, a Parquet file; replaced if it exists.", required=True
    )
    parser.add_flag(
        "--ratios",
        str,
        "Shares of train, val and test for a data set that has no split.",
        metavar="80/5/15",
    )
    parser.add_flag("--split", str, "The same as --ratios.", metavar="80/5/15")
    parser.add_flag(
        "--split-list", Path, "List that says the split of each picture, instead of cutting."
    )
    parser.add_flag(
        "--fraction", float, "Share of train to keep, per class, nested in larger ones."
    )
    parser.add_flag("--seed", int, "Seed of the split and of the fraction.", default=0)
    parser.add_flag("--people", Path, "People's boxes: CSV, TSV or COCO's JSON.")
    parser.add_flag(
        "--labels",
        Labelling,
        "What a label of Emotion6 is: the folder, what most raters chose, or their shares.",
    )
    parser.add_flag("--table", Path, "Table of pictures, for `table`; CSV, TSV, JSONL or Parquet.")
    parser.add_flag(
        "--columns",
        str,
        "Which column of `table` or `hf` is what, where its heading does not say so.",
        metavar="path=image,label=emotion",
    )
    parser.add_flag(
        "--classes", str, "Labels in order, for data that is not in the list.", metavar="NAME,…"
    )
    parser.add_flag("--pictures", Path, "Folder for the pictures in the tables of `hf`.")
    parser.add_switch("--strict", "Fail on any problem instead of counting it.")
    parser.add_switch("--json", "Print JSON instead of tables.")


def parse_ratios(text: str, *, flag: str = "--ratios") -> tuple[float, float, float]:
    """Turn "80/5/15" into shares of train, val and test that sum to 1.

    Raises:
        ConfigError: On anything but three numbers, or a share that is not positive where it must be.
    """
    train, val, test = parse_shares(text, flag=flag)
    total = train + val + test
    if not (train > 0 and val >= 0 and test >= 0 and total < float("inf")):
        raise ConfigError(
            f"{flag} is {text[:40]}, but must be three shares for train, val and test, such as 80/5/15"
        )
    return train / total, val / total, test / total


def parse_columns(text: str) -> dict[str, str]:
    """Turn "path=image,label=emotion" into what each column is.

    Raises:
        ConfigError: On a part that is not of this form, or a role that is given twice.
    """
    columns: dict[str, str] = {}
    for part in text.split(","):
        role, equals, heading = (word.strip() for word in part.partition("="))
        if not (role and equals and heading) or role in columns:
            raise ConfigError(
                f"--columns has the part {part[:40]}, but each must say once what a column is, such as path=image"
            )
        columns[role] = heading
    return columns


def _prepare(given: Namespace, output: Output) -> int:
    if given.ratios is not None and given.split is not None:
        raise ConfigError("--split is another name of --ratios: give one of them")
    flag, ratios = ("--ratios", given.ratios) if given.split is None else ("--split", given.split)
    classes = [] if given.classes is None else given.classes.split(",")
    columns = {} if given.columns is None else parse_columns(given.columns)
    shares = None if ratios is None else parse_ratios(ratios, flag=flag)
    if given.out.resolve().is_relative_to(given.root.resolve()):
        raise ConfigError(
            f"--out is {given.out}, which lies in --root {given.root}, where nothing is written: choose another place"
        )
    from uniemox.data.layouts import import_dataset
    from uniemox.data.manifest import write_manifest

    result = import_dataset(
        given.name,
        given.root,
        people=given.people,
        ratios=shares,
        seed=given.seed,
        fraction=given.fraction,
        split_list=given.split_list,
        labels=given.labels,
        table=given.table,
        columns=columns,
        classes=[name.strip() for name in classes],
        pictures=given.pictures,
        strict=given.strict,
    )
    write_manifest(result.manifest, given.out)
    _tell(result, given.out, output, as_json=given.json)
    return SUCCESS


def _tell(result: Import, out: Path, output: Output, *, as_json: bool) -> None:
    from uniemox.terminal import counts_table, problems_table

    counts = result.manifest.counts()
    if as_json:
        problems = [asdict(problem) for problem in result.problems]
        entries = {"pictures": counts, "problems": problems, "notes": result.notes}
        output.say_json({"manifest": str(out), **entries})
        return
    output.show(counts_table(result.manifest))
    if result.problems:
        output.show(problems_table(result.problems))
    for note in result.notes:
        output.say(f"note: {note}")
    output.say(out)


def _add_datasets(parser: Parser) -> None:
    parser.add_switch("--json", "Print JSON instead of a table.")


def _datasets(given: Namespace, output: Output) -> int:
    from uniemox.data.specs import SPECS

    if given.json:
        output.say_json([_describe(spec) for spec in SPECS.values()])
    else:
        from uniemox.terminal import datasets_table

        output.show(datasets_table(SPECS.values()))
    return SUCCESS


def _describe(spec: DatasetSpec) -> dict[str, object]:
    """Say what is known about a data set, for machines."""
    names = ("name", "title", "classes", "emotion", "pictures", "people", "published_split")
    terms = ("labelled_by", "licence", "url", "citation", "layout", "note")
    return {name: getattr(spec, name) for name in names + terms}


def _add_show(parser: Parser) -> None:
    parser.add_words("manifest", Path, "Parquet file made by `uniemox data prepare`.")
    add_sheet_flags(parser)
    parser.add_switch("--json", "Print JSON instead of tables.")


def _show(given: Namespace, output: Output) -> int:
    from uniemox.data.manifest import read_manifest
    from uniemox.terminal import counts_table, facts_table

    check_sheet_flags(given)
    manifest = read_manifest(given.manifest)
    if given.people:
        show_people(manifest, given, output)
        return SUCCESS
    counts = manifest.counts()
    if given.json:
        facts = asdict(manifest.facts) | {"root": str(manifest.facts.root)}
        output.say_json({"facts": facts, "pictures": counts})
        return SUCCESS
    output.show(facts_table(manifest))
    output.show(counts_table(manifest))
    return SUCCESS


COMMANDS: Final = {
    "data prepare": Command("Read a data set's folder into a manifest.", _add_prepare, _prepare),
    "data datasets": Command("List the data sets that can be prepared.", _add_datasets, _datasets),
    "data show": Command("Show what a manifest holds.", _add_show, _show),
}
