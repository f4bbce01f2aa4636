"""The demonstration's report, assembled from the blocks of `uniemox.report`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from uniemox.checkpoints.folder import Pretrained
from uniemox.checkpoints.load import load_pretraining
from uniemox.checkpoints.open import EMBEDDED
from uniemox.config.training import PretrainConfig
from uniemox.data.pixels import cut_region
from uniemox.data.transforms import denormalize, evaluation
from uniemox.demo.drawn import DrawnData
from uniemox.files.images import Unreadable, read_image
from uniemox.files.journal import read_journal
from uniemox.inference.predictor import Predictor
from uniemox.manifests.table import Manifest, read_manifest
from uniemox.models.encoder import grid_size, patchify, unpatchify
from uniemox.models.mae import hide
from uniemox.people.regions import choose_box, person_region
from uniemox.report import charts
from uniemox.report.page import Figure, Gallery, GalleryItem, Notice, Page, Score, Scoreboard, Section, Table
from uniemox.targets.single_label import SingleLabelScores

_RECONSTRUCTIONS: Final = 6
_CROPS: Final = 3
_GALLERY: Final = 12
_OURS: Final = "this run, both"
_LADDER: Final = Path(__file__).parent / "assets" / "ladder.json"
_COMPARED: Final = {
    "zero-shot": "zero-shot, both *",
    "language-scene": "scene alone *",
    "random": "random weights *",
}  # Rows of it that the bars show, in words that fit beside them


@dataclass(frozen=True)
class Rung:
    """A row of the committed benchmark, which the demo does not compute."""

    told: str  # What was trained and how
    scores: Mapping[str, float]  # Balanced accuracy on each test, mean over the seeds


def read_ladder() -> dict[str, Rung]:
    """Read the rows of the committed benchmark, by their names."""
    rows = json.loads(_LADDER.read_text(encoding="utf-8"))
    return {name: Rung(row["told"], row["scores"]) for name, row in rows.items()}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that the report shows."""

    data: DrawnData
    pretraining: PretrainConfig
    pretrained: Path
    journal: Sequence[dict[str, Any]]  # Of fine-tuning
    tests: Mapping[str, SingleLabelScores]  # Of pairs of character and pose, then of characters, that training lacked
    predictor: Predictor
    photograph: Path
    seconds: float

    @property
    def test(self) -> Manifest:
        """The test split of the seen characters."""
        return read_manifest(self.data.seen).select(["test"])


def build_page(findings: Findings) -> Page:
    """Assemble the report."""
    return Page(
        title="uniemox: the demonstration",
        lead=(
            "One vision transformer, pretrained by hiding patches of a scene and its person and by distilling CLIP, "
            "then fine-tuned to name the emotion. Everything but the first curves and the rows of the committed "
            f"benchmark was computed on this machine, in {findings.seconds / 60:.1f} minutes, by the commands that a "
            "user runs."
        ),
        sections=(
            _summary(findings),
            _data(findings),
            _pretraining(findings),
            _finetuning(findings),
            Section(
                "Where it goes wrong",
                "Rows are the true class, columns the predicted one.",
                [
                    Figure(charts.confusion(scores.matrix, test), f"Confusion matrix on {test}.", width="half")
                    for test, scores in findings.tests.items()
                ],
            ),
            _predictions(findings),
        ),
    )


def _summary(findings: Findings) -> Section:
    scores = []
    for test, report in findings.tests.items():
        low, high = report.intervals["balanced_accuracy"]
        scores.append(Score(test, f"{report.balanced_accuracy:.3f}", f"95 % interval {low:.3f} to {high:.3f}"))
    pairs, other = next(iter(findings.tests)), read_ladder()["random"]
    gain = 100 * (findings.tests[pairs].balanced_accuracy - other.scores[pairs])
    scores.append(Score("over random weights", f"{gain:+.1f} points", f"{pairs}; those are of the committed benchmark"))
    notice = (
        "The labels come from drawings: an artist named each face, nobody rated what viewers feel, and the only "
        "photographs involved are ImageNet's, on which the teacher's initial weights were trained. UniEmoX-mini's "
        "teacher and descriptions have seen the training labels, as in the paper's recipe, so this shows that all "
        "parts work and what pretraining brings. It does not measure how well emotions in photographs are recognised."
    )
    return Section(
        "Results",
        "Balanced accuracy is the mean of the recalls of the six classes: guessing gives 0.167. Unseen pairs are "
        "characters in poses that training did not show. Random weights are a weak baseline.",
        (Scoreboard(scores), Notice(notice, "warning")),
    )


def _data(findings: Findings) -> Section:
    seen = read_manifest(findings.data.seen)
    classes = seen.facts.classes
    parts = {split: seen.select([split]) for split in seen.split_counts()}
    rows: list[tuple[str | int, ...]] = []
    for name, part in {**parts, "unseen characters": read_manifest(findings.data.unseen)}.items():
        counts = part.class_counts()
        rows.append((name, *(counts[label] for label in classes), sum(counts.values())))
    return Section(
        "The data",
        "Characters drawn by artists (comicgen, CC0) in painted scenes with objects (openclipart, public "
        "domain). They were read from EmoSet's own format with its attributes; each person's box is exact.\n\n"
        "Below: the scene with its box, the crop of the person as the encoder gets it, and the patches that "
        f"remain of both when {100 * findings.pretraining.views.mask_ratio:.0f} % are hidden.",
        (
            Table(("split", *classes, "all"), rows, "Images of each split and class."),
            Figure(
                _draw_crops(findings),
                "Scenes with the person's box, the person's crop, and the visible patches of both.",
                "Scene and person, and what the encoder sees of them.",
            ),
        ),
    )


def _draw_crops(findings: Findings) -> bytes:
    size = findings.predictor.facts.image_size
    grid = size // findings.predictor.facts.patch_size
    how, mask_ratio = findings.pretraining.person, findings.pretraining.views.mask_ratio
    generator = torch.Generator().manual_seed(findings.pretraining.seed)
    rows, boxes = [], []
    for row in findings.test.spread(_CROPS):
        image = read_image(row.path)
        assert not isinstance(image, Unreadable)
        box = choose_box(row.boxes, how.choice, width=image.width, height=image.height)
        region = person_region(row.boxes, how, width=image.width, height=image.height)
        assert box is not None
        assert region is not None
        views = [
            np.asarray(view)
            for view in (image.resize((size, size)), cut_region(image, region, size=size, shape=how.shape))
        ]
        noise = torch.rand(2, grid * grid, generator=generator)
        hidden = hide(noise, mask_ratio).hidden.reshape(2, grid, grid).numpy()
        rows.append([np.asarray(image), views[1], *map(charts.hide, views, hidden)])
        boxes.append((box.x0, box.y0, box.x1, box.y1))
    heads = ("scene and box", "person", "scene, seen", "person, seen")
    return charts.image_grid(heads, rows, boxes=boxes, side=216)


def _pretraining(findings: Findings) -> Section:
    config, pretrained = findings.pretraining, load_pretraining(findings.pretrained)
    triples = reconstruct(pretrained, findings.test, mask_ratio=config.views.mask_ratio, seed=config.seed)
    return Section(
        "Pretraining",
        "Contrast: how far the fused embedding's likeness to all texts of the batch is from CLIP's. Similarity: its "
        "distance from CLIP's image feature. Reconstruction: the error of the hidden patches. First "
        "the curves of the embedded UniEmoX-mini, made before the demo; then the steps that this run added.\n\n"
        "The images are of the test split: neither encoder nor decoder was trained on them.",
        (
            Figure(
                charts.loss_curves(read_journal(EMBEDDED["demo-pretrained"] / "metrics.jsonl"), terms=charts.TERMS),
                "Curves of the loss and its three terms over the steps of the embedded model.",
                "UniEmoX-mini's own pretraining, the second of its two runs.",
            ),
            Figure(
                charts.loss_curves(read_journal(config.out / "metrics.jsonl"), terms=charts.TERMS),
                "Curves of the loss and its three terms over the steps of this run.",
                "The steps of this run.",
            ),
            Figure(
                charts.image_grid(("seen", "predicted", "original"), triples, side=144, groups=2),
                "Images with some of the patches seen, what the decoder makes of them, and the originals.",
                "Seen patches, prediction (with the seen patches put back), original.",
            ),
        ),
    )


@torch.no_grad()
def reconstruct(
    pretrained: Pretrained, manifest: Manifest, *, mask_ratio: float, seed: int
) -> list[tuple[charts.Pixels, charts.Pixels, charts.Pixels]]:
    """Let the decoder fill in hidden patches of a few images, evenly chosen.

    Returns:
        For each image what was seen, the prediction with the seen patches put back, and the original;
        (S, S, 3) uint8 each.
    """
    model = pretrained.model.eval()
    transform = evaluation(pretrained.facts.image_size)
    images = [read_image(row.path) for row in manifest.spread(_RECONSTRUCTIONS)]
    scene = torch.stack([transform(image) for image in images if not isinstance(image, Unreadable)])
    grid, side = grid_size(model.encoder), pretrained.facts.patch_size
    noise = torch.rand(len(scene), grid * grid, generator=torch.Generator().manual_seed(seed))
    output = model(scene, scene, noise, noise, mask_ratio)
    target = patchify(scene, side)
    whole = torch.where(output.hiding.hidden.unsqueeze(-1), output.prediction, target)
    predictions, originals = (
        denormalize(unpatchify(patches, side)).permute(0, 2, 3, 1).numpy() for patches in (whole, target)
    )
    hidden = output.hiding.hidden.reshape(-1, grid, grid).numpy()
    return [
        (charts.hide(original, cover), prediction, original)
        for prediction, original, cover in zip(predictions, originals, hidden, strict=True)
    ]


def _finetuning(findings: Findings) -> Section:
    rows = []
    for test, report in findings.tests.items():
        scores = (report.top1, report.top3, report.balanced_accuracy, report.macro_f1, report.ece)
        rows.append((test, report.num_samples, *scores))
    columns = ("test", "images", "top-1", "top-3", "balanced", "macro F1", "calibration error")
    journal = [line for line in findings.journal if line["kind"] != "test"]
    benchmark = [
        (rung.told.replace("`", ""), *(f"{100 * rung.scores[test]:.1f}" for test in findings.tests))
        for rung in read_ladder().values()
    ]
    return Section(
        "Fine-tuning",
        "A classifier of scene and person that keeps the fused token of pretraining, its head started from the text "
        "features of the classes. The epoch was chosen on val, never on test.\n\n"
        "* Rows of the committed benchmark (python benchmarks/ladder.py), each trained with the same budget: they "
        "show what each part brings and were not computed in this run.",
        (
            Figure(
                charts.comparison_bars(_bars(findings)),
                "Bars of balanced accuracy for this run, rows of the committed benchmark and the majority class, on "
                "both tests.",
                "Balanced accuracy; of this run with its 95 % bootstrap interval.",
            ),
            Table(columns, rows, "Scores of this run on both tests."),
            Figure(
                charts.loss_curves({_OURS: journal}, terms=("loss", "balanced_accuracy")),
                "Training loss, and balanced accuracy on val, over the steps.",
                "Cross-entropy of training, and balanced accuracy on val.",
            ),
            Table(
                ("row of the committed benchmark *", *findings.tests),
                benchmark,
                "Balanced accuracy in percent, mean over the seeds.",
            ),
        ),
    )


def _bars(findings: Findings) -> list[charts.ScoreBar]:
    """Compare this run with rows of the committed benchmark, which are marked, and with the majority."""
    bars, ladder = [], read_ladder()
    for test, report in findings.tests.items():
        interval = report.intervals["balanced_accuracy"]
        bars.append(charts.ScoreBar(_OURS, test, report.balanced_accuracy, *interval))
    for name, title in _COMPARED.items():
        bars += [charts.ScoreBar(title, test, ladder[name].scores[test]) for test in findings.tests]
    majority = ((test, report.majority.balanced_accuracy) for test, report in findings.tests.items())
    return [*bars, *(charts.ScoreBar("majority class", test, value) for test, value in majority)]


def _predictions(findings: Findings) -> Section:
    test = findings.test
    rows, classes = test.spread(4 * _GALLERY), test.facts.classes
    labels = [None if row.label is None else classes[row.label] for row in rows]
    paths = [*(row.path for row in rows), findings.photograph]
    items = []
    for path, true, prediction in zip(paths, [*labels, None], findings.predictor.predict(paths), strict=True):
        image = read_image(path)
        assert not isinstance(image, Unreadable)
        predicted = str(prediction.predicted)
        items.append(GalleryItem(np.asarray(image), predicted, prediction.confidence, true, path.name))
    galleries = [
        ("Correct predictions.", [item for item in items if item.verdict == "right"][:_GALLERY]),
        ("Errors.", [item for item in items if item.verdict == "wrong"][:_GALLERY]),
        ("A photograph.", items[-1:]),
    ]
    return Section(
        "Predictions",
        "Images of the test split, right ones first, then wrong ones. Last a photograph (Grace Hopper, United States "
        "Navy, public domain): the model has never seen one, so its answer shows how sure a model can be where it "
        "knows nothing.",
        [Gallery(chosen, caption) for caption, chosen in galleries if chosen],
    )
