"""The scale of valence, arousal and dominance: a set's own, or one that the caller states."""

from dataclasses import replace
from typing import Final

from uniemox.config.data import Scale
from uniemox.importers.cells import VAD, Vad, vad
from uniemox.importers.samples import Sample, Samples
from uniemox.manifests.findings import Findings
from uniemox.wording import listed

_SLACK: Final = 1e-6  # Share of a scale that a rating may be beyond it: means are rounded


def put_on_scale(found: Samples, stated: Scale | None, findings: Findings) -> Samples:
    """Give samples the scale of their set, or else the stated one, and take out ratings beyond it, which are counted.

    Ratings whose scale nobody knows stay, with a note.
    """
    given = [sample.vad for sample in found.samples if sample.vad is not None]
    rated = [name for name, values in zip(VAD, zip(*given, strict=True), strict=False) if set(values) != {None}]
    if not rated:
        if stated is not None:
            findings.remark(
                "a scale is given, but no row has ratings: name their columns, as in --columns valence=NAME"
            )
        return found
    scale = stated if found.vad_range is None else found.vad_range
    if scale is None:
        findings.remark(
            f"the scale of {listed(rated)} is not known: state its ends, such as --scale 1,9, to train on it"
        )
        return found
    samples = [
        sample if sample.vad is None else sample._replace(vad=_on_scale(sample, sample.vad, scale, findings))
        for sample in found.samples
    ]
    return replace(found, samples=samples, vad_range=scale)


def rating_on(value: float | None, scale: Scale, name: str, findings: Findings, where: str) -> float | None:
    """Return a rating; None, and counted, if it is beyond the scale."""
    low, high = scale
    slack = _SLACK * (high - low)
    if value is None or low - slack <= value <= high + slack:
        return value
    findings.add(f"{name} beyond its scale of {low:g} to {high:g}, skipped", f"{value:g} of {where}")
    return None


def _on_scale(sample: Sample, rated: Vad, scale: Scale, findings: Findings) -> Vad | None:
    pairs = zip(VAD, rated, strict=True)
    return vad({name: rating_on(value, scale, name, findings, sample.path) for name, value in pairs})
