"""What a classifier keeps of its training images, so that it can say how unlike them another image is."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
from accelerate import Accelerator

from uniemox.config.checks import Precision
from uniemox.inference.outputs import Measuring, Outputs, Reading
from uniemox.manifests.table import Manifest, evenly
from uniemox.targets.domain import MAX_FEATURES, NUM_NEIGHBOURS, Domain
from uniemox.train.events import Message
from uniemox.train.selection import Selection
from uniemox.wording import counted


def answer_val(
    selection: Selection, model: Any, train: Manifest, accelerator: Accelerator, precision: Precision
) -> Outputs:
    """Answer val; with `confidence.domain_share` also learn a domain from train, and fit its cutoff on val.

    Reads up to `MAX_FEATURES` rows of train, evenly chosen. Where too few can be read a message says so, and the
    outputs have no domain.
    """
    share, val = selection.config.confidence.domain_share, selection.val
    if share is None:
        return selection.answers(model, val, accelerator, precision)
    places = evenly(len(train), MAX_FEATURES)
    chosen = Manifest(train.table.take(pa.array(places)), train.facts, train.places[places])
    features = selection.answers(Reading(model), chosen, accelerator, precision).beside
    domain = None if features is None else Domain.of(features)
    if domain is None:
        few = f"it needs {counted(NUM_NEIGHBOURS, 'image')} with finite features"
        selection.observer(Message(f"{selection.config.train_split}: no distances from what the model knows: {few}"))
        return selection.answers(model, val, accelerator, precision)
    outputs = selection.answers(Measuring(model, domain), val, accelerator, precision)
    assert outputs.beside is not None
    return replace(outputs, domain=domain.fit(outputs.beside[:, 0], share))
