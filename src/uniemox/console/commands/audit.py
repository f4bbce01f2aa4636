"""The command `data audit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Final

from uniemox.config.audit import AuditConfig
from uniemox.console.commands.command import Answer, Command
from uniemox.console.display import Display, Terminal
from uniemox.errors import ConfigError

if TYPE_CHECKING:
    from uniemox.audit.audit import Audit
    from uniemox.manifests.table import Manifest
    from uniemox.train.doubts import Doubts


def _audit(config: AuditConfig, terminal: Terminal) -> Iterator[Answer]:
    """Find bad, repeated and leaking images, and clean manifests of them."""
    from uniemox.audit.audit import audit, check_folder, write_audit
    from uniemox.audit.copies import Copies
    from uniemox.audit.fingerprints import take_fingerprints
    from uniemox.console.tables import doubts_table, findings_table, kept_table
    from uniemox.manifests.table import read_manifest
    from uniemox.report.audit import write_audit_report

    manifests = {}
    for path in config.manifests:
        numbered = (f"{path.stem}-{number}" for number in count(2))
        name = next(name for name in chain([path.stem], numbered) if name not in manifests)
        manifests[name] = read_manifest(path)
    check_folder(config.out, list(manifests.values()), resume=config.resume)
    ask = None if config.model is None else _prepare_doubts(config, manifests, terminal)
    copies = Copies(list(manifests.values()))
    folder, track = config.out / "fingerprints", terminal.track
    prints = take_fingerprints(copies.files, folder=folder, workers=config.workers, track=track)
    result = audit(manifests, prints, copies=copies, config=config.rules, track=track)
    doubts = [] if ask is None else ask(result)
    labels = _write_doubts(doubts, config)
    cleaned = write_audit(result, config.out, labels=labels)
    report = write_audit_report(result, config.out, doubts=doubts, track=track)
    yield Answer(
        [
            *(findings_table(result.counts()), kept_table(result), doubts_table(labels)),
            *(found["files"][-1] for found in labels),
            report,
        ],
        {
            "report": report,
            "audit": config.out / "audit.json",
            "cleaned": cleaned,
            "counts": result.counts(),
            "labels": labels,
        },
    )


def _prepare_doubts(
    config: AuditConfig, manifests: Mapping[str, Manifest], terminal: Terminal
) -> Callable[[Audit], list[Doubts]]:
    """Check the labels and find the backbone before any image is read; return what finds the doubts in an audit."""
    from uniemox.checkpoints.backbones import find_backbone
    from uniemox.compute.devices import choose_device
    from uniemox.config.people import PersonConfig
    from uniemox.targets.kinds import build_target
    from uniemox.train.doubts import find_doubts, read_labelled
    from uniemox.train.features import FeatureMaker

    assert config.model is not None
    labelled = [read_labelled(name, manifest, build_target(config.target)) for name, manifest in manifests.items()]
    device = choose_device(config.device)
    try:
        backbone = find_backbone(config.model)
    except ConfigError as error:
        raise ConfigError(str(error).replace("backbone is", "model is", 1)) from error

    def find(result: Audit) -> list[Doubts]:
        with Display(terminal) as display:
            maker = FeatureMaker(
                backbone=backbone,
                view=config.view,
                person=PersonConfig(),
                precision="fp32",
                device=device,
                workers=config.workers,
                folder=config.out / "features",
                observer=display,
            )
            found = find_doubts(labelled, result, maker, track=terminal.track)
        for note in (note for doubts in found for note in doubts.notes):
            terminal.write(note)
        return found

    return find


def _write_doubts(doubts: Sequence[Doubts], config: AuditConfig) -> list[dict[str, Any]]:
    """Write the rankings and a sheet of the first rows of each; return what was found, with the files."""
    if not doubts:
        return []
    from uniemox.report.doubts import write_doubts_sheet
    from uniemox.train.doubts import write_rankings

    folder = config.out / "labels"
    described = write_rankings(doubts, folder)
    for found, one in zip(described, doubts, strict=True):
        sheet = write_doubts_sheet(one, folder / f"{one.of.name}.html", model=str(config.model))
        found["files"].append(str(sheet))
    return described


COMMANDS: Final = {"data audit": Command(AuditConfig, _audit)}
