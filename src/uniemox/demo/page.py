"""The demonstration's report, assembled from the blocks of `uniemox.report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from uniemox.checkpoints.bundle import load_pretraining
from uniemox.checkpoints.facts import EMBEDDED
from uniemox.data.images import Unreadable, read_image
from uniemox.data.manifest import read_manifest
from uniemox.data.people import choose_box, person_region
from uniemox.data.pixels import cut_region
from uniemox.data.transforms import denormalize, evaluation
from uniemox.models.encoder import grid_size, patchify, unpatchify
from uniemox.models.mae import hide
from uniemox.report import charts
from uniemox.report.page import (
    Figure,
    Gallery,
    GalleryItem,
    Notice,
    Page,
    Score,
    Scores,
    Section,
    Table,
)
from uniemox.train.journal import read_journal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from uniemox.checkpoints.bundle import Pretrained
    from uniemox.config import PersonConfig
    from uniemox.data.manifest import Manifest
    from uniemox.demo.drawn import DrawnData
    from uniemox.metrics import Report
    from uniemox.predict import Predictor

_RECONSTRUCTIONS = 6
_CROPS = 3
_GALLERY = 12
_TERMS = ("loss", "contrast", "similarity", "reconstruction")


@dataclass(frozen=True)
class Outcome:
    """What fine-tuning from one start came to."""

    title: str
    journal: Sequence[dict[str, Any]]
    seen: Report
    """On pairs of character and pose that training did not hold."""
    unseen: Report
    """On characters that training did not hold."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that the report tells."""

    data: DrawnData
    pretrained: Path
    journal: Sequence[dict[str, Any]]
    """Lines of the pretraining's `metrics.jsonl`."""
    outcomes: tuple[Outcome, ...]
    """The first one is UniEmoX's."""
    predictor: Predictor
    test: Manifest
    photograph: Path
    person: PersonConfig
    """How pretraining cut the person."""
    mask_ratio: float
    """Share of the patches that pretraining hides."""
    seconds: float
    seed: int


def build_page(findings: Findings) -> Page:
    """Assemble the report."""
    return Page(
        title="uniemox: the demonstration",
        lead=(
            "One vision transformer, pretrained by hiding patches of a scene and its person and by listening to CLIP, "
            "then fine-tuned to name the emotion. Every figure below was computed on this machine, in "
            f"{findings.seconds / 60:.1f} minutes, by the commands that a user runs."
        ),
        sections=(
            _summary(findings),
            _data(findings),
            _pretraining(findings),
            _finetuning(findings),
            _confusions(findings),
            _predictions(findings),
        ),
    )


def _summary(findings: Findings) -> Section:
    ours, other = findings.outcomes[0], findings.outcomes[1]
    gain = 100 * (ours.seen.balanced_accuracy - other.seen.balanced_accuracy)
    return Section(
        "What came out",
        "Balanced accuracy is the mean of the recalls of the six classes: guessing gives 0.167.",
        (
            Scores(
                (
                    Score(
                        "unseen pairs",
                        f"{ours.seen.balanced_accuracy:.3f}",
                        _interval(ours.seen),
                    ),
                    Score(
                        "unseen characters",
                        f"{ours.unseen.balanced_accuracy:.3f}",
                        _interval(ours.unseen),
                    ),
                    Score(
                        "over random weights",
                        f"{gain:+.1f} points",
                        "unseen pairs, same budget",
                    ),
                )
            ),
            Notice(
                "The labels come from drawings: an artist named each face, nobody rated what viewers feel, and no "
                "photograph was trained on. UniEmoX-mini's teacher and descriptions have seen the training labels, as "
                "in the paper's recipe, so this shows that the whole path works and what pretraining brings here. It "
                "is no measure of how well emotions of photographs are told.",
                "warning",
            ),
        ),
    )


def _interval(report: Report) -> str:
    low, high = report.intervals["balanced_accuracy"]
    return f"95 % interval {low:.3f} to {high:.3f}"


def _data(findings: Findings) -> Section:
    seen = read_manifest(findings.data.seen)
    unseen = read_manifest(findings.data.unseen)
    classes = seen.facts.classes
    rows: list[tuple[str | int, ...]] = []
    for split in seen.split_counts():
        counts = seen.select([split]).class_counts()
        rows.append((split, *(counts[name] for name in classes), sum(counts.values())))
    counts = unseen.class_counts()
    rows.append(("unseen characters", *(counts[name] for name in classes), len(unseen)))
    return Section(
        "The data",
        "Characters drawn by artists (comicgen, CC0) stand in painted scenes with objects (openclipart, public "
        "domain). They were read from EmoSet's own format with its attributes; each person's box is exact.\n\n"
        "Below: the scene with its box, the crop of the person as the encoder gets it, and the patches that are "
        f"left of both when {100 * findings.mask_ratio:.0f} % are hidden.",
        (
            Table(("split", *classes, "all"), rows, "Pictures of each split and class."),
            Figure(
                charts.crops(_crop_rows(findings)),
                "Scenes with the person's box, the person's crop, and the visible patches of both.",
                "Scene and person, and what the encoder sees of them.",
            ),
        ),
    )


def _crop_rows(findings: Findings) -> list[charts.Crop]:
    size = findings.predictor.facts.image_size
    grid = size // findings.predictor.facts.patch_size
    how = findings.person
    generator = torch.Generator().manual_seed(findings.seed)
    rows = []
    for index in _spread(findings.test, _CROPS):
        row = findings.test.row(index)
        image = read_image(row.path)
        assert not isinstance(image, Unreadable)
        width, height = image.size
        box = choose_box(row.boxes, how.choice, width=width, height=height)
        region = person_region(row.boxes, how, width=width, height=height)
        assert box is not None
        assert region is not None
        scene = np.asarray(image.resize((size, size)))
        person = np.asarray(cut_region(image, region, size=size, shape=how.shape))
        noise = torch.rand(2, grid * grid, generator=generator)
        hidden = hide(noise, findings.mask_ratio).hidden.reshape(2, grid, grid).numpy()
        rows.append(
            charts.Crop(
                scene=np.asarray(image),
                person=person,
                box=(box.x0, box.y0, box.x1, box.y1),
                seen_scene=charts.hide(scene, hidden[0]),
                seen_person=charts.hide(person, hidden[1]),
            )
        )
    return rows


def _spread(manifest: Manifest, count: int) -> list[int]:
    """Choose rows evenly from the first to the last."""
    return [round(place) for place in np.linspace(0, len(manifest) - 1, count)]


def _pretraining(findings: Findings) -> Section:
    return Section(
        "Pretraining",
        "Contrast: how far the fused embedding's likeness to all texts of the batch is from CLIP's. Similarity: its "
        "distance from CLIP's image feature. Reconstruction: the error of the hidden patches. First "
        "the way of the embedded UniEmoX-mini, made before the demo; then the steps that this run added.\n\n"
        "The pictures are of the test split: neither encoder nor decoder was trained on them.",
        (
            Figure(
                charts.loss_curves(
                    read_journal(EMBEDDED["demo-pretrained"] / "metrics.jsonl"), terms=_TERMS
                ),
                "Curves of the loss and its three terms over the steps of the embedded model.",
                "UniEmoX-mini's own pretraining.",
            ),
            Figure(
                charts.loss_curves(findings.journal, terms=_TERMS),
                "Curves of the loss and its three terms over the steps of this run.",
                "The steps of this run.",
            ),
            Figure(
                charts.reconstruction_grid(_reconstruct(findings)),
                "Pictures with some of the patches seen, what the decoder makes of them, and the originals.",
                "Seen patches, prediction (with the seen patches put back), original.",
            ),
        ),
    )


def _reconstruct(findings: Findings) -> list[tuple[charts.Picture, charts.Picture, charts.Picture]]:
    pretrained = load_pretraining(findings.pretrained)
    return reconstruct(
        pretrained, findings.test, mask_ratio=findings.mask_ratio, seed=findings.seed
    )


@torch.no_grad()
def reconstruct(
    pretrained: Pretrained, manifest: Manifest, *, mask_ratio: float, seed: int
) -> list[tuple[charts.Picture, charts.Picture, charts.Picture]]:
    """Let the decoder fill in hidden patches of a few pictures.

    Args:
        pretrained: Model with a decoder.
        manifest: Pictures to choose from, evenly.
        mask_ratio: Share of the patches to hide.
        seed: Seed of the masks.

    Returns:
        For each picture what was seen, the prediction with the seen patches put back, and the original;
        (S, S, 3) uint8 each.
    """
    model = pretrained.model.eval()
    transform = evaluation(pretrained.facts.image_size)
    images = [read_image(manifest.row(i).path) for i in _spread(manifest, _RECONSTRUCTIONS)]
    scene = torch.stack([transform(image) for image in images if not isinstance(image, Unreadable)])
    grid, side = grid_size(model.encoder), pretrained.facts.patch_size
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(len(scene), grid * grid, generator=generator)
    output = model(scene, scene, noise, noise, mask_ratio)
    target = patchify(scene, side)
    whole = torch.where(output.hiding.hidden.unsqueeze(-1), output.prediction, target)
    pictures = [_pictures(patches, side) for patches in (whole, target)]
    hidden = output.hiding.hidden.reshape(-1, grid, grid).numpy()
    return [
        (charts.hide(original, cover), prediction, original)
        for prediction, original, cover in zip(*pictures, hidden, strict=True)
    ]


def _pictures(patches: Tensor, side: int) -> list[charts.Picture]:
    pixels = denormalize(unpatchify(patches, side))
    return list(pixels.permute(0, 2, 3, 1).numpy())


def _finetuning(findings: Findings) -> Section:
    bars = [
        charts.Comparison(
            name=outcome.title,
            condition=condition,
            value=report.balanced_accuracy,
            low=report.intervals["balanced_accuracy"].low,
            high=report.intervals["balanced_accuracy"].high,
        )
        for outcome in findings.outcomes
        for condition, report in (
            ("unseen pairs", outcome.seen),
            ("unseen characters", outcome.unseen),
        )
    ]
    for condition, report in (
        ("unseen pairs", findings.outcomes[0].seen),
        ("unseen characters", findings.outcomes[0].unseen),
    ):
        bars.append(
            charts.Comparison(
                name="majority class",
                condition=condition,
                value=report.majority.balanced_accuracy,
                low=None,
                high=None,
            )
        )
    rows = [
        (
            outcome.title,
            condition,
            report.num_samples,
            report.top1,
            report.top3,
            report.balanced_accuracy,
            report.macro_f1,
            report.ece,
        )
        for outcome in findings.outcomes
        for condition, report in (
            ("unseen pairs", outcome.seen),
            ("unseen characters", outcome.unseen),
        )
    ]
    columns = (
        "start",
        "test",
        "pictures",
        "top-1",
        "top-3",
        "balanced",
        "macro F1",
        "calibration error",
    )
    return Section(
        "Fine-tuning",
        "Two classifiers with the same settings and the same number of steps: one starts from UniEmoX-mini, the other "
        "from random weights. The epoch was chosen on val, never on test.",
        (
            Figure(
                charts.comparison_bars(bars),
                "Bars of balanced accuracy for both starts and the majority class, on both tests.",
                "Balanced accuracy with its 95 % bootstrap interval.",
            ),
            Table(columns, rows, "Scores on both tests."),
            Figure(
                charts.loss_curves(
                    {
                        outcome.title: [line for line in outcome.journal if line["kind"] != "test"]
                        for outcome in findings.outcomes
                    },
                    terms=("loss", "balanced_accuracy"),
                ),
                "Training loss, and balanced accuracy on val, of both starts over the steps.",
                "Cross-entropy of training, and balanced accuracy on val.",
            ),
        ),
    )


def _confusions(findings: Findings) -> Section:
    ours = findings.outcomes[0]
    return Section(
        "Where it errs",
        "Rows are the true class, columns the predicted one.",
        (
            Figure(
                charts.confusion(ours.seen, "unseen pairs"),
                "Confusion matrix on unseen pairs.",
                width="half",
            ),
            Figure(
                charts.confusion(ours.unseen, "unseen characters"),
                "Confusion matrix on unseen characters.",
                width="half",
            ),
        ),
    )


def _predictions(findings: Findings) -> Section:
    rows = [findings.test.row(index) for index in _spread(findings.test, 4 * _GALLERY)]
    predictions = list(findings.predictor.predict([row.path for row in rows]))
    classes = findings.test.facts.classes
    items = [
        GalleryItem(
            picture=_read(row.path),
            predicted=prediction.label or "",
            confidence=prediction.confidence or 0.0,
            true=None if row.label is None else classes[row.label],
            name=row.path.name,
        )
        for row, prediction in zip(rows, predictions, strict=True)
    ]
    right = [item for item in items if item.verdict == "right"][:_GALLERY]
    wrong = [item for item in items if item.verdict == "wrong"][:_GALLERY]
    (photograph,) = findings.predictor.predict([findings.photograph])
    return Section(
        "Predictions",
        "Pictures of the test split, right ones first, then wrong ones. Last a photograph (Grace Hopper, United States "
        "Navy, public domain): the model has never seen one, so its answer says how sure a model can be where it "
        "knows nothing.",
        (
            *([Gallery(right, "Told rightly.")] if right else []),
            *([Gallery(wrong, "Told wrongly.")] if wrong else []),
            Gallery(
                [
                    GalleryItem(
                        picture=_read(findings.photograph),
                        predicted=photograph.label or "",
                        confidence=photograph.confidence or 0.0,
                        name=findings.photograph.name,
                    )
                ],
                "A photograph.",
            ),
        ),
    )


def _read(path: Path) -> charts.Picture:
    image = read_image(path)
    assert not isinstance(image, Unreadable)
    return np.asarray(image)
