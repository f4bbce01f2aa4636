"""The commands about the people in pictures: `data people`, and the sheet of `data show --people`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from uniemox.commands.command import SUCCESS, Command, check_compute_flags
from uniemox.config import CropShape, PersonChoice, PersonConfig
from uniemox.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jsonargparse import Namespace

    from uniemox.commands.command import Output
    from uniemox.data.agreement import Agreement
    from uniemox.data.detectors.detector import Detector
    from uniemox.data.findings import Problem
    from uniemox.data.manifest import Manifest
    from uniemox.data.search import Search
    from uniemox.flags import Parser

SHEET_SUFFIXES: Final = (".html", ".png")
_SHEET_PICTURES: Final = 24
_SHEET_FLAGS: Final = ("count", "choice", "margin", "shape")
_OF_DETECTORS: Final[dict[str, Any]] = {
    "weights": None,
    "format": None,
    "score": 0.5,
    "nms_iou": 0.5,
    "min_size": 0.0,
    "max_people": 100,
}
"""Flags that say something of a detector alone, with their defaults, which are those of `Limits`."""


def add_detector_flags(parser: Parser) -> None:
    """Add the flags that choose a detector and what counts as a person."""
    parser.add_flag(
        "--detector",
        str,
        "ssdlite, fasterrcnn or fasterrcnn-320 of torchvision, or a model in ONNX.",
        metavar="NAME|FILE.onnx",
    )
    parser.add_flag(
        "--weights",
        str,
        "Weights of torchvision's detectors: a file, or default, which downloads them once.",
        metavar="default|FILE",
    )
    parser.add_flag(
        "--format",
        str,
        "What a model in ONNX takes and gives: the name of a family, or a YAML file (default: the one beside it).",
        metavar="NAME|FILE.yaml",
    )
    parser.add_flag(
        "--score",
        float,
        "Least score of a person, from 0 to 1.",
        default=_OF_DETECTORS["score"],
    )
    parser.add_flag(
        "--nms-iou",
        float,
        "Overlap (intersection over union) above which the less sure of two boxes goes.",
        default=_OF_DETECTORS["nms_iou"],
    )
    parser.add_flag(
        "--min-size",
        float,
        "Least width and height of a person in pixels.",
        default=_OF_DETECTORS["min_size"],
    )
    parser.add_flag(
        "--max-people",
        int,
        "Most people of a picture, the surest.",
        default=_OF_DETECTORS["max_people"],
    )


def check_detector_flags(given: Namespace) -> None:
    """Refuse flags of a detector where none is asked for, and boxes from two sources.

    Raises:
        ConfigError: Names the flag.
    """
    if given.detector is not None and given.boxes is not None:
        raise ConfigError("--detector and --boxes both give boxes: choose one")
    for name, default in _OF_DETECTORS.items():
        if given.detector is None and getattr(given, name) != default:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} says something of a detector: give --detector too")


def detector_of(given: Namespace) -> Detector:
    """Make the detector that the flags of `add_detector_flags` and `--device` ask for.

    Raises:
        ConfigError: A flag is wrong.
        DataError: A model or its weights cannot be read.
    """
    from uniemox.data.detectors.choice import build_detector
    from uniemox.data.detectors.detector import Limits

    limits = Limits(
        score=given.score,
        nms_iou=given.nms_iou,
        min_size=given.min_size,
        max_people=given.max_people,
    )
    return build_detector(
        given.detector,
        limits,
        weights=given.weights,
        form=given.format,
        device=given.device,
    )


def _add_people(parser: Parser) -> None:
    parser.add_words("manifest", Path, "Parquet file made by `uniemox data prepare`.")
    add_detector_flags(parser)
    parser.add_flag(
        "--boxes", Path, "Boxes that are known already, instead of a detector: CSV or COCO's JSON."
    )
    parser.add_flag("--out", Path, "Manifest to write; replaced if it exists.")
    parser.add_switch("--replace", "Give new boxes to rows that have some; else they keep them.")
    parser.add_switch("--each", "Make a row of every person.")
    parser.add_flag(
        "--compare", Path, "Manifest of the same pictures, to compare its boxes with the first's."
    )
    parser.add_flag("--device", str, "auto, cpu, cuda or mps.", default="auto")
    parser.add_flag("--batch-size", int, "Pictures that the detector gets at once.", default=8)
    parser.add_flag("--num-workers", int, "Threads that read pictures.", default=2)
    parser.add_switch("--json", "Print JSON instead of tables.")


def _check_people_flags(given: Namespace) -> None:
    check_compute_flags(given)
    check_detector_flags(given)
    makes = given.detector is not None or given.boxes is not None or given.each
    if not makes and given.compare is None:
        raise ConfigError("nothing to do: give --detector, --boxes, --each or --compare")
    if makes and given.out is None:
        raise ConfigError("--out must be given; see `uniemox data people --help`")
    if not makes and given.out is not None:
        raise ConfigError("--compare alone makes no new manifest: leave --out away")
    if given.out is not None and given.out.is_dir():
        raise ConfigError(f"--out is {given.out}, but must be a file and not a folder")
    if given.out is not None and not given.out.absolute().parent.is_dir():
        raise ConfigError(f"the folder of --out {given.out} is not there: make it first")


def _people(given: Namespace, output: Output) -> int:
    _check_people_flags(given)
    from uniemox.data.agreement import compare_people
    from uniemox.data.manifest import read_manifest, write_manifest
    from uniemox.data.population import one_row_per_person

    # The second is read first: what is wrong with it must not be told after hours of work.
    second = None if given.compare is None else read_manifest(given.compare, check_root=False)
    manifest = read_manifest(given.manifest, check_root=given.detector is not None)
    problems: tuple[Problem, ...] = ()
    search = None
    if given.detector is not None:
        manifest, search = _detect(manifest, given, output)
    elif given.boxes is not None:
        manifest, problems = _import(manifest, given)
    agreement = None if second is None else compare_people(manifest, second)
    if given.each:
        manifest = one_row_per_person(manifest)
    if given.out is not None:
        write_manifest(manifest, given.out)
    if search is not None:
        search.clear()
    _tell(manifest, problems, agreement, given, output)
    return SUCCESS


def _detect(manifest: Manifest, given: Namespace, output: Output) -> tuple[Manifest, Search]:
    from uniemox.data.population import (
        all_pictures,
        assign_people,
        check_replaceable,
        pictures_without_boxes,
    )
    from uniemox.data.search import Search
    from uniemox.terminal import track, write_line

    if given.replace:
        check_replaceable(manifest)
    paths = (all_pictures if given.replace else pictures_without_boxes)(manifest)
    detector = detector_of(given)
    folder = given.out.with_name(f"{given.out.name}.parts")
    if not len(paths):
        output.complain("every row has boxes already, so they stay; --replace finds them anew")
    search = Search(manifest.facts.root, paths, source=detector.source, folder=folder)
    if search.done:
        write_line(output.console, f"going on after {search.done} of {len(search)} pictures")
    found = search.run(detector, batch_size=given.batch_size, num_workers=given.num_workers)
    with closing(found):
        for _ in track(found, output.console, total=len(search) - search.done, what="pictures"):
            pass
    manifest = assign_people(
        manifest,
        paths,
        found=search.result(),
        source=detector.source,
        replace_boxes=given.replace,
    )
    return manifest, search


def _import(manifest: Manifest, given: Namespace) -> tuple[Manifest, tuple[Problem, ...]]:
    import pyarrow as pa

    from uniemox.data.boxes import read_boxes
    from uniemox.data.detectors.detector import fingerprint
    from uniemox.data.population import all_pictures, assign_people, check_replaceable, to_table

    if given.replace:
        check_replaceable(manifest)
    listed = read_boxes(given.boxes)
    assigned = listed.assign(all_pictures(manifest).to_pylist(), root=manifest.facts.root)
    manifest = assign_people(
        manifest,
        pa.array(assigned.paths, pa.string()),
        found=to_table(assigned.found),
        source=f"{given.boxes.name} (SHA-256 {fingerprint(given.boxes)}…), a file of boxes",
        replace_boxes=given.replace,
    )
    return manifest, assigned.problems


def _tell(
    manifest: Manifest,
    problems: Sequence[Problem],
    agreement: Agreement | None,
    given: Namespace,
    output: Output,
) -> None:
    from uniemox.data.population import count_people
    from uniemox.terminal import agreement_table, population_table, problems_table

    population = count_people(manifest)
    if given.json:
        told: dict[str, Any] = {"manifest": None if given.out is None else str(given.out)}
        told |= {"people": asdict(population), "problems": [asdict(each) for each in problems]}
        if agreement is not None:
            told["agreement"] = agreement.to_dict()
        output.say_json(told)
        return
    output.show(population_table(population))
    if problems:
        output.show(problems_table(problems))
    if agreement is not None:
        names = (str(given.out or given.manifest), str(given.compare))
        output.show(agreement_table(agreement, names=names))
    if given.out is not None:
        output.say(given.out)


# The sheet


def add_sheet_flags(parser: Parser) -> None:
    """Add the flags of `data show` that are about people."""
    person = PersonConfig()
    parser.add_switch("--people", "Show how many people there are; with --out, also where.")
    parser.add_flag(
        "--out",
        Path,
        "Sheet of pictures with boxes and crops: .html or .png; replaced if it exists.",
    )
    parser.add_flag(
        "--count", int, f"Pictures of the sheet, evenly from all (default: {_SHEET_PICTURES})."
    )
    parser.add_flag(
        "--choice", PersonChoice | None, f"The person of the crop (default: {person.choice})."
    )
    parser.add_flag(
        "--margin",
        float,
        f"Share of the box's sides that the crop adds (default: {person.margin}).",
    )
    parser.add_flag(
        "--shape", CropShape | None, f"How the crop becomes square (default: {person.shape})."
    )


def check_sheet_flags(given: Namespace) -> None:
    """Refuse what is about a sheet where none is asked for.

    Raises:
        ConfigError: Names the flag.
    """
    if given.out is not None and not given.people:
        raise ConfigError("--out is for the sheet of --people: give both")
    for name in _SHEET_FLAGS:
        if given.out is None and getattr(given, name) is not None:
            raise ConfigError(f"--{name} is about the sheet: ask for it with --people --out FILE")


def show_people(manifest: Manifest, given: Namespace, output: Output) -> None:
    """Show how many people a manifest has, and write the sheet where one was asked for.

    Raises:
        ConfigError: A flag is wrong.
        DataError: The sheet cannot be written, or no picture has a box.
    """
    from uniemox.data.population import count_people
    from uniemox.terminal import population_table

    settings = {name: getattr(given, name) for name in _SHEET_FLAGS[1:]}
    person = PersonConfig(**{name: value for name, value in settings.items() if value is not None})
    count = _SHEET_PICTURES if given.count is None else given.count
    if given.out is not None and given.out.suffix.lower() not in SHEET_SUFFIXES:
        raise ConfigError(f"--out is {given.out}, but must end in {' or '.join(SHEET_SUFFIXES)}")
    if count < 1:
        raise ConfigError(f"--count is {count}, but must be at least 1")
    if given.out is not None:
        from uniemox.report.contact import write_sheet

        write_sheet(manifest, given.out, person=person, count=count)
    population = count_people(manifest)
    if given.json:
        sheet = None if given.out is None else str(given.out)
        output.say_json({"people": asdict(population), "sheet": sheet})
        return
    output.show(population_table(population))
    if given.out is not None:
        output.say(given.out)


COMMANDS: Final = {
    "data people": Command(
        "Find the people in a manifest's pictures, or import or compare their boxes.",
        _add_people,
        _people,
    ),
}
