"""The command `data audit`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from uniemox.commands.command import SUCCESS, Command
from uniemox.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from uniemox.commands.command import Output
    from uniemox.flags import Parser

_REMOVED = ("unreadable", "tiny", "blank", "placeholder", "leak", "conflict")


def _add_audit(parser: Parser) -> None:
    parser.add_words(
        "manifests",
        Path,
        "Parquet files made by `uniemox data prepare`; audited together.",
        many=True,
    )
    parser.add_flag(
        "--out", Path, "Folder of the report, its data and the cleaned manifests.", required=True
    )
    parser.add_flag(
        "--remove",
        Sequence[str],
        "What cleaned manifests are without: any of unreadable, tiny, blank, placeholder, leak, conflict, repeat, "
        "overlap, box.",
        default=list(_REMOVED),
    )
    parser.add_flag(
        "--like", float, "Likeness from which two pictures show the same.", default=0.85
    )
    parser.add_flag(
        "--min-side", int, "Pixels of the shorter side below which a picture is tiny.", default=32
    )
    parser.add_flag(
        "--placeholder-copies",
        int,
        "Files of the same pixels from which they are a placeholder.",
        default=5,
    )
    parser.add_flag("--workers", int, "Processes that read pictures.", default=os.cpu_count() or 1)
    parser.add_switch("--resume", "Go on with an audit that was stopped.")
    parser.add_switch("--json", "Print JSON instead of tables.")


def _audit(given: Namespace, output: Output) -> int:
    if given.workers < 1:
        raise ConfigError(f"--workers is {given.workers}, but must be at least 1")
    from uniemox.data.audit import AuditConfig, Copies, audit, check_folder, write_audit
    from uniemox.data.fingerprints import take_fingerprints
    from uniemox.data.manifest import read_manifest
    from uniemox.report.audit import write_audit_report
    from uniemox.terminal import findings_table, kept_table, track

    config = AuditConfig(
        remove=tuple(given.remove),
        like=given.like,
        min_side=given.min_side,
        placeholder_copies=given.placeholder_copies,
    )
    manifests = dict(zip(_names(given.manifests), map(read_manifest, given.manifests), strict=True))
    check_folder(given.out, list(manifests.values()), resume=given.resume)
    copies = Copies(list(manifests.values()))
    show = partial(track, console=output.console)
    fingerprints = take_fingerprints(
        copies.files, folder=given.out / "fingerprints", workers=given.workers, track=show
    )
    result = audit(manifests, fingerprints, copies=copies, config=config, track=show)
    cleaned = write_audit(result, given.out)
    report = write_audit_report(result, given.out, track=show)
    if given.json:
        counts = result.counts()
        written = {"report": str(report), "audit": str(given.out / "audit.json")}
        output.say_json(written | {"cleaned": [str(path) for path in cleaned], "counts": counts})
        return SUCCESS
    output.show(findings_table(result.counts()))
    sizes = {
        name: (len(manifest), len(kept))
        for name, manifest, kept in zip(result.names, result.manifests, result.cleaned, strict=True)
    }
    output.show(kept_table(sizes))
    output.say(report)
    return SUCCESS


def _names(paths: Sequence[Path]) -> list[str]:
    """Name each manifest by its file; those of one name are numbered."""
    names: list[str] = []
    for path in paths:
        stem, name, number = path.stem, path.stem, 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return names


COMMANDS: Final = {
    "data audit": Command(
        "Find bad, repeated and leaking pictures, and clean manifests of them.", _add_audit, _audit
    ),
}
