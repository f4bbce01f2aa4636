"""The faults of the images of one or several manifests, and manifests without them.

A finding is about a copy: an image file in one split of one manifest, with all its rows (an image of several people
has a row for each, which is no repetition). Copies show the same image where their files, their pixels or their looks
agree; conclusions rest on the pair itself, never on a chain of pairs. Of two copies the one in the more held-out split
stays: test, and every split that is neither train nor val, over val over train, within a data set and across
(DECISIONS 35).
"""

import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from uniemox.audit.copies import Copies
from uniemox.audit.findings import Finding, Group, Judge
from uniemox.config.audit import KINDS, AuditRules
from uniemox.errors import ConfigError, DataError
from uniemox.files.progress import Track, untracked
from uniemox.files.whole import check_vacant, write_whole
from uniemox.manifests.columns import with_column
from uniemox.manifests.table import Manifest, write_manifest
from uniemox.version import __version__
from uniemox.wording import counted

_RULES: Final = AuditRules()


@dataclass(frozen=True)
class Audit:
    """The findings, and the manifests without them."""

    names: tuple[str, ...]  # Of the manifests
    manifests: tuple[Manifest, ...]
    config: AuditRules
    copies: Copies
    findings: tuple[Finding, ...]
    groups: tuple[Group, ...]
    cleaned: tuple[Manifest, ...]

    def counts(self) -> dict[str, dict[str, int]]:
        """Count the findings of each kind: all, and those that were removed."""
        counts: dict[str, dict[str, int]] = {kind: {"found": 0, "removed": 0} for kind in KINDS}
        for finding in self.findings:
            counts[finding.kind]["found"] += 1
            counts[finding.kind]["removed"] += finding.removed
        return counts


def audit(
    manifests: Mapping[str, Manifest],
    fingerprints: pa.Table,
    *,
    copies: Copies,
    config: AuditRules = _RULES,
    track: Track = untracked,
) -> Audit:
    """Judge the images of manifests by the fingerprints of their files.

    Args:
        manifests: By their names.
        fingerprints: Of the files of the copies, in their order.
        copies: Those of the manifests.
        config: What counts as a fault, and what is removed.
        track: Shows the progress of the search for look-alikes.
    """
    tables = tuple(manifests.values())
    judge = Judge(copies, fingerprints, config, track)
    findings = []
    for finding in (*judge.of_images(), *judge.of_likeness(), *judge.of_boxes(tables)):
        # Nobody knows which label is right, and what a benchmark is scored on is not ours to change.
        stays = finding.kind == "conflict" and copies.rank[finding.copy] > 0
        findings.append(replace(finding, removed=finding.kind in config.remove and not stays))
    findings.sort(key=lambda finding: (KINDS.index(finding.kind), finding.copy))
    removed = np.zeros(len(copies), bool)
    removed[[finding.copy for finding in findings if finding.removed]] = True
    return Audit(
        names=tuple(manifests),
        manifests=tables,
        config=config,
        copies=copies,
        findings=tuple(findings),
        groups=tuple(judge.groups()),
        cleaned=tuple(
            _clean(manifest, copies.file[of_row], ~removed[of_row], fingerprints)
            for manifest, of_row in zip(tables, copies.of_rows, strict=True)
        ),
    )


def _clean(manifest: Manifest, files: np.ndarray, is_kept: np.ndarray, fingerprints: pa.Table) -> Manifest:
    """Keep some rows (N,), and fill in sizes and hashes from the fingerprints of their files (N,)."""
    table = manifest.table.filter(pa.array(is_kept))
    for name, source in (("width", "width"), ("height", "height"), ("hash", "sha256")):
        table = with_column(table, name, fingerprints[source].take(pa.array(files[is_kept])))
    facts = manifest.facts
    recipe = f"audited: {counted(int((~is_kept).sum()), 'row')} removed"
    return Manifest(table, replace(facts, split_recipe="; ".join(filter(None, (facts.split_recipe, recipe)))))


def check_folder(folder: Path, manifests: Sequence[Manifest], *, resume: bool) -> None:
    """Check that an audit may write into a folder; `ConfigError` if it is a file, among the images, or not empty."""
    for images in (place for manifest in manifests for place in _image_folders(manifest)):
        if folder.resolve().is_relative_to(images.resolve()):
            raise ConfigError(f"out is {folder}, which lies among the images in {images}: choose another folder")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out is {folder}, which is a file: choose a folder")
    if not resume:
        check_vacant(folder, ConfigError, otherwise=", or continue with `resume`")


def _image_folders(manifest: Manifest) -> list[Path]:
    """Name the folders of images: the root, or those of merged sets, since their common root may hold anything."""
    root = manifest.facts.root
    if manifest.facts.layout != "merged":
        return [root]
    ends = manifest.table.group_by("source").aggregate([("path", "min"), ("path", "max")])
    # All paths share what the first and the last in order have in common.
    return [
        root / posixpath.commonpath([posixpath.dirname(first), posixpath.dirname(last)])
        for first, last in zip(*(ends[name].to_pylist() for name in ("path_min", "path_max")), strict=True)
    ]


def write_audit(result: Audit, folder: Path, *, labels: Sequence[Mapping[str, Any]] = ()) -> list[Path]:
    """Write `audit.json` and the cleaned manifests; `labels` is what was found of them, as plain values.

    Returns:
        The cleaned manifests, one for each that was audited.

    Raises:
        DataError: The folder cannot be written.
    """
    clean = folder / "clean"
    paths = [clean / f"{name}.parquet" for name in result.names]
    text = json.dumps({**to_json(result, paths), "labels": labels}, indent=1) + "\n"
    with write_whole(folder / "audit.json", DataError, elsewhere="choose another `out`") as beside:
        clean.mkdir(exist_ok=True)
        beside.write_text(text, encoding="ascii")
    for manifest, path in zip(result.cleaned, paths, strict=True):
        write_manifest(manifest, path)
    return paths


def to_json(result: Audit, cleaned: Sequence[Path]) -> dict[str, Any]:
    """Describe everything that was found as plain values."""

    def show(index: int) -> dict[str, Any]:
        copy = result.copies[index]
        return {
            "manifest": result.names[copy.manifest],
            "path": copy.path,
            "split": copy.split,
            "label": copy.label or None,
            "rows": list(copy.rows),
        }

    return {
        "version": 1,
        "uniemox": __version__,
        "settings": asdict(result.config),
        "manifests": [
            {
                "name": name,
                "root": str(manifest.facts.root),
                "rows": len(manifest),
                "kept": len(kept),
                "cleaned": str(path),
                "classes": count_classes(manifest),
                "classes_kept": count_classes(kept),
            }
            for name, manifest, kept, path in zip(result.names, result.manifests, result.cleaned, cleaned, strict=True)
        ],
        "files": len(result.copies.files),
        "counts": result.counts(),
        "findings": [
            {
                "kind": finding.kind,
                "text": finding.text,
                "removed": finding.removed,
                **show(finding.copy),
                "beside": None if finding.other is None else show(finding.other),
            }
            for finding in result.findings
        ],
        "groups": [
            {"same": group.same, "likeness": round(group.likeness, 3), "copies": list(map(show, group.copies))}
            for group in result.groups
        ],
    }


def count_classes(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Count split to class to rows."""
    if not len(manifest):
        return {}
    return {split: manifest.select([split]).class_counts() for split in manifest.split_counts()}
