"""What raters said of the rows of a manifest, on average."""

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from uniemox.manifests.columns import VAD
from uniemox.manifests.table import Manifest


class Rating(NamedTuple):
    """A dimension over the rows that are rated in it, in units of the manifest's scale."""

    mean: float
    deviation: float  # Standard deviation
    rows: int


def average_ratings(manifest: Manifest) -> dict[str, Rating]:
    """Average valence, arousal and dominance, those that some row has."""
    found = {}
    for name in VAD:
        known = pc.drop_null(pc.struct_field(manifest.table["vad"], name).cast(pa.float64())).to_numpy()
        if len(known):
            found[name] = Rating(float(known.mean()), float(known.std()), len(known))
    return found


def average_shares(manifest: Manifest) -> dict[str, float]:
    """Average the shares of raters over the rows that have some, by class; empty if none has."""
    lists = pc.drop_null(manifest.table["distribution"])
    if not len(lists):
        return {}
    shares = pc.list_flatten(lists).to_numpy().reshape(len(lists), -1).mean(0)
    return dict(zip(manifest.facts.classes, shares.tolist(), strict=True))
