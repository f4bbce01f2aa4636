"""The commands about the people in images: `data people`, and the sheet of `data show --people`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from uniemox.config.data import ShowConfig
from uniemox.config.people import DetectorChoice, PeopleConfig
from uniemox.console.commands.command import Answer, Command, check_not_replacing
from uniemox.console.display import Terminal

if TYPE_CHECKING:
    from uniemox.manifests.findings import Problem
    from uniemox.manifests.table import Manifest
    from uniemox.people.detectors.detector import Detector
    from uniemox.people.search import Search


def build_asked_detector(name: str, config: DetectorChoice, *, device: str) -> Detector:
    """Make the detector that a command asks for; raises what `build_detector` raises."""
    from uniemox.people.detectors.choice import build_detector

    return build_detector(name, config, weights=config.detector_weights, form=config.detector_format, device=device)


def _people(config: PeopleConfig, terminal: Terminal) -> Iterator[Answer]:
    """Find the people in a manifest's images, or import or compare their boxes."""
    from uniemox.console.tables import agreement_table, population_table, problems_table
    from uniemox.manifests.population import count_people, one_row_per_person
    from uniemox.manifests.table import read_manifest, write_manifest
    from uniemox.people.agreement import compare_people

    if config.out is not None:
        check_not_replacing(config.out)
    # The second is read first: an error in it must not come after hours of work.
    second = None if config.compare is None else read_manifest(config.compare, check_root=False)
    manifest = read_manifest(config.manifest, check_root=config.detector is not None)
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    search = None
    if config.detector is not None:
        manifest, search = _detect(manifest, config.detector, config, terminal)
    elif config.boxes is not None:
        manifest, problems, notes = _import(manifest, config.boxes, config)
    agreement = None if second is None else compare_people(manifest, second)
    if config.each:
        manifest = one_row_per_person(manifest)
    if config.out is not None:
        write_manifest(manifest, config.out)
    if search is not None:
        search.clear()
    population = count_people(manifest)
    remarks = (f"note: {note}" for note in notes)
    shown: list[object] = [population_table(population), problems_table(problems), *remarks]
    data: dict[str, Any] = {"manifest": config.out, "people": population, "problems": problems, "notes": notes}
    if agreement is not None:
        shown.append(agreement_table(agreement, names=(str(config.out or config.manifest), str(config.compare))))
        data["agreement"] = agreement.to_dict()
    yield Answer([*shown, config.out], data)


def _detect(manifest: Manifest, name: str, config: PeopleConfig, terminal: Terminal) -> tuple[Manifest, Search]:
    from uniemox.manifests.population import all_pictures, assign_people, check_replaceable, pictures_without_boxes
    from uniemox.people.search import Search

    if config.replace:
        check_replaceable(manifest)
    paths = (all_pictures if config.replace else pictures_without_boxes)(manifest)
    detector = build_asked_detector(name, config, device=config.device)
    if not len(paths):
        terminal.complain("every row has boxes already, so they stay; --replace finds them again")
    assert config.out is not None  # a detector makes a new manifest
    folder = config.out.with_name(f"{config.out.name}.parts")
    search = Search(manifest.facts.root, paths, source=detector.source, folder=folder)
    if search.done:
        terminal.write(f"continuing after {search.done} of {len(search)} images")
    with closing(search.run(detector, batch_size=config.batch_size, num_workers=config.workers)) as found:
        for _ in terminal.track(found, total=len(search) - search.done, what="images"):
            pass
    manifest = assign_people(
        manifest, paths, found=search.result(), source=detector.source, replace_boxes=config.replace
    )
    return manifest, search


def _import(
    manifest: Manifest, boxes: Path, config: PeopleConfig
) -> tuple[Manifest, tuple[Problem, ...], tuple[str, ...]]:
    import pyarrow as pa

    from uniemox.manifests.population import all_pictures, assign_people, check_replaceable, to_table
    from uniemox.people.boxes import read_boxes
    from uniemox.people.detectors.detector import fingerprint

    if config.replace:
        check_replaceable(manifest)
    paths = all_pictures(manifest).to_pylist()
    assigned = read_boxes(boxes).assign(paths, root=manifest.facts.root, units=config.box_units)
    manifest = assign_people(
        manifest,
        pa.array(assigned.paths, pa.string()),
        found=to_table(assigned.found),
        source=f"{boxes.name} (SHA-256 {fingerprint(boxes)}…), a file of boxes",
        replace_boxes=config.replace,
    )
    return manifest, assigned.problems, assigned.notes


def show_people(manifest: Manifest, config: ShowConfig) -> Answer:
    """Count the people of a manifest, and write the sheet if one was asked for."""
    from uniemox.console.tables import population_table
    from uniemox.manifests.population import count_people

    if config.out is not None:
        from uniemox.report.contact import write_sheet

        write_sheet(manifest, config.out, person=config.person, count=config.count or 24)
    population = count_people(manifest)
    return Answer([population_table(population), config.out], {"people": population, "sheet": config.out})


COMMANDS: Final = {"data people": Command(PeopleConfig, _people)}
