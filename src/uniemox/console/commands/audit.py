"""The command `data audit`."""

from collections.abc import Iterator
from itertools import chain, count
from typing import Final

from uniemox.config.audit import AuditConfig
from uniemox.console.commands.command import Answer, Command
from uniemox.console.display import Terminal


def _audit(config: AuditConfig, terminal: Terminal) -> Iterator[Answer]:
    """Find bad, repeated and leaking images, and clean manifests of them."""
    from uniemox.audit.audit import audit, check_folder, write_audit
    from uniemox.audit.copies import Copies
    from uniemox.audit.fingerprints import take_fingerprints
    from uniemox.console.tables import findings_table, kept_table
    from uniemox.manifests.table import read_manifest
    from uniemox.report.audit import write_audit_report

    manifests = {}
    for path in config.manifests:
        numbered = (f"{path.stem}-{number}" for number in count(2))
        name = next(name for name in chain([path.stem], numbered) if name not in manifests)
        manifests[name] = read_manifest(path)
    check_folder(config.out, list(manifests.values()), resume=config.resume)
    copies = Copies(list(manifests.values()))
    folder, track = config.out / "fingerprints", terminal.track
    prints = take_fingerprints(copies.files, folder=folder, workers=config.workers, track=track)
    result = audit(manifests, prints, copies=copies, config=config.rules, track=track)
    cleaned = write_audit(result, config.out)
    report = write_audit_report(result, config.out, track=track)
    yield Answer(
        [findings_table(result.counts()), kept_table(result), report],
        {"report": report, "audit": config.out / "audit.json", "cleaned": cleaned, "counts": result.counts()},
    )


COMMANDS: Final = {"data audit": Command(AuditConfig, _audit)}
