"""Write a model folder of each kind in the present format, for a test that it still loads years later.

    python tools/make_format_fixtures.py tests/checkpoints/fixtures

Run once when `FORMAT_VERSION` changes: what is there is never written again. The numbers repeat, so that an archive of
a million weights has a few kilobytes.
"""

import dataclasses
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from uniemox.checkpoints.facts import ModelFacts
from uniemox.checkpoints.folder import pretraining_facts, save_model
from uniemox.config.training import ModelConfig
from uniemox.models.classify import TwoViewClassifier, build_classifier
from uniemox.models.fused import FusedClassifier
from uniemox.models.pretrain import UniEmoX

NOISE = [[0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6, 0.0, 0.95, 0.35, 0.75, 0.25, 0.85, 0.45]]
FACTS = ModelFacts(
    kind="classifier",
    size="mini",
    patch_size=8,
    image_size=32,
    dataset="painted",
    emotion="evoked",
    classes=("awe", "fear", "joy"),
    temperature=1.5,
    provenance={"software": "tools/make_format_fixtures.py"},
    metrics={"test_top1": 0.5},
    licence="CC0-1.0",
)


@torch.no_grad()
def repeat(model: torch.nn.Module) -> None:
    """Give a model weights that repeat and still tell every block apart."""
    for index, parameter in enumerate(model.parameters()):
        pattern = (torch.arange(parameter.numel()) * (7 + index % 5)) % 13 - 6
        parameter.copy_((pattern / 128).view_as(parameter))


def picture() -> torch.Tensor:
    """An image (1, 3, 32, 32) that is the same everywhere."""
    return (torch.arange(3 * 32 * 32) % 17 / 8 - 1).view(1, 3, 32, 32)


def plain_classifier() -> torch.nn.Module:
    """A classifier of one view."""
    return build_classifier("mini", patch_size=8, image_size=32, num_classes=3).eval()


def write(folder: Path, answers: dict, out: Path, version: int, kind: str) -> None:
    """Pack a folder with what its model answers, unless that is there."""
    (folder / "expected.json").write_text(json.dumps(answers))
    target = out / f"format-{version}-{kind}.zip"
    if target.exists():
        return
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)


@torch.no_grad()
def main(out: Path) -> None:
    """Write an archive of each kind, with what the models answer to one image."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "model"
        one = plain_classifier()
        repeat(one)
        save_model(one, folder, FACTS)
        write(folder, {"logits": one(picture()).tolist()}, out, FACTS.format_version, "classifier")

        facts = dataclasses.replace(FACTS, target="multi_label", thresholds=(0.5, 0.25, 0.125))
        save_model(one, folder, facts)
        write(folder, {"logits": one(picture()).tolist()}, out, facts.format_version, "classifier")

        two = TwoViewClassifier(plain_classifier(), "sum").eval()
        repeat(two)
        facts = dataclasses.replace(FACTS, view="both", fusion="sum")
        save_model(two, folder, facts)
        answers = {"logits": two(picture(), -picture()).tolist()}
        write(folder, answers, out, facts.format_version, "classifier")

        shape = {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 4}
        config = ModelConfig(size="mini", patch_size=8, image_size=32, **shape)
        model = UniEmoX(config, embedding_width=16).eval()
        repeat(model)
        facts = pretraining_facts(model, dataset="painted", emotion="evoked", provenance=FACTS.provenance)
        noise = torch.tensor(NOISE)
        output = model(picture(), picture(), noise, noise.flip(1), 0.5)
        save_model(model, folder, facts)
        answers = {"embedding": output.embedding.tolist(), "pixels": output.prediction[0, 0].tolist()}
        write(folder, answers, out, facts.format_version, "pretraining")

        fused = FusedClassifier(config, embedding_width=16, num_classes=3).eval()
        repeat(fused)
        facts = dataclasses.replace(
            FACTS, view="both", pool="fused", pretraining={**facts.pretraining, "reconstructs": False}
        )
        save_model(fused, folder, facts)
        answers = {"logits": fused(picture(), -picture()).tolist()}
        write(folder, answers, out, facts.format_version, "classifier")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
